//! The tail: what a watcher is promised, also while others publish.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Every offset after the head that `watch` answered comes, once and in order, though publishers
/// never pause; and each entry's `prev` leads back to that head.
pub fn a_watcher_gets_every_offset_after_the_head_it_was_told<S: Subject>() {
    const PUBLISHERS: usize = 4;
    let bench = Bench::<S>::new();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (bench, is_over) = (&bench, &is_over);
            scope.spawn(move || {
                for nth in 0.. {
                    bench.publish(text("a", &format!("{publisher}-{nth}")));
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let _over = SetOnDrop(&is_over);
        // Often, for what would be lost is what comes in the moment of a watch.
        for round in 0..4000 {
            let head = bench.watch("a", SINKS[0]).head;
            let through = head + 1 + round % 8;
            // What an earlier watch has left in the inbox is no part of this one's promise.
            let mut entries = bench.take_through(SINKS[0], through);
            entries.retain(|it| it.position.offset > head);
            check_chain(head, &entries);
            entries.truncate(100);
            let newest = entries.last().unwrap().position.offset;
            let after = Position { offset: head, ..bench.state("a").now() };
            let mut log = bench.page("a", From::After(after), 100).entries;
            log.retain(|it| it.position.offset <= newest);
            assert_eq!(offsets(&entries), offsets(&log), "in round {round}");
            bench.broker().unwatch(&name("a"), SINKS[0]);
        }
    });
}

/// Sets a flag however its scope ends, so that a failure lets the other threads end too.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two sinks on one channel, and one of them on another too: each gets what it watches, once.
pub fn every_sink_gets_every_entry_once<S: Subject>() {
    const PUBLISHES: usize = 300;
    let bench = Bench::<S>::new();
    // Watching twice is watching once.
    let [a, b] = ["a", "b"].map(|it| [(); 2].map(|()| bench.watch(it, SINKS[0])));
    bench.watch("a", SINKS[1]);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for channel in ["a", "b"] {
            let (bench, start) = (&bench, &start);
            scope.spawn(move || {
                start.wait();
                for nth in 0..PUBLISHES {
                    bench.publish(text(channel, &nth.to_string()));
                }
            });
        }
    });
    let expect: Vec<_> = (0..PUBLISHES).map(|it| it.to_string()).collect();
    let count = |count: usize| move |taken: &Taken| taken.entries().count() >= count;
    let both = bench.take(SINKS[0], count(2 * PUBLISHES));
    for (channel, state) in [("a", a), ("b", b)] {
        let of_it = |it: &&Arc<Entry>| it.channel == name(channel);
        let entries: Vec<_> = both.entries().filter(of_it).cloned().collect();
        assert_eq!(texts(&entries), expect);
        check_chain(state[1].head, &entries);
    }
    let one: Vec<_> = bench.take(SINKS[1], count(PUBLISHES)).entries().cloned().collect();
    assert_eq!(texts(&one), expect);
}

/// Whoever hears of an entry and reads at once finds it, and everything before it.
pub fn nothing_is_on_the_tail_before_it_is_in_the_log<S: Subject>() {
    const PUBLISHES: usize = 500;
    let bench = Bench::<S>::new();
    bench.watch("a", SINKS[0]);
    thread::scope(|scope| {
        scope.spawn(|| {
            for nth in 0..PUBLISHES {
                bench.publish(text("a", &nth.to_string()));
            }
        });
        let mut heard = 0;
        while heard < PUBLISHES {
            let taken = bench.take(SINKS[0], |taken| taken.entries().next().is_some());
            for entry in taken.entries() {
                let last = bench.read(
                    "a",
                    From::Before(Position { offset: entry.position.offset + 1, ..entry.position }),
                );
                heard += 1;
                // Above the head it would be a gap, and not there.
                assert_eq!(last.entries.last(), Some(entry), "heard of but not in the log");
                assert_eq!(last.entries.len(), heard);
            }
        }
    });
}

