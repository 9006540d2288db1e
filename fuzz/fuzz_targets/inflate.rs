//! Messages go through our compressors and back unharmed, beside whatever else a peer may send:
//! each input is a sequence of messages, some of which are taken as compressed already.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::websocket::{
    Decoder, DeflateParams, Deflater, DeflaterPool, Event, InflaterPool, Kind, Limits, Role,
    SharedDeflater, encode,
};

const MESSAGE_LEN_MAX: u32 = 1 << 16;

fuzz_target!(|input: (u8, u8, Vec<(u8, Vec<u8>)>)| {
    let (bits, flags, messages) = input;
    let bits = 9 + bits % 7;
    let is_shared = flags & 1 != 0;
    let params = DeflateParams {
        send_window_bits: if is_shared { 15 } else { bits },
        receive_window_bits: if is_shared { 15 } else { bits },
        send_takeover: flags & 2 != 0,
        receive_takeover: flags & 2 != 0,
    };
    let limits = Limits { message_len_max: MESSAGE_LEN_MAX, fragments_max: 16 };
    let mut decoder = Decoder::new(Role::Client, &limits, Some(params));
    let (mut inflaters, mut deflaters) = (InflaterPool::new(), DeflaterPool::new(1 + flags % 9));
    let mut own = Deflater::new(params);
    let mut shared = SharedDeflater::new(6);

    for (how, seed) in messages {
        // Repeated, so that there is something to compress.
        let message = seed.repeat(1 + usize::from(how >> 2));
        let message = &message[..message.len().min(MESSAGE_LEN_MAX as usize)];
        let mut frame = Vec::new();
        if how & 3 == 3 {
            // The peer's own idea of deflate: an event or an error, and never more than the limit.
            encode::compressed_message(Kind::Binary, &seed, &mut frame);
            match decoder.next(&mut frame.as_mut_slice(), &mut inflaters) {
                Ok(Some(Event::Message { data, .. })) => {
                    assert!(data.len() <= MESSAGE_LEN_MAX as usize);
                    // It moved a window that our compressor does not know of.
                    if params.send_takeover {
                        return;
                    }
                    continue;
                }
                Ok(event) => panic!("{event:?}"),
                Err(_) => return,
            }
        }
        let payload =
            if is_shared { shared.deflate(message) } else { own.deflate(message, &mut deflaters) };
        match payload {
            Some(payload) => {
                assert!(payload.len() < message.len(), "it pays");
                encode::compressed_message(Kind::Binary, payload, &mut frame);
            }
            None => encode::message(Kind::Binary, message, &mut frame),
        }
        let event = decoder.next(&mut frame.as_mut_slice(), &mut inflaters);
        let expect = Event::Message { kind: Kind::Binary, data: message };
        assert_eq!(event, Ok(Some(expect)));
    }
});
