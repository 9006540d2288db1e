//! Whatever comes, however it is cut: no panic, the same events, the same end, and bounded memory.
//!
//! The first bytes choose the role, the limits and what was negotiated; where the input is cut is
//! derived from the input itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::websocket::{
    Decoder, DeflateParams, Event, InflaterPool, Limits, ProtocolError, Role, close,
};

/// Events, each as a tag and its bytes.
type Events = Vec<(u16, Vec<u8>)>;

const MESSAGE_LEN_MAX: u32 = 4096;

fuzz_target!(|input: (u8, u64, Vec<u8>)| {
    let (flags, seed, mut bytes) = input;
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let deflate = (flags & 2 != 0).then_some(DeflateParams {
        send_window_bits: 15,
        receive_window_bits: if flags & 4 != 0 { 9 } else { 15 },
        send_takeover: true,
        receive_takeover: flags & 8 != 0,
    });
    if flags & 16 != 0 && role == Role::Server {
        mask_all(&mut bytes);
    }
    let limits = Limits { message_len_max: MESSAGE_LEN_MAX, fragments_max: 16 };
    let new = || Decoder::new(role, &limits, deflate);

    let whole = decode(new(), &bytes, |left| left);
    let single = decode(new(), &bytes, |_| 1);
    let mut state = seed | 1;
    let random = decode(new(), &bytes, |left| {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        1 + (state >> 33) as usize % left.min(64)
    });
    for other in [single, random] {
        assert_eq!(whole.0, other.0);
        assert_eq!(whole.1.is_err(), other.1.is_err(), "{:?} {:?}", whole.1, other.1);
        // Of two faults in one compressed message it depends on the cut which is found first.
        if deflate.is_none() {
            assert_eq!(whole.1, other.1);
        }
    }
});

/// Sets the mask bit of what would otherwise end at the first frame, frame by frame.
fn mask_all(bytes: &mut [u8]) {
    let mut rest = bytes;
    while let [_, second, after @ ..] = rest {
        *second |= 0x80;
        let len = match *second & 0x7F {
            126 => after.first_chunk().map_or(0, |it| 2 + usize::from(u16::from_be_bytes(*it))),
            127 => return,
            len => usize::from(len),
        };
        rest = after.split_at_mut((4 + len).min(after.len())).1;
    }
}

/// Decodes in pieces as long as `piece_len` says of what is left.
fn decode(
    mut decoder: Decoder,
    bytes: &[u8],
    mut piece_len: impl FnMut(usize) -> usize,
) -> (Events, Result<(), ProtocolError>) {
    let mut pool = InflaterPool::new();
    let mut events = Events::new();
    let mut rest = bytes.to_vec();
    let mut rest = rest.as_mut_slice();
    while !rest.is_empty() {
        let left = rest.len();
        let (mut piece, after) = rest.split_at_mut(piece_len(left).min(left));
        rest = after;
        loop {
            let event = match decoder.next(&mut piece, &mut pool) {
                Ok(None) => break,
                Ok(Some(Event::Message { kind, data })) => {
                    assert!(data.len() <= MESSAGE_LEN_MAX as usize);
                    let is_text = kind == tidegate_wire::websocket::Kind::Text;
                    assert!(!is_text || std::str::from_utf8(data).is_ok());
                    (u16::from(is_text), data.to_vec())
                }
                Ok(Some(Event::Ping(data))) => {
                    assert!(data.len() <= 125);
                    (2, data.to_vec())
                }
                Ok(Some(Event::Pong(data))) => {
                    assert!(data.len() <= 125);
                    (3, data.to_vec())
                }
                Ok(Some(Event::Close { code, reason })) => {
                    assert!(code.is_none_or(close::is_valid) && reason.len() <= 123);
                    (code.unwrap_or(u16::MAX), reason.as_bytes().to_vec())
                }
                Err(error) => {
                    assert!(close::is_valid(close::code(&error)));
                    return (events, Err(error));
                }
            };
            assert!(!events.last().is_some_and(|(tag, _)| *tag >= 1000), "nothing after a close");
            events.push(event);
        }
        assert!(piece.is_empty(), "all input is consumed");
        if decoder.is_over() {
            break;
        }
    }
    (events, Ok(()))
}
