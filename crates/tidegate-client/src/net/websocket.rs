//! A WebSocket's frames on a socket (RFC 6455 §5), as a client: `tidegate-wire` decodes and encodes,
//! this reads and writes. What a message means is its owner's business.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_wire::websocket::encode::{self, FrameInfo};
use tidegate_wire::websocket::{
    Decoder, DeflateParams, Deflater, DeflaterPool, Event, InflaterPool, Kind, Limits, Role, close,
};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use crate::error::Failure;

/// A WebSocket after its handshake.
pub(crate) struct Socket {
    io: TcpStream,
    decoder: Decoder,
    inflaters: InflaterPool,
    /// What was read and is not decoded yet lies from `from` to `to`.
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// What is to be written lies behind `written`.
    out: Vec<u8>,
    written: usize,
    deflater: Option<Box<(Deflater, DeflaterPool)>>,
    masks: Masks,
    message_bytes_max: u32,
}

/// What of a peer's frames is its reader's business.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Message { kind: Kind, data: &'a [u8] },
    Close { code: Option<u16>, reason: &'a str },
}

/// What is read at a time.
const READ_BYTES: usize = 16 << 10;

/// Written bytes at the front of `out` that are kept until all are written.
const WRITTEN_BYTES_MAX: usize = 64 << 10;

/// zlib's level for what is sent; it is little.
const DEFLATE_LEVEL: u8 = 1;

impl Socket {
    /// A socket whose handshake is done; `early` came behind it.
    pub(crate) fn new(
        io: TcpStream,
        early: Bytes,
        message_bytes_max: u32,
        deflate: Option<DeflateParams>,
    ) -> Self {
        let limits = Limits { message_len_max: message_bytes_max, ..Limits::default() };
        let to = early.len();
        Self {
            io,
            decoder: Decoder::new(Role::Client, &limits, deflate),
            inflaters: InflaterPool::new(),
            input: early.into(),
            from: 0,
            to,
            out: Vec::new(),
            written: 0,
            deflater: deflate
                .map(|it| Box::new((Deflater::new(it), DeflaterPool::new(DEFLATE_LEVEL)))),
            masks: Masks::default(),
            message_bytes_max,
        }
    }

