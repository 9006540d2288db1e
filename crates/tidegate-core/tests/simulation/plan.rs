//! What a seed decides before anything happens, and the bugs that can be put into the glue.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use tidegate_core::log::LogBounds;
use tidegate_core::{OutboxBounds, Policy};

/// The shape of one world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nothing that could cost anyone anything: not one gap may be told.
    pub(crate) calm: bool,
    /// The broker answers later, as one behind a network does, and in any order.
    pub(crate) later: bool,
    /// Of a hundred answers that are due, so many come.
    pub(crate) haste: u32,
    /// Of a hundred events, so many the tail loses without a word; that it did, it says some time.
    pub(crate) lost: u32,
    /// Logs outlive a gateway that restarts.
    pub(crate) durable: bool,
    pub(crate) channels: usize,
    pub(crate) buckets: usize,
    pub(crate) workers: usize,
    pub(crate) clients: usize,
    pub(crate) steps: usize,
    pub(crate) log: LogBounds,
    pub(crate) inbox_events: usize,
    pub(crate) inbox_bytes: usize,
    /// All subscriptions of one connection.
    pub(crate) outbox_total: usize,
    /// Pieces that a socket takes before it blocks.
    pub(crate) socket: usize,
    /// Of a thousand steps, so many cut a client, and as many upset something larger.
    pub(crate) trouble: u32,
    /// Of a hundred turns a worker may have, so many it does not take.
    pub(crate) laziness: u32,
    /// Subscribers that are served before others get a turn.
    pub(crate) slice: usize,
    /// Entries of one page.
    pub(crate) page: NonZeroU32,
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let calm = rng.u8(..4) == 0;
        let log = if calm {
            LogBounds { messages: usize::MAX, bytes: usize::MAX, age: Duration::MAX }
        } else {
            LogBounds {
                messages: [0, 3, 10, 40, 1000][rng.usize(..5)],
                bytes: [1_500, 6_000, usize::MAX][rng.usize(..3)],
                age: Duration::from_secs([1, 4, 30, 10_000][rng.usize(..4)]),
            }
        };
        Self {
            calm,
            later: rng.bool(),
            haste: [100, 30, 5][rng.usize(..3)],
            lost: [0, 0, 3, 20][rng.usize(..4)],
            durable: calm || rng.bool(),
            channels: rng.usize(1..=4),
            buckets: rng.usize(1..=2),
            workers: rng.usize(1..=3),
            clients: rng.usize(2..=7),
            steps: rng.usize(100..=350),
            log,
            inbox_events: rng.usize(1..=12),
            inbox_bytes: [0, 700, 3_000, usize::MAX][rng.usize(..4)],
            outbox_total: [400, 1_500, 5_000, usize::MAX][rng.usize(..4)],
            socket: rng.usize(1..=6),
            trouble: [2, 10, 25][rng.usize(..3)],
            laziness: [0, 50, 90][rng.usize(..3)],
            slice: rng.usize(1..=3),
            page: NonZeroU32::new(rng.u32(1..=8)).unwrap(),
        }
    }

    /// Bounds for one subscription. In a calm world nothing is dropped.
    pub(crate) fn outbox(&self, rng: &mut Rng) -> OutboxBounds {
        let policy = if self.calm || self.log.messages > 0 && rng.bool() {
            Policy::Spill
        } else if self.log.messages == 0 {
            // `spill` without a log is `drop-oldest`.
            [Policy::DropOldest, Policy::Conflate, Policy::Disconnect][rng.usize(..3)]
        } else {
            Policy::ALL[rng.usize(..4)]
        };
        let bytes = [0, 600, 2_000, 100_000][rng.usize(..4)];
        OutboxBounds { messages: rng.usize(1..=6), bytes, policy }
    }
}

/// A bug that is put into the glue, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A batch is written at once without asking whether the subscription is level with it.
    AdvanceBlindly,
    /// A client resumes from what waited for it, not from what it was given.
    CursorAhead,
    /// What the subscription ignores is written all the same.
    DeliverBehindTail,
    /// The tail's word that continuity is unknown is ignored.
    ForgetBroken,
    /// Who asks at or past the end is not told it.
    ForgetEnd,
    /// A full inbox's marks are ignored.
    ForgetMark,
    /// A page is taken to reach as far as the hub is, wherever it ends.
    LevelTooSoon,
    /// An entry that was committed to a socket that blocks is lost.
    LosePiece,
    /// A gap is not written.
    SkipGap,
    /// A resumed stream begins where the log is now.
    StartAtNow,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::AdvanceBlindly,
        Self::CursorAhead,
        Self::DeliverBehindTail,
        Self::ForgetBroken,
        Self::ForgetEnd,
        Self::ForgetMark,
        Self::LevelTooSoon,
        Self::LosePiece,
        Self::SkipGap,
        Self::StartAtNow,
    ];
}
