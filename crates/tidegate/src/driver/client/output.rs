//! What a client is sent: at once by the hub, or by its own task from outboxes and pages of the log.

use std::cell::LazyCell;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tidegate_broker::{Page, Reply, Unavailable};
use tidegate_core::subscription::{Mode, Offered, Step};
use tidegate_core::{Cursor, GapReason, Policy, Position, Timestamp};
use tokio::io::AsyncWrite;

use super::input::pong;
use super::{Cause, Closing, Inner, Later, Phase, Progress, Sub, Wait};
use crate::driver::forms::{Form, Format, Shared};
use crate::driver::hub::Batch;
use crate::driver::output::COMMIT_BYTES;
use crate::problem::Code;
use crate::worker::Worker;

/// Pages of the log in one turn before others get theirs.
const PAGES_PER_TURN: usize = 4;

impl Inner {
    /// Writes what waits, until nothing does or the socket takes no more.
    pub(super) fn pump(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) {
        let mut pages = 0;
        while self.phase != Phase::Dead {
            let waited = self.out.bytes();
            match self.out.poll_flush(&mut self.stream, cx) {
                Poll::Pending => return self.note_progress(worker, waited),
                Poll::Ready(Err(_)) => {
                    self.phase = Phase::Dead;
                    return;
                }
                Poll::Ready(Ok(())) if waited > 0 => self.flushed(worker),
                Poll::Ready(Ok(())) => {}
            }
            if matches!(self.phase, Phase::Lingering(_)) {
                return self.linger(cx);
            }
            if let Some(pong_for) = self.socket.as_mut().and_then(|it| it.pong.take()) {
                self.out.push(pong(&pong_for));
                continue;
            }
            if self.is_ready_to_end() {
                self.write_end(worker);
                continue;
            }
            if self.refill(worker, cx, &mut pages) == Progress::None {
                return;
            }
        }
    }

    /// All that was committed was written.
    fn flushed(&mut self, worker: &Worker) {
        match self.socket.as_mut().and_then(|it| it.session.as_mut()) {
            Some(session) => session.flushed(),
            // Of an enveloped connection only pushes count, which say so themselves.
            None => self.written_at = worker.tick(),
        }
    }

    /// Some of what waited, so many bytes, was written. While replies wait nothing is read: then this
    /// is the sign of life.
    fn note_progress(&mut self, worker: &Worker, waited: usize) {
        if self.is_enveloped() && self.out.bytes() < waited && !self.wants_read() {
            self.read_at = worker.tick();
            if let Some(socket) = &mut self.socket {
                socket.pinged_at = None;
            }
        }
    }

