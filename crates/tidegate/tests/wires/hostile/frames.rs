//! Frames that RFC 6455 §5 and RFC 7692 forbid, or that are over a limit (CONTRACT 8).

use std::io::{Read as _, Write as _};

use tidegate_wire::websocket::{DeflateParams, Deflater, DeflaterPool};

use super::super::common::{MASK, Peer};
use super::handshakes::good;
use super::{Back, Closed, Kept, Row, row};

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate";

/// A masked frame with this first byte, in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        middle @ ..65_536 => {
            frame.push(0xFE);
            frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0xFF);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A close with a code and a reason.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// A payload of less than 256 bytes as deflate takes it uncompressed (RFC 1951 §3.2.4, RFC 7692
/// §7.2.1).
fn stored(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, length, 0, !length, 0xFF][..], payload, &[0]].concat()
}

/// So many bytes of the same, in a few.
fn bomb(length: usize) -> Vec<u8> {
    let params = DeflateParams {
        send_window_bits: 15,
        receive_window_bits: 15,
        send_takeover: false,
        receive_takeover: false,
    };
    let mut pool = DeflaterPool::new(9);
    let bomb = Deflater::new(params).deflate(&vec![b'x'; length], &mut pool).unwrap().to_vec();
    assert!(bomb.len() < length / 500, "{} bytes", bomb.len());
    bomb
}

pub(super) fn rows() -> Vec<Row> {
    [headers(), sequences(), closes(), texts(), deflates(), sizes()].into_iter().flatten().collect()
}

/// A WebSocket that sends `frames` right behind its handshake.
fn plain(name: impl Into<String>, says: &'static str, frames: &[Vec<u8>], back: Back) -> Row {
    let then = if matches!(back, Back::Open) { Kept } else { Closed };
    row(name, says, [good(&[]).into_bytes(), frames.concat()].concat(), back, then)
}

/// One that negotiated permessage-deflate.
fn deflating(name: impl Into<String>, says: &'static str, frames: &[Vec<u8>], back: Back) -> Row {
    let then = if matches!(back, Back::Open) { Kept } else { Closed };
    row(name, says, [good(&[DEFLATE]).into_bytes(), frames.concat()].concat(), back, then)
}

fn headers() -> Vec<Row> {
    let bad =
        |name: String, says, bytes: &[u8]| plain(name, says, &[bytes.to_vec()], Back::Close(1002));
    let mut rows = vec![
        bad("a frame without a mask".into(), "RFC 6455 §5.1", &[0x81, 0x01, b'a']),
        bad("a ping without a mask".into(), "RFC 6455 §5.1", &[0x89, 0x00]),
        bad("a close without a mask".into(), "RFC 6455 §5.1", &[0x88, 0x02, 0x03, 0xE8]),
        bad("a length of 2^63".into(), "RFC 6455 §5.2", &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        bad(
            "a length of 2^64-1".into(),
            "RFC 6455 §5.2",
            &[0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
        bad("125 bytes in 16 bits".into(), "RFC 6455 §5.2", &[0x82, 0xFE, 0, 125]),
        bad("no bytes in 16 bits".into(), "RFC 6455 §5.2", &[0x82, 0xFE, 0, 0]),
        bad(
            "65,535 bytes in 64 bits".into(),
            "RFC 6455 §5.2",
            &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 255, 255],
        ),
        bad("no bytes in 64 bits".into(), "RFC 6455 §5.2", &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0]),
        bad("a ping of 126 bytes".into(), "RFC 6455 §5.5", &[0x89, 0xFE, 0, 126]),
        bad(
            "a ping of 2^62 bytes".into(),
            "RFC 6455 §5.5",
            &[0x89, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0],
        ),
        bad("a pong of 126 bytes".into(), "RFC 6455 §5.5", &[0x8A, 0xFE, 0, 126]),
        bad("a close of 126 bytes".into(), "RFC 6455 §5.5", &[0x88, 0xFE, 0, 126]),
        bad("a ping in fragments".into(), "RFC 6455 §5.5", &[0x09, 0x80]),
        bad("a pong in fragments".into(), "RFC 6455 §5.5", &[0x0A, 0x80]),
        bad("a close in fragments".into(), "RFC 6455 §5.5", &[0x08, 0x80]),
        bad("a request of HTTP/1.1".into(), "RFC 6455 §5.2", b"GET / HTTP/1.1\r\n\r\n"),
    ];
    for bits in [0x40, 0x20, 0x10, 0x70] {
        rows.push(bad(format!("reserved bits {bits:#04x}"), "RFC 6455 §5.2", &[0x81 | bits, 0x80]));
        rows.push(bad(
            format!("reserved bits {bits:#04x} on a ping"),
            "RFC 6455 §5.2",
            &[0x89 | bits, 0x80],
        ));
    }
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        rows.push(bad(format!("opcode {opcode:#x}"), "RFC 6455 §5.2", &[FIN | opcode, 0x80]));
    }
    rows
}

