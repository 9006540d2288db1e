//! An event stream says the same however it is cut, in bounded memory; and what we write is read
//! back line for line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::pieces;
use tidegate_wire::sse::{Event, Item, Parser, TooLarge, write_event};

const EVENT_BYTES_MAX: usize = 1 << 10;

fuzz_target!(|input: (u64, Vec<u8>, String)| {
    let (seed, stream, data) = input;
    let whole = read([&*stream].into_iter());
    assert_eq!(read(stream.chunks(1)), whole, "byte by byte");
    assert_eq!(read(pieces(seed, &stream).into_iter()), whole, "cut at places of {seed}");

    let mut written = Vec::new();
    write_event(&mut written, Some(b"C"), Some("e"), data.as_bytes());
    let mut parser = Parser::new(written.len());
    let mut rest = &*written;
    let event = Event {
        event: "e".to_owned(),
        data: data.replace("\r\n", "\n").replace('\r', "\n"),
        id: "C".to_owned(),
    };
    assert_eq!(parser.next(&mut rest), Ok(Some(Item::Event(event))));
    assert!(rest.is_empty(), "an event is one event");
});

/// Everything that the stream says, up to its first error.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, Option<TooLarge>, String) {
    let mut parser = Parser::new(EVENT_BYTES_MAX);
    let mut items = Vec::new();
    for mut piece in pieces {
        loop {
            match parser.next(&mut piece) {
                Ok(Some(item)) => {
                    if let Item::Event(event) = &item {
                        // Replaced bytes are up to three times as long.
                        assert!(event.data.len() <= 3 * EVENT_BYTES_MAX);
                    }
                    items.push(item);
                }
                Ok(None) => break assert!(piece.is_empty()),
                Err(error) => return (items, Some(error), parser.last_event_id().to_owned()),
            }
        }
    }
    (items, None, parser.last_event_id().to_owned())
}