    /// Our end is written. A WebSocket whose peer has closed is done; another peer gets the time to
    /// read what we wrote: a socket that is dropped with unread input resets it.
    pub(super) fn linger(&mut self, cx: &mut Context<'_>) {
        let is_done = self.socket.as_ref().is_some_and(|it| it.is_closed_by_peer);
        let waits_for_close = matches!(
            self.closing.as_deref(),
            Some(Closing {
                cause: Cause::Broken(..) | Cause::Ended | Cause::Gap | Cause::Problem(_),
                ..
            })
        ) && self.socket.is_some();
        if is_done {
            self.phase = Phase::Dead;
        } else if !waits_for_close {
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
    }

    pub(super) fn is_ready_to_end(&self) -> bool {
        match self.closing.as_deref().map(|it| it.wait) {
            None => false,
            Some(Wait::Nothing) => true,
            Some(Wait::OwnEcho) => {
                let published = self.socket.as_ref().and_then(|it| it.published);
                let (Some(published), true) = (published, self.echo) else { return true };
                self.subs.iter().all(|sub| {
                    let at = sub.subscription.resume();
                    at.epoch != published.epoch
                        || at.offset >= published.offset
                        || sub.subscription.mode() == Mode::Ended
                })
            }
            Some(Wait::CaughtUp) => {
                let session = self.socket.as_ref().and_then(|it| it.session.as_ref());
                let is_done = |sub: &Sub| {
                    sub.subscription.is_idle() && sub.subscription.mode() != Mode::CatchUp
                };
                session.is_none_or(|it| !it.is_busy()) && self.subs.iter().all(is_done)
            }
        }
    }

    /// Adds to the output until enough is committed or nothing waits.
    pub(super) fn refill(
        &mut self,
        worker: &Rc<Worker>,
        cx: &mut Context<'_>,
        pages: &mut usize,
    ) -> Progress {
        let mut progress = Progress::None;
        // Asked for at most once: what is written here leaves in one piece.
        let now = LazyCell::new(|| worker.now());
        let count = self.subs.len();
        for step in 0..count {
            let index = (usize::from(self.turn) + step) % count;
            if self.refill_page(worker, cx, index, pages) == Progress::Made {
                progress = Progress::Made;
            }
            while self.out.bytes() < COMMIT_BYTES && self.closing_lets_entries_through() {
                let Some(sub) = self.subs.get_mut(index) else { break };
                let Some(next) = sub.subscription.next() else { break };
                progress = Progress::Made;
                self.write_step(worker, index, next, &now);
            }
            if self.retire_if_over(worker, index) == Progress::Made {
                progress = Progress::Made;
            }
        }
        self.turn = self.turn.wrapping_add(1);
        if self.is_enveloped() {
            let has_list = self.out.bytes() < COMMIT_BYTES && self.catch_up_presence(worker);
            return if has_list { Progress::Made } else { progress };
        }
        let has_ended = count > 0
            && self.subs.iter().all(|sub| sub.subscription.mode() == Mode::Ended)
            && self.closing.is_none();
        if has_ended {
            self.close(worker, Cause::Ended, Wait::Nothing);
            progress = Progress::Made;
        }
        progress
    }

    /// Takes a subscription off an enveloped connection that has nothing more to come.
    fn retire_if_over(&mut self, worker: &Worker, index: usize) -> Progress {
        if !self.is_enveloped() || self.phase != Phase::Open {
            return Progress::None;
        }
        let reason = match self.subs.get(index) {
            Some(sub) if sub.is_lost => Some(Code::Unavailable),
            Some(sub) if sub.subscription.mode() == Mode::Ended => None,
            _ => return Progress::None,
        };
        self.retire(worker, index, reason);
        Progress::Made
    }

    pub(super) fn closing_lets_entries_through(&self) -> bool {
        self.closing.as_deref().is_none_or(|it| it.wait != Wait::Nothing)
    }

    pub(super) fn refill_page(
        &mut self,
        worker: &Rc<Worker>,
        cx: &mut Context<'_>,
        index: usize,
        pages: &mut usize,
    ) -> Progress {
        let Some(sub) = self.subs.get_mut(index) else { return Progress::None };
        if let Some(reply) = &mut sub.page {
            let Poll::Ready(page) = reply.0.as_mut().poll(cx) else { return Progress::None };
            sub.page = None;
            self.handle_page(worker, index, page);
            return Progress::Made;
        }
        let Some((after, at_least)) = self.wanted_page(worker, index) else {
            return Progress::None;
        };
        if *pages == PAGES_PER_TURN {
            cx.waker().wake_by_ref();
            return Progress::None;
        }
        *pages += 1;
        self.read_page(worker, index, after, at_least);
        Progress::Made
    }

    /// Where a subscription wants to read on, and what the page must have seen: no less than the hub,
    /// but where another epoch has begun its offset says nothing.
    pub(super) fn wanted_page(&self, worker: &Worker, index: usize) -> Option<(Position, u64)> {
        let sub = self.subs.get(index).filter(|it| !it.is_lost)?;
        let after = sub.subscription.wants_page()?;
        Some((after, worker.hub.borrow().last(&sub.channel)?.offset_in(after.epoch)))
    }

    pub(super) fn read_page(
        &mut self,
        worker: &Worker,
        index: usize,
        after: Position,
        at_least: u64,
    ) {
        let Some(sub) = self.subs.get_mut(index) else { return };
        match sub.read(worker, after, at_least) {
            Reply::Now(page) => self.handle_page(worker, index, page),
            later @ Reply::Later(_) => sub.page = Some(Later(Box::pin(later))),
        }
    }

    pub(super) fn handle_page(
        &mut self,
        worker: &Worker,
        index: usize,
        page: Result<Page, Unavailable>,
    ) {
        match (page, self.subs.get_mut(index)) {
            (Ok(page), Some(sub)) => sub.handle_page(worker, page),
            (Err(Unavailable), Some(sub)) if self.form.format == Format::Envelope => {
                sub.is_lost = true;
                self.wake();
            }
            (Err(Unavailable), _) => {
                self.close(worker, Cause::Problem(Code::Unavailable), Wait::Nothing);
            }
            (_, None) => {}
        }
    }

    fn write_step(
        &mut self,
        worker: &Worker,
        index: usize,
        step: Step<Shared>,
        now: &impl Deref<Target = Timestamp>,
    ) {
        let Some(form) = self.form_of(index) else { return };
        let is_enveloped = self.is_enveloped();
        if is_enveloped {
            self.written_at = worker.tick();
        }
        let mut encoder = worker.encoder.borrow_mut();
        match step {
            Step::Item(item) => {
                if !self.echo && item.entry().origin() == Some(self.session) {
                    return;
                }
                let piece = if self.subs.len() == 1 || is_enveloped {
                    item.bytes(form, &mut encoder)
                } else {
                    encoder.joined(item.entry(), form, &self.resume())
                };
                worker.metrics.delivered(1, piece.len());
                // What is older it asked for: that it comes now says nothing of how fast we are.
                let accepted = item.entry().time;
                if self.subs.get(index).is_some_and(|it| it.since <= accepted) {
                    let micros = now.micros_since(accepted);
                    worker.metrics.publish_to_write.observe(micros, 1);
                }
                self.out.push(piece);
            }
            Step::Gap(gap) => {
                let Some(sub) = self.subs.get(index) else { return };
                let is_bare = form.format == Format::Ws;
                // Silent on what its policy drops, and on that alone (CONTRACT 4).
                let is_conflated = sub.bounds.policy == Policy::Conflate;
                if is_bare && is_conflated && gap.reason == GapReason::Slow {
                    return;
                }
                worker.metrics.gap(gap.reason);
                if is_bare {
                    drop(encoder);
                    return self.close(worker, Cause::Gap, Wait::Nothing);
                }
                let resume = if is_enveloped { Vec::new() } else { self.resume() };
                let piece = encoder.gap(&sub.channel, &gap, &resume, form);
                self.out.push(piece);
            }
        }
    }

    /// How the entries of a subscription look.
    fn form_of(&self, index: usize) -> Option<Form> {
        let framing = self.subs.get(index)?.framing;
        Some(Form { framing, ..self.form })
    }

    /// Where to resume, a cursor per channel.
    pub(super) fn resume(&self) -> Vec<Cursor> {
        self.subs.iter().map(|it| it.subscription.resume().cursor(&it.channel)).collect()
    }

    pub(super) fn deliver(&mut self, worker: &Worker, index: u32, batch: &mut Batch<'_>) {
        if matches!(self.phase, Phase::Lingering(_) | Phase::Dead) {
            return;
        }
        if self.deliver_at_once(worker, index, batch) {
            return;
        }
        let Some(sub) = self.subs.get_mut(index as usize) else { return };
        for item in batch.shared() {
            match sub.subscription.offer(item.clone(), &sub.bounds) {
                Offered::Ignored | Offered::Waits { dropped: false } => {}
                Offered::Waits { dropped: true } => worker.metrics.overflow(sub.bounds.policy),
                Offered::Spilled => {
                    worker.metrics.overflow(Policy::Spill);
                    break;
                }
                Offered::Disconnect => {
                    worker.metrics.overflow(Policy::Disconnect);
                    self.close(worker, Cause::Problem(Code::SlowConsumer), Wait::Nothing);
                    break;
                }
            }
        }
        self.bound_total(worker);
        self.wake_unless_blocked();
    }

    /// Writes a batch past the outbox; `false` where something is in the way.
    pub(super) fn deliver_at_once(
        &mut self,
        worker: &Worker,
        index: u32,
        batch: &mut Batch<'_>,
    ) -> bool {
        let [first, ..] = batch.entries() else { return true };
        let [.., last] = batch.entries() else { return true };
        let (to, ended) = (last.position, last.is_end());
        if self.phase != Phase::Open
            || !self.out.is_empty()
            || (self.subs.len() != 1 && !self.is_enveloped())
            || (!self.echo && batch.is_from(self.session))
        {
            return false;
        }
        let Some(form) = self.form_of(index as usize) else { return false };
        let Some(sub) = self.subs.get_mut(index as usize) else { return false };
        if !sub.subscription.is_level(first) {
            return false;
        }
        let bytes = batch.bytes(form, &mut worker.encoder.borrow_mut());
        let written = if bytes.is_empty() { Ok(0) } else { self.stream.try_write(&bytes) };
        match written {
            Ok(written) => {
                sub.subscription.advance(to, ended);
                self.written_at = worker.tick();
                worker.metrics.delivered(batch.entries().len(), bytes.len());
                batch.written += 1;
                if written < bytes.len() {
                    self.out.push(bytes.slice(written..));
                    self.wake();
                } else if ended {
                    self.wake();
                }
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.phase = Phase::Dead;
                self.wake();
                true
            }
        }
    }

    /// Over the connection's total, the fullest subscription overflows (DESIGN 6).
    pub(super) fn bound_total(&mut self, worker: &Worker) {
        if self.subs.len() < 2 {
            return;
        }
        while self.subs.iter().map(|it| it.subscription.bytes()).sum::<usize>()
            > worker.config.http.max_outbox
        {
            let fullest = self.subs.iter_mut().max_by_key(|it| it.subscription.bytes());
            let Some(sub) = fullest else { return };
            worker.metrics.overflow(sub.bounds.policy);
            match sub.bounds.policy {
                Policy::Spill => sub.subscription.spill(),
                Policy::Conflate | Policy::DropOldest => sub.subscription.drop_oldest(),
                Policy::Disconnect => {
                    return self.close(worker, Cause::Problem(Code::SlowConsumer), Wait::Nothing);
                }
            }
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// While something is committed the task waits for the socket, and a wake would be for nothing.
    pub(super) fn wake_unless_blocked(&self) {
        if self.out.is_empty() {
            self.wake();
        }
    }
}
