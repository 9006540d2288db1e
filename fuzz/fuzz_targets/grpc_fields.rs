//! Header fields of gRPC: what we write is read back and stays what a field may hold; what others
//! write never harms.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_wire::grpc::{Code, ContentType, Protocol, Status, coding, metadata, status, timeout};
use tidegate_wire::grpc_web::{Trailers, negotiate, trailers};

fuzz_target!(|input: (u32, u64, String, Vec<u8>)| {
    let (number, nanos, text, value) = input;

    let mut told = Status::new(Code::from_number(number % 20), text.clone());
    told.details = value.clone();
    let fields: Vec<_> = told.fields().collect();
    for (_, value) in &fields {
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        assert_eq!(value.trim(), value, "HTTP takes nothing off it");
    }
    let find =
        |name: &str| fields.iter().find(|(it, _)| *it == name).map(|(_, value)| value.as_bytes());
    if told.code == Code::Ok {
        told = Status::new(Code::Ok, "");
    }
    assert_eq!(Status::from_fields(find), Some(told.clone()));
    let frame = trailers::status_frame(&told);
    let read = Trailers::parse(&frame.slice(5..)).expect("it is a block of fields");
    assert_eq!(read.status(), Some(told));

    // Whatever a name and a value are, the block has one field more or none.
    let frame = trailers::frame([("a", &b"b"[..]), (&text, &value)]);
    if let Ok(read) = Trailers::parse(&frame.slice(5..)) {
        assert_eq!(read.get("a"), Some(&b"b"[..]));
        assert!(read.iter().count() <= 2);
    }
    if let Ok(read) = Trailers::parse(&Bytes::from(value.clone())) {
        let fields: Vec<_> = read.iter().collect();
        let frame = trailers::frame(fields);
        assert_eq!(Trailers::parse(&frame.slice(5..)), Ok(read), "written, it is read alike");
    }

    let message = status::decode_message(&value);
    assert!(message.len() <= 3 * value.len());
    assert_eq!(status::decode_message(status::encode_message(&message).as_bytes()), message);
    let encoded = metadata::encode_binary(&value);
    let decoded: Vec<_> = metadata::decode_binary(encoded.as_bytes()).collect();
    assert_eq!(decoded, [Ok(value.clone())]);
    metadata::decode_binary(&value).for_each(drop);

    let wanted = Duration::from_nanos(nanos);
    let said = timeout::parse(timeout::format(wanted).as_bytes()).expect("it is a timeout");
    assert!(said >= wanted);
    if let Ok(parsed) = timeout::parse(&value) {
        assert!(timeout::parse(timeout::format(parsed).as_bytes()).expect("it is one") >= parsed);
    }

    if let Some(content_type) = ContentType::parse(&value) {
        let written = content_type.to_string();
        assert_eq!(ContentType::parse(written.as_bytes()), Some(content_type));
    }
    assert!(negotiate(Protocol::GrpcWeb, [&*value]).is_some());
    if let Err(error) = coding::of_messages(Some(&value)) {
        assert!(error.to_string().is_ascii() && error.name.len() <= 4 * 32);
    }
});
