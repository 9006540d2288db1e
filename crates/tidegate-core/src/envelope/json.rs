//! The JSON form (CONTRACT 4): publications, gaps, ends, errors and polls, appended to a buffer.
//!
//! What is written for one channel is shared by all its subscribers. A stream of several channels
//! adds its own joined cursor to shared bytes: it sends them without their last byte, which is
//! always `}`, and then what [`write_resume`] writes.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr2;

use crate::channel::ChannelName;
use crate::cursor::{CURSOR_BYTES, Cursor, Position};
use crate::entry::{Body, Entry, Publication};
use crate::json::plain_len;
use crate::payload::{Payload, PayloadKind};
use crate::state::Gap;

/// Writes an entry as a line or message of its own: the publication's JSON form, or
/// `{"end":{"channel","cursor"}}`.
pub fn write_entry(entry: &Entry, out: &mut Vec<u8>) {
    match &entry.body {
        Body::Publication(publication) => write_form(entry, publication, out),
        Body::End => write_end(&entry.channel, entry.position, out),
    }
}

/// Writes an entry as a push of an enveloped connection: `{"message":{…}}` with the publication's
/// JSON form, or `{"end":{"channel","cursor"}}`.
pub fn write_message(entry: &Entry, out: &mut Vec<u8>) {
    match &entry.body {
        Body::Publication(publication) => {
            out.extend_from_slice(b"{\"message\":");
            write_form(entry, publication, out);
            out.push(b'}');
        }
        Body::End => write_end(&entry.channel, entry.position, out),
    }
}

/// Writes `{"channel","cursor","time","event"?,"user"?,"type"?,"data"|"text"|"base64"}`.
fn write_form(entry: &Entry, publication: &Publication, out: &mut Vec<u8>) {
    let Publication { payload, event, user, .. } = publication;
    // One growth, not five: all but the payload fits into this, where names are of a usual length.
    out.reserve(160 + payload.bytes.len());
    write_place(&entry.channel, entry.position, out);
    out.extend_from_slice(b",\"time\":\"");
    entry.time.write_rfc3339(out);
    out.push(b'"');
    if let Some(event) = event {
        out.extend_from_slice(b",\"event\":");
        write_string(event.as_bytes(), out);
    }
    if let Some(user) = user {
        out.extend_from_slice(b",\"user\":");
        write_string(user.as_bytes(), out);
    }
    if let Some(content_type) = &payload.content_type {
        out.extend_from_slice(b",\"type\":");
        write_string(content_type.as_bytes(), out);
    }
    write_payload(payload, out);
    out.push(b'}');
}

/// Writes the member that holds the payload.
fn write_payload(payload: &Payload, out: &mut Vec<u8>) {
    match payload.kind {
        PayloadKind::Json => {
            out.extend_from_slice(b",\"data\":");
            write_one_line(&payload.bytes, out);
        }
        PayloadKind::Text => {
            out.extend_from_slice(b",\"text\":");
            write_string(&payload.bytes, out);
        }
        PayloadKind::Binary => {
            out.extend_from_slice(b",\"base64\":\"");
            write_base64(&payload.bytes, out);
            out.push(b'"');
        }
    }
}

/// Writes `{"gap":{"channel","requested","resumed","reason"}}`.
pub fn write_gap(channel: &ChannelName, gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"gap\":");
    write_gap_object(channel, gap, out);
    out.push(b'}');
}

/// Writes a gap alone, as SSE and polls have it: `{"channel","requested","resumed","reason"}`.
pub fn write_gap_object(channel: &ChannelName, gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channel\":\"");
    // A channel's alphabet needs no escapes.
    out.extend_from_slice(channel.as_str().as_bytes());
    out.extend_from_slice(b"\",\"requested\":\"");
    gap.requested.cursor(channel).write(out);
    out.extend_from_slice(b"\",\"resumed\":\"");
    gap.resumed.cursor(channel).write(out);
    out.extend_from_slice(b"\",\"reason\":\"");
    out.extend_from_slice(gap.reason.as_str().as_bytes());
    out.extend_from_slice(b"\"}");
}

