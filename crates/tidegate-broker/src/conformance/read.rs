//! Reading: pages, gaps, bounds, completeness, and what a restart leaves.

use tidegate_core::{Epoch, GapReason};

use super::*;

/// Reads ten entries and an end in pages of each size, by entries and by bytes.
pub fn pages_of_any_size_are_the_whole_log<S: Subject>() {
    let bench = Bench::<S>::new();
    for nth in 0..10 {
        bench.publish(text("a", &nth.to_string()));
        bench.publish(text("b", "of another channel"));
    }
    bench.publish(lone_end("a"));
    let whole = bench.read("a", From::Start);
    assert_eq!((whole.entries.len(), whole.is_last, whole.gap), (11, true, None));
    assert!(whole.entries.iter().all(|it| it.channel == name("a")));
    check_chain(whole.state.floor, &whole.entries);

    let weight = whole.entries[0].weight();
    let by_entries = (1..13).map(|entries| (entries, usize::MAX));
    let by_bytes = (0..13).map(|entries| (1000, entries * weight));
    for (entries_max, bytes_max) in by_entries.chain(by_bytes) {
        let (mut entries, mut from) = (Vec::new(), From::Start);
        loop {
            let read = Read { bytes_max, ..page("a", from, entries_max) };
            let page = bench.try_read(read).unwrap();
            assert!(!page.entries.is_empty() || page.is_last, "an empty page goes nowhere");
            assert!(page.entries.len() <= usize::try_from(entries_max).unwrap());
            let bytes: usize = page.entries.iter().map(|it| it.weight()).sum();
            assert!(bytes <= bytes_max || page.entries.len() == 1);
            entries.extend(page.entries);
            from = From::After(page.next);
            if page.is_last {
                break;
            }
        }
        assert_eq!(entries, whole.entries);
    }
    for (nth, entry) in whole.entries.iter().enumerate() {
        let rest = bench.read("a", From::After(entry.position));
        assert_eq!((rest.gap, rest.entries.as_slice()), (None, &whole.entries[nth + 1..]));
        assert_eq!(rest.next, whole.next);
    }
}

/// The newest so many publications, and the end if there is one.
pub fn last_has_the_newest_and_what_follows<S: Subject>() {
    let bench = Bench::<S>::new();
    let last = |count| texts(&bench.read("a", From::Last(count)).entries);
    assert_eq!(last(3), [""; 0]);
    for nth in 0..5 {
        bench.publish(text("a", &nth.to_string()));
    }
    assert_eq!(last(0), [""; 0]);
    assert_eq!(last(2), ["3", "4"]);
    assert_eq!(last(u32::MAX), ["0", "1", "2", "3", "4"]);
    bench.publish(lone_end("a"));
    assert_eq!(last(2), ["3", "4", "END"]);
    assert_eq!(last(0), ["END"]);
    let page = bench.page("a", From::Last(4), 2);
    assert_eq!((texts(&page.entries), page.is_last), (vec!["1".into(), "2".into()], false));
    assert_eq!(bench.read("a", From::After(page.next)).entries.len(), 3);
    // Whoever takes none of them goes on from now.
    let none = bench.read("never", From::Last(0));
    assert_eq!(none.next, bench.state("never").now());
}

/// `Before` goes from now to the oldest in pages, and says when nothing older is kept.
pub fn before_pages_backwards<S: Subject>() {
    let bench = Bench::<S>::new();
    for nth in 0..7 {
        bench.publish(text("a", &nth.to_string()));
        bench.publish(text("b", "of another channel"));
    }
    let whole = bench.read("a", From::Start).entries;
    for size in 1..9 {
        let (mut entries, mut before) = (Vec::new(), whole[6].position);
        loop {
            let page = bench.page("a", From::Before(before), size);
            assert_eq!(page.gap, None);
            before = page.next;
            entries.splice(..0, page.entries);
            if page.is_last {
                break;
            }
        }
        assert_eq!(entries, whole[..6]);
    }
    let oldest = bench.read("a", From::Before(whole[0].position));
    assert_eq!((oldest.entries.len(), oldest.is_last), (0, true));
}

