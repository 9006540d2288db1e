//! What a bucket promises, one statement a test; `model` tries any history of them.

mod model;

use super::*;
use crate::cursor::Epoch;
use crate::entry::{EventName, Key, Publication, Timestamp};
use crate::payload::{Payload, PayloadKind};
use crate::state::GapReason;

const ROOMY: LogBounds = LogBounds { messages: 100, bytes: 1 << 20, age: Duration::from_secs(600) };
const KEY_WINDOW: Duration = Duration::from_secs(120);

/// A bucket with a clock of its own and the same bounds for every channel.
struct Bench {
    bucket: Bucket,
    bounds: LogBounds,
    now: Duration,
    has_room_for_key: bool,
}

impl Bench {
    fn new(bounds: LogBounds) -> Self {
        let bucket = Bucket::new(Lineage::new(Epoch::new(1)));
        Self { bucket, bounds, now: Duration::ZERO, has_room_for_key: true }
    }

    fn append(&mut self, draft: Draft) -> Result<Appended, Refused> {
        let bounds = self.bounds;
        let bounds = move |_: &ChannelName| bounds;
        let has_room_for_key = self.has_room_for_key;
        let terms = Terms { bounds: &bounds, key_window: KEY_WINDOW, has_room_for_key };
        self.bucket.append(draft, self.now, &terms)
    }

    fn publish(&mut self, channel: &str, text: &str) -> u64 {
        self.append(draft(channel, text)).unwrap().position.offset
    }

    fn watch(&mut self, channel: &str, sink: u16) -> ChannelState {
        let bounds = self.bounds;
        let bounds = move |_: &ChannelName| bounds;
        let terms = Terms { bounds: &bounds, key_window: KEY_WINDOW, has_room_for_key: true };
        self.bucket.watch(&name(channel), SinkId(sink), self.now, &terms)
    }

    fn sweep(&mut self) -> Swept {
        let bounds = self.bounds;
        let bounds = move |_: &ChannelName| bounds;
        let terms = Terms { bounds: &bounds, key_window: KEY_WINDOW, has_room_for_key: true };
        self.bucket.sweep(self.now, &terms)
    }

    fn state(&mut self, channel: &str) -> ChannelState {
        self.bucket.state(&name(channel), self.now)
    }

    fn read(&mut self, channel: &str, from: From) -> Page {
        self.page(channel, from, 1000, usize::MAX)
    }

    fn page(&mut self, channel: &str, from: From, entries_max: u32, bytes_max: usize) -> Page {
        let entries_max = entries_max.try_into().unwrap();
        let read = Read { channel: name(channel), from, at_least: 0, entries_max, bytes_max };
        self.bucket.read(&read, self.now)
    }

    /// Checks the offsets that a page has, and whether it is the last one.
    #[track_caller]
    fn check(&mut self, from: From, entries_max: u32, expect: &[u64], is_last: bool) {
        let page = self.page("a", from, entries_max, usize::MAX);
        assert_eq!((offsets(&page).as_slice(), page.is_last), (expect, is_last));
        assert_eq!(page.gap, None);
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::parse(channel).unwrap()
}

fn draft(channel: &str, text: &str) -> Draft {
    let bytes = text.as_bytes().to_vec().into();
    let payload = Payload { kind: PayloadKind::Text, bytes, content_type: None };
    Draft {
        channel: name(channel),
        publication: Some(Publication { payload, event: None, user: None, origin: None }),
        ends: false,
        key: None,
        time: Timestamp(0),
        id: 0,
    }
}

fn end(channel: &str) -> Draft {
    Draft { publication: None, ends: true, ..draft(channel, "") }
}

fn keyed(draft: Draft, publisher: &str, key: &str) -> Draft {
    Draft { key: Some(Key::parse(publisher.into(), key).unwrap()), ..draft }
}

fn at(offset: u64) -> Position {
    Position { epoch: Epoch::new(1), offset }
}

fn offsets(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|it| it.position.offset).collect()
}

#[test]
fn offsets_rise_over_all_channels_of_a_bucket() {
    let mut bench = Bench::new(ROOMY);
    let published = ["a", "b", "a"].map(|it| bench.publish(it, "x"));
    assert_eq!(published, [1, 2, 3]);
    assert_eq!(offsets(&bench.read("a", From::Start)), [1, 3]);
    assert_eq!((bench.state("a").head, bench.state("never").head), (3, 3));
}