/// Writes `{"end":{"channel","cursor"}}`.
pub fn write_end(channel: &ChannelName, position: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"end\":");
    write_end_object(channel, position, out);
    out.push(b'}');
}

/// Writes an end alone, as SSE has it: `{"channel","cursor"}`.
pub fn write_end_object(channel: &ChannelName, position: Position, out: &mut Vec<u8>) {
    write_place(channel, position, out);
    out.push(b'}');
}

/// Writes `{"error":{"code","message","retry_after"?}}`.
pub fn write_error(code: &str, message: &str, retry_after: Option<Duration>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"error\":");
    write_error_object(code, message, retry_after, out);
    out.push(b'}');
}

/// Writes an error alone, as SSE has it: `{"code","message","retry_after"?}`.
pub fn write_error_object(
    code: &str,
    message: &str,
    retry_after: Option<Duration>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"code\":");
    write_string(code.as_bytes(), out);
    out.extend_from_slice(b",\"message\":");
    write_string(message.as_bytes(), out);
    if let Some(retry_after) = retry_after {
        out.extend_from_slice(b",\"retry_after\":");
        write_seconds(retry_after, out);
    }
    out.push(b'}');
}

/// The answer to a poll.
#[derive(Clone, Copy, Debug)]
pub struct Poll<'a> {
    /// Oldest first. Ends among them are left out: [`Poll::ended`] says them.
    pub messages: &'a [Arc<Entry>],
    /// Where to go on; several are joined.
    pub cursor: &'a [Cursor],
    /// Gaps, each with its channel.
    pub gaps: &'a [(ChannelName, Gap)],
    /// Channels whose end lies behind `cursor`.
    pub ended: &'a [ChannelName],
}

/// Writes `{"messages":[…],"cursor":"…","gaps":[…],"ended":[…]}`.
pub fn write_poll(poll: &Poll<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"messages\":[");
    write_publications(poll.messages, out);
    out.extend_from_slice(b"],\"cursor\":\"");
    write_joined(poll.cursor, out);
    out.extend_from_slice(b"\",\"gaps\":[");
    write_list(poll.gaps, out, |(channel, gap), out| write_gap_object(channel, gap, out));
    out.extend_from_slice(b"],\"ended\":[");
    write_list(poll.ended, out, |channel, out| write_string(channel.as_str().as_bytes(), out));
    out.extend_from_slice(b"]}");
}

/// Writes the JSON forms of those that are publications, with commas.
pub(super) fn write_publications(entries: &[Arc<Entry>], out: &mut Vec<u8>) {
    let publications = entries.iter().filter_map(|entry| Some((entry, entry.publication()?)));
    write_list(publications, out, |(entry, publication), out| write_form(entry, publication, out));
}

/// Writes what a publisher is answered: `{"index"?,"channel","cursor","duplicate"}`; `index` where
/// it sent several.
pub fn write_published(
    index: Option<u64>,
    channel: &ChannelName,
    position: Position,
    is_duplicate: bool,
    out: &mut Vec<u8>,
) {
    match index {
        None => write_place(channel, position, out),
        Some(index) => {
            out.extend_from_slice(b"{\"index\":");
            write_integer(index, out);
            let open = out.len();
            write_place(channel, position, out);
            if let Some(brace) = out.get_mut(open) {
                *brace = b',';
            }
        }
    }
    out.extend_from_slice(if is_duplicate {
        b",\"duplicate\":true}".as_slice()
    } else {
        b",\"duplicate\":false}"
    });
}

/// Writes what closes a quiet publishing: `{"published","duplicates","failed"}`.
pub fn write_tally(published: u64, duplicates: u64, failed: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"published\":");
    write_integer(published, out);
    out.extend_from_slice(b",\"duplicates\":");
    write_integer(duplicates, out);
    out.extend_from_slice(b",\"failed\":");
    write_integer(failed, out);
    out.push(b'}');
}

