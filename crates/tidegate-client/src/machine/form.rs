//! The JSON form (CONTRACT 4), read: lines, messages, pages, and the objects of gaps and ends.
//!
//! What a later version adds is passed over; what this one needs and does not find is an error, the
//! peer's fault.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_core::envelope::member::{Text, present};
use tidegate_core::{ChannelName, GapReason};

use crate::error::{Failure, Problem, RawProblem};
use crate::event::{Cursor, End, Gap, Publication};
use crate::payload::Payload;

/// One thing that a stream says, and where to go on after it if it moved the place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    Publication(Publication, Option<Cursor>),
    Gap(Gap, Option<Cursor>),
    End(End, Option<Cursor>),
    Error(Problem),
    /// Something from a later version.
    Unknown,
}

/// The answer to a poll.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    /// Oldest first.
    pub(crate) messages: Vec<Publication>,
    pub(crate) cursor: Cursor,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) ended: Vec<ChannelName>,
}

/// Finds the name that is shared by all of a channel's events; a name that was not asked for is
/// read as it is.
pub(super) struct Names<'a>(pub(super) &'a [ChannelName]);

impl Names<'_> {
    pub(super) fn find(&self, name: &str) -> Result<ChannelName, Failure> {
        if let Some(known) = self.0.iter().find(|it| it.as_str() == name) {
            return Ok(known.clone());
        }
        ChannelName::parse(name).map_err(|error| Failure::Protocol(error.to_string()))
    }
}

/// Reads a line of NDJSON or a message of a WebSocket.
pub(super) fn line(json: &[u8], names: &Names<'_>) -> Result<Form, Failure> {
    let mut raw: RawForm<'_> = parse(json)?;
    let resume = raw.resume.take().map(|it| cursor(&it.0)).transpose()?;
    if let Some(raw) = raw.gap {
        let gap = gap(&raw, names)?;
        // Alone in its channel, the gap's own end is where to go on.
        let resume = resume.or_else(|| single(names, &gap.resumed));
        return Ok(Form::Gap(gap, resume));
    }
    if let Some(raw) = raw.end {
        let end = end(&raw, names)?;
        let resume = resume.or_else(|| single(names, &end.cursor));
        return Ok(Form::End(end, resume));
    }
    if let Some(raw) = raw.error {
        return Ok(Form::Error(raw.into()));
    }
    match publication(raw, names)? {
        Some(it) => {
            let resume = resume.or_else(|| single(names, &it.cursor));
            Ok(Form::Publication(it, resume))
        }
        None => Ok(Form::Unknown),
    }
}

/// Reads the object of a gap alone, as SSE has it.
pub(super) fn gap_object(json: &[u8], names: &Names<'_>) -> Result<Gap, Failure> {
    gap(&parse(json)?, names)
}

/// Reads the object of an end alone, as SSE has it.
pub(super) fn end_object(json: &[u8], names: &Names<'_>) -> Result<End, Failure> {
    end(&parse(json)?, names)
}

/// Reads the object of an error alone, as SSE has it.
pub(super) fn error_object(json: &[u8]) -> Result<Problem, Failure> {
    parse::<RawProblem>(json).map(Problem::from)
}

/// Reads a poll's answer.
pub(super) fn page(json: &[u8], names: &Names<'_>) -> Result<Page, Failure> {
    let raw: RawPage<'_> = parse(json)?;
    let messages = raw.messages.into_iter().map(|it| {
        let it = publication(it, names)?;
        it.ok_or_else(|| Failure::Protocol("a message of a page is no publication".into()))
    });
    Ok(Page {
        messages: messages.collect::<Result<_, _>>()?,
        cursor: cursor(&raw.cursor.0)?,
        gaps: raw.gaps.iter().map(|it| gap(it, names)).collect::<Result<_, _>>()?,
        ended: raw.ended.iter().map(|it| names.find(&it.0)).collect::<Result<_, _>>()?,
    })
}