#[test]
fn prev_is_the_entry_before_or_the_floor() {
    let mut bench = Bench::new(LogBounds { messages: 1, ..ROOMY });
    for (channel, prev) in [("b", 0), ("a", 0), ("b", 1), ("a", 2)] {
        let appended = bench.append(draft(channel, "x")).unwrap();
        assert_eq!(appended.entries[0].as_ref().unwrap().prev, prev, "{channel}");
    }
    bench.bucket.drop_log(&name("a"));
    // "a" is forgotten now, and its floor, 5, is the bucket's: the next new channel starts from it.
    let appended = bench.append(draft("c", "x")).unwrap();
    assert_eq!(appended.entries[0].as_ref().unwrap().prev, 5);
}

#[test]
fn messages_bytes_and_age_each_trim() {
    let one = bench_weight();
    let age = Duration::from_secs(60);
    for bounds in [
        LogBounds { messages: 2, ..ROOMY },
        LogBounds { bytes: 2 * one, ..ROOMY },
        LogBounds { age, ..ROOMY },
    ] {
        let mut bench = Bench::new(bounds);
        for second in [0, 1, 30] {
            bench.now = Duration::from_secs(second);
            bench.publish("a", "x");
        }
        bench.now = age;
        assert_eq!(offsets(&bench.read("a", From::Start)), [2, 3], "{bounds:?}");
        assert_eq!(bench.state("a").floor, 1);
        let page = bench.read("a", From::After(at(0)));
        let gap = page.gap.unwrap();
        assert_eq!((gap.resumed, gap.reason), (at(1), GapReason::Expired));
        assert_eq!(offsets(&page), [2, 3], "the page goes on from where the gap resumed");
        assert_eq!(bench.read("a", From::After(at(1))).gap, None);
    }
}

fn bench_weight() -> usize {
    let mut bench = Bench::new(ROOMY);
    bench.append(draft("a", "x")).unwrap().entries[0].as_ref().unwrap().weight()
}

#[test]
fn an_entry_expires_exactly_at_its_age() {
    let mut bench = Bench::new(ROOMY);
    bench.publish("a", "x");
    bench.now = ROOMY.age - Duration::from_nanos(1);
    assert_eq!(offsets(&bench.read("a", From::Start)), [1]);
    bench.now = ROOMY.age;
    assert_eq!(offsets(&bench.read("a", From::Start)), [0; 0]);
    assert!(bench.bucket.is_empty(), "reading it was enough to forget it");
}

#[test]
fn a_log_that_keeps_none_still_hands_out_what_is_live() {
    let mut bench = Bench::new(LogBounds { messages: 0, ..ROOMY });
    bench.watch("a", 3);
    let appended = bench.append(draft("a", "x")).unwrap();
    assert_eq!(appended.watchers.as_deref(), Some([SinkId(3)].as_slice()));
    assert_eq!(appended.entries[0].as_ref().unwrap().position, at(1));
    assert_eq!((bench.state("a").floor, bench.state("a").head), (1, 1));
    assert_eq!(bench.read("a", From::After(at(0))).gap.unwrap().resumed, at(1));
    assert_eq!(bench.bucket.usage(), Usage::default());
}

#[test]
fn a_watcher_is_told_once_whatever_it_asks() {
    let mut bench = Bench::new(ROOMY);
    assert_eq!(bench.watch("a", 1).head, 0);
    bench.watch("a", 1);
    bench.watch("a", 2);
    bench.bucket.unwatch(&name("a"), SinkId(9));
    let appended = bench.append(draft("a", "x")).unwrap();
    assert_eq!(appended.watchers.as_deref(), Some([SinkId(1), SinkId(2)].as_slice()));
    bench.bucket.unwatch(&name("a"), SinkId(1));
    assert_eq!(
        bench.append(draft("a", "x")).unwrap().watchers.as_deref(),
        Some([SinkId(2)].as_slice())
    );
    bench.bucket.unwatch(&name("a"), SinkId(2));
    assert_eq!(bench.append(draft("a", "x")).unwrap().watchers, None);
}