/// Writes `,"resume":"…"}`: what follows shared bytes, without their last one, on a stream of
/// several channels. It is [`resume_len`] bytes long.
pub fn write_resume(cursors: &[Cursor], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"resume\":\"");
    write_joined(cursors, out);
    out.extend_from_slice(b"\"}");
}

/// Bytes that [`write_resume`] writes for so many cursors: frames have their length in front.
#[must_use]
pub const fn resume_len(cursors: usize) -> usize {
    let cursors = if cursors == 0 { 0 } else { cursors * (CURSOR_BYTES + 1) - 1 };
    cursors + b",\"resume\":\"\"}".len()
}

/// Writes cursors joined by `.`.
pub fn write_joined(cursors: &[Cursor], out: &mut Vec<u8>) {
    for (index, cursor) in cursors.iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        cursor.write(out);
    }
}

/// What a form without an envelope (SSE) has for a payload: the bytes, or base64 of binary ones in
/// `scratch`.
#[must_use]
pub fn bare_text<'a>(payload: &'a Payload, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    match payload.kind {
        PayloadKind::Json | PayloadKind::Text => &payload.bytes,
        PayloadKind::Binary => {
            scratch.clear();
            write_base64(&payload.bytes, scratch);
            scratch
        }
    }
}

/// The event name of a form without an envelope (SSE): `binary` where a binary payload has none.
#[must_use]
pub fn bare_event(publication: &Publication) -> Option<&str> {
    let default = (publication.payload.kind == PayloadKind::Binary).then_some("binary");
    publication.event.as_deref().or(default)
}

/// Writes `text`, which is UTF-8, as a JSON string.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at_checked(plain_len(rest)).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((&special, after)) = special.split_first() else { break };
        let short = match special {
            b'"' | b'\\' => special,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0C => b'f',
            _ => {
                let digit =
                    |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
                let (high, low) = (digit(special >> 4), digit(special & 0x0F));
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
                rest = after;
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
        rest = after;
    }
    out.push(b'"');
}

