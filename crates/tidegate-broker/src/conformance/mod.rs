//! The suite that each broker passes: one statement a test, for every guarantee of [`Broker`] and of
//! the log's semantics (CONTRACT 2–4, DESIGN's table).
//!
//! A broker's own tests implement [`Subject`] and call [`crate::broker_conformance!`], which makes a
//! `#[test]` of each statement. A statement panics where it does not hold.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests, though of others' crates"
)]

mod channels;
mod publish;
mod read;
mod tail;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tidegate_core::inbox::TailEvent;
use tidegate_core::{
    Body, ChannelName, ChannelState, Draft, Entry, Key, Payload, PayloadKind, Position,
    Publication, Timestamp,
};

use crate::{
    Broker, From, Inbox, LogBounds, Page, PublishError, Published, Read, Reply, SinkId, Unavailable,
};
pub use channels::*;
pub use publish::*;
pub use read::*;
pub use tail::*;

/// A broker on trial, and what can be done to it from outside.
pub trait Subject: Sized + Sync {
    /// How long the suite lets entries live. A subject that lives by the world's clock chooses what
    /// a test can wait for.
    const AGE: Duration = Duration::from_secs(600);

    /// How long keys are held, less than [`Subject::AGE`].
    const KEY_WINDOW: Duration = Duration::from_secs(120);

    /// A broker of its own with nothing in it.
    fn start(setup: Setup) -> Self;

    /// The broker.
    fn broker(&self) -> Arc<dyn Broker>;

    /// Lets `time` pass, as far as the broker can tell, and everything expire that is due.
    fn advance(&self, time: Duration);

    /// Waits for an answer, on any thread. Overridden where one needs a certain runtime.
    fn wait<T: Send + Unpin + 'static>(&self, reply: Reply<T>) -> T {
        block_on(reply)
    }

    /// Ends the broker and starts it again on what is left of its logs. `None`: it can't be done.
    fn restart(self) -> Option<(Self, Restarted)> {
        None
    }

    /// Publishes `draft` such that it is accepted and the answer is lost. `false`: never happens.
    fn publish_and_lose_the_answer(&self, _draft: &Draft) -> bool {
        false
    }
}

/// What a broker on trial is made with.
#[derive(Clone)]
pub struct Setup {
    /// Every channel's bounds.
    pub bounds: LogBounds,
    /// How long keys are held.
    pub key_window: Duration,
    /// Keys that may be held at once.
    pub keys_max: usize,
    /// Bytes of all logs.
    pub bytes_max: usize,
}

/// What a restart leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restarted {
    /// Every log as it was, so every cursor is good.
    Kept,
    /// Nothing: cursors are of an epoch that is gone.
    Lost,
}

/// Makes a `#[test]` of each statement of the suite for a [`Subject`].
#[macro_export]
macro_rules! broker_conformance {
    ($subject:ty) => {
        $crate::broker_conformance!(@ $subject:
            a_channel_that_never_was_has_a_good_now,
            a_dropped_log_is_told_and_its_keys_and_end_are_gone,
            a_full_inbox_marks_its_channel_and_blocks_nobody,
            a_key_again_is_a_duplicate_with_the_first_position,
            a_key_and_its_append_are_one_step,
            a_key_with_another_publication_is_refused,
            a_lone_end_is_an_entry,
            a_log_that_keeps_none_is_still_live,
            a_page_has_seen_what_it_must,
            a_position_above_the_head_is_a_gap,
            a_position_below_the_floor_is_a_gap,
            a_position_of_an_unknown_epoch_is_a_gap,
            a_quiet_channels_cursor_stays_good,
            a_restart_keeps_the_log_or_tells_its_loss,
            a_retried_draft_is_not_doubled,
            a_sealed_broker_refuses_and_keeps_what_it_accepted,
            a_watcher_gets_every_offset_after_the_head_it_was_told,
            an_end_and_its_publication_are_one_step,
            an_end_is_kept_for_its_age_and_then_the_channel_is_as_new,
            an_end_is_on_the_tail_and_replays,
            before_pages_backwards,
            bytes_of_all_logs_are_bounded_and_the_idlest_pay,
            calls_of_one_task_keep_their_order,
            channels_are_listed_in_byte_order_page_by_page,
            channels_come_and_go_without_a_trace,
            every_sink_gets_every_entry_once,
            keys_are_bounded_and_never_forgotten_early,
            keys_are_their_publishers_and_channels_own,
            keys_expire_after_their_window,
            last_has_the_newest_and_what_follows,
            messages_bytes_and_age_bound_a_log,
            nothing_is_on_the_tail_before_it_is_in_the_log,
            pages_of_any_size_are_the_whole_log,
            presence_is_replaced_as_a_whole,
            prev_leads_from_entry_to_entry_also_where_they_were_trimmed,
            what_is_accepted_is_in_the_log_byte_for_byte,
        );
    };
    (@ $subject:ty: $($statement:ident,)*) => {
        $(
            #[test]
            fn $statement() {
                $crate::conformance::$statement::<$subject>();
            }
        )*
    };
}