/// The cursor to go on from where there is no joined one: it is the one of the only channel.
fn single(names: &Names<'_>, cursor: &Option<Cursor>) -> Option<Cursor> {
    if names.0.len() == 1 { cursor.clone() } else { None }
}

/// `None` for what is no publication, but perhaps something from a later version.
pub(super) fn publication(
    raw: RawForm<'_>,
    names: &Names<'_>,
) -> Result<Option<Publication>, Failure> {
    let Some(channel) = raw.channel else { return Ok(None) };
    let payload = match (raw.data, raw.text, raw.base64) {
        (Some(data), None, None) => Payload::Json(Bytes::copy_from_slice(data.get().as_bytes())),
        (None, Some(text), None) => Payload::Text(text.0.into_owned().into()),
        (None, None, Some(base64)) => {
            let bytes = STANDARD.decode(base64.0.as_bytes());
            let bytes = bytes.map_err(|error| Failure::Protocol(format!("base64: {error}")))?;
            let content_type = raw.content_type.map(|it| it.0.into());
            Payload::Binary { bytes: bytes.into(), content_type }
        }
        _ => return Ok(None),
    };
    Ok(Some(Publication {
        channel: names.find(&channel.0)?,
        cursor: raw.cursor.map(|it| cursor(&it.0)).transpose()?,
        time: raw.time.map(|it| it.0.into()),
        event: raw.event.map(|it| it.0.into()),
        user: raw.user.map(|it| it.0.into()),
        payload,
    }))
}

pub(super) fn gap(raw: &RawGap<'_>, names: &Names<'_>) -> Result<Gap, Failure> {
    let reason = GapReason::ALL.into_iter().find(|it| it.as_str() == raw.reason.0);
    Ok(Gap {
        channel: names.find(&raw.channel.0)?,
        requested: Some(cursor(&raw.requested.0)?),
        resumed: Some(cursor(&raw.resumed.0)?),
        reason,
    })
}

pub(super) fn end(raw: &RawEnd<'_>, names: &Names<'_>) -> Result<End, Failure> {
    Ok(End { channel: names.find(&raw.channel.0)?, cursor: Some(cursor(&raw.cursor.0)?) })
}

pub(super) fn cursor(text: &str) -> Result<Cursor, Failure> {
    Cursor::parse(text).map_err(|error| Failure::Protocol(error.to_string()))
}

pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Failure> {
    // Serde takes a list for an object too.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::Protocol("what came is no JSON object".into()));
    }
    serde_json::from_slice(json).map_err(|error| {
        let mut words = error.to_string();
        words.truncate(words.floor_char_boundary(200));
        Failure::Protocol(format!("what came is not the JSON form: {words}"))
    })
}

/// Every member that a line may have.
#[derive(Deserialize)]
pub(super) struct RawForm<'a> {
    #[serde(borrow, default)]
    channel: Option<Text<'a>>,
    #[serde(borrow, default)]
    cursor: Option<Text<'a>>,
    #[serde(borrow, default)]
    time: Option<Text<'a>>,
    #[serde(borrow, default)]
    event: Option<Text<'a>>,
    #[serde(borrow, default)]
    user: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    content_type: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    base64: Option<Text<'a>>,
    #[serde(borrow, default)]
    resume: Option<Text<'a>>,
    #[serde(borrow, default)]
    gap: Option<RawGap<'a>>,
    #[serde(borrow, default)]
    end: Option<RawEnd<'a>>,
    #[serde(default)]
    error: Option<RawProblem>,
}