/// Each bound trims by itself, and the floor is the newest offset that is gone.
pub fn messages_bytes_and_age_bound_a_log<S: Subject>() {
    let weight = {
        let bench = Bench::<S>::new();
        bench.publish(text("a", "0"));
        bench.read("a", From::Start).entries[0].weight()
    };
    let bounds: [fn(&mut LogBounds, usize); 3] = [
        |it, _| it.messages = 2,
        |it, weight| it.bytes = 2 * weight,
        // Trimmed by what is advanced below.
        |_, _| {},
    ];
    for bound in bounds {
        let bench = Bench::<S>::with(|it| bound(&mut it.bounds, weight));
        let first = bench.publish(text("a", "0"));
        bench.subject.advance(S::AGE / 2);
        bench.publish(text("a", "1"));
        bench.publish(text("a", "2"));
        bench.subject.advance(S::AGE / 2);
        let page = bench.read("a", From::Start);
        assert_eq!(texts(&page.entries), ["1", "2"]);
        assert_eq!(page.state.floor, first);
        bench.subject.advance(S::AGE);
        let page = bench.read("a", From::Start);
        assert_eq!((page.entries.len(), page.is_last), (0, true));
    }
}

/// Below the floor: told, and the page goes on from the oldest that is kept.
pub fn a_position_below_the_floor_is_a_gap<S: Subject>() {
    let bench = Bench::<S>::with(|it| it.bounds.messages = 2);
    let start = bench.state("a").now();
    let published: Vec<_> = (0..5).map(|nth| bench.publish(text("a", &nth.to_string()))).collect();
    let at = |offset| Position { offset, ..start };
    for requested in [start, at(published[0]), at(published[1])] {
        let page = bench.read("a", From::After(requested));
        let gap = page.gap.unwrap();
        assert_eq!((gap.requested, gap.resumed), (requested, at(published[2])));
        assert_eq!(gap.reason, GapReason::Expired);
        assert_eq!(texts(&page.entries), ["3", "4"]);
    }
    for (nth, offset) in published.iter().enumerate().skip(2) {
        let page = bench.read("a", From::After(at(*offset)));
        assert_eq!((page.gap, page.entries.len()), (None, 4 - nth));
    }
}

/// Above the head: this log never gave that offset out, so one that did is lost.
pub fn a_position_above_the_head_is_a_gap<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(text("a", "x"));
    let now = bench.state("a").now();
    let page = bench.read("a", From::After(Position { offset: now.offset + 1, ..now }));
    let gap = page.gap.unwrap();
    assert_eq!((gap.resumed, gap.reason), (now, GapReason::Epoch));
    assert_eq!((page.entries.len(), page.next), (0, now));
}

/// Another epoch: everything that is kept comes again, after the gap.
pub fn a_position_of_an_unknown_epoch_is_a_gap<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(text("a", "x"));
    let state = bench.state("a");
    let epoch = (0..).map(Epoch::new).find(|it| *it != state.now().epoch).unwrap();
    for offset in [0, state.head, u64::MAX] {
        let page = bench.read("a", From::After(Position { epoch, offset }));
        let gap = page.gap.unwrap();
        assert_eq!((gap.resumed, gap.reason), (state.start(), GapReason::Epoch));
        assert_eq!(texts(&page.entries), ["x"]);
    }
}

/// A page has everything up to the offset that it must have seen, or is an error.
pub fn a_page_has_seen_what_it_must<S: Subject>() {
    let bench = Bench::<S>::new();
    for nth in 0..50_u32 {
        let at_least = bench.publish(text("a", &nth.to_string()));
        let read = Read { at_least, ..page("a", From::Start, 1000) };
        let page = bench.try_read(read).unwrap();
        assert_eq!(page.entries.last().unwrap().position.offset, at_least);
        assert!(page.state.head >= at_least);
    }
    let at_least = bench.state("a").head + 1;
    let read = Read { at_least, ..page("a", From::Start, 1000) };
    assert_eq!(bench.try_read(read), Err(Unavailable));
}

/// After a restart a cursor is as good as before, or it is a gap; offsets are given out anew neither way.
pub fn a_restart_keeps_the_log_or_tells_its_loss<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(text("a", "0"));
    let cursor = bench.state("a").now();
    bench.publish(keyed(text("a", "1"), "k"));
    let before = bench.read("a", From::Start);
    let Some((subject, restarted)) = bench.subject.restart() else { return };
    let bench = Bench::<S>::of(subject, 1000);
    let page = bench.read("a", From::After(cursor));
    match restarted {
        Restarted::Kept => {
            assert_eq!((page.gap, texts(&page.entries)), (None, vec!["1".into()]));
            assert_eq!(bench.duplicate(keyed(text("a", "1"), "k")), before.next.offset);
            assert!(bench.publish(text("a", "2")) > before.next.offset);
        }
        Restarted::Lost => {
            assert_eq!(page.gap.unwrap().reason, GapReason::Epoch);
            assert_ne!(page.next.epoch, cursor.epoch);
            bench.publish(text("a", "anew"));
            assert_eq!(texts(&bench.read("a", From::After(page.next)).entries), ["anew"]);
        }
    }
}
