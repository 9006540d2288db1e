//! Every test is repeated for every cut of its input, and byte for byte.

use super::{super::encode, *};
use crate::websocket::{Deflater, DeflaterPool, SharedDeflater, encode::FrameInfo};

/// An event that outlives its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

const LIMITS: Limits = Limits { message_len_max: 100_000, fragments_max: 1000 };
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const TAKEOVER: DeflateParams = DeflateParams {
    send_window_bits: 15,
    receive_window_bits: 15,
    send_takeover: true,
    receive_takeover: true,
};

/// Decodes `pieces` one after another, and says how it ended.
#[track_caller]
fn decode<'p>(
    mut decoder: Decoder,
    pool: &mut InflaterPool,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<Seen>, Result<(), ProtocolError>) {
    let mut seen = Vec::new();
    for piece in pieces {
        let mut scratch = piece.to_vec();
        let mut input = scratch.as_mut_slice();
        loop {
            seen.push(match decoder.next(&mut input, pool) {
                Ok(Some(Event::Message { kind: Kind::Text, data })) => {
                    Seen::Text(String::from_utf8(data.to_vec()).unwrap())
                }
                Ok(Some(Event::Message { kind: Kind::Binary, data })) => {
                    Seen::Binary(data.to_vec())
                }
                Ok(Some(Event::Ping(payload))) => Seen::Ping(payload.to_vec()),
                Ok(Some(Event::Pong(payload))) => Seen::Pong(payload.to_vec()),
                Ok(Some(Event::Close { code, reason })) => Seen::Close(code, reason.to_owned()),
                Ok(None) => break,
                Err(error) => {
                    let mut more = *b"\x89\x80\0\0\0\0";
                    assert_eq!(decoder.next(&mut &mut more[..], pool), Ok(None), "after an error");
                    return (seen, Err(error));
                }
            });
        }
        assert!(input.is_empty(), "all input is consumed");
    }
    (seen, Ok(()))
}

/// A client's frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::masked_message(Kind::Binary, payload, KEY, &mut out);
    out[0] = first;
    out
}

/// Checks what a server sees of `input`, however it is cut.
#[track_caller]
fn check_with(
    deflate: Option<DeflateParams>,
    input: &[u8],
    expect: &[Seen],
    end: Result<(), ProtocolError>,
) {
    let new = || Decoder::new(Role::Server, &LIMITS, deflate);
    let mut pool = InflaterPool::new();
    let expect = (expect.to_vec(), end);
    for cut in 0..=input.len() {
        let (front, back) = input.split_at(cut);
        assert_eq!(decode(new(), &mut pool, [front, back]), expect, "cut at {cut}");
    }
    assert_eq!(decode(new(), &mut pool, input.chunks(1)), expect, "byte for byte");
}

#[track_caller]
fn check(input: &[u8], expect: &[Seen], end: Result<(), ProtocolError>) {
    check_with(None, input, expect, end);
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

#[test]
fn an_idle_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 96, "{} bytes", size_of::<Decoder>());
}

#[test]
fn many_frames_come_out_of_one_read() {
    let input =
        [masked(0x81, b"Hello"), masked(0x82, &[1, 2]), masked(0x8A, b""), masked(0x81, b"")];
    let expect = [text("Hello"), Seen::Binary(vec![1, 2]), Seen::Pong(vec![]), text("")];
    check(&input.concat(), &expect, Ok(()));
}

#[test]
fn whole_messages_are_lent_from_the_input() {
    let mut scratch = [masked(0x81, b"Hello"), masked(0x82, b"World")].concat();
    let range = scratch.as_ptr_range();
    let (mut decoder, mut pool) = (Decoder::new(Role::Server, &LIMITS, None), InflaterPool::new());
    let mut input = scratch.as_mut_slice();
    for _ in 0..2 {
        let Ok(Some(Event::Message { data, .. })) = decoder.next(&mut input, &mut pool) else {
            panic!("a message")
        };
        assert!(range.contains(&data.as_ptr()), "not copied");
        assert!(decoder.partial.is_none(), "nothing is kept");
    }
}

