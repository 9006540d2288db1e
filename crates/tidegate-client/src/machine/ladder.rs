//! Which wire `auto` takes: a WebSocket, then Server-Sent Events, then long-polls.
//!
//! Some proxies refuse upgrades, let them pass and swallow what follows, or keep a stream's bytes
//! until it ends. So a wire that stands but brings nothing, or is refused by something that is no
//! gateway, loses trust, and the next one is tried. A gateway that can't be reached, or that refuses
//! in its own words, says nothing about a wire.
//!
//! ```text
//!   ws ──2 doubts──► sse ──2 doubts──► long-poll ──2 doubts──► ws …
//!    ▲                │ proven: remembered   │
//!    └── 10 minutes ──┴──────────────────────┘   at the next reconnect the best is tried again
//! ```

use std::time::{Duration, Instant};

use tidegate_core::Code;

use crate::error::{Failure, Word};
use crate::event::{Choice, Wire};

/// Best first.
const RUNGS: [Wire; 3] = [Wire::Ws, Wire::Sse, Wire::LongPoll];

/// Doubts at which a wire is left.
const DOUBTS_MAX: u8 = 2;

/// How long a wire that was left is not tried again.
pub const MEMORY: Duration = Duration::from_secs(600);

/// Where a client is on the ladder.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    choice: Choice,
    rung: usize,
    doubts: u8,
    /// When a better wire was left.
    left_at: Option<Instant>,
}

/// What a failure says of its wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Something between here and the gateway does not let it through.
    Broken,
    /// Perhaps that.
    Doubtful,
    /// Nothing.
    None,
}

impl Ladder {
    /// A ladder that begins at the wire that was proven last, if one was.
    pub(super) fn new(choice: Choice, remembered: Option<(Wire, Instant)>) -> Self {
        let rung = remembered.and_then(|(wire, _)| RUNGS.iter().position(|it| *it == wire));
        let left_at = remembered.map(|(_, at)| at).filter(|_| rung.is_some());
        Self { choice, rung: rung.unwrap_or(0), doubts: 0, left_at }
    }

    /// The wire to take now.
    pub(super) fn wire(&self) -> Wire {
        match self.choice {
            Choice::Only(wire) => wire,
            Choice::Auto => RUNGS.get(self.rung).copied().unwrap_or(Wire::LongPoll),
        }
    }

    pub(super) fn is_auto(&self) -> bool {
        self.choice == Choice::Auto
    }

    /// A wire has brought something: it works.
    pub(super) fn prove(&mut self) {
        self.doubts = 0;
    }

    /// The wire to remember: the one it is on, and when a better one was left; `None` on the best.
    pub(super) fn memory(&self) -> Option<(Wire, Instant)> {
        self.left_at.filter(|_| self.rung > 0).map(|at| (self.wire(), at))
    }

    /// An attempt on this wire has failed. Says whether that may be the wire's fault and another one
    /// is left to try: if not, what can't be mended by trying again is final.
    pub(super) fn doubt(&mut self, doubt: Doubt, now: Instant) -> bool {
        if !self.is_auto() {
            return false;
        }
        self.doubts = match doubt {
            Doubt::None => return false,
            Doubt::Doubtful => self.doubts + 1,
            Doubt::Broken => DOUBTS_MAX,
        };
        if self.doubts < DOUBTS_MAX {
            return true;
        }
        self.doubts = 0;
        self.rung += 1;
        self.left_at = Some(now);
        if self.rung < RUNGS.len() {
            return true;
        }
        (self.rung, self.left_at) = (0, None);
        false
    }

    /// Goes back to the best wire if it was left long ago; before each attempt.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= MEMORY;
        if self.left_at.is_some_and(is_old) {
            (self.rung, self.doubts, self.left_at) = (0, 0, None);
        }
    }
}

