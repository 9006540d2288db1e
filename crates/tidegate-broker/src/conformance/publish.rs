//! What becomes of a draft: keys, ends, order, bounds on keys, sealing.

use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_core::{EventName, SessionId};

use super::*;

/// Payload, kind, type, event, user, origin and time come back as they were given.
pub fn what_is_accepted_is_in_the_log_byte_for_byte<S: Subject>() {
    let bench = Bench::<S>::new();
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let payloads = [
        (PayloadKind::Binary, every_byte, Some("image/png")),
        (PayloadKind::Json, br#"{"a" : [1, "\u00e4"]}"#.to_vec(), None),
        (PayloadKind::Text, "ä\r\n\0".into(), None),
        (PayloadKind::Text, Vec::new(), None),
    ];
    for (kind, bytes, content_type) in payloads {
        let content_type = content_type.map(Into::into);
        let publication = Publication {
            payload: Payload { kind, bytes: bytes.into(), content_type },
            event: Some(EventName::parse("tick").unwrap()),
            user: Some("someone".into()),
            origin: Some(SessionId(42)),
        };
        let draft = Draft { publication: Some(publication.clone()), ..text("a", "") };
        let (time, offset) = (draft.time, bench.publish(draft));
        let page = bench.read("a", From::Start);
        let entry = page.entries.last().unwrap();
        assert_eq!(entry.publication(), Some(&publication));
        assert_eq!((entry.position.offset, entry.time), (offset, time));
        assert_eq!(entry.channel, name("a"));
        assert_eq!(page.next, entry.position);
    }
    assert_eq!(bench.read("a", From::Start).entries.len(), 4);
}

/// Calls of one task keep their order per channel, though it waits for no answer in between.
pub fn calls_of_one_task_keep_their_order<S: Subject>() {
    let bench = Bench::<S>::new();
    let publish = |nth: i32| {
        let channel = ["a", "b", "c"][usize::try_from(nth % 3).unwrap()];
        bench.broker().publish(text(channel, &nth.to_string()))
    };
    let replies: Vec<_> = (0..300).map(publish).collect();
    for reply in replies {
        assert!(matches!(bench.subject.wait(reply), Ok(Published::New(_))));
    }
    for (channel, first) in [("a", 0), ("b", 1), ("c", 2)] {
        let expect: Vec<_> = (first..300).step_by(3).map(|it| it.to_string()).collect();
        assert_eq!(texts(&bench.read(channel, From::Start).entries), expect);
    }
}

/// The same key again publishes nothing and answers with the first position, also after an end.
pub fn a_key_again_is_a_duplicate_with_the_first_position<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.watch("a", SINKS[0]);
    let first = bench.publish(keyed(text("a", "x"), "k"));
    assert_eq!(bench.duplicate(keyed(text("a", "x"), "k")), first);
    let last = bench.publish(keyed(last_text("a", "bye"), "last"));
    assert_eq!(bench.duplicate(keyed(text("a", "x"), "k")), first);
    assert_eq!(bench.duplicate(keyed(last_text("a", "bye"), "last")), last);
    assert_eq!(texts(&bench.read("a", From::Start).entries), ["x", "bye", "END"]);
    let end = bench.state("a").ended.unwrap();
    assert_eq!(texts(&bench.take_through(SINKS[0], end)), ["x", "bye", "END"]);

    let lone = bench.publish(keyed(lone_end("b"), "k"));
    assert_eq!(bench.duplicate(keyed(lone_end("b"), "k")), lone);
}

/// Another payload, kind, type, event or end under a key that is held is refused.
pub fn a_key_with_another_publication_is_refused<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(keyed(text("a", "x"), "k"));
    let changed = |change: fn(&mut Publication)| {
        let mut draft = keyed(text("a", "x"), "k");
        draft.publication.iter_mut().for_each(change);
        draft
    };
    let others = [
        keyed(text("a", "y"), "k"),
        keyed(last_text("a", "x"), "k"),
        keyed(lone_end("a"), "k"),
        changed(|it| it.payload.kind = PayloadKind::Binary),
        changed(|it| it.payload.content_type = Some("a/b".into())),
        changed(|it| it.event = EventName::parse("tick").ok()),
    ];
    for other in others {
        assert_eq!(bench.refused(other.clone()), PublishError::KeyReused, "{other:?}");
    }
    bench.publish(lone_end("a"));
    assert_eq!(bench.refused(keyed(text("a", "y"), "k")), PublishError::KeyReused);
    assert_eq!(texts(&bench.read("a", From::Start).entries), ["x", "END"]);
}

