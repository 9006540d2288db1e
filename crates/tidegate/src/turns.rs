//! Turns of those who could hold up a worker: HTTP connections, of which thousands may send a byte each,
//! and WebSockets whose clients send without end. Together they have a small share; then everyone else has
//! a turn, and some of them are let in again, in the order in which they came.
//!
//! ```text
//! ready ── may_go_on ──► charge ──► …  as long as the share lasts
//!              └──► wait ── next: everyone else has had a turn, the share is whole again ──► ready
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::connection::http1::Connection;

/// What they may take, all together, before everyone else gets a turn: twice what one WebSocket takes
/// in a turn, or a dozen requests.
const SHARE: Duration = Duration::from_micros(200);

/// So many of them are let in at a time: a part of a head takes 10 µs, and one that takes longer is
/// enough to use the share up.
const LET_IN_TOGETHER: usize = 16;

/// One of those who share.
#[derive(Debug)]
pub enum Sharer {
    /// A WebSocket whose client sends more than is read at once, or what takes long; by its key.
    Client(u32),
    /// A connection that sends requests.
    Connection(Rc<Connection>),
}

/// Who waits, and what they have had.
#[derive(Debug, Default)]
pub struct Turns(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    /// What they have cost since everyone else had a turn.
    spent: Duration,
    /// Those who wait, each at most once.
    waiting: VecDeque<Sharer>,
    /// Of [`Turns::next`].
    waker: Option<Waker>,
}

impl Turns {
    /// Whether one of those who share may go on now. If not, it is told later, once.
    fn may_go_on(&self, who: impl FnOnce() -> Sharer) -> bool {
        let mut state = self.0.borrow_mut();
        if state.spent < SHARE {
            return true;
        }
        state.waiting.push_back(who());
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        false
    }

    /// Does what one of those who share does, and notes what it has cost.
    pub fn charge<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.spend(begun.elapsed());
        done
    }

    /// Notes what something has cost.
    pub fn spend(&self, took: Duration) {
        self.0.borrow_mut().spent += took;
    }

    /// Waits until somebody waits and everyone else has had a turn; who is to be told then.
    pub async fn next(&self) -> Vec<Sharer> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if !state.waiting.is_empty() {
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        // To yield is to wait until the sockets were asked and whoever was ready was served.
        tokio::task::yield_now().await;
        let mut state = self.0.borrow_mut();
        state.spent = Duration::ZERO;
        let count = state.waiting.len().min(LET_IN_TOGETHER);
        let some = state.waiting.drain(..count).collect();
        if state.waiting.is_empty() {
            state.waiting = VecDeque::new();
        }
        some
    }
}

/// Whether one of those who share waits.
#[derive(Debug, Default)]
pub struct Place(Cell<bool>);

impl Place {
    /// Whether it is its turn. Who waits does so until it is let in, whatever else it is woken for.
    pub fn may_go_on(&self, turns: &Turns, who: impl FnOnce() -> Sharer) -> bool {
        if !self.0.get() {
            self.0.set(!turns.may_go_on(who));
        }
        !self.0.get()
    }

    /// It has been told that it is its turn.
    pub fn let_in(&self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn keys(sharers: &[Sharer]) -> Vec<u32> {
        let key = |it: &Sharer| match it {
            Sharer::Client(key) => *key,
            Sharer::Connection(_) => unreachable!("there is none"),
        };
        sharers.iter().map(key).collect()
    }

    #[tokio::test]
    async fn who_shares_waits_once_the_share_is_spent() {
        let turns = Turns::default();
        let may_go_on = |key| turns.may_go_on(|| Sharer::Client(key));
        assert!(may_go_on(0));
        turns.spend(SHARE / 2);
        assert!(may_go_on(1));
        turns.spend(SHARE / 2);
        assert!((2..20).all(|key| !may_go_on(key)));

        // In their order, some at a time, each of them once, with a whole share.
        let together = u32::try_from(LET_IN_TOGETHER).unwrap();
        assert_eq!(keys(&turns.next().await), (2..2 + together).collect::<Vec<_>>());
        assert!(may_go_on(20));
        turns.spend(SHARE);
        assert!(!may_go_on(21));
        assert_eq!(keys(&turns.next().await), [18, 19, 21]);
    }

    #[test]
    fn who_waits_is_in_the_line_once() {
        let (turns, place) = (Turns::default(), Place::default());
        let may_go_on = || place.may_go_on(&turns, || Sharer::Client(1));
        assert!(may_go_on());
        turns.spend(SHARE);
        assert!(!may_go_on() && !may_go_on());
        assert_eq!(turns.0.borrow().waiting.len(), 1);
        turns.0.borrow_mut().spent = Duration::ZERO;
        assert!(!may_go_on(), "it is not its turn yet");
        place.let_in();
        assert!(may_go_on());
    }

    #[tokio::test]
    async fn everyone_else_has_a_turn_first() {
        let turns = Turns::default();
        turns.spend(SHARE);
        let mut next = pin!(turns.next());
        let mut poll = async || poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        assert!(poll().await.is_pending(), "nobody waits");
        assert!(!turns.may_go_on(|| Sharer::Client(7)));
        assert!(poll().await.is_pending(), "it has only been asked for");
        let Poll::Ready(some) = poll().await else { panic!("not after a turn") };
        assert_eq!(keys(&some), [7]);
    }
}