#[test]
fn the_same_key_again_is_a_duplicate_and_another_payload_is_refused() {
    let mut bench = Bench::new(ROOMY);
    let first = keyed(draft("a", "x"), "me", "k");
    assert_eq!(bench.append(first.clone()).unwrap().position, at(1));
    let again = bench.append(first.clone()).unwrap();
    assert!(again.is_duplicate && again.position == at(1) && again.entries == [None, None]);
    let mut others = [
        keyed(draft("a", "y"), "me", "k"),
        keyed(end("a"), "me", "k"),
        Draft { ends: true, ..first.clone() },
        first.clone(),
        first.clone(),
        first.clone(),
    ];
    let publication = |draft: &mut Draft| draft.publication.take().unwrap();
    for (other, change) in others.iter_mut().skip(3).zip(0..) {
        let mut changed = publication(other);
        match change {
            0 => changed.event = Some(EventName::parse("tick").unwrap()),
            1 => changed.payload.kind = PayloadKind::Binary,
            _ => changed.payload.content_type = Some("image/png".into()),
        }
        other.publication = Some(changed);
    }
    for other in others {
        assert_eq!(bench.append(other.clone()).unwrap_err(), Refused::KeyReused, "{other:?}");
    }
    // Another publisher's, and another channel's, are other keys.
    assert_eq!(bench.append(keyed(draft("a", "y"), "you", "k")).unwrap().position, at(2));
    assert_eq!(bench.append(keyed(draft("b", "y"), "me", "k")).unwrap().position, at(3));
}

#[test]
fn a_key_is_held_exactly_for_its_window_whatever_the_log_keeps() {
    let mut bench = Bench::new(LogBounds { messages: 0, ..ROOMY });
    let first = keyed(draft("a", "x"), "me", "k");
    bench.append(first.clone()).unwrap();
    bench.now = KEY_WINDOW - Duration::from_nanos(1);
    assert!(bench.append(first.clone()).unwrap().is_duplicate);
    bench.now = KEY_WINDOW;
    let again = bench.append(first).unwrap();
    assert!(!again.is_duplicate && again.position == at(2));
}

#[test]
fn a_full_key_table_refuses_new_keys_alone() {
    let mut bench = Bench::new(ROOMY);
    let first = keyed(draft("a", "x"), "me", "k");
    bench.append(first.clone()).unwrap();
    bench.has_room_for_key = false;
    assert!(bench.append(first.clone()).unwrap().is_duplicate);
    let reused = bench.append(keyed(draft("a", "y"), "me", "k"));
    assert_eq!(reused.unwrap_err(), Refused::KeyReused);
    for channel in ["a", "b"] {
        let other = bench.append(keyed(draft(channel, "x"), "me", "other"));
        assert_eq!(other.unwrap_err(), Refused::KeysFull);
    }
    assert_eq!(bench.publish("a", "no key"), 2);
    assert_eq!(bench.bucket.usage().keys, 1);
}

#[test]
fn an_end_is_an_entry_and_nothing_follows_it() {
    let mut bench = Bench::new(ROOMY);
    let last = keyed(Draft { ends: true, ..draft("a", "bye") }, "me", "k");
    let appended = bench.append(last.clone()).unwrap();
    assert_eq!(appended.position, at(1), "the publication's, not the end's");
    let entries = appended.entries.map(Option::unwrap);
    assert!(!entries[0].is_end() && entries[1].is_end());
    assert_eq!((entries[1].position, entries[1].prev), (at(2), 1));
    assert_eq!(bench.state("a").ended, Some(2));

    assert_eq!(bench.append(draft("a", "x")).unwrap_err(), Refused::Ended);
    assert_eq!(bench.append(end("a")).unwrap_err(), Refused::Ended);
    let again = bench.append(last).unwrap();
    assert!(again.is_duplicate && again.position == at(1), "also after an end");
    assert_eq!(offsets(&bench.read("a", From::Start)), [1, 2]);
}

#[test]
fn a_lone_end_has_a_position_of_its_own() {
    let mut bench = Bench::new(ROOMY);
    bench.publish("a", "x");
    let lone = bench.append(keyed(end("a"), "me", "k")).unwrap();
    assert_eq!((lone.position, &lone.entries[1]), (at(2), &None));
    assert!(bench.append(keyed(end("a"), "me", "k")).unwrap().is_duplicate);
}