impl Doubt {
    /// What `failure` says of `wire`, which it happened on. `is_proven`: it had brought something.
    pub(super) fn of(failure: &Failure, wire: Wire, is_proven: bool) -> Self {
        match failure {
            _ if is_proven => Self::None,
            // What is left of an upgrade when a proxy has taken away some of its headers. If it is
            // not that, the next wire is told the same.
            Failure::Problem(problem)
                if wire.is_websocket()
                    && matches!(
                        problem.code,
                        Word::Known(Code::InvalidArgument | Code::UpgradeRequired)
                    ) =>
            {
                Self::Broken
            }
            // A gateway's own words, and what is not on the way at all.
            Failure::Closed { .. }
            | Failure::Problem(_)
            | Failure::Redirect { .. }
            | Failure::Request(_)
            | Failure::TooLarge { .. }
            | Failure::Unreachable { .. } => Self::None,
            // Something on the way is overloaded, or can't do upgrades and says it like this.
            Failure::Status { status: 408 | 425 | 429 | 500 | 502..=504, .. }
            | Failure::Cut(_)
            | Failure::Timeout { .. } => Self::Doubtful,
            Failure::Foreign { .. }
            | Failure::Protocol(_)
            | Failure::Silent(_)
            | Failure::Status { .. } => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Failure {
        Failure::Status { status, retry_after: None }
    }

    #[test]
    fn a_broken_wire_is_left_and_the_next_one_remembered() {
        let now = Instant::now();
        let mut ladder = Ladder::new(Choice::Auto, None);
        assert_eq!((ladder.wire(), ladder.memory()), (Wire::Ws, None));
        assert!(ladder.doubt(Doubt::of(&status(404), Wire::Ws, false), now));
        assert_eq!(ladder.wire(), Wire::Sse);
        ladder.prove();
        assert_eq!(ladder.memory(), Some((Wire::Sse, now)));
        let other = Ladder::new(Choice::Auto, ladder.memory());
        assert_eq!(other.wire(), Wire::Sse);
    }

    #[test]
    fn one_doubt_is_not_enough_and_a_proof_takes_it_back() {
        let now = Instant::now();
        let mut ladder = Ladder::new(Choice::Auto, None);
        let doubt = Doubt::of(&status(502), Wire::Ws, false);
        for _ in 0..10 {
            assert!(ladder.doubt(doubt, now));
            ladder.prove();
        }
        assert_eq!(ladder.wire(), Wire::Ws);
        ladder.doubt(doubt, now);
        ladder.doubt(doubt, now);
        assert_eq!(ladder.wire(), Wire::Sse);
    }

    #[test]
    fn a_gateway_that_is_away_says_nothing_of_a_wire() {
        let now = Instant::now();
        let mut ladder = Ladder::new(Choice::Auto, None);
        let away = Failure::Unreachable { address: "a:1".into(), reason: "refused".into() };
        for _ in 0..10 {
            assert!(!ladder.doubt(Doubt::of(&away, Wire::Ws, false), now));
            assert!(!ladder.doubt(Doubt::of(&Failure::Cut("reset".into()), Wire::Ws, true), now));
        }
        assert_eq!(ladder.wire(), Wire::Ws);
    }

    #[test]
    fn the_best_wire_is_tried_again_after_a_while() {
        let now = Instant::now();
        let mut ladder = Ladder::new(Choice::Auto, None);
        ladder.doubt(Doubt::Broken, now);
        ladder.forget(now + MEMORY - Duration::from_secs(1));
        assert_eq!(ladder.wire(), Wire::Sse);
        ladder.forget(now + MEMORY);
        assert_eq!((ladder.wire(), ladder.memory()), (Wire::Ws, None));
    }

    #[test]
    fn after_every_wire_was_tried_it_is_not_the_wire() {
        let now = Instant::now();
        let mut ladder = Ladder::new(Choice::Auto, None);
        let left: Vec<bool> = (0..6).map(|_| ladder.doubt(Doubt::Broken, now)).collect();
        assert_eq!(left, [true, true, false, true, true, false]);
    }

    #[test]
    fn an_upgrade_without_its_headers_is_a_broken_wire() {
        let refused = Failure::Problem(crate::error::Problem::of(Code::UpgradeRequired));
        assert_eq!(Doubt::of(&refused, Wire::Ws, false), Doubt::Broken);
        assert_eq!(Doubt::of(&refused, Wire::Sse, false), Doubt::None);
    }

    #[test]
    fn who_chose_a_wire_stays_on_it() {
        let mut ladder = Ladder::new(Choice::Only(Wire::Poll), None);
        assert!(!ladder.doubt(Doubt::Broken, Instant::now()));
        assert_eq!(ladder.wire(), Wire::Poll);
    }
}
