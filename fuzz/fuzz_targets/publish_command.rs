//! Publish commands of any form: no panic, what is taken is within its bounds, and what subscribers are
//! then sent says the same as the command did.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_core::cursor::{Epoch, Position};
use tidegate_core::entry::{Body, Entry, Publication, Timestamp};
use tidegate_core::envelope::{JsonStream, PublishCommand, json};
use tidegate_core::{ChannelName, EventName, Payload, PayloadKind};

const NAMES: [&str; 8] = ["channel", "event", "data", "text", "base64", "type", "key", "end"];

fuzz_target!(|input: (Vec<u8>, Vec<(u8, String)>)| {
    let (raw, members) = input;
    check(&raw);

    // A good command in which some members are replaced, or there twice, as a string or as it is.
    let mut text = String::from("{\"channel\":\"a.b\"");
    for (which, value) in &members {
        text += &format!(",\"{}\":", NAMES[usize::from(which & 7)]);
        if which & 8 != 0 {
            text += value;
        } else {
            let mut string = Vec::new();
            json::write_string(value.as_bytes(), &mut string);
            text += std::str::from_utf8(&string).expect("a string");
        }
    }
    text += "}";
    check(text.as_bytes());
});

fn check(text: &[u8]) {
    let Some(command) = parse(text) else { return };
    let PublishCommand { channel, event, payload, key, ends } = &command;
    assert!(payload.is_some() || (*ends && event.is_none()));
    assert_eq!(ChannelName::parse(channel.as_str()).as_ref(), Ok(channel));
    if let Some(event) = event {
        assert_eq!(EventName::parse(event).as_ref(), Ok(event));
    }
    if let Some(key) = key {
        assert!((1..=128).contains(&key.key.len()) && *key.publisher == *"me");
    }

    // Alone or in a stream, it is the same.
    let mut stream = JsonStream::new(text.len());
    let mut input = Bytes::copy_from_slice(text);
    let value = stream.next(&mut input).expect("an object ends").expect("a good one");
    assert_eq!(parse(&value).as_ref(), Some(&command));
    assert_eq!((stream.next(&mut input), stream.finish()), (None, Ok(None)));

    if let Some(payload) = payload {
        check_form(channel, event.as_ref(), payload);
    }
}

/// Checks what a subscriber is sent: without what the gateway adds it is a command, for the same.
fn check_form(channel: &ChannelName, event: Option<&EventName>, payload: &Payload) {
    let publication =
        Publication { payload: payload.clone(), event: event.cloned(), user: None, origin: None };
    let entry = Entry {
        channel: channel.clone(),
        position: Position { epoch: Epoch::new(1), offset: 2 },
        prev: 1,
        time: Timestamp(0),
        body: Body::Publication(publication),
    };
    let mut line = Vec::new();
    json::write_entry(&entry, &mut line);
    assert!(!line.iter().any(|it| matches!(it, b'\n' | b'\r')), "one line");
    let line = String::from_utf8(line).expect("JSON is UTF-8");
    let place = format!("{{\"channel\":\"{channel}\"");
    let added = format!(
        "{place},\"cursor\":\"{}\",\"time\":\"1970-01-01T00:00:00.000Z\"",
        entry.position.cursor(channel)
    );
    let rest = line.strip_prefix(&added).expect("the gateway's members come first");
    let again = parse(format!("{place}{rest}").as_bytes()).expect("a command");
    assert_eq!(again.event.as_ref(), event);

    let mut expect = payload.clone();
    if payload.kind == PayloadKind::Json {
        let spaced = payload.bytes.iter().map(|it| if b"\n\r".contains(it) { b' ' } else { *it });
        expect.bytes = spaced.collect();
    }
    assert_eq!(again.payload, Some(expect));
}

fn parse(text: &[u8]) -> Option<PublishCommand> {
    PublishCommand::parse(text, &Arc::from("me")).ok()
}