#[test]
fn control_frames_come_between_fragments() {
    let input = [
        masked(0x01, "κό".as_bytes().split_at(3).0),
        masked(0x89, b"ping"),
        masked(0x00, b""),
        masked(0x8A, b"pong"),
        masked(0x80, "κόσμε".as_bytes().split_at(3).1),
        masked(0x82, b"next"),
    ];
    let expect = [
        Seen::Ping(b"ping".to_vec()),
        Seen::Pong(b"pong".to_vec()),
        text("κόσμε"),
        Seen::Binary(b"next".to_vec()),
    ];
    check(&input.concat(), &expect, Ok(()));
}

#[test]
fn a_client_reads_what_is_not_masked() {
    let mut pool = InflaterPool::new();
    let client = Decoder::new(Role::Client, &LIMITS, None);
    let seen = decode(client, &mut pool, [&b"\x01\x03Hel\x80\x02lo\x89\x00"[..]]);
    assert_eq!(seen, (vec![text("Hello"), Seen::Ping(vec![])], Ok(())));
    let client = Decoder::new(Role::Client, &LIMITS, None);
    let refused = Err(HeaderError::Masked.into());
    assert_eq!(decode(client, &mut pool, [&masked(0x81, b"")[..]]), (vec![], refused));
}

#[test]
fn nothing_comes_after_a_close() {
    let input = [masked(0x88, b"\x03\xE9bye"), masked(0x81, b"late"), vec![0xFF; 9]];
    check(&input.concat(), &[Seen::Close(Some(1001), "bye".into())], Ok(()));
    check(&masked(0x88, b""), &[Seen::Close(None, String::new())], Ok(()));
}

#[test]
fn a_bad_close_is_an_error() {
    check(&masked(0x88, b"\x03"), &[], Err(ProtocolError::CloseLength));
    check(&masked(0x88, b"\x03\xED"), &[], Err(ProtocolError::CloseCode(1005)));
    check(&masked(0x88, b"\x03\xE8\xFF"), &[], Err(ProtocolError::CloseReason));
}

#[test]
fn fragments_are_in_order() {
    check(&masked(0x80, b"x"), &[], Err(ProtocolError::Orphan));
    check(&masked(0x00, b"x"), &[], Err(ProtocolError::Orphan));
    let input = [masked(0x01, b"x"), masked(0x81, b"y")].concat();
    check(&input, &[], Err(ProtocolError::Interrupted(OpCode::Text)));
    let input = [masked(0x82, b"x"), masked(0x80, b"y")].concat();
    check(&input, &[Seen::Binary(b"x".to_vec())], Err(ProtocolError::Orphan));
}

#[test]
fn bad_text_is_an_error_in_every_frame_of_it() {
    check(&masked(0x81, b"a\xFFb"), &[], Err(ProtocolError::Utf8));
    check(&masked(0x81, b"\xC3"), &[], Err(ProtocolError::Utf8));
    let input = [masked(0x01, b"\xC3"), masked(0x80, b"x")].concat();
    check(&input, &[], Err(ProtocolError::Utf8));
    let input = [masked(0x01, b"\xC3"), masked(0x80, b"")].concat();
    check(&input, &[], Err(ProtocolError::Utf8));
    check(&masked(0x82, b"a\xFFb"), &[Seen::Binary(b"a\xFFb".to_vec())], Ok(()));
}

/// Feeds bytes one by one, and says how many it took until the error.
fn fails_after(input: &[u8], deflate: Option<DeflateParams>) -> Option<usize> {
    let mut decoder = Decoder::new(Role::Server, &LIMITS, deflate);
    let mut pool = InflaterPool::new();
    input.iter().position(|byte| decoder.next(&mut &mut [*byte][..], &mut pool).is_err())
}

#[test]
fn bad_text_is_refused_on_the_byte_that_proves_it() {
    let frame = masked(0x01, b"ab\xF4\x90later");
    assert_eq!(fails_after(&frame, None), Some(6 + 3));
}

#[test]
fn bad_compressed_text_is_refused_before_its_end() {
    // "a\xFF" in a stored block, of which the rest never comes.
    let frame = masked(0x41, b"\x00\x09\x00\xF6\xFFa\xFFbcdefgh");
    assert_eq!(fails_after(&frame, Some(TAKEOVER)), Some(6 + 6));
}