#[test]
fn an_end_outlives_other_bounds_and_then_the_channel_is_as_new() {
    let mut bench = Bench::new(LogBounds { messages: 0, bytes: 0, ..ROOMY });
    bench.append(Draft { ends: true, ..draft("a", "bye") }).unwrap();
    bench.bucket.trim_idlest(usize::MAX, Duration::MAX);
    bench.now = ROOMY.age - Duration::from_nanos(1);
    assert_eq!(offsets(&bench.read("a", From::Start)), [2]);
    assert_eq!(bench.state("a").ended, Some(2));
    bench.now = ROOMY.age;
    assert_eq!(bench.publish("a", "anew"), 3);
    let page = bench.read("a", From::After(at(1)));
    assert_eq!(page.gap.unwrap().reason, GapReason::Expired, "the end itself can't be told now");
}

#[test]
fn a_drop_takes_an_offset_and_clears_keys_and_end() {
    let mut bench = Bench::new(ROOMY);
    bench.watch("a", 1);
    bench.append(keyed(Draft { ends: true, ..draft("a", "x") }, "me", "k")).unwrap();
    let dropped = bench.bucket.drop_log(&name("a"));
    assert_eq!((dropped.floor, dropped.entries.len()), (at(3), 2));
    assert_eq!(dropped.watchers.as_deref(), Some([SinkId(1)].as_slice()));
    let state = bench.state("a");
    assert_eq!((state.floor, state.head, state.ended), (3, 3, None));
    assert_eq!(bench.read("a", From::After(at(2))).gap.unwrap().resumed, at(3));
    let anew = bench.append(keyed(draft("a", "y"), "me", "k")).unwrap();
    assert_eq!((anew.position, anew.is_duplicate), (at(4), false));
    assert_eq!(anew.entries[0].as_ref().unwrap().prev, 3);
}

#[test]
fn dropping_what_does_not_exist_costs_no_other_channel_a_gap() {
    let mut bench = Bench::new(ROOMY);
    bench.publish("a", "x");
    assert_eq!(bench.bucket.drop_log(&name("b")).floor, at(0));
    assert_eq!((bench.state("c").floor, bench.state("c").head), (0, 1));
}

#[test]
fn a_forgotten_channels_floor_is_its_buckets() {
    let mut bench = Bench::new(ROOMY);
    bench.publish("gone", "x");
    bench.now = ROOMY.age / 2;
    bench.watch("quiet", 1);
    bench.publish("busy", "x");
    bench.now = ROOMY.age;
    bench.sweep();
    assert_eq!(bench.state("gone").floor, 1);
    assert_eq!(bench.state("never").floor, 1, "a gap may be told needlessly");
    assert_eq!(bench.state("quiet").floor, 0, "but not to a channel that is there");
    let (_, gap) = bench.state("gone").judge(at(0));
    assert_eq!(gap.unwrap().reason, GapReason::Expired, "never omitted");
}

#[test]
fn channels_come_and_go_without_a_trace() {
    let mut bench = Bench::new(ROOMY);
    for nth in 0..2000 {
        let channel = format!("c{nth}");
        match nth % 4 {
            0 => drop(bench.publish(&channel, "x")),
            1 => drop(bench.append(keyed(draft(&channel, "x"), "me", "k"))),
            2 => drop(bench.append(end(&channel))),
            _ => {
                bench.watch(&channel, 1);
                bench.bucket.unwatch(&name(&channel), SinkId(1));
            }
        }
    }
    assert_eq!(bench.bucket.channels().count(), 1500);
    bench.now = ROOMY.age;
    assert_eq!(bench.sweep(), Swept::default());
    assert!(bench.bucket.is_empty() && bench.bucket.usage() == Usage::default());
    assert!(bench.bucket.channels.capacity() <= 16, "{}", bench.bucket.channels.capacity());
}

#[test]
fn a_burst_leaves_no_memory_behind() {
    let mut bench = Bench::new(LogBounds { messages: 5000, ..ROOMY });
    for _ in 0..5000 {
        bench.publish("a", "x");
    }
    bench.now = ROOMY.age;
    bench.publish("a", "x");
    assert!(bench.bucket.channels[&name("a")].entries().capacity() <= 16);
}

#[test]
fn a_sweep_takes_over_other_bounds() {
    let mut bench = Bench::new(ROOMY);
    for _ in 0..5 {
        bench.publish("a", "x");
    }
    bench.bounds.messages = 2;
    bench.sweep();
    assert_eq!(offsets(&bench.read("a", From::Start)), [4, 5]);
}

