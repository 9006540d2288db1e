//! A chunked body says the same however it is cut; and what we write is read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::pieces;
use tidegate_wire::chunk::{ChunkError, ChunkReader};
use tidegate_wire::ndjson::{LAST_CHUNK, write_chunk};

fuzz_target!(|input: (u64, Vec<u8>)| {
    let (seed, stream) = input;
    let whole = read([&*stream].into_iter());
    assert!(whole.0.len() <= stream.len());
    assert_eq!(read(stream.chunks(1)), whole, "byte by byte");
    assert_eq!(read(pieces(seed, &stream).into_iter()), whole, "cut at places of {seed}");

    let mut written = Vec::new();
    for piece in pieces(seed, &stream) {
        write_chunk(&mut written, piece);
    }
    written.extend_from_slice(LAST_CHUNK);
    assert_eq!(read([&*written].into_iter()), (stream, Ok(true)));
});

/// The body up to its first error, and whether it ended.
fn read<'a>(input: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<bool, ChunkError>) {
    let (mut reader, mut body) = (ChunkReader::default(), Vec::new());
    for mut piece in input {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(data)) => body.extend_from_slice(data),
                Ok(None) => break assert!(piece.is_empty() || reader.is_over()),
                Err(error) => return (body, Err(error)),
            }
        }
    }
    (body, Ok(reader.is_over()))
}
