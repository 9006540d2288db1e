//! Requests and answers of any form: no panic, and what is agreed is what was offered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::websocket::{
    DeflateOffer, DeflatePolicy, accept, check,
    handshake::{self, ClientHandshake, ClientRequest, Headers as _, Request},
};

const NAMES: [&str; 8] = [
    "host",
    "upgrade",
    "connection",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "origin",
];

fuzz_target!(|input: (u8, Vec<(u8, Vec<u8>)>, Vec<u8>)| {
    let (flags, fields, raw) = input;
    let offer = DeflateOffer {
        receive_takeover: flags & 1 != 0,
        send_takeover: flags & 2 != 0,
        receive_window_bits_max: 9 + (flags >> 2) % 7,
        send_window_bits_max: 9 + (flags >> 5),
    };
    let policy = DeflatePolicy {
        send_takeover: flags & 4 != 0,
        receive_takeover: flags & 8 != 0,
        receive_window_bits_max: 9 + (flags >> 4) % 7,
    };

    // A good request in which some fields are replaced, or there twice.
    let offered = offer.header();
    let good: [&[u8]; 8] = [
        b"a",
        b"websocket",
        b"upgrade",
        b"dGhlIHNhbXBsZSBub25jZQ==",
        b"13",
        b"x, y",
        offered.as_bytes(),
        b"null",
    ];
    let mut headers: Vec<(&str, &[u8])> = NAMES.into_iter().zip(good).collect();
    for (which, value) in &fields {
        let at = usize::from(which & 7);
        if which & 8 != 0 {
            headers.push((NAMES[at], value));
        } else {
            headers[at].1 = value;
        }
    }
    let headers = headers.as_slice();
    let request = Request { method: "GET", is_http_1_1: true, headers };
    if let Ok(accepted) = handshake::check(&request, Some(&policy)) {
        assert_eq!(headers.values("sec-websocket-key").count(), 1);
        let mut head = Vec::new();
        accepted.response(accepted.protocols.first().copied(), &[], &mut head);
        assert_eq!(head.windows(4).filter(|it| it == b"\r\n\r\n").count(), 1);
        assert!(head.is_ascii() && head.ends_with(b"\r\n\r\n"));
    }

    // What we offer we accept, and what we answer we take.
    let (server, answer) = accept([offered.as_bytes()], &policy).expect("our own offer");
    let client = check([answer.as_bytes()], Some(&offer)).expect("our own answer");
    let client = client.expect("an extension");
    assert!(client.send_window_bits <= server.receive_window_bits);
    assert!(server.send_window_bits <= client.receive_window_bits);
    assert!(!client.send_takeover || server.receive_takeover);
    assert!(!server.send_takeover || client.receive_takeover);

    // A server that answers with anything, after a good beginning or none.
    let request = ClientRequest {
        host: "a",
        target: "/",
        protocols: &["x"],
        deflate: Some(offer),
        headers: &[],
        nonce: *b"the sample nonce",
    };
    let mut sent = Vec::new();
    let client = ClientHandshake::start(&request, &mut sent).expect("a good request");
    let mut answer = Vec::new();
    if flags & 1 != 0 {
        answer.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        );
    }
    answer.extend_from_slice(&raw);
    if flags & 2 != 0 {
        answer.extend_from_slice(b"\r\n\r\n");
    }
    let verdict = client.finish(&answer);
    if let Ok(Some(it)) = &verdict {
        assert!(answer[..it.head_len].ends_with(b"\r\n\r\n"));
    }
    for cut in 0..answer.len() {
        let early = client.finish(&answer[..cut]);
        assert!(early == Ok(None) || early == verdict);
    }
});
