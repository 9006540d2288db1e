//! A gRPC stream says the same however it is cut, no message outgrows its limit, compressed or not;
//! and what we frame, and compress, is read back.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::pieces;
use tidegate_wire::grpc::{Compressor, DecodeError, Decoder, Decompressor, Encoding, encode};

const MESSAGE_LEN_MAX: u32 = 1 << 12;

fuzz_target!(|input: (u8, u64, Vec<u8>)| {
    let (flags, seed, stream) = input;
    let encoding = [Encoding::Identity, Encoding::Gzip, Encoding::Zstd][usize::from(flags % 3)];
    let read = |pieces: Vec<&[u8]>| read(encoding, pieces);

    // As it is; and as a compressed message, which chance alone would seldom make.
    let head: &[u8] = if encoding == Encoding::Gzip && flags & 0x40 != 0 {
        &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3]
    } else {
        &[]
    };
    let compressed = encode::compressed_message(&[head, &stream].concat()).expect("it is short");
    for stream in [&*stream, &compressed] {
        let whole = read(vec![stream]);
        assert_eq!(read(stream.chunks(1).collect()), whole, "byte by byte");
        assert_eq!(read(pieces(seed, stream)), whole, "cut at places of {seed}");
    }

    // Repeated, so that there is something to compress.
    let repeat = 1 + usize::from(flags >> 3);
    let mut compressor = Compressor::new();
    let (mut written, mut expect) = (Vec::new(), Vec::new());
    for piece in pieces(seed, &stream) {
        let message = piece.repeat(repeat);
        written.extend_from_slice(&compressor.frame(encoding, &message).expect("it is short"));
        expect.push(message);
    }
    assert_eq!(read(vec![&*written]), (expect.clone(), Ok(())));
    assert_eq!(read(pieces(!seed, &written)), (expect, Ok(())));
});

/// The messages up to the first error, and that.
fn read(encoding: Encoding, pieces: Vec<&[u8]>) -> (Vec<Vec<u8>>, Result<(), DecodeError>) {
    let (mut decoder, mut pool) = (Decoder::new(encoding, MESSAGE_LEN_MAX), Decompressor::new());
    let mut messages = Vec::new();
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.next(&mut piece, &mut pool) {
                Ok(Some(message)) => {
                    assert!(message.len() <= MESSAGE_LEN_MAX as usize);
                    messages.push(message.to_vec());
                }
                Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, decoder.finish())
}
