//! Cursors and names: what is taken is written as it was, and what is refused is told in short.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tidegate_core::channel::{CHANNELS_MAX, NAME_BYTES_MAX};
use tidegate_core::cursor::{CURSOR_BYTES_MAX, Cursor, parse_joined};
use tidegate_core::{ChannelName, EventName, Key};

fuzz_target!(|input: (&str, &str, Vec<(u64, u64)>)| {
    let (text, name, positions) = input;
    match Cursor::parse(text) {
        Ok(cursor) => assert_eq!(cursor.to_string(), text),
        Err(error) => check(&error.to_string()),
    }
    let Ok(channel) = ChannelName::parse(name).inspect_err(|it| check(&it.to_string())) else {
        let _ = EventName::parse(name).map_err(|it| check(&it.to_string()));
        let _ = Key::parse(Arc::from("me"), name).map_err(|it| check(&it.to_string()));
        return;
    };
    assert!(channel.as_str() == name && (1..=NAME_BYTES_MAX).contains(&name.len()));
    assert!(!name.contains([',', '/', '*', '>', ' ']) && !name.split('.').any(str::is_empty));
    assert_eq!(ChannelName::parse(channel.as_str()), Ok(channel.clone()));

    let others = [channel.clone(), ChannelName::parse("other").unwrap()];
    match parse_joined(text, &others) {
        Ok(cursors) => {
            assert_eq!(cursors.len(), 2);
            let parts = cursors.iter().flatten().count();
            assert_eq!(parts, text.split('.').count());
        }
        Err(error) => check(&error.to_string()),
    }
    // A cursor of each channel comes back, in whatever order they are joined.
    let channels: Vec<_> = (0..positions.len().min(CHANNELS_MAX))
        .map(|at| ChannelName::parse(&format!("c{at}")).unwrap())
        .collect();
    let cursors: Vec<_> = channels
        .iter()
        .zip(&positions)
        .map(|(channel, (epoch, offset))| {
            let epoch = tidegate_core::Epoch::new(*epoch);
            tidegate_core::Position { epoch, offset: *offset }.cursor(channel)
        })
        .collect();
    if cursors.is_empty() {
        return;
    }
    assert!(cursors.iter().all(|it| it.to_string().len() <= CURSOR_BYTES_MAX));
    let joined: Vec<_> = cursors.iter().rev().map(ToString::to_string).collect();
    let expect = cursors.iter().copied().map(Some).collect();
    assert_eq!(parse_joined(&joined.join("."), &channels), Ok(expect));
});

fn check(message: &str) {
    assert!(message.len() < 400, "{} bytes", message.len());
}