    /// The next event of what was read; `Ok(None)`: [`Socket::fill`] first.
    pub(crate) fn decode(&mut self) -> Result<Option<Event<'_>>, Failure> {
        let Self { decoder, inflaters, input, from, to, message_bytes_max, .. } = self;
        let mut rest = input.get_mut(*from..*to).unwrap_or_default();
        let event = decoder.next(&mut rest, inflaters);
        *from = *to - rest.len();
        event.map_err(|error| match close::code(&error) {
            close::TOO_BIG => {
                let bytes_max = usize::try_from(*message_bytes_max).unwrap_or(usize::MAX);
                Failure::TooLarge { what: "a message", bytes_max }
            }
            _ => Failure::Protocol(error.to_string()),
        })
    }

    /// Gives what was read to `take`, one after another, until there is nothing more, the peer has
    /// closed, or `take` has enough. Pings are answered.
    pub(crate) fn drain(
        &mut self,
        mut take: impl FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        loop {
            let pong = match self.decode()? {
                None => return Ok(()),
                Some(Event::Message { kind, data }) => {
                    if take(Incoming::Message { kind, data }).is_break() {
                        return Ok(());
                    }
                    continue;
                }
                Some(Event::Ping(payload)) => Bytes::copy_from_slice(payload),
                Some(Event::Pong(_)) => continue,
                Some(Event::Close { code, reason }) => {
                    // There is nothing to have enough of.
                    let _ = take(Incoming::Close { code, reason });
                    return Ok(());
                }
            };
            self.push_pong(&pong);
        }
    }

    /// Reads once, and writes what there is to write meanwhile; at once if what was read is not
    /// decoded yet.
    ///
    /// Cancel safe: bytes are in the buffers or not taken yet.
    pub(crate) async fn fill(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(error));
            }
            if self.from < self.to {
                return Poll::Ready(Ok(()));
            }
            self.poll_read(cx)
        })
        .await
        .map_err(|error| Failure::Cut(error.to_string()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        (self.from, self.to) = (0, 0);
        if self.input.len() < READ_BYTES {
            self.input.resize(READ_BYTES, 0);
        }
        let mut buffer = ReadBuf::new(&mut self.input);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
        self.to = buffer.filled().len();
        match read {
            Poll::Ready(Ok(())) if self.to == 0 => Poll::Ready(Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the WebSocket's connection ended without a close",
            ))),
            read => read,
        }
    }

    /// Writes all that is to be written.
    ///
    /// Cancel safe: what is not written stays.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| self.poll_write(cx)).await.map_err(|error| Failure::Cut(error.to_string()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.out.get(self.written..) {
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.written >= WRITTEN_BYTES_MAX {
                        self.out.drain(..self.written);
                        self.written = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        self.out.clear();
        self.out.shrink_to(WRITTEN_BYTES_MAX);
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Bytes that wait to be written.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Puts a message behind what waits.
    pub(crate) fn push(&mut self, kind: Kind, message: &[u8]) {
        let mask = Some(self.masks.next());
        let info = FrameInfo { mask, ..FrameInfo::message(kind) };
        let deflated =
            self.deflater.as_deref_mut().and_then(|(it, pool)| it.deflate(message, pool));
        match deflated {
            Some(payload) => {
                encode::frame(FrameInfo { is_compressed: true, ..info }, payload, &mut self.out);
            }
            None => encode::frame(info, message, &mut self.out),
        }
    }

    /// Puts a ping behind what waits; its payload is cut at 125 bytes.
    pub(crate) fn push_ping(&mut self, payload: &[u8]) {
        encode::ping(payload, Some(self.masks.next()), &mut self.out);
    }

    /// Puts a pong behind what waits. Of the answers to a flood of pings the last ones do.
    pub(crate) fn push_pong(&mut self, payload: &[u8]) {
        if self.waiting_bytes() < PONG_BYTES_MAX {
            encode::pong(payload, Some(self.masks.next()), &mut self.out);
        }
    }

    /// Puts a close behind what waits.
    pub(crate) fn push_close(&mut self, code: Option<u16>, reason: &str) {
        encode::close(code, reason, Some(self.masks.next()), &mut self.out);
    }

    /// Says how the peer has broken the protocol, and drops the connection.
    pub(crate) fn refuse(self, failure: &Failure) {
        self.leave(match failure {
            Failure::TooLarge { .. } => close::TOO_BIG,
            _ => close::PROTOCOL,
        });
    }

    /// Says goodbye as far as that can be done without waiting, and drops the connection.
    pub(crate) fn leave(mut self, code: u16) {
        self.push_close(Some(code), "");
        let rest = self.out.get(self.written..).unwrap_or_default();
        // Nothing follows that could go wrong because of this.
        let _ = self.io.try_write(rest);
    }
}

/// What may wait when a ping is answered: pings that come faster than answers leave are not all
/// answered, as RFC 6455 §5.5.3 allows.
const PONG_BYTES_MAX: usize = 64 << 10;

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("io", &self.io).finish_non_exhaustive()
    }
}

/// Masking keys, fresh and unpredictable (§5.3), fetched from the system for many frames at a time.
#[derive(Debug, Default)]
struct Masks {
    bytes: Vec<u8>,
}

impl Masks {
    fn next(&mut self) -> [u8; 4] {
        if self.bytes.len() < 4 {
            self.bytes = super::random::<256>().to_vec();
        }
        let at = self.bytes.len().saturating_sub(4);
        let mut key = [0; 4];
        key.iter_mut().zip(self.bytes.drain(at..)).for_each(|(to, from)| *to = from);
        key
    }
}