#[test]
fn the_limit_counts_over_all_fragments_and_is_enforced_on_headers() {
    let (len_max, half) = (LIMITS.message_len_max as usize, vec![0; 50_000]);
    let mut input = [masked(0x02, &half), masked(0x00, &half)].concat();
    let until = input.len();
    input.extend(masked(0x80, b"x"));
    assert_eq!(fails_after(&input, None), Some(until + 5), "on the last byte of the header");
    let mut pool = InflaterPool::new();
    let decoder = Decoder::new(Role::Server, &LIMITS, None);
    let ended = decode(decoder, &mut pool, [&input[..]]);
    assert_eq!(ended, (vec![], Err(ProtocolError::TooLong { len_max })));

    let whole = masked(0x82, &vec![0; len_max + 1]);
    assert_eq!(fails_after(&whole, None), Some(9), "before the mask");
    let decoder = Decoder::new(Role::Server, &LIMITS, Some(TAKEOVER));
    let ended = decode(decoder, &mut pool, [&whole[..]]);
    assert_eq!(ended, (vec![], Err(ProtocolError::TooLong { len_max })));
}

#[test]
fn the_number_of_fragments_is_limited() {
    let mut input = masked(0x01, b"");
    for _ in 1..LIMITS.fragments_max {
        input.extend(masked(0x00, b""));
    }
    let mut pool = InflaterPool::new();
    let new = || Decoder::new(Role::Server, &LIMITS, None);
    let last = masked(0x80, b"");
    assert_eq!(decode(new(), &mut pool, [&input[..]]), (vec![], Ok(())));
    let max = LIMITS.fragments_max;
    let refused = Err(ProtocolError::TooManyFragments { max });
    assert_eq!(decode(new(), &mut pool, [&input[..], &last]), (vec![], refused));
}

#[test]
fn memory_follows_what_came_and_not_what_was_announced() {
    let mut decoder = Decoder::new(Role::Server, &Limits::default(), None);
    let mut pool = InflaterPool::new();
    let mut frame = masked(0x82, &vec![7; 1 << 20]);
    for (count, chunk) in frame.chunks_mut(1000).take(300).enumerate() {
        assert_eq!(decoder.next(&mut &mut chunk[..], &mut pool), Ok(None));
        let kept = decoder.partial.as_ref().map_or(0, |partial| partial.buffer.capacity());
        assert!(kept <= 2 * 1000 * (count + 1), "{kept} bytes after {} reads", count + 1);
    }
}

#[test]
fn a_message_leaves_nothing_behind() {
    let mut decoder = Decoder::new(Role::Server, &LIMITS, None);
    let mut pool = InflaterPool::new();
    for payload_len in [10, 90_000] {
        let mut frame = masked(0x82, &vec![7; payload_len]);
        let (mut front, mut back) = frame.split_at_mut(payload_len / 2);
        assert_eq!(decoder.next(&mut front, &mut pool), Ok(None));
        assert!(decoder.is_within_message());
        assert!(matches!(decoder.next(&mut back, &mut pool), Ok(Some(Event::Message { .. }))));
        assert_eq!(decoder.next(&mut back, &mut pool), Ok(None));
        assert!(decoder.partial.is_none());
    }
}

#[test]
fn compressed_messages_are_those_of_rfc_7692() {
    let hello = || text("Hello");
    for payload in [
        &b"\xF2\x48\xCD\xC9\xC9\x07\x00"[..],
        b"\x00\x05\x00\xFA\xFFHello\x00",
        b"\xF3\x48\xCD\xC9\xC9\x07\x00\x00",
        b"\xF2\x48\x05\x00\x00\x00\xFF\xFF\xCA\xC9\xC9\x07\x00",
        // Not in the RFC, but in the wild: a final block and nothing after it.
        b"\xF3\x48\xCD\xC9\xC9\x07\x00",
    ] {
        check_with(Some(TAKEOVER), &masked(0xC1, payload), &[hello()], Ok(()));
    }
    let fragments = [masked(0x41, b"\xF2\x48\xCD"), masked(0x80, b"\xC9\xC9\x07\x00")];
    check_with(Some(TAKEOVER), &fragments.concat(), &[hello()], Ok(()));
    let empty = [masked(0xC1, b"\x00"), masked(0xC2, b"")];
    check_with(Some(TAKEOVER), &empty.concat(), &[text(""), Seen::Binary(vec![])], Ok(()));
}

