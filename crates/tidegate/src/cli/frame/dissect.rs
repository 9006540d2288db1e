//! Bytes taken apart into frames, whatever is wrong with them, and what is (RFC 6455 §5).
//!
//! The codec stops at the first mistake, as a connection must. A reader wants the rest as well, so
//! each field is read for what it is, and each rule is looked at by itself; a test holds that what is
//! found wrong here is what the codec refuses.

use tidegate_wire::websocket::{OpCode, close, mask};

/// Payload bytes that are shown.
const SHOWN: usize = 48;

/// Payload bytes of a line.
const ROW: usize = 8;

/// What is known of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// Who sent the frames.
    pub(super) sender: Option<Sender>,
    /// Whether permessage-deflate was negotiated.
    pub(super) deflate: bool,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// A frame, taken apart.
#[derive(Debug)]
pub(super) struct Dissection {
    /// What it is, in a line.
    pub(super) summary: String,
    /// Its fields, in order.
    pub(super) lines: Vec<Line>,
    /// What is wrong with it.
    pub(super) findings: Vec<Finding>,
}

/// Something about a frame that should not be.
#[derive(Debug)]
pub(super) struct Finding {
    /// `wrong`, or `not whole`.
    pub(super) kind: &'static str,
    pub(super) what: String,
}

/// A field, or a row of the payload.
#[derive(Debug)]
pub(super) struct Line {
    /// Where it begins, in the input; a field of bits has the first one's.
    pub(super) offset: Option<usize>,
    /// Its bytes, in hexadecimal.
    pub(super) bytes: String,
    /// Its bits, with a dot for each bit of the byte that is not its own.
    pub(super) bits: String,
    /// What it says.
    pub(super) meaning: String,
}

/// Takes all frames of `input` apart. One that is not whole is the last.
pub(super) fn dissect(input: &[u8], context: Context) -> Vec<Dissection> {
    let mut frames = Vec::new();
    let mut message = Message::default();
    let mut at = 0;
    while let Some(rest) = input.get(at..).filter(|it| !it.is_empty()) {
        let mut frame = Frame { at, rest, lines: Vec::new(), findings: Vec::new() };
        let len = frame.read(context, &mut message);
        frames.push(frame.finish(len, &message));
        let Some(len) = len else { break };
        at += len;
    }
    frames
}

/// The message that the frames so far have begun.
#[derive(Debug, Default)]
struct Message {
    /// Whether the first frame was masked.
    is_masked: Option<bool>,
    /// Of its first frame, until the last one; the input's first frame may be in its middle.
    kind: Option<OpCode>,
    is_compressed: bool,
    /// Whether a whole message, or the beginning of one, was seen.
    is_known: bool,
    is_closed: bool,
    /// Of a text: what came so far.
    text: Vec<u8>,
    summary: String,
}

/// A frame that is being read.
struct Frame<'a> {
    at: usize,
    rest: &'a [u8],
    lines: Vec<Line>,
    findings: Vec<Finding>,
}

