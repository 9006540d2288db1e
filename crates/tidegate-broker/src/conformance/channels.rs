//! Channels as a crowd: those that never were, that are gone, that are many; lists and presence.

use tidegate_core::GapReason;

use super::*;
use crate::{List, Listing, Member};

/// `now` has a cursor before anything was published, and it is good for what comes then.
pub fn a_channel_that_never_was_has_a_good_now<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(text("b", "of another channel"));
    let channels = ["a", "b", "c"].map(name);
    let states = bench.subject.wait(bench.broker().states(&channels)).unwrap();
    assert_eq!(states.len(), 3);
    for (channel, state) in channels.iter().zip(states) {
        assert_eq!((state.ended, state.judge(state.now()).1), (None, None));
        assert!(state.floor <= state.head);
        bench.publish(text(channel.as_str(), "x"));
        let page = bench.read(channel.as_str(), From::After(state.now()));
        assert_eq!((page.gap, texts(&page.entries)), (None, vec!["x".into()]));
    }
    assert!(bench.subject.wait(bench.broker().states(&[])).unwrap().is_empty());
    let page = bench.read("never", From::Start);
    assert_eq!((page.gap, page.entries.len(), page.is_last), (None, 0, true));
}

/// While somebody watches it, a channel's cursor outlives any number of others.
pub fn a_quiet_channels_cursor_stays_good<S: Subject>() {
    let bench = Bench::<S>::new();
    let now = bench.watch("quiet", SINKS[0]).now();
    for nth in 0..5000 {
        let channel = format!("c{nth}");
        bench.publish(text(&channel, "x"));
        if nth % 2 == 0 {
            bench.drop_log(&channel);
        }
    }
    bench.subject.advance(S::AGE);
    let page = bench.read("quiet", From::After(now));
    assert_eq!((page.gap, page.entries.len()), (None, 0));
    let offset = bench.publish(text("quiet", "x"));
    let live = bench.take_through(SINKS[0], offset);
    check_chain(now.offset, &live);
}

/// Channels that had entries, keys, ends and watchers are forgotten, and old cursors are told so.
pub fn channels_come_and_go_without_a_trace<S: Subject>() {
    let bench = Bench::<S>::new();
    let mut cursors = Vec::new();
    for nth in 0..5000 {
        let channel = format!("c{nth}");
        let before = bench.state(&channel).now();
        match nth % 4 {
            0 => drop(bench.publish(text(&channel, "x"))),
            1 => drop(bench.publish(keyed(text(&channel, "x"), "k"))),
            2 => drop(bench.publish(lone_end(&channel))),
            _ => {
                bench.watch(&channel, SINKS[0]);
                bench.publish(text(&channel, "x"));
                bench.broker().unwatch(&name(&channel), SINKS[0]);
            }
        }
        cursors.push((channel, before));
    }
    bench.subject.advance(S::AGE);
    assert_eq!(list(&bench, "", "", 10), Listing::default());
    for (channel, before) in cursors {
        let page = bench.read(&channel, From::After(before));
        assert_eq!(page.gap.map(|it| it.reason), Some(GapReason::Expired), "{channel}");
        assert_eq!(page.state.ended, None);
    }
}

/// Over the bytes of all logs, those trimmed first had no append for the longest time.
pub fn bytes_of_all_logs_are_bounded_and_the_idlest_pay<S: Subject>() {
    const KIB: usize = 1 << 10;
    let bench = Bench::<S>::with(|it| it.bytes_max = 1024 * KIB);
    let payload = "x".repeat(16 * KIB);
    let start = bench.state("idle").now();
    for _ in 0..30 {
        bench.publish(text("idle", &payload));
    }
    bench.subject.advance(S::AGE / 4);
    let busy = bench.state("busy").now();
    for _ in 0..40 {
        bench.publish(text("busy", &payload));
    }
    let idle = bench.read("idle", From::After(start));
    assert_eq!(idle.gap.map(|it| it.reason), Some(GapReason::Expired));
    let busy = bench.read("busy", From::After(busy));
    assert_eq!((busy.gap, busy.entries.len()), (None, 40));
    let listed = list(&bench, "", "", 10).channels;
    let bytes: u64 = listed.iter().map(|it| it.bytes).sum();
    assert!(bytes <= 1024 * 1024 && bytes > 512 * 1024, "{bytes}");
}

/// Prefix, page by page, in byte order, with what each channel keeps.
pub fn channels_are_listed_in_byte_order_page_by_page<S: Subject>() {
    let bench = Bench::<S>::new();
    assert_eq!(list(&bench, "", "", 10), Listing::default());
    let mut names: Vec<_> = (0..100).map(|nth| format!("list.{nth}")).collect();
    names.extend(["list", "lisT", "listen", "List", "list:0", "~"].map(String::from));
    for (nth, channel) in names.iter().enumerate() {
        for _ in 0..=nth % 3 {
            bench.publish(text(channel, "four"));
        }
    }
    bench.watch("list.watched", SINKS[0]);
    bench.state("list.never");
    names.push("list.watched".into());
    names.sort_unstable();
    for prefix in ["", "list", "list.", "list.9", "list.99", "list.999", "~", "z"] {
        let expect: Vec<_> = names.iter().filter(|it| it.starts_with(prefix)).collect();
        for limit in [1, 7, 1000] {
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let listing = list(&bench, prefix, &after, limit);
                assert!(listing.channels.len() <= limit);
                let Some(last) = listing.channels.last() else {
                    assert!(!listing.has_more);
                    break;
                };
                last.channel.as_str().clone_into(&mut after);
                found.extend(listing.channels.iter().map(|it| it.channel.to_string()));
                if !listing.has_more {
                    break;
                }
            }
            assert!(found.iter().eq(expect.iter().copied()), "{prefix} by {limit}: {found:?}");
        }
    }
    let counts = |channel: &str| {
        let listing = list(&bench, channel, "", 1);
        (listing.channels[0].messages, listing.channels[0].bytes)
    };
    assert_eq!((counts("list.0"), counts("list.2")), ((1, 4), (3, 12)));
    assert_eq!(counts("list.watched"), (0, 0));
    bench.publish(lone_end("list.0"));
    assert_eq!(counts("list.0"), (1, 4), "an end is no message");
}

/// What a node says of a channel's members takes the place of what it said before.
pub fn presence_is_replaced_as_a_whole<S: Subject>() {
    let bench = Bench::<S>::new();
    let member = |id: &str| {
        let (user, info) = (Some("someone".into()), Some("{}".into()));
        Arc::new(Member { id: id.into(), user, info, joined: Timestamp(1) })
    };
    let presence = |channel: &str, mine: &[Arc<Member>]| {
        let reply = bench.broker().presence(&name(channel), mine.to_vec());
        let mut members = bench.subject.wait(reply).unwrap();
        members.sort_by(|one, other| one.id.cmp(&other.id));
        members
    };
    let both = [member("1"), member("2")];
    assert_eq!(presence("a", &both), both);
    assert_eq!(presence("b", &both[..1]), both[..1]);
    assert_eq!(presence("a", &both[1..]), both[1..]);
    assert_eq!(presence("a", &[]), []);
}

fn list<S: Subject>(bench: &Bench<S>, prefix: &str, after: &str, limit: usize) -> Listing {
    let list = List { prefix: prefix.into(), after: after.into(), limit };
    bench.subject.wait(bench.broker().list(list)).unwrap()
}