#[test]
fn a_context_is_taken_over_where_that_was_agreed() {
    let first = masked(0xC1, b"\xF2\x48\xCD\xC9\xC9\x07\x00");
    let second = masked(0xC1, b"\xF2\x00\x11\x00\x00");
    let plain = masked(0x81, b"not in the window");
    let input = [first, plain, second].concat();
    let expect = [text("Hello"), text("not in the window"), text("Hello")];
    check_with(Some(TAKEOVER), &input, &expect, Ok(()));
    let alone = DeflateParams { receive_takeover: false, ..TAKEOVER };
    let refused = Err(DeflateError::Invalid.into());
    check_with(Some(alone), &input, &expect[..2], refused);
}

#[test]
fn a_context_goes_on_after_a_final_block() {
    // "Hello" in a final block, then "Hello" by reference to it, in one message.
    let input = masked(0xC1, b"\xF3\x48\xCD\xC9\xC9\x07\x00\xF2\x00\x11\x00\x00");
    check_with(Some(TAKEOVER), &input, &[text("HelloHello")], Ok(()));
}

#[test]
fn one_connection_does_not_see_the_window_of_another() {
    let mut pool = InflaterPool::new();
    let new = || Decoder::new(Role::Server, &LIMITS, Some(TAKEOVER));
    let first = masked(0xC1, b"\xF2\x48\xCD\xC9\xC9\x07\x00");
    let second = masked(0xC1, b"\xF2\x00\x11\x00\x00");
    assert_eq!(decode(new(), &mut pool, [&first[..]]), (vec![text("Hello")], Ok(())));
    let refused = Err(DeflateError::Invalid.into());
    assert_eq!(decode(new(), &mut pool, [&second[..]]), (vec![], refused));
}

#[test]
fn what_does_not_inflate_is_an_error() {
    let mut pool = InflaterPool::new();
    let new = || Decoder::new(Role::Server, &LIMITS, Some(TAKEOVER));
    for (payload, error) in [
        (&b"\x07\xFF\xFF"[..], DeflateError::Invalid),
        (b"\x00\x05\x00\xFA\xFFHel", DeflateError::Invalid),
        (b"\xF2\x48\xCD", DeflateError::Invalid),
        (b"\x00\x20\x00\xDF\xFFHel", DeflateError::Truncated),
    ] {
        let (seen, end) = decode(new(), &mut pool, [&masked(0xC2, payload)[..]]);
        assert_eq!((seen, end), (vec![], Err(error.into())), "{payload:x?}");
    }
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    let bomb = SharedDeflater::new(9).deflate(&vec![0; 10 << 20]).unwrap().to_vec();
    assert!(bomb.len() < 20_000);
    let len_max = LIMITS.message_len_max as usize;
    for first in [0xC1, 0xC2] {
        let mut pool = InflaterPool::new();
        let decoder = Decoder::new(Role::Server, &LIMITS, Some(TAKEOVER));
        let ended = decode(decoder, &mut pool, [&masked(first, &bomb)[..]]);
        assert_eq!(ended, (vec![], Err(ProtocolError::TooLong { len_max })));
        assert!(pool.output().len() <= len_max + 1);
    }
    // A text is seen through before all of it has come.
    assert!(fails_after(&masked(0x41, &bomb), Some(TAKEOVER)).is_some_and(|at| at < 1000));
}

#[test]
fn texts_checked_ahead_are_few_and_the_others_are_checked_at_their_end() {
    let mut pool = InflaterPool::new();
    let frame = masked(0x41, b"\x00\x09\x00\xF6\xFFa\xFFbcdefgh");
    let mut decoders = Vec::new();
    let mut refused = 0;
    for _ in 0..100 {
        let mut decoder = Decoder::new(Role::Server, &LIMITS, Some(TAKEOVER));
        let mut front = frame[..11].to_vec();
        assert_eq!(decoder.next(&mut front.as_mut_slice(), &mut pool), Ok(None));
        decoders.push(decoder);
    }
    for decoder in &mut decoders {
        let mut rest = frame[11..].to_vec();
        let end = decoder.next(&mut rest.as_mut_slice(), &mut pool);
        refused += usize::from(end == Err(ProtocolError::Utf8));
    }
    assert_eq!(refused, 64);
    drop(decoders);
    assert!(pool.checker(None).is_some(), "they come back");
}