fn sequences() -> Vec<Row> {
    let bad =
        |name: &str, frames: &[Vec<u8>]| plain(name, "RFC 6455 §5.4", frames, Back::Close(1002));
    vec![
        bad("a continuation of nothing", &[frame(FIN, b"a")]),
        bad("a continuation of nothing, which goes on", &[frame(0, b"a")]),
        bad(
            "a continuation after the end",
            &[frame(TEXT, b"a"), frame(FIN, b"b"), frame(FIN, b"c")],
        )
        .publishing(),
        bad("a text amid a text", &[frame(TEXT, b"a"), frame(FIN | TEXT, b"b")]),
        bad("a binary message amid a text", &[frame(TEXT, b"a"), frame(FIN | BINARY, b"b")]),
        bad("a text begins again amid a text", &[frame(TEXT, b"a"), frame(TEXT, b"b")]),
        plain(
            "a ping amid fragments is answered",
            "RFC 6455 §5.4",
            &[frame(TEXT, b"a"), frame(FIN | PING, b"p"), frame(FIN, b"b")],
            Back::Open,
        ),
        plain(
            "a close amid fragments",
            "RFC 6455 §5.5.1",
            &[frame(TEXT, b"a"), close(1001, b"")],
            Back::Close(1001),
        ),
        plain(
            "a thousand pongs that nobody asked for",
            "RFC 6455 §5.5.3",
            &vec![frame(0x8A, b"p"); 1000],
            Back::Open,
        ),
        plain(
            "a thousand pings at once",
            "RFC 6455 §5.5.2",
            &vec![frame(FIN | PING, &[b'p'; 125]); 1000],
            Back::Open,
        ),
    ]
}

fn closes() -> Vec<Row> {
    let mut rows = vec![
        plain(
            "a close of one byte",
            "RFC 6455 §5.5.1",
            &[frame(FIN | CLOSE, b"\x03")],
            Back::Close(1002),
        ),
        plain(
            "a close with a reason that is no UTF-8",
            "RFC 6455 §5.5.1",
            &[close(1000, b"\xFF")],
            Back::Close(1007),
        ),
        plain(
            "a close whose reason is cut within a character",
            "RFC 6455 §5.5.1",
            &[close(1000, b"\xE2\x82")],
            Back::Close(1007),
        ),
        plain(
            "data after a close",
            "RFC 6455 §5.5.1",
            &[close(1000, b""), frame(FIN | TEXT, b"late")],
            Back::Close(1000),
        ),
        plain(
            "garbage after a close",
            "RFC 6455 §5.5.1",
            &[close(3000, b"x"), vec![0xFF; 100]],
            Back::Close(3000),
        ),
        plain(
            "two closes",
            "RFC 6455 §5.5.1",
            &[close(1000, b""), close(1001, b"")],
            Back::Close(1000),
        ),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        rows.push(plain(
            format!("a close with {code}"),
            "RFC 6455 §7.4",
            &[close(code, b"")],
            Back::Close(1002),
        ));
    }
    rows
}