/// An end comes on the tail as an entry; later its cursor and older ones replay it.
pub fn an_end_is_on_the_tail_and_replays<S: Subject>() {
    let bench = Bench::<S>::new();
    let head = bench.watch("a", SINKS[0]).head;
    bench.publish(text("a", "x"));
    let last = bench.publish(last_text("a", "bye"));
    let state = bench.state("a");
    let end = state.ended.unwrap();
    let live = bench.take_through(SINKS[0], end);
    assert_eq!(texts(&live), ["x", "bye", "END"]);
    check_chain(head, &live);
    let at = |offset| Position { offset, ..state.now() };
    assert_eq!(bench.read("a", From::After(at(head))).entries, live);
    assert_eq!(texts(&bench.read("a", From::After(at(last))).entries), ["END"]);
    let past = bench.read("a", From::After(at(end)));
    assert_eq!((past.entries.len(), past.state.ended), (0, Some(end)), "the state tells it again");
}

/// A drop raises the floor above everything, is told at once, and clears keys and end.
pub fn a_dropped_log_is_told_and_its_keys_and_end_are_gone<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.watch("a", SINKS[0]);
    bench.publish(keyed(text("a", "x"), "k"));
    let end = bench.publish(lone_end("a"));
    let floor = bench.drop_log("a");
    assert!(floor.offset > end);
    let dropped = TailEvent::Dropped { channel: name("a"), floor };
    let taken = bench.take(SINKS[0], |taken| taken.events.contains(&dropped));
    assert_eq!(taken.entries().count(), 2, "in its place among the entries");

    let state = bench.state("a");
    assert_eq!((state.floor, state.head >= state.floor, state.ended), (floor.offset, true, None));
    let page = bench.read("a", From::After(Position { offset: end, ..floor }));
    assert_eq!((page.gap.unwrap().resumed, page.entries.len()), (floor, 0));

    let anew = bench.publish(keyed(text("a", "other"), "k"));
    let live = bench.take_through(SINKS[0], anew);
    check_chain(floor.offset, &live);
    assert_eq!(texts(&bench.read("a", From::After(floor)).entries), ["other"]);
}

/// A full inbox marks the channel, the publisher goes on, and the log has what did not fit.
pub fn a_full_inbox_marks_its_channel_and_blocks_nobody<S: Subject>() {
    let bench = Bench::<S>::with_inboxes(|_| {}, 2);
    let state = bench.watch("a", SINKS[0]);
    let published: Vec<_> = (0..10).map(|nth| bench.publish(text("a", &nth.to_string()))).collect();
    let taken = bench.take(SINKS[0], |taken| taken.dirty.contains(&name("a")));
    let live: Vec<_> = taken.entries().cloned().collect();
    assert!(live.len() <= 2);
    check_chain(state.head, &live);
    let last = live.last().map_or(state.now(), |it| it.position);
    let rest = bench.read("a", From::After(last));
    assert_eq!(rest.gap, None);
    assert_eq!([offsets(&live), offsets(&rest.entries)].concat(), published);
    // Drained, it takes entries again.
    let next = bench.publish(text("a", "next"));
    assert_eq!(texts(&bench.take_through(SINKS[0], next)), ["next"]);
}

/// With `messages = 0` the floor moves with each publication, and watchers get it all the same.
pub fn a_log_that_keeps_none_is_still_live<S: Subject>() {
    let bench = Bench::<S>::with(|it| it.bounds.messages = 0);
    let state = bench.watch("a", SINKS[0]);
    bench.publish(text("a", "0"));
    let last = bench.publish(text("a", "1"));
    let live = bench.take_through(SINKS[0], last);
    assert_eq!(texts(&live), ["0", "1"]);
    check_chain(state.head, &live);
    let page = bench.read("a", From::After(state.now()));
    assert_eq!((page.entries.len(), page.gap.unwrap().resumed.offset), (0, last));
}

/// The chain of `prev` holds over trimmed entries, so that who is live is never sent to the log.
pub fn prev_leads_from_entry_to_entry_also_where_they_were_trimmed<S: Subject>() {
    let bench = Bench::<S>::with(|it| it.bounds.messages = 1);
    let head = bench.watch("a", SINKS[0]).head;
    bench.publish(text("a", "0"));
    for nth in 1..20 {
        bench.publish(text("b", "of another channel"));
        bench.publish(text("a", &nth.to_string()));
    }
    bench.subject.advance(S::AGE);
    let last = bench.publish(text("a", "after all had expired"));
    let live = bench.take_through(SINKS[0], last);
    assert_eq!(live.len(), 21);
    check_chain(head, &live);
}