/// Random messages in random fragments with control frames between them, plain or compressed, cut
/// at random: what was put in comes out.
#[test]
fn what_is_sent_is_what_is_seen() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut pool = InflaterPool::new();
    let mut deflaters = DeflaterPool::new(6);
    for round in 0..300 {
        let bits = random.u8(9..=15);
        let takeover = random.bool();
        let params = DeflateParams {
            send_window_bits: bits,
            receive_window_bits: bits,
            send_takeover: takeover,
            receive_takeover: takeover,
        };
        let deflate = random.bool().then_some(params);
        let mut deflater = deflate.map(Deflater::new);
        let (mut bytes, mut expect) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..20) {
            let message = random_message(&mut random);
            let compressed = deflater.as_mut().and_then(|it| it.deflate(&message, &mut deflaters));
            let kind = if random.bool() { Kind::Text } else { Kind::Binary };
            let payload = compressed.unwrap_or(&message);
            send(&mut random, kind, payload, compressed.is_some(), &mut bytes, &mut expect);
            expect.push(match kind {
                Kind::Text => Seen::Text(String::from_utf8(message).unwrap()),
                Kind::Binary => Seen::Binary(message),
            });
        }
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        let piece_len = random.usize(1..3000);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(random.usize(1..=piece_len)));
            pieces.push(piece);
            rest = after;
        }
        let decoder = Decoder::new(Role::Server, &LIMITS, deflate);
        let seen = decode(decoder, &mut pool, pieces);
        assert!(seen == (expect, Ok(())), "round {round}: {:?}", seen.1);
    }
}

/// Text that compresses, with characters of every length.
fn random_message(random: &mut fastrand::Rng) -> Vec<u8> {
    let len = [0, 3, 30, 300, 3000, 30_000][random.usize(0..6)];
    let words = ["price", "κόσμε", "{\"a\":1}", "日本", "💧", "x"];
    let mut message = String::new();
    while message.len() < len {
        message.push_str(words[random.usize(0..words.len())]);
    }
    message.into_bytes()
}

/// Sends a message in fragments, and pings between them, which are expected before it.
fn send(
    random: &mut fastrand::Rng,
    kind: Kind,
    payload: &[u8],
    is_compressed: bool,
    bytes: &mut Vec<u8>,
    expect: &mut Vec<Seen>,
) {
    let mut rest = payload;
    let (mut opcode, mut is_compressed) = (OpCode::from(kind), is_compressed);
    loop {
        let at = random.usize(0..=rest.len());
        let (fragment, after) = if random.bool() { (rest, &[][..]) } else { rest.split_at(at) };
        let is_final = after.is_empty();
        let mask = Some(random.u32(..).to_le_bytes());
        encode::frame(FrameInfo { opcode, is_final, is_compressed, mask }, fragment, bytes);
        if is_final {
            return;
        }
        if random.bool() {
            let ping = vec![b'p'; random.usize(0..=125)];
            encode::ping(&ping, mask, bytes);
            expect.push(Seen::Ping(ping));
        }
        (rest, opcode, is_compressed) = (after, OpCode::Continuation, false);
    }
}

/// Bytes that were sent well and then damaged are judged alike however they are cut.
#[test]
fn damage_is_judged_alike_however_it_is_cut() {
    let mut random = fastrand::Rng::with_seed(4);
    let mut pool = InflaterPool::new();
    for round in 0..3000 {
        let mut bytes = Vec::new();
        for _ in 0..random.usize(1..5) {
            let kind = if random.bool() { Kind::Text } else { Kind::Binary };
            let message = &random_message(&mut random)[..];
            let message = message.get(..30).unwrap_or(message);
            let is_compressed = random.u8(..8) == 0;
            send(&mut random, kind, message, is_compressed, &mut bytes, &mut Vec::new());
        }
        for _ in 0..random.usize(0..3) {
            let at = random.usize(0..bytes.len());
            bytes[at] ^= 1 << random.u8(0..8);
        }
        let deflate = random.bool().then_some(TAKEOVER);
        let new = || Decoder::new(Role::Server, &LIMITS, deflate);
        let (whole, end) = decode(new(), &mut pool, [&bytes[..]]);
        let cut = random.usize(0..=bytes.len());
        for pieces in [vec![&bytes[..cut], &bytes[cut..]], bytes.chunks(1).collect()] {
            let (seen, cut_end) = decode(new(), &mut pool, pieces);
            assert_eq!(seen, whole, "round {round}");
            // Of two errors in one compressed text it depends on the cut which is found first.
            assert_eq!(
                end.as_ref().map_err(close::code),
                cut_end.as_ref().map_err(close::code),
                "round {round}"
            );
        }
    }
}