fn texts() -> Vec<Row> {
    let mut rows = Vec::new();
    // One of each length: each cut within, then a byte that goes on with nothing.
    for character in ["é", "€", "𐍈"] {
        for cut in 1..character.len() {
            let (begun, _) = character.as_bytes().split_at(cut);
            rows.push(plain(
                format!("{character} is cut after {cut} bytes, and garbage follows"),
                "CONTRACT 8",
                &[frame(TEXT, &[b"ok", begun].concat()), frame(0, b""), frame(0, b"x")],
                Back::Close(1007),
            ));
            rows.push(plain(
                format!("{character} is cut after {cut} bytes, and the message ends"),
                "CONTRACT 8",
                &[frame(TEXT, begun), frame(FIN, b"")],
                Back::Close(1007),
            ));
        }
    }
    for (name, bytes) in [
        ("an overlong slash", &b"\xC0\xAF"[..]),
        ("an overlong NUL", b"\xE0\x80\x80"),
        ("half a surrogate", b"\xED\xA0\x80"),
        ("a character beyond the last", b"\xF4\x90\x80\x80"),
        ("a byte that begins nothing", b"\x80"),
        ("a byte that is never there", b"\xFF"),
        ("six bytes for one character", b"\xFC\x80\x80\x80\x80\x80"),
    ] {
        // Neither the frame nor the message is over yet: the bytes prove it.
        let mut begun = frame(TEXT, &[bytes, &[b'x'; 20]].concat());
        begun.truncate(begun.len() - 10);
        rows.push(plain(name, "CONTRACT 8", &[begun], Back::Close(1007)));
    }
    rows.push(plain(
        "a text of JSON that is none is a text",
        "CONTRACT 4",
        &[frame(FIN | TEXT, b"{\"a\":")],
        Back::Open,
    ));
    rows.push(plain(
        "a text of 1,000 brackets is a text",
        "CONTRACT 4",
        &[frame(FIN | TEXT, &[b'['; 1000])],
        Back::Open,
    ));
    rows
}

fn deflates() -> Vec<Row> {
    let compressed = FIN | RSV1;
    let small = bomb((1 << 20) + 1);
    vec![
        deflating(
            "a compressed message that is garbage",
            "RFC 7692 §7.2",
            &[frame(compressed | BINARY, &[0xFF; 20])],
            Back::Close(1007),
        ),
        deflating(
            "a compressed text that is no UTF-8",
            "CONTRACT 8",
            &[frame(compressed | TEXT, &stored(b"ok\xFF"))],
            Back::Close(1007),
        ),
        deflating(
            "a compressed message that is cut",
            "RFC 7692 §7.2.2",
            &[frame(compressed | BINARY, &stored(b"cut off")[..6])],
            Back::Close(1007),
        ),
        deflating(
            "a compressed message without even its block",
            "RFC 7692 §7.2.2, leniently",
            &[frame(compressed | BINARY, b"")],
            Back::Open,
        ),
        deflating(
            "a reference before the beginning",
            "RFC 7692 §7.2.2",
            &[frame(compressed | BINARY, &[0x4B, 0x04, 0x72, 0x00])],
            Back::Close(1007),
        ),
        deflating(
            "a bomb of a byte over the limit",
            "CONTRACT 8",
            &[frame(compressed | BINARY, &small)],
            Back::Close(1009),
        ),
        deflating(
            "a bomb of 64 MiB",
            "CONTRACT 8",
            &[frame(compressed | TEXT, &bomb(64 << 20))],
            Back::Close(1009),
        ),
        deflating(
            "a bomb in fragments",
            "CONTRACT 8",
            &[frame(RSV1 | BINARY, &small[..500]), frame(FIN, &small[500..])],
            Back::Close(1009),
        ),
        deflating(
            "a continuation that is marked compressed",
            "RFC 7692 §6.1",
            &[frame(RSV1 | BINARY, &small[..1]), frame(compressed, &small[1..9])],
            Back::Close(1002),
        ),
        deflating(
            "a ping that is marked compressed",
            "RFC 7692 §6",
            &[frame(compressed | PING, b"")],
            Back::Close(1002),
        ),
        deflating(
            "a bit that deflate does not claim",
            "RFC 6455 §5.2",
            &[frame(FIN | 0x20 | BINARY, b"")],
            Back::Close(1002),
        ),
        deflating(
            "a message over the limit by its header",
            "CONTRACT 8",
            &[vec![compressed | BINARY, 0xFF, 0, 0, 0, 0, 0x01, 0, 0, 0]],
            Back::Close(1009),
        ),
        plain(
            "a compressed message where nothing was agreed",
            "RFC 7692 §6",
            &[frame(compressed | BINARY, &stored(b"a"))],
            Back::Close(1002),
        ),
    ]
}