/// A subject with two sinks on its tail, and short words for what is done to it.
struct Bench<S> {
    subject: S,
    sinks: [Arc<Inbox>; 2],
}

const SINKS: [SinkId; 2] = [SinkId(0), SinkId(1)];

impl<S: Subject> Bench<S> {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Setup)) -> Self {
        Self::with_inboxes(change, 100_000)
    }

    fn with_inboxes(change: impl FnOnce(&mut Setup), events_max: usize) -> Self {
        let bounds = LogBounds { messages: 100_000, bytes: 64 << 20, age: S::AGE };
        let mut setup =
            Setup { bounds, key_window: S::KEY_WINDOW, keys_max: 10_000, bytes_max: 256 << 20 };
        change(&mut setup);
        Self::of(S::start(setup), events_max)
    }

    fn of(subject: S, events_max: usize) -> Self {
        let sinks = [(); 2].map(|()| Arc::new(Inbox::new(events_max, 64 << 20)));
        subject.broker().tail(sinks.to_vec());
        Self { subject, sinks }
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.subject.broker()
    }

    fn try_publish(&self, draft: Draft) -> Result<Published, PublishError> {
        self.subject.wait(self.broker().publish(draft))
    }

    /// Publishes what must be accepted as new, and answers its offset.
    #[track_caller]
    fn publish(&self, draft: Draft) -> u64 {
        match self.try_publish(draft) {
            Ok(Published::New(position)) => position.offset,
            other => panic!("{other:?} instead of a new publication"),
        }
    }

    #[track_caller]
    fn duplicate(&self, draft: Draft) -> u64 {
        match self.try_publish(draft) {
            Ok(Published::Duplicate(position)) => position.offset,
            other => panic!("{other:?} instead of a duplicate"),
        }
    }

    #[track_caller]
    fn refused(&self, draft: Draft) -> PublishError {
        self.try_publish(draft).expect_err("it must be refused")
    }

    fn try_read(&self, read: Read) -> Result<Page, Unavailable> {
        self.subject.wait(self.broker().read(read))
    }

    #[track_caller]
    fn read(&self, channel: &str, from: From) -> Page {
        self.page(channel, from, 1_000_000)
    }

    #[track_caller]
    fn page(&self, channel: &str, from: From, entries_max: u32) -> Page {
        self.try_read(page(channel, from, entries_max)).unwrap()
    }

    #[track_caller]
    fn state(&self, channel: &str) -> ChannelState {
        let states = self.subject.wait(self.broker().states(&[name(channel)])).unwrap();
        <[_; 1]>::try_from(states).unwrap().into_iter().next().unwrap()
    }

    #[track_caller]
    fn watch(&self, channel: &str, sink: SinkId) -> ChannelState {
        self.subject.wait(self.broker().watch(&name(channel), sink)).unwrap()
    }

    #[track_caller]
    fn drop_log(&self, channel: &str) -> Position {
        self.subject.wait(self.broker().drop_log(&name(channel))).unwrap()
    }

    /// Takes from a sink until `is_enough`.
    #[track_caller]
    fn take(&self, sink: SinkId, is_enough: impl Fn(&Taken) -> bool) -> Taken {
        let inbox = &self.sinks[usize::from(sink.0)];
        let mut taken = Taken::default();
        let deadline = Instant::now() + PATIENCE;
        while !is_enough(&taken) {
            let drained = block_until(deadline, |cx| inbox.poll_drain(cx, &mut Vec::new()));
            let Some(drained) = drained else { panic!("the tail says no more than {taken:?}") };
            taken.events.extend(drained.events);
            taken.dirty.extend(drained.dirty);
        }
        taken
    }

    /// Takes from a sink until the entry at `offset` has come.
    #[track_caller]
    fn take_through(&self, sink: SinkId, offset: u64) -> Vec<Arc<Entry>> {
        let is_there = |taken: &Taken| taken.entries().any(|it| it.position.offset >= offset);
        self.take(sink, is_there).entries().cloned().collect()
    }
}

