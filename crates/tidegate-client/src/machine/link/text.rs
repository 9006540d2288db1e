//! Commands as the text messages that carry them (CONTRACT 5).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_core::ChannelName;
use tidegate_core::envelope::json::write_string;

use crate::event::{Cursor, Since};
use crate::message::Command;
use crate::payload::Payload;

/// `{"id":1,"subscribe":{"channel":"prices","since":"…"?,"last":10?}}`.
pub(super) fn subscribe(
    id: u64,
    channel: &ChannelName,
    since: &Since,
    cursor: Option<&Cursor>,
) -> String {
    let mut text = format!("{{\"id\":{id},\"subscribe\":{{\"channel\":\"{channel}\"");
    begin(&mut text, since, cursor);
    text + "}}"
}

/// Writes `,"since":"…"` or `,"last":N`.
fn begin(text: &mut String, since: &Since, cursor: Option<&Cursor>) {
    // Writing to a string can't fail. Cursors need no escapes.
    let _ = match (cursor, since) {
        (Some(cursor), _) | (None, Since::After(cursor)) => {
            write!(text, ",\"since\":\"{cursor}\"")
        }
        (None, Since::Last(count)) => write!(text, ",\"last\":{count}"),
        (None, Since::Now) => write!(text, ",\"since\":\"now\""),
        (None, Since::Start) => write!(text, ",\"since\":\"start\""),
    };
}

/// The text of a command.
pub(super) fn write(id: u64, command: &Command) -> String {
    let mut text = format!("{{\"id\":{id},");
    // Writing to a string can't fail. Channels and cursors need no escapes.
    let _ = match command {
        Command::Subscribe { channel, since } => return subscribe(id, channel, since, None),
        Command::Unsubscribe { channel } => {
            write!(text, "\"unsubscribe\":{{\"channel\":\"{channel}\"")
        }
        Command::Presence { channel } => {
            write!(text, "\"presence\":{{\"channel\":\"{channel}\"")
        }
        Command::Ping => write!(text, "\"ping\":{{"),
        Command::History { channel, since, before, limit } => {
            text.push_str("\"history\":{\"channel\":\"");
            text.push_str(channel.as_str());
            text.push('"');
            match (before, since) {
                (Some(before), _) => drop(write!(text, ",\"before\":\"{before}\"")),
                (None, Some(since)) => begin(&mut text, since, None),
                (None, None) => {}
            }
            limit.map_or(Ok(()), |limit| write!(text, ",\"limit\":{limit}"))
        }
        Command::Publish { channel, payload, event, key, is_end, .. } => {
            text.push_str("\"publish\":");
            let entry = entry(channel, payload.as_ref(), event.as_deref(), key, *is_end);
            text.push_str(&String::from_utf8_lossy(&entry));
            return text + "}";
        }
    };
    text + "}}"
}

/// A publication as envelopes and `POST /publish` take it:
/// `{"channel","event"?,"data"|"text"|"base64","type"?,"key"?,"end"?}`, on one line.
pub(in crate::machine) fn entry(
    channel: &ChannelName,
    payload: Option<&Payload>,
    event: Option<&str>,
    key: &str,
    is_end: bool,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + payload.map_or(0, |it| it.bytes().len()));
    let member = |name: &str, value: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(name.as_bytes());
        write_string(value, out);
    };
    member("{\"channel\":", channel.as_str().as_bytes(), &mut out);
    member(",\"key\":", key.as_bytes(), &mut out);
    if let Some(event) = event {
        member(",\"event\":", event.as_bytes(), &mut out);
    }
    match payload {
        None => {}
        Some(Payload::Json(bytes)) => {
            out.extend_from_slice(b",\"data\":");
            // A raw line break stands between tokens alone, where a space means the same.
            let spaced =
                bytes.iter().map(|it| if matches!(it, b'\n' | b'\r') { b' ' } else { *it });
            out.extend(spaced);
        }
        Some(Payload::Text(bytes)) => {
            member(",\"text\":", String::from_utf8_lossy(bytes).as_bytes(), &mut out);
        }
        Some(Payload::Binary { bytes, content_type }) => {
            member(",\"base64\":", STANDARD.encode(bytes).as_bytes(), &mut out);
            if let Some(content_type) = content_type {
                member(",\"type\":", content_type.as_bytes(), &mut out);
            }
        }
    }
    out.extend_from_slice(if is_end { b",\"end\":true}" } else { b"}" });
    out
}
