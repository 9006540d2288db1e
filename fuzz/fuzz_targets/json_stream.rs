//! A body of JSON values says the same however it is cut, in bounded memory; each value that comes out
//! is one, and a text that is one comes out as it is.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tidegate_core::envelope::{JsonStream, JsonStreamError, PublishCommand};
use tidegate_fuzz::pieces;

/// A payload's 128 levels, and the object around it.
const DEPTH_MAX: usize = 129;

type Item = Result<Bytes, JsonStreamError>;

fuzz_target!(|input: (u64, u8, Vec<u8>)| {
    let (seed, bytes_max, stream) = input;
    let bytes_max = usize::from(bytes_max);
    let whole = read(&[&stream], bytes_max);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(&bytes, bytes_max), whole, "byte by byte");
    assert_eq!(read(&pieces(seed, &stream), bytes_max), whole, "cut at places of {seed}");

    for value in whole.iter().flatten() {
        assert!(value.len() <= bytes_max);
        if std::str::from_utf8(value).is_ok() {
            assert_eq!(one_value(value).expect("a value").len(), value.len(), "and nothing else");
        } else {
            assert!(
                PublishCommand::parse(value, &Arc::from("")).is_err(),
                "whoever reads it looks"
            );
        }
    }
    let broken = whole.iter().position(|it| matches!(it, Err(JsonStreamError::Syntax(_))));
    assert!(broken.is_none_or(|at| at + 1 == whole.len()), "no way to go on");
    if let Some(value) = one_value(&stream)
        && depth_bound(value) <= DEPTH_MAX
    {
        let expect = if value.len() <= bytes_max {
            Ok(Bytes::copy_from_slice(value.as_bytes()))
        } else {
            Err(JsonStreamError::TooLarge(bytes_max))
        };
        assert_eq!(whole, [expect]);
    }
});

/// Everything that comes out of the stream.
fn read(pieces: &[&[u8]], bytes_max: usize) -> Vec<Item> {
    let mut stream = JsonStream::new(bytes_max);
    let mut items = Vec::new();
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        while !piece.is_empty() {
            // `None` may also mean that the rest of what was too large is over.
            items.extend(stream.next(&mut piece));
        }
    }
    items.extend(stream.finish().transpose());
    assert_eq!(stream.finish(), Ok(None), "nothing is said twice");
    items
}

/// The one value that the text is, without the white space around it, by another parser's judgement.
fn one_value(text: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(text).ok().map(RawValue::get)
}

/// At least as many levels as the value has.
fn depth_bound(value: &str) -> usize {
    value.bytes().filter(|it| matches!(it, b'[' | b'{')).count()
}