/// Writes JSON on one line: a string can't hold a raw line break, so each one that is there stands
/// between tokens, where a space means the same.
pub fn write_one_line(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    while let Some((line, after)) =
        memchr2(b'\n', b'\r', rest).and_then(|at| rest.split_at_checked(at))
    {
        out.extend_from_slice(line);
        out.push(b' ');
        rest = after.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

/// Writes padded base64 of the standard alphabet (RFC 4648 §4).
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let slots = out.get_mut(start..).unwrap_or_default();
    let written = STANDARD.encode_slice(bytes, slots);
    debug_assert_eq!(written, Ok(slots.len()), "base64 has 4 bytes for every 3");
}

/// Writes seconds, with as many digits of a fraction as milliseconds need, rounded up.
pub fn write_seconds(duration: Duration, out: &mut Vec<u8>) {
    let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    write_integer(millis / 1000, out);
    let fraction = millis % 1000;
    if fraction != 0 {
        out.push(b'.');
        let digits = [fraction / 100, fraction / 10 % 10, fraction % 10];
        let kept = if fraction.is_multiple_of(100) {
            1
        } else if fraction.is_multiple_of(10) {
            2
        } else {
            3
        };
        for digit in digits.into_iter().take(kept) {
            write_integer(digit, out);
        }
    }
}

pub(super) fn write_integer(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes `{"channel":"…","cursor":"…"`.
pub(super) fn write_place(channel: &ChannelName, position: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channel\":\"");
    // A channel's alphabet needs no escapes.
    out.extend_from_slice(channel.as_str().as_bytes());
    out.extend_from_slice(b"\",\"cursor\":\"");
    position.cursor(channel).write(out);
    out.push(b'"');
}

pub(super) fn write_list<T>(
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cursor::Epoch;
    use crate::entry::{EventName, Timestamp};
    use crate::envelope::PublishCommand;
    use crate::state::GapReason;

    /// The vectors that every client runs too.
    fn vectors(list: &str) -> Vec<Value> {
        let all: Value =
            serde_json::from_str(include_str!("../../../../spec/vectors/json-form.json")).unwrap();
        let list = all[list].as_array().unwrap();
        assert!(!list.is_empty());
        list.clone()
    }

    /// Checks that `write` writes `form`, and leaves alone what was there.
    #[track_caller]
    fn check(form: &Value, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = b"before".to_vec();
        write(&mut out);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.strip_prefix("before"), form.as_str());
        assert!(!out.contains(['\r', '\n']), "one line");
        serde_json::from_str::<Value>(form.as_str().unwrap()).unwrap();
    }

    fn number(vector: &Value) -> u64 {
        vector.as_str().unwrap().parse().unwrap()
    }

    fn position(vector: &Value) -> Position {
        Position { epoch: Epoch::new(number(&vector["epoch"])), offset: number(&vector["offset"]) }
    }

    fn channel(vector: &Value) -> ChannelName {
        ChannelName::parse(vector["channel"].as_str().unwrap()).unwrap()
    }

    fn cursors(vector: &Value) -> Vec<Cursor> {
        let cursors = vector["cursors"].as_array().unwrap().iter();
        cursors.map(|it| position(it).cursor(&channel(it))).collect()
    }

    fn payload(vector: &Value) -> Payload {
        let bytes = match vector["payload_base64"].as_str() {
            Some(base64) => STANDARD.decode(base64).unwrap(),
            None => vector["payload"].as_str().unwrap().into(),
        };
        Payload {
            kind: PayloadKind::parse(vector["kind"].as_str().unwrap()).unwrap(),
            bytes: bytes.into(),
            content_type: vector["type"].as_str().map(Into::into),
        }
    }

    fn entry(vector: &Value) -> Entry {
        let publication = Publication {
            payload: payload(vector),
            event: vector["event"].as_str().map(|it| EventName::parse(it).unwrap()),
            user: vector["user"].as_str().map(Into::into),
            origin: None,
        };
        Entry {
            channel: channel(vector),
            position: position(vector),
            prev: 0,
            time: Timestamp::from_millis(vector["time"].as_u64().unwrap()),
            body: Body::Publication(publication),
        }
    }

    fn gap(vector: &Value) -> (ChannelName, Gap) {
        let reason = GapReason::ALL.into_iter().find(|it| it.as_str() == vector["reason"]).unwrap();
        let (requested, resumed) = (position(&vector["requested"]), position(&vector["resumed"]));
        (channel(vector), Gap { requested, resumed, reason })
    }

    #[test]
    fn publications_have_their_golden_form() {
        for vector in vectors("publications") {
            check(&vector["form"], |out| write_entry(&entry(&vector), out));
        }
    }

    #[test]
    fn gaps_have_their_golden_form() {
        let vectors = vectors("gaps");
        assert_eq!(vectors.len(), GapReason::ALL.len());
        for vector in vectors {
            let (channel, gap) = gap(&vector);
            check(&vector["form"], |out| write_gap(&channel, &gap, out));
        }
    }

    #[test]
    fn ends_have_their_golden_form() {
        for vector in vectors("ends") {
            check(&vector["form"], |out| write_end(&channel(&vector), position(&vector), out));
            let (channel, position) = (channel(&vector), position(&vector));
            let entry = Entry { channel, position, prev: 0, time: Timestamp(0), body: Body::End };
            check(&vector["form"], |out| write_entry(&entry, out));
        }
    }

    #[test]
    fn errors_have_their_golden_form() {
        for vector in vectors("errors") {
            let (code, message) = (vector["code"].as_str(), vector["message"].as_str());
            let retry_after = vector["retry_after_ms"].as_u64().map(Duration::from_millis);
            check(&vector["form"], |out| {
                write_error(code.unwrap(), message.unwrap(), retry_after, out);
            });
        }
    }

    #[test]
    fn a_joined_cursor_follows_shared_bytes() {
        for vector in vectors("resume") {
            let (shared, cursors) = (vector["form"].as_str().unwrap(), cursors(&vector));
            check(&vector["resumed"], |out| {
                out.extend_from_slice(shared.strip_suffix('}').unwrap().as_bytes());
                let before = out.len();
                write_resume(&cursors, out);
                assert_eq!(out.len() - before, resume_len(cursors.len()));
            });
        }
    }

    #[test]
    fn publishers_have_their_golden_answer() {
        for vector in vectors("published") {
            let (channel, position) = (channel(&vector), position(&vector));
            let is_duplicate = vector["duplicate"].as_bool().unwrap();
            check(&vector["form"], |out| {
                write_published(vector["index"].as_u64(), &channel, position, is_duplicate, out);
            });
        }
        check(&r#"{"published":1,"duplicates":20,"failed":0}"#.into(), |out| {
            write_tally(1, 20, 0, out);
        });
    }

    #[test]
    fn polls_have_their_golden_form() {
        let (publications, gaps) = (vectors("publications"), vectors("gaps"));
        for vector in vectors("polls") {
            let places = |list: &str| {
                let list = vector[list].as_array().unwrap().clone();
                list.into_iter().map(|it| usize::try_from(it.as_u64().unwrap()).unwrap())
            };
            let mut messages: Vec<_> =
                places("publications").map(|at| Arc::new(entry(&publications[at]))).collect();
            // An end among them is said elsewhere.
            messages.push(Arc::new(Entry { body: Body::End, ..entry(&publications[0]) }));
            let gaps: Vec<_> = places("gaps").map(|at| gap(&gaps[at])).collect();
            let ended = vector["ended"].as_array().unwrap().iter();
            let ended: Vec<_> =
                ended.map(|it| ChannelName::parse(it.as_str().unwrap()).unwrap()).collect();
            let cursor = cursors(&vector);
            let poll = Poll { messages: &messages, cursor: &cursor, gaps: &gaps, ended: &ended };
            check(&vector["form"], |out| write_poll(&poll, out));
        }
    }

    #[test]
    fn commands_are_read_as_every_client_writes_them() {
        let me = Arc::from("me");
        for vector in vectors("commands") {
            let text = vector["text"].as_str().unwrap();
            let command = PublishCommand::parse(text.as_bytes(), &me).unwrap();
            assert_eq!(command.channel, channel(&vector));
            assert_eq!(command.payload, vector["kind"].is_string().then(|| payload(&vector)));
            assert_eq!(command.event.as_deref(), vector["event"].as_str());
            assert_eq!(command.key.map(|it| it.key).as_deref(), vector["key"].as_str());
            assert_eq!(command.ends, vector["end"].as_bool().unwrap());
        }
        for text in vectors("bad_commands") {
            let text = text.as_str().unwrap();
            assert!(PublishCommand::parse(text.as_bytes(), &me).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_are_those_of_another_writer() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let text: String = (0..random.usize(0..60))
                .map(|_| match random.u8(0..4) {
                    0 => char::from(random.u8(0..128)),
                    1 => ['"', '\\', '\u{fc}', '\u{2028}', '\u{1F600}'][random.usize(0..5)],
                    _ => random.alphabetic(),
                })
                .collect();
            let mut out = Vec::new();
            write_string(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn without_an_envelope_binary_is_base64_and_says_so() {
        let publication = |kind, event: Option<&str>| Publication {
            payload: Payload { kind, bytes: "a\nb".into(), content_type: None },
            event: event.map(|it| EventName::parse(it).unwrap()),
            user: None,
            origin: None,
        };
        let mut scratch = b"old".to_vec();
        for (kind, text, event) in [
            (PayloadKind::Json, &b"a\nb"[..], None),
            (PayloadKind::Text, b"a\nb", None),
            (PayloadKind::Binary, b"YQpi", Some("binary")),
        ] {
            let bare = publication(kind, None);
            assert_eq!(bare_text(&bare.payload, &mut scratch), text);
            assert_eq!(bare_event(&bare), event);
            assert_eq!(bare_event(&publication(kind, Some("tick"))), Some("tick"));
        }
    }
}