impl Frame<'_> {
    /// Reads it; its length, if it is whole.
    fn read(&mut self, context: Context, message: &mut Message) -> Option<usize> {
        let first = *self.rest.first()?;
        let (is_final, rsv, nibble) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
        let opcode = OpCode::from_nibble(nibble);
        let name = name(nibble);
        self.bits(
            0,
            first,
            0x80,
            if is_final {
                "FIN: the last frame of its message"
            } else {
                "not FIN: more frames of its message follow"
            },
        );
        self.bits(0, first, 0x70, &reserved(rsv));
        self.bits(0, first, 0x0F, &format!("opcode {nibble:#x}: {name}"));
        message.summary = format!("{name}{}", if is_final { "" } else { ", not final" });
        self.check_first(context, message, first);

        let Some(second) = self.rest.get(1).copied() else {
            self.missing(1, "the rest of the header");
            return None;
        };
        let (is_masked, len_code) = (second & 0x80 != 0, second & 0x7F);
        self.bits(
            1,
            second,
            0x80,
            if is_masked { "MASK: a client's" } else { "no MASK: a server's" },
        );
        if *message.is_masked.get_or_insert(is_masked) != is_masked {
            self.wrong("one end masks all of its frames or none; the first one differs (§5.1)");
        }
        if is_masked && context.sender == Some(Sender::Server) {
            self.wrong("a server must not mask its frames (§5.1)");
        }
        if !is_masked && context.sender == Some(Sender::Client) {
            self.wrong("a client must mask its frames (§5.1)");
        }
        let is_control = opcode.is_some_and(OpCode::is_control);
        if is_control && !is_final {
            self.wrong(&format!("a {name} must not be fragmented (§5.5)"));
        }
        if is_control && len_code > 125 {
            self.wrong(&format!("a {name} has at most 125 bytes of payload (§5.5)"));
        }
        let (len, mut header) = self.length(len_code, second)?;
        let key = if is_masked {
            let Some(key) = self.rest.get(header..header + 4) else {
                self.missing((header + 4 - self.rest.len()) as u64, "the masking key");
                return None;
            };
            self.bytes(header, key, "masking key");
            header += 4;
            <[u8; 4]>::try_from(key).ok()
        } else {
            None
        };
        let whose = match (context.sender, is_masked) {
            (None, true) => ", masked as a client's",
            (None, false) => ", unmasked as a server's",
            (Some(_), true) => ", masked",
            (Some(_), false) => ", unmasked",
        };
        message.summary += &format!("{whose}, {}", count(len, "byte"));
        let available = self.rest.get(header..).unwrap_or_default();
        let whole = usize::try_from(len).ok().and_then(|len| available.get(..len));
        let payload = whole.unwrap_or(available);
        self.payload(header, payload, key, opcode, message, is_final && whole.is_some());
        if whole.is_none() {
            let missing = len.saturating_sub(available.len() as u64);
            self.missing(missing, "payload");
            return None;
        }
        if !is_control {
            message.kind = message.kind.or(opcode).filter(|_| !is_final);
        }
        Some(header + payload.len())
    }

    /// What the first byte says, by itself and after the frames before it.
    fn check_first(&mut self, context: Context, message: &mut Message, first: u8) {
        let (rsv, nibble) = (first & 0x70, first & 0x0F);
        if message.is_closed {
            self.wrong("it comes after a Close, which is an end's last frame (§5.5.1)");
        }
        let Some(opcode) = OpCode::from_nibble(nibble) else {
            self.wrong(&format!("opcode {nibble:#x} is reserved (§5.2)"));
            return;
        };
        let begins = matches!(opcode, OpCode::Text | OpCode::Binary);
        if rsv & 0x30 != 0 {
            self.wrong("RSV2 or RSV3 is set, which no extension claims (§5.2)");
        }
        match (rsv & 0x40 != 0, context.deflate) {
            (true, false) => self.wrong(
                "RSV1 is set and no extension was agreed upon (§5.2); with permessage-deflate give \
                 --deflate",
            ),
            (true, true) if !begins => {
                self.wrong("RSV1 is for the first frame of a message alone (RFC 7692 §6)");
            }
            _ => {}
        }
        match opcode {
            OpCode::Continuation if message.kind.is_none() && message.is_known => {
                self.wrong("it continues a message, and none was begun (§5.4)");
            }
            OpCode::Text | OpCode::Binary => {
                if message.kind.is_some() {
                    self.wrong("it begins a message amid the fragments of another (§5.4)");
                }
                message.kind = None;
                message.is_compressed = rsv & 0x40 != 0;
                message.is_known = true;
                message.text.clear();
            }
            OpCode::Close => message.is_closed = true,
            _ => {}
        }
    }

    /// Reads the length; it, and the header's bytes so far.
    fn length(&mut self, code: u8, second: u8) -> Option<(u64, usize)> {
        let bytes: usize = match code {
            126 => 2,
            127 => 8,
            _ => {
                let meaning = format!("length: {} of payload", count(u64::from(code), "byte"));
                self.bits(1, second, 0x7F, &meaning);
                return Some((u64::from(code), 2));
            }
        };
        self.bits(1, second, 0x7F, &format!("{code}: the length is in the next {bytes} bytes"));
        let Some(field) = self.rest.get(2..2 + bytes) else {
            self.missing((2 + bytes - self.rest.len()) as u64, "the length");
            return None;
        };
        let len = field.iter().fold(0_u64, |len, byte| len << 8 | u64::from(*byte));
        self.bytes(2, field, &format!("length: {} of payload", count(len, "byte")));
        if len < if bytes == 2 { 126 } else { 1 << 16 } {
            self.wrong("the length is not in its shortest form (§5.2)");
        }
        if len >> 63 != 0 {
            self.wrong("the length's highest bit is set (§5.2)");
        }
        Some((len, 2 + bytes))
    }

    fn payload(
        &mut self,
        header: usize,
        payload: &[u8],
        key: Option<[u8; 4]>,
        opcode: Option<OpCode>,
        message: &mut Message,
        is_end: bool,
    ) {
        let mut plain = payload.to_vec();
        if let Some(key) = key {
            self.rows(header, payload, "payload, masked", false);
            mask(&mut plain, key);
        }
        let what = if key.is_some() { "payload, unmasked" } else { "payload" };
        match opcode {
            Some(OpCode::Close) => self.close(header, &plain, key.is_some()),
            Some(OpCode::Text | OpCode::Binary | OpCode::Continuation) if message.is_compressed => {
                self.rows(header, &plain, &format!("{what}, compressed"), false);
            }
            _ => self.rows(header, &plain, what, true),
        }
        let is_text = match opcode {
            Some(OpCode::Text) => true,
            Some(OpCode::Continuation) => message.kind == Some(OpCode::Text),
            _ => false,
        };
        if is_text && !message.is_compressed {
            message.text.extend_from_slice(&plain);
            if let Err(error) = std::str::from_utf8(&message.text) {
                // A character may go on in what is to come.
                if error.error_len().is_some() || is_end {
                    let at = error.valid_up_to();
                    self.wrong(&format!(
                        "the text is no UTF-8 at its byte {at} (§5.6); close 1007"
                    ));
                }
            }
        }
    }

    fn close(&mut self, header: usize, plain: &[u8], is_masked: bool) {
        let what = if is_masked { ", unmasked" } else { "" };
        let Some((code, reason)) = plain.split_first_chunk::<2>() else {
            if !plain.is_empty() {
                self.rows(header, plain, &format!("payload{what}"), false);
                self.wrong("a Close has no payload, or a code of 2 bytes and a reason (§5.5.1)");
            }
            return;
        };
        let number = u16::from_be_bytes(*code);
        self.bytes(header, code, &format!("close code{what}: {number}, {}", code_name(number)));
        if !close::is_valid(number) {
            self.wrong(&format!("close code {number} must not be sent (§7.4)"));
        }
        self.rows(header + 2, reason, &format!("reason{what}"), true);
        if std::str::from_utf8(reason).is_err() {
            self.wrong("the reason is no UTF-8 (§5.5.1)");
        }
    }

    /// A line of some bits of a byte.
    fn bits(&mut self, at: usize, byte: u8, field: u8, meaning: &str) {
        let bit = |nth: u8| match (field >> nth & 1, byte >> nth & 1) {
            (0, _) => '.',
            (_, 0) => '0',
            _ => '1',
        };
        let is_first = field & 0x80 != 0;
        self.lines.push(Line {
            offset: is_first.then_some(self.at + at),
            bytes: if is_first { format!("{byte:02x}") } else { String::new() },
            bits: (0..8).rev().map(bit).collect(),
            meaning: meaning.to_owned(),
        });
    }

    fn bytes(&mut self, at: usize, bytes: &[u8], meaning: &str) {
        self.lines.push(Line {
            offset: Some(self.at + at),
            bytes: spaced(bytes),
            bits: String::new(),
            meaning: meaning.to_owned(),
        });
    }

    /// Rows of a payload, each with its text where that is of use.
    fn rows(&mut self, at: usize, bytes: &[u8], meaning: &str, has_text: bool) {
        for (nth, row) in bytes.chunks(ROW).take(SHOWN / ROW).enumerate() {
            let text = if has_text { format!("{:<8}  ", readable(row)) } else { String::new() };
            let meaning = if nth == 0 { format!("{text}{meaning}") } else { text };
            self.bytes(at + nth * ROW, row, meaning.trim_end());
        }
        let more = bytes.len().saturating_sub(SHOWN) as u64;
        if more > 0 {
            let meaning = format!("… {} more", count(more, "byte"));
            self.lines.push(Line {
                offset: None,
                bytes: String::new(),
                bits: String::new(),
                meaning,
            });
        }
    }

    fn wrong(&mut self, what: &str) {
        self.findings.push(Finding { kind: "wrong", what: what.to_owned() });
    }

    fn missing(&mut self, bytes: u64, of: &str) {
        let what = format!("{} of {of} to come", count(bytes, "byte"));
        self.findings.push(Finding { kind: "not whole", what });
    }

    fn finish(self, len: Option<usize>, message: &Message) -> Dissection {
        let whole = len.map_or_else(|| ", not whole".to_owned(), |len| format!(" ({len} in all)"));
        let summary = format!("{}{whole}", message.summary);
        Dissection { summary, lines: self.lines, findings: self.findings }
    }
}

