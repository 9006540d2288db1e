//! What a client sends: a WebSocket's frames, and what is published from them. An enveloped
//! connection's messages are `session.rs`'s.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_broker::{PublishError, Reply};
use tidegate_core::{Payload, Publication, SessionId};
use tidegate_wire::websocket::{Event, Kind, close, encode};
use tokio::io::{AsyncRead, ReadBuf};

use super::{Cause, Inner, Later, Phase, Socket, Wait};
use crate::driver::wake;
use crate::problem::Problem;
use crate::turns::Sharer;
use crate::worker::{SCRATCH_BYTES, Worker};

/// Reads in one turn before others get theirs.
const READS_PER_TURN: usize = 4;

/// How long what one read brought may keep others waiting, about: what is read at once becomes less
/// where it takes longer. Of pings, or of fragments of a byte, it is 15 KiB; of large messages, which
/// are cheaper to take whole, all that a read can bring.
const TURN: Duration = Duration::from_micros(100);

/// What is read first, and at least: of what inflates a thousandfold even that is a megabyte.
const READ_BYTES_FIRST: u32 = 16 << 10;
const READ_BYTES_MIN: u32 = 1 << 10;

/// Reading the clock twice is more than a read as small as this is worth.
const TIMED_BYTES_MIN: usize = 512;

/// Messages that other workers are woken for at once: about a tenth of a millisecond's.
const PUBLISHED_TOGETHER: u32 = 256;

/// While so much waits, a pong takes the place of the one before: the newest ping is answered
/// (RFC 6455 §5.5.3).
const REPLY_BYTES_MAX: usize = 4 << 10;

impl Inner {
    pub(super) fn wants_read(&self) -> bool {
        if self.phase == Phase::Dead {
            return false;
        }
        // Deliveries that wait hold back no publisher; its own publish on its way does.
        self.socket.as_ref().is_none_or(|it| it.is_free())
    }

    pub(super) fn poll_read(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) {
        let is_heavy = self.socket.as_ref().is_some_and(|it| it.pace.is_heavy);
        if is_heavy && !self.may_go_on(worker) {
            return;
        }
        if let Some(socket) = &mut self.socket
            && !socket.backlog.is_empty()
            && socket.is_free()
        {
            let mut backlog = std::mem::take(&mut socket.backlog);
            worker.turns.charge(|| self.handle_bytes(worker, &mut backlog, cx));
        }
        let mut scratch = worker.scratch.take();
        let mut reads = 0;
        let mut spent = Duration::ZERO;
        while self.wants_read() {
            if reads == READS_PER_TURN || spent >= TURN {
                cx.waker().wake_by_ref();
                break;
            }
            reads += 1;
            let room = self.socket.as_ref().map_or(scratch.len(), |it| it.pace.read_bytes as usize);
            let mut buffer = ReadBuf::new(scratch.get_mut(..room).unwrap_or_default());
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.read_at = worker.tick();
                    let len = buffer.filled().len();
                    let begun = (len >= TIMED_BYTES_MIN).then(Instant::now);
                    self.handle_bytes(worker, buffer.filled_mut(), cx);
                    let took = begun.map_or(Duration::ZERO, |it| it.elapsed());
                    if let Some(Socket { pace, .. }) = self.socket.as_deref_mut() {
                        pace.adapt(len, took);
                        if pace.is_heavy {
                            worker.turns.spend(took);
                            spent += took;
                        }
                    }
                }
                // Gone, with or without a word; a WebSocket without a close is a 1006.
                Poll::Ready(_) => self.phase = Phase::Dead,
            }
        }
        worker.scratch.set(scratch);
    }

    /// Whether it is its turn, where it shares what others leave.
    pub(super) fn may_go_on(&self, worker: &Worker) -> bool {
        self.place.may_go_on(&worker.turns, || Sharer::Client(self.key))
    }

    fn handle_bytes(&mut self, worker: &Rc<Worker>, bytes: &mut [u8], cx: &mut Context<'_>) {
        // What a client of another stream sends behind its request means nothing.
        let Some(mut socket) = self.socket.take() else { return };
        let was_pinged = socket.pinged_at.take().is_some();
        wake::together(|| self.decode(worker, &mut socket, bytes, cx));
        let is_over = socket.is_closed_by_peer;
        self.socket = Some(socket);
        // The wheel would ask when the answer was due, and the next ping may be due before.
        if was_pinged && self.deadline(worker) < self.asked_at {
            self.ask(worker);
        }
        if is_over && matches!(self.phase, Phase::Lingering(_)) && self.out.is_empty() {
            self.phase = Phase::Dead;
        }
    }

    fn decode(
        &mut self,
        worker: &Rc<Worker>,
        socket: &mut Socket,
        mut input: &mut [u8],
        cx: &mut Context<'_>,
    ) {
        let mut inflaters = worker.inflaters.borrow_mut();
        // One time for what one read brought.
        let now = worker.now();
        let mut published = 0_u32;
        let mut pongs = Vec::new();
        loop {
            let event = match socket.decoder.next(&mut input, &mut inflaters) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "websocket: protocol error");
                    self.close(worker, Cause::Protocol(close::code(&error)), Wait::OwnEcho);
                    break;
                }
            };
            match event {
                Event::Message { kind, data } => {
                    // Decoded still: the peer's close comes behind it.
                    if self.closing.is_some() {
                        continue;
                    }
                    published += 1;
                    if published.is_multiple_of(PUBLISHED_TOGETHER) {
                        wake::release();
                    }
                    if let Some(session) = &mut socket.session {
                        if self.handle_frame(worker, session, kind, data, cx) {
                            continue;
                        }
                        socket.backlog = input.to_vec();
                        break;
                    }
                    let Some(channel) = &socket.publish_to else {
                        let cause = Cause::Protocol(close::UNSUPPORTED);
                        self.close(worker, cause, Wait::OwnEcho);
                        continue;
                    };
                    if let Some(code) = socket.publish_refused {
                        self.close(worker, Cause::Problem(code), Wait::OwnEcho);
                        continue;
                    }
                    let publication = publication(kind, data, self.session);
                    let draft = worker.draft(channel.clone(), publication, now);
                    match worker.publish(draft) {
                        Reply::Now(Ok(published)) => socket.published = Some(published.position()),
                        Reply::Now(Err(error)) => self.publish_failed(worker, error),
                        Reply::Later(reply) => {
                            socket.publishing = Some(Later(reply));
                            socket.backlog = input.to_vec();
                            self.wake();
                            break;
                        }
                    }
                }
                Event::Ping(payload) => {
                    if self.out.bytes() + pongs.len() < REPLY_BYTES_MAX {
                        encode::pong(payload, None, &mut pongs);
                    } else {
                        socket.pong = Some(payload.into());
                    }
                }
                Event::Pong(_) => {}
                Event::Close { code, .. } => {
                    socket.is_closed_by_peer = true;
                    self.close(worker, Cause::Peer(code), Wait::OwnEcho);
                    break;
                }
            }
        }
        // In one piece: a flood of pings is not answered with a flood of pieces.
        self.out.push(pongs.into());
    }

    pub(super) fn poll_publish(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) {
        if let Some(mut socket) = self.socket.take_if(|it| it.session.is_some()) {
            if let Some(session) = &mut socket.session {
                session.begin_turn();
                self.poll_pending(worker, session, cx);
            }
            self.socket = Some(socket);
            return;
        }
        let Some(socket) = &mut self.socket else { return };
        let Some(reply) = &mut socket.publishing else { return };
        let Poll::Ready(result) = reply.0.as_mut().poll(cx) else { return };
        socket.publishing = None;
        match result {
            Ok(published) => socket.published = Some(published.position()),
            Err(error) => self.publish_failed(worker, error),
        }
    }

    pub(super) fn publish_failed(&mut self, worker: &Worker, error: PublishError) {
        self.close(worker, Cause::Problem(Problem::from(error).code), Wait::OwnEcho);
    }
}

