//! The text form of a request stands for the same bytes however it is cut, as base64's own rules
//! have it; and what is encoded in pieces, each padded, is read back.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::pieces;
use tidegate_wire::grpc::Protocol;
use tidegate_wire::grpc_web::{
    RequestTranslator,
    text::{self, TextError},
};

fuzz_target!(|input: (u64, bool, Vec<u8>)| {
    let (seed, is_base64, mut stream) = input;
    if is_base64 {
        // So that most of it is: chance alone would seldom get far.
        for byte in &mut stream {
            *byte = *SYMBOLS.get(usize::from(*byte)).unwrap_or(&b'A');
        }
    }
    let whole = read(vec![&stream]);
    assert_eq!(whole, slowly(&stream));
    assert_eq!(read(stream.chunks(1).collect()), whole, "byte by byte");
    assert_eq!(read(pieces(seed, &stream)), whole, "cut at places of {seed}");

    let written: Vec<u8> =
        pieces(seed, &stream).into_iter().flat_map(|it| text::encode(it)).collect();
    assert_eq!(read(vec![&written]), (stream.clone(), Ok(())));
    assert_eq!(read(pieces(!seed, &written)), (stream, Ok(())));
});

/// By value; what is beyond them has none.
const SYMBOLS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/==";

/// What a text stands for up to what is wrong, and that.
fn read(pieces: Vec<&[u8]>) -> (Vec<u8>, Result<(), TextError>) {
    let mut translator = RequestTranslator::new(Protocol::GrpcWebText);
    let mut bytes = Vec::new();
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        let len_max = piece.len() / 4 * 3 + 3;
        let before = bytes.len();
        loop {
            match translator.next(&mut piece) {
                Ok(Some(part)) => bytes.extend_from_slice(&part),
                Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                Err(error) => return (bytes, Err(error)),
            }
            assert!(bytes.len() - before <= len_max);
        }
    }
    let end = translator.finish();
    (bytes, end)
}

/// The same, a symbol at a time.
fn slowly(text: &[u8]) -> (Vec<u8>, Result<(), TextError>) {
    let mut bytes = Vec::new();
    for quantum in text.chunks(4) {
        let (mut bits, mut symbols) = (0_u32, 0);
        for (at, byte) in quantum.iter().enumerate() {
            let value = SYMBOLS.iter().position(|it| it == byte);
            match value {
                Some(value) if value < 64 && symbols == at => {
                    bits |= u32::try_from(value).expect("it is below 64") << (18 - 6 * at);
                    symbols += 1;
                }
                Some(64) if at >= 2 => {}
                _ => return (bytes, Err(TextError::Byte(*byte))),
            }
        }
        if quantum.len() < 4 {
            return (bytes, Err(TextError::Truncated));
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..symbols]);
    }
    (bytes, Ok(()))
}
