//! A header is judged alike on every prefix, and what is decoded encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::websocket::{
    encode::{self, FrameInfo},
    header::{self, RSV1, Rules},
};

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, bytes) = input;
    let rules = Rules {
        expect_mask: flags & 1 != 0,
        rsv_claimed: if flags & 2 != 0 { RSV1 } else { 0 },
        payload_len_max: if flags & 4 != 0 { u64::MAX } else { 1 << 16 },
    };
    let verdict = header::decode(bytes, &rules);
    for cut in 0..bytes.len().min(header::LEN_MAX) {
        let early = header::decode(&bytes[..cut], &rules);
        assert!(early == Ok(None) || early == verdict, "{early:?} after {cut}, then {verdict:?}");
    }
    let Ok(Some(header)) = verdict else {
        assert!(verdict != Ok(None) || bytes.len() < header::LEN_MAX, "14 bytes are enough");
        return;
    };
    assert_eq!(header.mask.is_some(), rules.expect_mask);
    let info = FrameInfo {
        opcode: header.opcode,
        is_final: header.is_final,
        is_compressed: header.rsv != 0,
        mask: header.mask,
    };
    let again = encode::header(info, usize::try_from(header.payload_len).unwrap());
    assert_eq!(&*again, &bytes[..header.header_len]);
});
