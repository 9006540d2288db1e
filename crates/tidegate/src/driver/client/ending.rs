//! What time does to a client, and how its stream ends (CONTRACT 4, 7, 8).

use std::rc::Rc;

use bytes::Bytes;
use tidegate_core::presence::Parting;
use tidegate_wire::websocket::{close, encode};

use super::session::{PUSH_TICKS, PUSHED_PING};
use super::{CLOSE_TICKS, Cause, Closing, Inner, Phase, Socket, Wait};
use crate::driver::forms::{Encoder, joined, last_chunk};
use crate::driver::wheel;
use crate::problem::Code;
use crate::worker::Worker;

/// How long a stream may be idle before it is kept alive (CONTRACT 4).
const KEEPALIVE_TICKS: u32 = 15 * wheel::TICKS_PER_SECOND;

/// A ping without a payload, as a frame.
pub(super) const PING: &[u8] = &[0x89, 0];

/// Close code for a gap on a bare WebSocket (CONTRACT 4).
const CLOSE_GAP: u16 = 4010;

impl Inner {
    /// When the wheel has to ask again.
    pub(super) fn deadline(&self, worker: &Worker) -> u32 {
        match (self.phase, &self.socket) {
            (Phase::Closing(at) | Phase::Lingering(at), _) => at,
            (_, Some(socket)) if socket.session.is_some() => {
                self.silent_until(worker, socket).min(self.push_due())
            }
            (_, Some(socket)) => self.silent_until(worker, socket),
            (_, None) => self.written_at.saturating_add(KEEPALIVE_TICKS),
        }
    }

    /// Until when a WebSocket's client may be silent.
    fn silent_until(&self, worker: &Worker, socket: &Socket) -> u32 {
        match socket.pinged_at {
            Some(at) => at.saturating_add(worker.ping_timeout),
            None => self.read_at.saturating_add(worker.ping_interval),
        }
    }

    /// When an enveloped connection is due a push.
    fn push_due(&self) -> u32 {
        self.written_at.saturating_add(PUSH_TICKS)
    }

    pub(super) fn ask(&mut self, worker: &Worker) {
        if self.phase != Phase::Dead {
            self.asked_at = worker.ask_at(self.key, self.deadline(worker));
        }
    }

    pub(super) fn on_tick(&mut self, worker: &Worker, now: u32) {
        if self.deadline(worker) > now {
            return;
        }
        match self.phase {
            Phase::Dead => {}
            Phase::Closing(_) if self.out.is_empty() => {
                if let Some(closing) = &mut self.closing {
                    closing.wait = Wait::Nothing;
                }
                self.phase = Phase::Closing(now.saturating_add(CLOSE_TICKS));
                self.wake();
            }
            Phase::Closing(_) | Phase::Lingering(_) => {
                self.phase = Phase::Dead;
                self.wake();
            }
            Phase::Open => {
                if self.is_enveloped() && self.push_due() <= now {
                    self.written_at = now;
                    if self.out.is_empty() {
                        self.write_small(PUSHED_PING);
                    }
                }
                let is_silent = |it: &Socket| self.silent_until(worker, it) <= now;
                if self.socket.as_deref().is_none_or(is_silent) {
                    self.keep_alive(now);
                }
            }
        }
    }

    pub(super) fn keep_alive(&mut self, now: u32) {
        match &mut self.socket {
            Some(socket) if socket.pinged_at.is_some() => {
                self.phase = Phase::Dead;
                self.wake();
            }
            Some(socket) => {
                socket.pinged_at = Some(now);
                // Behind whatever waits: who reads slowly has nothing else to answer.
                self.write_small(PING);
            }
            None => {
                self.written_at = now;
                if self.out.is_empty() {
                    self.write_small(Encoder::keepalive(self.form));
                }
            }
        }
    }