#[test]
fn the_idlest_are_trimmed_first_and_from_their_oldest_on() {
    let mut bench = Bench::new(ROOMY);
    for (second, channel) in [(0, "idle"), (1, "idle"), (2, "busy"), (3, "other")] {
        bench.now = Duration::from_secs(second);
        bench.publish(channel, "x");
    }
    bench.now = Duration::from_secs(9);
    bench.publish("busy", "x");
    assert_eq!(bench.bucket.idle_since(), Some(Duration::from_secs(1)));
    bench.bucket.trim_idlest(usize::MAX, Duration::ZERO);
    assert_eq!(offsets(&bench.read("idle", From::Start)), [1, 2]);
    bench.bucket.trim_idlest(1, Duration::from_secs(1));
    assert_eq!(offsets(&bench.read("idle", From::Start)), [2]);
    bench.bucket.trim_idlest(usize::MAX, Duration::from_secs(3));
    assert_eq!(offsets(&bench.read("idle", From::Start)), [0; 0]);
    assert_eq!(offsets(&bench.read("other", From::Start)), [0; 0]);
    assert_eq!(offsets(&bench.read("busy", From::Start)), [3, 5]);
    assert_eq!(bench.read("idle", From::After(at(1))).gap.unwrap().reason, GapReason::Expired);
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let mut bench = Bench::new(ROOMY);
    for _ in 0..5 {
        bench.publish("a", "x");
        bench.publish("b", "x");
    }
    bench.append(end("a")).unwrap();
    bench.check(From::Start, 2, &[1, 3], false);
    bench.check(From::After(at(4)), 2, &[5, 7], false);
    bench.check(From::After(at(7)), 2, &[9, 11], true);
    bench.check(From::After(at(11)), 2, &[], true);
    bench.check(From::Before(at(11)), 2, &[7, 9], false);
    bench.check(From::Before(at(7)), 9, &[1, 3, 5], true);
    bench.check(From::Before(at(1)), 9, &[], true);
    bench.check(From::Last(2), 9, &[7, 9, 11], true);
    bench.check(From::Last(2), 1, &[7], false);
    bench.check(From::Last(0), 9, &[11], true);
    bench.check(From::Last(u32::MAX), 9, &[1, 3, 5, 7, 9, 11], true);
    assert_eq!(bench.read("a", From::Before(at(7))).next, at(1));
    assert_eq!(bench.read("b", From::Last(0)).next, at(11), "without entries: where now is");
    assert_eq!(bench.read("never", From::Start).next, at(0));
}

#[test]
fn a_page_is_bounded_in_bytes_but_has_always_one_entry() {
    let mut bench = Bench::new(ROOMY);
    for _ in 0..4 {
        bench.publish("a", "x");
    }
    let one = bench_weight();
    for (bytes_max, expect) in [(0, 1), (2 * one - 1, 1), (2 * one, 2), (usize::MAX, 4)] {
        assert_eq!(bench.page("a", From::Start, 9, bytes_max).entries.len(), expect);
        let page = bench.page("a", From::Before(at(5)), 9, bytes_max);
        assert_eq!((page.entries.len(), page.gap.is_some()), (expect, true), "5 is above the head");
        assert_eq!(page.entries.last().unwrap().position, at(4));
    }
}

#[test]
fn a_position_of_an_unknown_epoch_is_a_gap_in_every_direction() {
    let mut bench = Bench::new(ROOMY);
    bench.publish("a", "x");
    let foreign = Position { epoch: Epoch::new(2), offset: 1 };
    let page = bench.read("a", From::After(foreign));
    assert_eq!((page.gap.unwrap().reason, offsets(&page)), (GapReason::Epoch, vec![1]));
    let page = bench.read("a", From::Before(foreign));
    assert_eq!((page.gap.unwrap().reason, offsets(&page)), (GapReason::Epoch, vec![]));
}

#[test]
fn a_clock_that_seems_to_step_back_does_not() {
    let mut bench = Bench::new(ROOMY);
    bench.now = Duration::from_secs(10);
    bench.publish("a", "x");
    bench.now = Duration::from_secs(9);
    bench.publish("a", "y");
    bench.now = Duration::from_secs(10) + ROOMY.age;
    assert_eq!(offsets(&bench.read("a", From::Start)), [0; 0]);
}
