//! A flood's own client: a socket that never blocks, and what has come on it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socket2::{Domain, Socket, Type};

use super::stage::{Stage, Told};
use crate::frame;
use crate::http::{ACCEPT, Connection, UPGRADE};

/// How a peer's socket is made.
#[derive(Clone, Copy, Default)]
pub(super) struct Dial {
    /// Bytes of its receive buffer; the system's choice if there are none.
    pub(super) receive_buffer: Option<usize>,
    /// Bytes of a segment: the fewer, the less the server's kernel buffers for it.
    pub(super) segment: Option<u32>,
}

/// A connection, and what was read from it.
pub(super) struct Peer {
    stream: TcpStream,
    /// What came and was not taken.
    pub(super) input: Vec<u8>,
    /// What the socket did not take yet.
    output: Vec<u8>,
    end: Option<End>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a FIN.
    Closed,
    /// With a reset.
    Reset,
}

impl Peer {
    /// Connects. It is reset when it is dropped, so that thousands don't hold their ports.
    pub(super) fn dial(address: SocketAddr, how: Dial) -> anyhow::Result<Peer> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)
            .context("opening a socket: is `ulimit -n` at 20000?")?;
        if let Some(bytes) = how.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = how.segment {
            socket.set_tcp_mss(bytes)?;
        }
        socket.connect(&address.into()).with_context(|| format!("connecting to {address}"))?;
        socket.set_linger(Some(Duration::ZERO))?;
        Peer::on(socket.into(), Vec::new())
    }

    fn on(stream: TcpStream, input: Vec<u8>) -> anyhow::Result<Peer> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Peer { stream, input, output: Vec::new(), end: None })
    }

    /// Connects and upgrades to a WebSocket on `target`.
    pub(super) fn upgrade(
        address: SocketAddr,
        how: Dial,
        target: &str,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Peer> {
        let peer = Peer::dial(address, how)?;
        let headers = [&UPGRADE, more].concat();
        let (peer, accept) = peer.request("GET", target, &headers, 101)?;
        anyhow::ensure!(accept.as_deref() == Some(ACCEPT), "the accept is {accept:?}");
        Ok(peer)
    }

    /// Sends a request and waits for the head of its answer, which must have this status.
    pub(super) fn request(
        self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        status: u16,
    ) -> anyhow::Result<(Peer, Option<String>)> {
        let address = self.stream.peer_addr()?.to_string();
        self.stream.set_nonblocking(false)?;
        let mut connection = Connection::on(self.stream, &address)?;
        let head = connection.request(method, target, headers, b"")?;
        let found = head.status()?;
        anyhow::ensure!(found == status, "{method} {target}: {found} instead of {status}");
        let accept = head.header("Sec-WebSocket-Accept").map(str::to_owned);
        let (stream, input) = connection.into_parts();
        Ok((Peer::on(stream, input)?, accept))
    }

    /// Hands bytes to the socket, as many as it takes, behind those that it did not take before; false
    /// while some of those are still here, and nothing was handed in.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        if !self.flush() {
            return false;
        }
        self.output.extend_from_slice(bytes);
        self.flush();
        true
    }

    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whether it was closed or reset is what reading says.
                Err(_) => self.output.clear(),
            }
        }
        true
    }

    /// Reads what has come, up to `max` bytes; how the connection ended, if it has.
    pub(super) fn read(&mut self, max: usize) -> Option<End> {
        let mut bytes = [0; 16 << 10];
        let mut left = max;
        while self.end.is_none() && left > 0 {
            let room = bytes.get_mut(..left.min(16 << 10)).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => self.end = Some(End::Closed),
                Ok(count) => {
                    left -= count.min(left);
                    self.input.extend(bytes.iter().take(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.end = Some(End::Reset),
            }
        }
        self.end
    }

    /// The status of the answer that has come, once its first line is there.
    pub(super) fn status(&self) -> Option<String> {
        let text = String::from_utf8_lossy(self.input.get(..16)?);
        text.split(' ').nth(1).map(str::to_owned)
    }

    /// Takes the frames that have come; the code of a close among them.
    ///
    /// # Errors
    ///
    /// They are no frames of a server.
    pub(super) fn frames(
        &mut self,
        mut each: impl FnMut(&frame::Frame<'_>),
    ) -> anyhow::Result<Option<u16>> {
        let (mut rest, mut code) = (&self.input[..], None);
        while let Some(frame) = frame::read(&mut rest)? {
            if frame.first == frame::CLOSE {
                code = frame.payload.first_chunk().map(|it| u16::from_be_bytes(*it));
            }
            each(&frame);
        }
        let used = self.input.len() - rest.len();
        self.input.drain(..used);
        Ok(code)
    }

    /// What the peer of a WebSocket was told in the end, if it has ended: the code of its close.
    ///
    /// # Errors
    ///
    /// As [`Peer::frames`].
    pub(super) fn farewell(&mut self) -> anyhow::Result<Option<String>> {
        let end = self.read(1 << 16);
        let code = self.frames(|_| ())?;
        let cut = || end.map(|end| format!("{end:?} without a close"));
        Ok(code.map(|it| it.to_string()).or_else(cut))
    }
}

/// What came of a visit to a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// Nothing was sent, or what is sent is paced.
    Idle,
    /// Much was sent: there may be room for more at once.
    Busy,
    /// It has come to its end, and comes back.
    Over,
}

/// Peers that come back.
pub(super) struct Peers {
    pub(super) count: usize,
    /// How often each is visited while none is busy.
    pub(super) round: Duration,
    /// What they must be told before the stage is over.
    pub(super) must: &'static [&'static str],
}

impl Peers {
    /// Keeps them until the stage is over: `open` makes each anew when it has come to its end, `visit`
    /// looks at each in turn. What they were told, and those that are left.
    ///
    /// # Errors
    ///
    /// Those of both.
    pub(super) fn keep(
        &self,
        stage: &Stage,
        mut open: impl FnMut(usize) -> anyhow::Result<Peer>,
        mut visit: impl FnMut(usize, &mut Peer, &mut Told) -> anyhow::Result<Visit>,
    ) -> anyhow::Result<(Told, Vec<Option<Peer>>)> {
        let mut told = Told::default();
        let mut slots: Vec<_> = std::iter::repeat_with(|| None).take(self.count).collect();
        while !stage.is_over(&told, self.must) {
            let begun = Instant::now();
            let mut is_busy = false;
            for (index, slot) in slots.iter_mut().enumerate() {
                let Some(peer) = slot else {
                    *slot = Some(open(index)?);
                    continue;
                };
                match visit(index, peer, &mut told)? {
                    Visit::Idle => {}
                    Visit::Busy => is_busy = true,
                    Visit::Over => *slot = None,
                }
                if index % 64 == 63 && stage.is_over(&told, self.must) {
                    break;
                }
            }
            if !is_busy {
                stage.pause(self.round.saturating_sub(begun.elapsed()));
            }
        }
        Ok((told, slots))
    }
}
