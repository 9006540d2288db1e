//! An answer is translated alike however the server's bytes are cut, to whole frames alone, and the
//! same in both forms; a client reads it back, and any other body alike however that is cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::pieces;
use tidegate_wire::grpc::{Code, DecodeError, Decompressor, Encoding, Protocol, Status, encode};
use tidegate_wire::grpc_web::{
    Event, Limits, ResponseDecoder, ResponseError, ResponseTranslator, text,
};

const LIMITS: Limits = Limits { message_len_max: 1 << 10, trailers_len_max: 1 << 8 };

fuzz_target!(|input: (u8, u64, Vec<u8>)| {
    let (flags, seed, mut stream) = input;
    if flags & 1 != 0 {
        // Whole frames, with something else behind them.
        let (front, back) = stream.split_at(stream.len() / 2);
        let frames: Vec<u8> = pieces(!seed, front)
            .into_iter()
            .flat_map(|it| encode::message(it).expect("it is short"))
            .collect();
        stream = [&frames, back].concat();
    }

    let mut bodies = Vec::new();
    for protocol in [Protocol::GrpcWeb, Protocol::GrpcWebText] {
        let whole = translate(protocol, vec![&stream]);
        assert_eq!(translate(protocol, stream.chunks(1).collect()), whole, "byte by byte");
        assert_eq!(translate(protocol, pieces(seed, &stream)), whole, "cut at places of {seed}");
        bodies.push(whole);
    }
    let [(binary, end, last), (in_text, text_end, text_last)] = &*bodies else { unreachable!() };
    assert!(stream.starts_with(binary), "nothing but what the server sent");
    assert_eq!((end, last.is_some()), (text_end, text_last.is_some()));

    // A client of either form sees the server's messages, and the trailers wherever they can be
    // told.
    let read_binary = read(Protocol::GrpcWeb, &[&**binary, last.as_deref().unwrap_or_default()]);
    let read_text =
        read(Protocol::GrpcWebText, &[&**in_text, text_last.as_deref().unwrap_or_default()]);
    if last.is_some() {
        assert_eq!(read_text, read_binary);
    }
    let (events, read_end) = &read_binary;
    let has_compressed = *read_end == Err(ResponseError::Frame(DecodeError::NoEncoding));
    assert!(has_compressed || (*read_end == Ok(())) == last.is_some(), "{read_end:?}");
    let is_told = matches!(events.last(), Some(Event::Trailers(_)));
    assert!(has_compressed || is_told == last.is_some());

    // Any body, as a client reads it.
    let whole = read(Protocol::GrpcWeb, &[&stream]);
    assert_eq!(read(Protocol::GrpcWeb, &stream.chunks(1).collect::<Vec<_>>()), whole);
    assert_eq!(read(Protocol::GrpcWeb, &pieces(seed, &stream)), whole);
    let in_text: Vec<u8> =
        pieces(seed, &stream).into_iter().flat_map(|it| text::encode(it)).collect();
    assert_eq!(read(Protocol::GrpcWebText, &[&in_text]), whole, "padded anywhere");
    assert_eq!(read(Protocol::GrpcWebText, &pieces(!seed, &in_text)), whole);
});

/// What is sent on up to the first error, that, and the trailers that tell of a failure then.
fn translate(
    protocol: Protocol,
    pieces: Vec<&[u8]>,
) -> (Vec<u8>, Result<(), DecodeError>, Option<Bytes>) {
    let mut translator = ResponseTranslator::new(protocol, LIMITS.message_len_max);
    let mut sent = Vec::new();
    let mut end = Ok(());
    'pieces: for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match translator.next(&mut piece) {
                Ok(Some(part)) => sent.extend_from_slice(&part),
                Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                Err(error) => {
                    end = Err(error);
                    break 'pieces;
                }
            }
        }
    }
    let last = translator.fail(&Status::new(Code::Internal, "it broke"));
    assert!(last.is_some() || end.is_ok(), "what is broken can be told");
    (sent, end, last)
}

/// Events up to the first error, and that.
fn read(protocol: Protocol, pieces: &[&[u8]]) -> (Vec<Event>, Result<(), ResponseError>) {
    let mut decoder = ResponseDecoder::new(protocol, Encoding::Identity, LIMITS);
    let mut pool = Decompressor::new();
    let mut events = Vec::new();
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.next(&mut piece, &mut pool) {
                Ok(Some(event)) => {
                    assert!(!matches!(events.last(), Some(Event::Trailers(_))), "they are last");
                    if let Event::Message(message) = &event {
                        assert!(message.len() <= LIMITS.message_len_max as usize);
                    }
                    events.push(event);
                }
                Ok(None) => break assert!(piece.is_empty(), "all input is consumed"),
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, decoder.finish())
}
