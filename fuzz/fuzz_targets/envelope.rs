//! What an enveloped connection is sent: only what is no JSON object breaks the protocol, every error is
//! short and can be said, and a command reads the same whatever white space is around it.
#![no_main]

use std::num::NonZeroU64;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tidegate_core::envelope::{ClientFrame, Command, FrameError, ServerBody, ServerFrame};
use tidegate_core::json::{self, JsonFault};

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (shape, text) = input;
    // Bytes seldom come to be a command by themselves.
    let text = match shape % 9 {
        0 => text,
        1 => [b"{\"id\":7,\"publish\":{\"channel\":\"a\",", &*text, b"}}"].concat(),
        2 => [b"{\"id\":7,\"subscribe\":{\"channel\":\"a\",", &*text, b"}}"].concat(),
        3 => [b"{\"history\":{\"channel\":\"a\",", &*text, b"},\"id\":7}"].concat(),
        4 => [b"{\"presence\":{\"channel\":\"", &*text, b"\"},\"id\":7}"].concat(),
        5 => [b"{\"refresh\":{\"token\":\"", &*text, b"\"},\"id\":7}"].concat(),
        6 => [b"{\"ping\":", &*text, b",\"id\":7}"].concat(),
        7 => [b"{\"ping\":{},\"id\":", &*text, b"}"].concat(),
        _ => [b"{", &*text, b"}"].concat(),
    };
    let publisher = Arc::from("me");
    let parsed = ClientFrame::parse_json(&text, &publisher);

    let is_object = text.iter().find(|it| !b" \n\r\t".contains(it)) == Some(&b'{');
    match json::check(&text) {
        Ok(()) => assert_eq!(parsed == Err(FrameError::NoObject), !is_object),
        // What is nested too deep may be an object all the same.
        Err(error) if matches!(error.fault, JsonFault::Depth(_)) => {}
        Err(_) => assert_eq!(parsed, Err(FrameError::NoObject)),
    }
    match &parsed {
        Ok(frame) => {
            if let Command::Publish(command) = &frame.command {
                assert!(command.payload.is_some() || command.ends);
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1200, "{} bytes", message.len());
            let body = ServerBody::Error {
                code: "invalid_argument",
                message: &message,
                retry_after: None,
                outcome_unknown: false,
            };
            let mut out = Vec::new();
            ServerFrame { id: NonZeroU64::new(7), body }.write_json(&mut out);
            assert_eq!(json::check(&out), Ok(()));
            assert!(!out.contains(&b'\n'), "one line");
        }
    }
    let spaced = [b" \r\n\t", &*text, b"\n "].concat();
    let again = ClientFrame::parse_json(&spaced, &publisher);
    match (&parsed, &again) {
        // Places in the text have moved.
        (Err(FrameError::Refused { id, .. }), Err(FrameError::Refused { id: other, .. })) => {
            assert_eq!(id, other);
        }
        _ => assert_eq!(parsed, again),
    }
});