/// What came on a tail.
#[derive(Debug, Default)]
struct Taken {
    events: Vec<TailEvent>,
    dirty: HashSet<ChannelName>,
}

impl Taken {
    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.events.iter().filter_map(|it| match it {
            TailEvent::Entry(entry) => Some(entry),
            _ => None,
        })
    }
}

/// How long the tail may take to say what it must.
const PATIENCE: Duration = Duration::from_secs(30);

fn name(channel: &str) -> ChannelName {
    ChannelName::parse(channel).unwrap()
}

/// A draft that is a text.
fn text(channel: &str, text: &str) -> Draft {
    let payload = Payload {
        kind: PayloadKind::Text,
        bytes: text.as_bytes().to_vec().into(),
        content_type: None,
    };
    Draft {
        channel: name(channel),
        publication: Some(Publication { payload, event: None, user: None, origin: None }),
        ends: false,
        key: None,
        time: Timestamp::from_millis(1_700_000_000_000),
        id: next_id(),
    }
}

/// A draft that is a text and the end.
fn last_text(channel: &str, it: &str) -> Draft {
    Draft { ends: true, ..text(channel, it) }
}

/// A draft that is a lone end.
fn lone_end(channel: &str) -> Draft {
    Draft { publication: None, ..last_text(channel, "") }
}

fn keyed(draft: Draft, key: &str) -> Draft {
    Draft { key: Some(Key::parse("publisher".into(), key).unwrap()), id: next_id(), ..draft }
}

/// An id that no other draft of the process has.
fn next_id() -> u128 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn page(channel: &str, from: From, entries_max: u32) -> Read {
    Read {
        channel: name(channel),
        from,
        at_least: 0,
        entries_max: NonZeroU32::new(entries_max).unwrap(),
        bytes_max: usize::MAX,
    }
}

fn offsets(entries: &[Arc<Entry>]) -> Vec<u64> {
    entries.iter().map(|it| it.position.offset).collect()
}

/// The texts of `entries`, with `END` for an end.
fn texts(entries: &[Arc<Entry>]) -> Vec<String> {
    let text = |it: &Arc<Entry>| match &it.body {
        Body::Publication(it) => String::from_utf8(it.payload.bytes.to_vec()).unwrap(),
        Body::End => "END".into(),
    };
    entries.iter().map(text).collect()
}

/// Checks that whoever has everything up to `from` misses nothing by taking `entries`.
#[track_caller]
fn check_chain(from: u64, entries: &[Arc<Entry>]) {
    entries.iter().fold(from, |last, entry| {
        assert!(entry.prev <= last, "after {last} comes {entry:?}");
        assert!(entry.position.offset > last, "after {last} comes {entry:?}");
        entry.position.offset
    });
}

/// Waits for a future, by parking the thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let deadline = Instant::now() + PATIENCE;
    block_until(deadline, |cx| future.as_mut().poll(cx)).expect("an answer must come")
}

/// Polls until it is ready, or `None` at the deadline.
fn block_until<T>(
    deadline: Instant,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_statement_is_made_a_test() {
        let suite = include_str!("mod.rs");
        let statements = [
            include_str!("channels.rs"),
            include_str!("publish.rs"),
            include_str!("read.rs"),
            include_str!("tail.rs"),
        ]
        .concat();
        let mut found = 0;
        for line in statements.lines().filter_map(|it| it.strip_prefix("pub fn ")) {
            let (statement, _) = line.split_once('<').unwrap();
            assert!(suite.contains(&format!("            {statement},\n")), "{statement}");
            found += 1;
        }
        assert!(found > 30);
    }
}