fn sizes() -> Vec<Row> {
    let fragments = |count: usize| {
        let middle = frame(0, b"").repeat(count - 2);
        [frame(TEXT, b""), middle, frame(FIN, b"")]
    };
    vec![
        // Not a byte of its payload comes.
        plain(
            "a message of 1 MiB and a byte is refused on its header",
            "CONTRACT 8",
            &[vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1]],
            Back::Close(1009),
        ),
        plain(
            "a message of 2^62 bytes is refused on its header",
            "CONTRACT 8",
            &[vec![0x82, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0]],
            Back::Close(1009),
        ),
        plain(
            "fragments that go over the limit together",
            "CONTRACT 8",
            &[frame(BINARY, &vec![0; 1 << 20]), vec![FIN, 0x81, 0, 0, 0, 0]],
            Back::Close(1009),
        ),
        plain("131,073 fragments", "CONTRACT 14", &fragments(131_073), Back::Close(1009)),
        plain(
            "131,072 fragments are none too many",
            "CONTRACT 14",
            &fragments(131_072),
            Back::Open,
        ),
        plain(
            "a message of 1 MiB is none too large",
            "CONTRACT 8",
            &[frame(FIN | BINARY, &vec![0; 1 << 20])],
            Back::Open,
        ),
        plain(
            "100,000 messages of nothing",
            "CONTRACT 8",
            &vec![frame(FIN | BINARY, b""); 100_000],
            Back::Open,
        ),
    ]
}

/// A frame of the server's: its first byte and payload; `None` at the end.
fn next(peer: &mut Peer) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    peer.stream.read_exact(&mut head).ok()?;
    let [first, second] = head;
    assert_eq!(second & 0x80, 0, "a server masks nothing");
    let length = match second {
        127 => {
            let mut length = [0; 8];
            peer.stream.read_exact(&mut length).unwrap();
            usize::try_from(u64::from_be_bytes(length)).unwrap()
        }
        126 => {
            let mut length = [0; 2];
            peer.stream.read_exact(&mut length).unwrap();
            usize::from(u16::from_be_bytes(length))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    peer.stream.read_exact(&mut payload).unwrap();
    Some((first, payload))
}

/// The code that it is closed with; it is answered.
pub(super) fn close_of(peer: &mut Peer) -> Option<u16> {
    loop {
        let (first, payload) = next(peer)?;
        if first == FIN | CLOSE {
            // The server may have gone already.
            let _ = peer.stream.get_mut().write_all(&frame(first, &payload));
            return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        }
    }
}

/// A ping is answered, whatever comes before that.
#[track_caller]
pub(super) fn check_open(peer: &mut Peer) {
    peer.send(frame(FIN | PING, b"still here"));
    loop {
        let (first, payload) = next(peer).expect("a pong");
        assert_ne!(first, FIN | CLOSE, "{payload:?}");
        if (first, &payload[..]) == (0x8A, b"still here") {
            return;
        }
    }
}

/// An error comes with this number and code, and the next command is answered.
#[track_caller]
pub(super) fn check_refused(peer: &mut Peer, id: Option<u64>, code: &str) {
    let mut next_json = || {
        let (first, payload) = next(peer).expect("a message");
        assert_eq!(first, FIN | TEXT, "{payload:?}");
        serde_json::from_slice::<serde_json::Value>(&payload).unwrap()
    };
    assert!(next_json()["welcome"].is_object());
    let refused = next_json();
    assert_eq!(refused["error"]["code"], code, "{refused}");
    assert_eq!(refused.get("id").and_then(serde_json::Value::as_u64), id, "{refused}");
    peer.send(frame(FIN | TEXT, br#"{"id":99,"ping":{}}"#));
    let (_, payload) = next(peer).expect("a pong");
    assert_eq!(String::from_utf8(payload).unwrap(), r#"{"id":99,"pong":{}}"#);
}