/// Another publisher's key, and another channel's, is another key.
pub fn keys_are_their_publishers_and_channels_own<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(keyed(text("a", "x"), "k"));
    bench.publish(keyed(text("b", "y"), "k"));
    let key = Key::parse("another".into(), "k").ok();
    bench.publish(Draft { key, ..text("a", "z") });
    // Nor does a boundary that moves make two keys one.
    let key = Key::parse("publisherk".into(), "2").ok();
    bench.publish(Draft { key, ..text("a", "u") });
    let key = Key::parse("publisher".into(), "k2").ok();
    bench.publish(Draft { key, ..text("a", "v") });
    assert_eq!(texts(&bench.read("a", From::Start).entries), ["x", "z", "u", "v"]);
}

/// A key is held for its window, and not for ever.
pub fn keys_expire_after_their_window<S: Subject>() {
    let bench = Bench::<S>::new();
    let first = bench.publish(keyed(text("a", "x"), "k"));
    bench.subject.advance(S::KEY_WINDOW / 2);
    assert_eq!(bench.duplicate(keyed(text("a", "x"), "k")), first);
    bench.subject.advance(S::KEY_WINDOW / 2);
    assert!(bench.publish(keyed(text("a", "x"), "k")) > first);
}

/// Over the bound a new key is refused with a time to come back; the old ones are all still held.
pub fn keys_are_bounded_and_never_forgotten_early<S: Subject>() {
    const KEYS_MAX: usize = 50;
    let bench = Bench::<S>::with(|it| it.keys_max = KEYS_MAX);
    let draft = |nth: usize| keyed(text(&format!("c{}", nth % 7), "x"), &nth.to_string());
    let mut held = Vec::new();
    let refused = loop {
        match bench.try_publish(draft(held.len())) {
            Ok(Published::New(position)) => held.push(position.offset),
            other => break other,
        }
        assert!(held.len() <= KEYS_MAX, "there is no bound");
    };
    let Err(PublishError::KeysFull { retry_after }) = refused else { panic!("{refused:?}") };
    assert!(!retry_after.is_zero() && retry_after <= S::KEY_WINDOW, "{retry_after:?}");
    assert!(held.len() >= KEYS_MAX / 2, "only {} keys fit", held.len());
    for (nth, offset) in held.iter().enumerate() {
        assert_eq!(bench.duplicate(draft(nth)), *offset);
    }
    bench.publish(text("c0", "without a key"));
    bench.subject.advance(S::KEY_WINDOW);
    bench.publish(draft(held.len()));
}

/// Of many who publish with one key at once, one publishes.
pub fn a_key_and_its_append_are_one_step<S: Subject>() {
    let bench = Bench::<S>::new();
    for round in 0..50 {
        let key = round.to_string();
        let publish = || bench.try_publish(keyed(text("a", &key), &key)).unwrap();
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let new = answers.iter().filter(|it| matches!(it, Published::New(_))).count();
        let positions: HashSet<_> =
            (answers.iter()).map(|(Published::New(it) | Published::Duplicate(it))| *it).collect();
        assert_eq!((new, positions.len()), (1, 1), "{answers:?}");
    }
    assert_eq!(bench.read("a", From::Start).entries.len(), 50);
}

/// Of many who end a channel with a publication at once, one does, and nothing comes in between.
pub fn an_end_and_its_publication_are_one_step<S: Subject>() {
    let bench = Bench::<S>::new();
    for round in 0..50 {
        let channel = format!("c{round}");
        let publish = |nth: usize| {
            let plain = bench.try_publish(text(&channel, "plain"));
            (plain, bench.try_publish(last_text(&channel, &nth.to_string())))
        };
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|nth| scope.spawn(move || publish(nth))).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let accepted = |it: &Result<_, _>| match it {
            Ok(Published::New(_)) => true,
            Err(PublishError::Ended) => false,
            other => panic!("{other:?}"),
        };
        let winners: Vec<_> = (0..4).filter(|nth| accepted(&answers[*nth].1)).collect();
        let plain = answers.iter().filter(|(it, _)| accepted(it)).count();
        let mut expect = vec!["plain".to_owned(); plain];
        expect.extend([winners[0].to_string(), "END".into()]);
        let page = bench.read(&channel, From::Start);
        assert_eq!((winners.len(), texts(&page.entries)), (1, expect));
        let answered = &answers[winners[0]].1;
        let of_the_last = page.entries[page.entries.len() - 2].position;
        assert_eq!(*answered, Ok(Published::New(of_the_last)), "not the end's");
    }
}