    /// Writes a few bytes at once where nothing waits, since many clients have them due together.
    pub(super) fn write_small(&mut self, bytes: &'static [u8]) {
        let is_free = self.out.is_empty();
        let written = if is_free { self.stream.try_write(bytes).unwrap_or(0) } else { 0 };
        if let Some(rest @ [_, ..]) = bytes.get(written..) {
            self.out.push(Bytes::from_static(rest));
            self.wake();
        }
    }

    pub(super) fn close(&mut self, worker: &Worker, cause: Cause, wait: Wait) {
        if self.closing.is_some() || self.phase != Phase::Open {
            return;
        }
        self.closing = Some(Box::new(Closing { cause, wait }));
        self.phase = Phase::Closing(worker.tick().saturating_add(CLOSE_TICKS));
        self.ask(worker);
    }

    /// Commits what ends the stream as its wire says.
    pub(super) fn write_end(&mut self, worker: &Worker) {
        let Some(closing) = self.closing.take() else { return };
        if let Cause::Problem(code) = &closing.cause {
            self.out.push(self.error(worker, *code));
        }
        self.out.push(match &self.socket {
            Some(_) => self.close_frame(worker, &closing.cause),
            None => Bytes::from_static(last_chunk(self.form)),
        });
        self.closing = Some(closing);
        self.phase = Phase::Lingering(worker.tick().saturating_add(CLOSE_TICKS));
        self.ask(worker);
    }

    pub(super) fn close_frame(&self, worker: &Worker, cause: &Cause) -> Bytes {
        let code = match cause {
            Cause::Ended => Some(close::NORMAL),
            Cause::Gap => Some(CLOSE_GAP),
            Cause::Peer(code) => *code,
            Cause::Problem(Code::Unavailable) | Cause::Refused(Code::Unavailable, _)
                if worker.is_draining() =>
            {
                Some(close::SERVICE_RESTART)
            }
            Cause::Problem(code) | Cause::Refused(code, _) => {
                Some(code.websocket_close().unwrap_or(close::INTERNAL))
            }
            Cause::Protocol(code) | Cause::Broken(code, _) => Some(*code),
        };
        // Of an accepted bare WebSocket the reason is where to go on (CONTRACT 4).
        let reason = match cause {
            Cause::Peer(_) => String::new(),
            Cause::Refused(_, reason) => reason.clone(),
            Cause::Broken(_, reason) => (*reason).into(),
            Cause::Problem(code) if self.subs.len() != 1 || self.is_enveloped() => {
                code.as_str().into()
            }
            _ if self.is_enveloped() => String::new(),
            _ if self.subs.len() == 1 => {
                String::from_utf8(joined(&self.resume())).unwrap_or_default()
            }
            _ => String::new(),
        };
        let mut frame = Vec::new();
        encode::close(code, &reason, None, &mut frame);
        frame.into()
    }

    fn error(&self, worker: &Worker, code: Code) -> Bytes {
        let (message, retry_after) = worker.mid_stream(code);
        let mut encoder = worker.encoder.borrow_mut();
        encoder.error(code.as_str(), message, retry_after, worker.retry_ms(), self.form)
    }

    pub(super) fn finish(&mut self, worker: &Rc<Worker>) {
        for sub in self.subs.drain(..) {
            sub.leave(worker, self.session, Parting::Cut);
        }
        worker.remove_client(self.key);
        let code = match self.closing.as_deref().map(|it| &it.cause) {
            Some(Cause::Problem(code) | Cause::Refused(code, _)) => Some(*code),
            Some(Cause::Protocol(_) | Cause::Broken(..)) => Some(Code::InvalidArgument),
            Some(Cause::Ended | Cause::Gap | Cause::Peer(_)) | None => None,
        };
        worker.metrics.disconnected(self.wire, code);
        tracing::info!(
            session = %self.session,
            wire = self.wire.as_str(),
            code = code.map_or("none", Code::as_str),
            "disconnected"
        );
    }
}