fn name(nibble: u8) -> &'static str {
    match OpCode::from_nibble(nibble) {
        Some(OpCode::Continuation) => "continuation",
        Some(OpCode::Text) => "text",
        Some(OpCode::Binary) => "binary",
        Some(OpCode::Close) => "close",
        Some(OpCode::Ping) => "ping",
        Some(OpCode::Pong) => "pong",
        None if nibble & 0x8 != 0 => "reserved for a control frame",
        None => "reserved for a data frame",
    }
}

fn reserved(rsv: u8) -> String {
    let set: Vec<_> = [(0x40, "RSV1"), (0x20, "RSV2"), (0x10, "RSV3")]
        .into_iter()
        .filter(|(bit, _)| rsv & bit != 0)
        .map(|(_, name)| name)
        .collect();
    if set.is_empty() { "no RSV: no extension".to_owned() } else { set.join(" ") }
}

fn code_name(code: u16) -> &'static str {
    match code {
        close::NORMAL => "normal closure",
        close::GOING_AWAY => "going away",
        close::PROTOCOL => "protocol error",
        close::UNSUPPORTED => "unsupported data",
        1005 => "reserved: no code was received",
        1006 => "reserved: closed without a Close",
        close::INVALID_PAYLOAD => "invalid payload",
        close::POLICY => "policy violation",
        close::TOO_BIG => "message too big",
        close::EXTENSION_NEEDED => "extension needed",
        close::INTERNAL => "internal error",
        close::SERVICE_RESTART => "service restart",
        close::TRY_AGAIN_LATER => "try again later",
        close::BAD_GATEWAY => "bad gateway",
        1015 => "reserved: TLS failed",
        3000..=3999 => "registered by a library or framework",
        4000..=4999 => "the application's own",
        _ => "undefined",
    }
}