#[derive(Deserialize)]
pub(super) struct RawGap<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    requested: Text<'a>,
    #[serde(borrow)]
    resumed: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct RawEnd<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    cursor: Text<'a>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    messages: Vec<RawForm<'a>>,
    #[serde(borrow)]
    cursor: Text<'a>,
    #[serde(borrow)]
    gaps: Vec<RawGap<'a>>,
    #[serde(borrow)]
    ended: Vec<Text<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<ChannelName> {
        list.iter().map(|it| ChannelName::parse(it).unwrap()).collect()
    }

    fn read(json: &str) -> Result<Form, Failure> {
        line(json.as_bytes(), &Names(&names(&["a"])))
    }

    #[track_caller]
    fn check_payload(members: &str, expect: &Payload) {
        let json = format!("{{\"channel\":\"a\",\"cursor\":\"C1\",\"time\":\"t\",{members}}}");
        let Ok(Form::Publication(it, resume)) = read(&json) else { panic!("{json}") };
        assert_eq!((&it.payload, resume), (expect, Some(cursor("C1").unwrap())));
    }

    #[test]
    fn payloads_keep_their_kind_and_bytes() {
        check_payload("\"data\":{\"n\": 1}", &Payload::json("{\"n\": 1}"));
        check_payload("\"data\":null", &Payload::json("null"));
        check_payload("\"text\":\"gr\\u00fcn\\n\"", &"gr\u{fc}n\n".into());
        check_payload("\"base64\":\"AAE=\"", &vec![0, 1].into());
        check_payload("\"type\":\"image/png\",\"base64\":\"\"", &Payload::typed("", "image/png"));
    }

    #[test]
    fn gaps_ends_and_errors_are_told_apart() {
        let gap =
            read(r#"{"gap":{"channel":"a","requested":"C1","resumed":"C2","reason":"slow"}}"#);
        let Ok(Form::Gap(gap, resume)) = gap else { panic!("{gap:?}") };
        assert_eq!((gap.reason, resume), (Some(GapReason::Slow), gap.resumed));
        let end = read(r#"{"end":{"channel":"a","cursor":"C3"}}"#);
        assert!(matches!(end, Ok(Form::End(_, Some(_)))));
        let error = read(r#"{"error":{"code":"unavailable","message":"away"}}"#);
        assert!(matches!(error, Ok(Form::Error(_))));
        assert_eq!(read(r#"{"presence":{"channel":"a"}}"#), Ok(Form::Unknown));
    }

    #[test]
    fn of_several_channels_only_the_joined_cursor_is_where_to_go_on() {
        let both = names(&["a", "b"]);
        let read = |json: &str| line(json.as_bytes(), &Names(&both)).unwrap();
        let alone = read(r#"{"channel":"b","cursor":"C1","data":1}"#);
        assert!(matches!(alone, Form::Publication(_, None)));
        let joined = read(r#"{"channel":"b","cursor":"C1","data":1,"resume":"C0.C1"}"#);
        let Form::Publication(_, Some(resume)) = joined else { panic!("{joined:?}") };
        assert_eq!(resume.as_str(), "C0.C1");
    }

    #[test]
    fn what_is_broken_is_the_peers_fault() {
        for json in [
            "",
            "[]",
            "{\"channel\":1}",
            "{\"channel\":\"a\",\"data\":}",
            "{\"gap\":{}}",
            "{\"channel\":\"a b\",\"data\":1}",
            "{\"channel\":\"a\",\"base64\":\"=\"}",
            "{\"channel\":\"a\",\"cursor\":\"now\",\"data\":1}",
        ] {
            assert!(matches!(read(json), Err(Failure::Protocol(_))), "{json}");
        }
    }

    #[test]
    fn a_page_has_all_of_its_members() {
        let json = br#"{"messages":[{"channel":"a","cursor":"C1","time":"t","data":1}],
            "cursor":"C1","gaps":[],"ended":["a"]}"#;
        let page = page(json, &Names(&names(&["a"]))).unwrap();
        assert_eq!((page.messages.len(), page.ended.len(), page.cursor.as_str()), (1, 1, "C1"));
        let cut = super::page(b"{\"messages\":[],\"cursor\":\"C1\"}", &Names(&names(&["a"])));
        assert!(matches!(cut, Err(Failure::Protocol(_))));
    }
}