/// A lone end has a position of its own, and nothing follows it.
pub fn a_lone_end_is_an_entry<S: Subject>() {
    let bench = Bench::<S>::new();
    bench.publish(text("a", "x"));
    let end = bench.publish(lone_end("a"));
    assert_eq!(bench.state("a").ended, Some(end));
    for draft in [text("a", "y"), lone_end("a"), last_text("a", "y"), keyed(text("a", "y"), "k")] {
        assert_eq!(bench.refused(draft), PublishError::Ended);
    }
    let page = bench.read("a", From::Start);
    assert_eq!(texts(&page.entries), ["x", "END"]);
    assert_eq!(page.entries[1].position.offset, end);
    // What was refused holds no key: the channel is free for it once its end is forgotten.
    bench.drop_log("a");
    bench.publish(keyed(text("a", "other"), "k"));
}

/// Whatever the other bounds, an end is kept for the log's age.
pub fn an_end_is_kept_for_its_age_and_then_the_channel_is_as_new<S: Subject>() {
    let bench = Bench::<S>::with(|it| (it.bounds.messages, it.bounds.bytes) = (0, 0));
    let last = bench.publish(last_text("a", "bye"));
    bench.subject.advance(S::AGE / 2);
    let end = bench.state("a").ended.unwrap();
    assert!(end > last);
    assert_eq!(bench.refused(text("a", "x")), PublishError::Ended);
    assert_eq!(offsets(&bench.read("a", From::Start).entries), [end]);
    bench.subject.advance(S::AGE / 2);
    assert_eq!(bench.state("a").ended, None);
    assert!(bench.publish(text("a", "anew")) > end, "offsets never restart");
}

/// A draft whose answer was lost is not in the log twice after it was tried again.
pub fn a_retried_draft_is_not_doubled<S: Subject>() {
    let bench = Bench::<S>::new();
    for draft in [text("a", "plain"), keyed(text("a", "keyed"), "k")] {
        if bench.subject.publish_and_lose_the_answer(&draft) {
            let before = bench.read("a", From::Start).entries.len();
            let again = bench.try_publish(draft).unwrap();
            assert!(matches!(again, Published::New(_) | Published::Duplicate(_)));
            assert_eq!(bench.read("a", From::Start).entries.len(), before);
        } else {
            bench.publish(draft);
        }
    }
    assert_eq!(texts(&bench.read("a", From::Start).entries), ["plain", "keyed"]);
}

/// Once sealed, nothing is appended, and everything that was accepted can be read.
pub fn a_sealed_broker_refuses_and_keeps_what_it_accepted<S: Subject>() {
    let bench = Bench::<S>::new();
    assert!(bench.broker().is_ready());
    let is_sealed = AtomicBool::new(false);
    let publish = |thread: usize| {
        let channel = format!("c{thread}");
        let mut accepted = 0;
        loop {
            let is_sealed = is_sealed.load(Ordering::Relaxed);
            match bench.try_publish(text(&channel, &accepted.to_string())) {
                Ok(Published::New(_)) if !is_sealed => accepted += 1,
                Err(PublishError::Unavailable { perhaps_accepted: false }) => return accepted,
                other => panic!("{other:?}"),
            }
        }
    };
    let (sealed, accepted) = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|nth| scope.spawn(move || publish(nth))).collect();
        // Not before each has been heard.
        while (0..3).any(|nth| bench.state(&format!("c{nth}")).head < 100) {
            thread::yield_now();
        }
        assert_eq!(bench.subject.wait(bench.broker().seal()), Ok(()));
        is_sealed.store(true, Ordering::Relaxed);
        let sealed = [0, 1, 2].map(|nth| bench.read(&format!("c{nth}"), From::Start).entries.len());
        let accepted = threads.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>();
        (sealed, accepted)
    });
    assert_eq!(sealed.as_slice(), accepted, "what is in the log when seal is done");
    for (nth, accepted) in accepted.into_iter().enumerate() {
        let expect: Vec<_> = (0..accepted).map(|it| it.to_string()).collect();
        assert_eq!(texts(&bench.read(&format!("c{nth}"), From::Start).entries), expect);
    }
    assert_eq!(
        bench.refused(lone_end("c0")),
        PublishError::Unavailable { perhaps_accepted: false }
    );
}