fn spaced(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn readable(bytes: &[u8]) -> String {
    let shown =
        |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '·' };
    bytes.iter().map(shown).collect()
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use tidegate_wire::websocket::{
        Decoder, DeflateParams, DeflatePolicy, InflaterPool, Limits, Role, accept,
    };

    use super::*;

    const CLIENT: Context = Context { sender: Some(Sender::Client), deflate: false };
    const SERVER: Context = Context { sender: Some(Sender::Server), deflate: false };

    /// What is wrong with the frames, each by its number.
    fn findings(input: &[u8], context: Context) -> Vec<String> {
        (1..)
            .zip(dissect(input, context))
            .flat_map(|(nth, it)| {
                it.findings.into_iter().map(move |it| format!("{nth}: {}: {}", it.kind, it.what))
            })
            .collect()
    }

    #[track_caller]
    fn check(input: &[u8], context: Context, expect: &[&str]) {
        let found = findings(input, context);
        let is_it = found.len() == expect.len()
            && found.iter().zip(expect).all(|(found, expect)| found.contains(expect));
        assert!(is_it, "{found:#?}");
    }

    #[test]
    fn each_rule_is_named() {
        check(&[0x81, 0x01, b'a'], SERVER, &[]);
        check(&[0x81, 0x81, 0, 0, 0, 0, b'a'], CLIENT, &[]);
        check(&[0x81, 0x01, b'a'], CLIENT, &["must mask"]);
        check(&[0x81, 0x81, 0, 0, 0, 0, b'a'], SERVER, &["must not mask"]);
        check(&[0x83, 0x00], SERVER, &["opcode 0x3 is reserved"]);
        check(&[0xF1, 0x00], SERVER, &["RSV2 or RSV3", "RSV1"]);
        check(&[0xC9, 0x00], Context { deflate: true, ..SERVER }, &["first frame"]);
        check(&[0x09, 0x00], SERVER, &["must not be fragmented"]);
        check(&[0x82, 0x7E, 0, 1, 9], SERVER, &["shortest form"]);
        check(&[0x88, 0x01, 3], SERVER, &["2 bytes and a reason"]);
        check(&[0x88, 0x02, 0x03, 0xED], SERVER, &["1005 must not be sent"]);
        check(&[0x88, 0x03, 0x03, 0xE8, 0xFF], SERVER, &["reason is no UTF-8"]);
        check(&[0x81, 0x02, b'a', 0xFF], SERVER, &["no UTF-8 at its byte 1"]);
    }

    #[test]
    fn frames_are_judged_after_those_before() {
        check(&[0x01, 1, b'a', 0x80, 1, b'b'], SERVER, &[]);
        check(&[0x80, 0], SERVER, &[]);
        check(&[0x81, 0, 0x80, 0], SERVER, &["2: wrong: it continues"]);
        check(&[0x01, 0, 0x81, 0], SERVER, &["2: wrong: it begins a message amid"]);
        check(&[0x01, 0, 0x89, 0, 0x80, 0], SERVER, &[]);
        check(&[0x89, 0, 0x89, 0x80, 0, 0, 0, 0], Context::default(), &["2: wrong: one end masks"]);
        check(&[0x88, 0, 0x81, 0], SERVER, &["2: wrong: it comes after a Close"]);
        // A character that two frames share, and one that is never finished.
        check(&[0x01, 1, 0xC3, 0x80, 1, 0xBC], SERVER, &[]);
        check(&[0x01, 1, 0xC3, 0x80, 0], SERVER, &["2: wrong: the text is no UTF-8 at its byte 0"]);
    }

    #[test]
    fn what_is_missing_is_told() {
        check(&[0x81], SERVER, &["1 byte of the rest of the header"]);
        check(&[0x82, 0x7F, 0, 0], SERVER, &["6 bytes of the length"]);
        check(&[0x81, 0x85, 1, 2], CLIENT, &["2 bytes of the masking key"]);
        check(&[0x81, 0x05, b'a'], SERVER, &["4 bytes of payload"]);
    }

    #[test]
    fn the_example_of_the_standard_is_read() {
        let input = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let frames = dissect(&input, Context::default());
        let [frame] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(frame.summary, "text, masked as a client's, 5 bytes (11 in all)");
        let meanings: Vec<_> = frame.lines.iter().map(|it| it.meaning.as_str()).collect();
        let expect = [
            "FIN: the last frame of its message",
            "no RSV: no extension",
            "opcode 0x1: text",
            "MASK: a client's",
            "length: 5 bytes of payload",
            "masking key",
            "payload, masked",
            "Hello     payload, unmasked",
        ];
        assert_eq!(meanings, expect);
        let bits: Vec<_> = frame.lines.iter().take(5).map(|it| it.bits.as_str()).collect();
        assert_eq!(bits, ["1.......", ".000....", "....0001", "1.......", ".0000101"]);
    }

    /// Whether the codec takes all of it.
    fn is_taken(mut input: Vec<u8>, context: Context) -> bool {
        let role = match context.sender {
            Some(Sender::Client) => Role::Server,
            _ => Role::Client,
        };
        let limits = Limits { message_len_max: u32::MAX, ..Limits::default() };
        let offer = context.deflate.then(|| "permessage-deflate".as_bytes());
        let params: Option<DeflateParams> =
            offer.and_then(|it| Some(accept([it], &DeflatePolicy::default())?.0));
        let mut decoder = Decoder::new(role, &limits, params);
        let mut inflaters = InflaterPool::new();
        let mut input = input.as_mut_slice();
        loop {
            match decoder.next(&mut input, &mut inflaters) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    #[test]
    fn what_is_wrong_here_is_what_the_codec_refuses() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut refused, mut taken) = (0, 0);
        for _ in 0..20_000 {
            let is_client = random.bool();
            let context = if is_client { CLIENT } else { SERVER };
            let mut input = Vec::new();
            // The first frame is whole and begins a message: where the input begins is not known.
            input.extend_from_slice(if is_client { &[0x82, 0x80, 0, 0, 0, 0] } else { &[0x82, 0] });
            for _ in 0..random.usize(1..4) {
                let opcodes = [0, 0, 1, 1, 2, 8, 9, 10, 3, 11];
                let opcode = opcodes[random.usize(..opcodes.len())];
                let first = opcode | if random.u8(..4) == 0 { 0 } else { 0x80 };
                let rsv = if random.u8(..12) == 0 { random.u8(1..8) << 4 } else { 0 };
                let is_masked = is_client != (random.u8(..20) == 0);
                let len = random.u8(..6);
                input.push(first | rsv);
                match random.u8(..20) {
                    0 => input.extend([if is_masked { 0xFE } else { 126 }, 0, len]),
                    _ => input.push(len | if is_masked { 0x80 } else { 0 }),
                }
                if is_masked {
                    input.extend([0; 4]);
                }
                let payload = [0x03, 0xE8, b'a', 0xC3, 0xBC, 0xFF];
                input.extend((0..len).map(|nth| match opcode {
                    8 => payload[usize::from(nth)],
                    _ => payload[random.usize(1..5)],
                }));
            }
            // The codec's user stops at a Close; what follows is for us to judge.
            let found = findings(&input, context);
            if found.iter().any(|it| it.contains("after a Close")) {
                continue;
            }
            let found = found.iter().any(|it| !it.contains("not whole"));
            let is_taken = is_taken(input.clone(), context);
            assert_eq!(is_taken, !found, "{input:02x?} {:#?}", dissect(&input, context));
            if is_taken { taken += 1 } else { refused += 1 }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
    }
}
