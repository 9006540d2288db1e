//! A subscriber's connection: what one read brings, and what is the same for whoever listens: bytes are
//! counted, pings answered, gaps noted.

use std::cell::RefMut;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tidegate_client::Failure;
use tidegate_wire::websocket::encode;

use super::line::Line;
use super::meter::State;
use super::reader::{Reader, Sink};
use super::run::{Scratch, Shared, mask};

/// Who takes the messages of one read.
pub(super) trait Messages {
    /// The bytes that the next message will be, if they are known; else none.
    fn known(&self) -> &[u8] {
        &[]
    }

    /// They have come.
    fn handle_known(&mut self, _received: Instant, _state: &mut State) {}

    /// A message has come; in these bytes, unless they were not all at hand.
    ///
    /// # Errors
    ///
    /// [`Failure`]: it is none that may come.
    fn handle_message(
        &mut self,
        payload: &[u8],
        unit: &[u8],
        received: Instant,
        state: &mut State,
    ) -> Result<(), Failure>;
}

/// A connection that is subscribed.
#[derive(Debug)]
pub(super) struct Subscriber {
    line: Line,
    reader: Reader,
}

/// One read of one subscriber.
pub(super) struct Turn<'a, M> {
    pub(super) messages: M,
    pub(super) line: &'a mut Line,
    pub(super) state: RefMut<'a, State>,
    pub(super) received: Instant,
}

impl Subscriber {
    pub(super) fn new((line, reader): (Line, Reader)) -> Self {
        Self { line, reader }
    }

    /// Sends what waits, reads once, and has `messages` take what came. The turn is for what follows
    /// from it, also where it failed.
    ///
    /// # Errors
    ///
    /// The outer one: nothing was read.
    #[expect(clippy::type_complexity, reason = "what came, and whether it may go on")]
    pub(super) fn poll_turn<'a, M: Messages>(
        &'a mut self,
        cx: &mut Context<'_>,
        shared: &'a Shared,
        messages: M,
    ) -> Poll<Result<(Turn<'a, M>, Result<(), Failure>), Failure>> {
        let mut scratch = shared.scratch.borrow_mut();
        let Scratch { bytes, pool } = &mut *scratch;
        let input = ready!(self.line.poll_read(cx, bytes))?;
        let (mut state, received) = (shared.meter.borrow(), Instant::now());
        state.counts.received_bytes += input.len() as u64;
        let mut turn = Turn { messages, line: &mut self.line, state, received };
        let read = self.reader.read(input, pool, &mut turn);
        Poll::Ready(Ok((turn, read)))
    }

    /// What is to be sent.
    pub(super) fn line(&mut self) -> &mut Line {
        &mut self.line
    }
}

impl<M: Messages> Sink for Turn<'_, M> {
    fn known(&self) -> &[u8] {
        self.messages.known()
    }

    fn handle_known(&mut self) {
        self.messages.handle_known(self.received, &mut self.state);
    }

    fn handle_message(&mut self, payload: &[u8], unit: &[u8]) -> Result<(), Failure> {
        self.messages.handle_message(payload, unit, self.received, &mut self.state)
    }

    fn handle_ping(&mut self, payload: &[u8]) {
        self.state.counts.pongs += 1;
        self.line.push(|out| encode::pong(payload, Some(mask()), out));
    }

    fn handle_gap(&mut self) {
        self.state.counts.gaps += 1;
    }
}