impl Socket {
    /// Whether what its client sends next may be taken in another turn.
    pub(super) fn is_free_next(&self) -> bool {
        self.publishing.is_none() && self.session.as_ref().is_none_or(|it| it.is_free_next())
    }

    /// Whether what its client sends next may be taken in this turn.
    fn is_free(&self) -> bool {
        self.publishing.is_none() && self.session.as_ref().is_none_or(|it| it.is_free())
    }
}

/// How much is read from a WebSocket at once, by how long the last took.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes, at most.
    read_bytes: u32,
    /// Whether the last read brought so much, or took long.
    is_heavy: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { read_bytes: READ_BYTES_FIRST, is_heavy: false }
    }
}

impl Pace {
    /// Notes that `len` bytes took so long.
    fn adapt(&mut self, len: usize, took: Duration) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let is_full = len >= self.read_bytes;
        self.is_heavy = is_full || took > TURN / 2;
        if took > TURN {
            let fits = u128::from(len) * TURN.as_nanos() / took.as_nanos();
            self.read_bytes = u32::try_from(fits).unwrap_or(u32::MAX).max(READ_BYTES_MIN);
        } else if is_full && took < TURN / 2 {
            self.read_bytes = self.read_bytes.saturating_mul(2).min(SCRATCH_BYTES);
        }
    }
}

/// A WebSocket message as a publication.
fn publication(kind: Kind, data: &[u8], session: SessionId) -> Publication {
    let bytes = Bytes::copy_from_slice(data);
    let payload = match kind {
        Kind::Text => Payload::from_websocket_text(bytes),
        Kind::Binary => Payload::from_websocket_binary(bytes),
    };
    Publication { payload, event: None, user: None, origin: Some(session) }
}

pub(super) fn pong(payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 2);
    encode::pong(payload, None, &mut frame);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pace: &mut Pace, len: u32, took: Duration, read_bytes: u32, is_heavy: bool) {
        pace.adapt(len as usize, took);
        assert_eq!((pace.read_bytes, pace.is_heavy), (read_bytes, is_heavy));
    }

    #[test]
    fn what_takes_longer_is_read_in_smaller_pieces() {
        let mut pace = Pace::default();
        let first = READ_BYTES_FIRST;
        check(&mut pace, first, TURN * 4, first / 4, true);
        // Whatever it is, something is read.
        check(&mut pace, first / 4, TURN * 1000, READ_BYTES_MIN, true);
        // What fits is more, as long as there is more, up to the buffer that all share.
        check(&mut pace, READ_BYTES_MIN, TURN / 3, 2 * READ_BYTES_MIN, true);
        check(&mut pace, READ_BYTES_MIN, TURN / 3, 2 * READ_BYTES_MIN, false);
        check(&mut pace, 2 * READ_BYTES_MIN, TURN, 2 * READ_BYTES_MIN, true);
        for _ in 0..20 {
            pace.adapt(SCRATCH_BYTES as usize, Duration::ZERO);
        }
        check(&mut pace, SCRATCH_BYTES, Duration::ZERO, SCRATCH_BYTES, true);
    }
}
