//! Enveloped connections: messages that are no commands, and commands that can't be (CONTRACT 5).

use super::super::common::masked;
use super::{Back, Closed, Kept, Row, handshakes, row};
use tidegate_wire::websocket::Kind;

const CONNECT: &[&str] = &["Sec-WebSocket-Protocol: tidegate.v1.json"];

/// A connection that sends `frames` right behind its handshake.
fn sends(name: impl Into<String>, frames: &[u8], back: Back) -> Row {
    let then = if matches!(back, Back::Close(_)) { Closed } else { Kept };
    let handshake = handshakes::upgrade("GET", "/connect", CONNECT);
    row(name, "CONTRACT 5", [handshake.as_bytes(), frames].concat(), back, then)
}

fn text(text: &str, back: Back) -> Row {
    sends(format!("the message {text:.50}"), &masked(Kind::Text, text.as_bytes()), back)
}

pub(super) fn rows() -> Vec<Row> {
    [messages(), numbers(), commands()].into_iter().flatten().collect()
}

/// What is no object at all closes.
fn messages() -> Vec<Row> {
    let mut rows: Vec<_> = [
        "",
        " ",
        "[]",
        "[{\"id\":1,\"ping\":{}}]",
        "null",
        "1",
        "\"{}\"",
        "ping",
        "{",
        "{\"id\":1,\"ping\":{}",
        "{\"id\":1,\"ping\":{}}}",
        "{\"id\":1,\"ping\":{}}{\"id\":2,\"ping\":{}}",
        "{\"id\":1,\"ping\":{},}",
        "{'id':1}",
        "{\"id\":01,\"ping\":{}}",
        "{\"id\":NaN}",
        "\u{feff}{\"id\":1,\"ping\":{}}",
        "{\"id\":1,\"ping\":{}}\0",
        "{\"id\":1,\"publish\":{\"channel\":\"victim\",\"data\":[1,}}",
    ]
    .map(|it| text(it, Back::Close(1007)))
    .into();
    let brackets = "[".repeat(1 << 20);
    rows.extend([
        sends(
            "a message of 1 MiB of brackets",
            &masked(Kind::Text, brackets.as_bytes()),
            Back::Close(1007),
        ),
        sends(
            "a binary message",
            &masked(Kind::Binary, b"{\"id\":1,\"ping\":{}}"),
            Back::Close(1003),
        ),
        sends(
            "a text that is no UTF-8",
            &masked(Kind::Text, b"{\"id\":1,\"ping\":\xFF}"),
            Back::Close(1007),
        ),
        sends(
            "a message over the limit is refused on its header",
            &[0x81, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1],
            Back::Close(1009),
        ),
        sends(
            "1,000 commands that fail, without numbers",
            &masked(Kind::Text, b"{\"fly\":{}}").repeat(1000),
            Back::Open,
        ),
    ]);
    rows
}

/// A number that is none can't be answered to.
fn numbers() -> Vec<Row> {
    let mut rows: Vec<_> =
        ["0", "-1", "1.5", "1e2", "18446744073709551616", "\"1\"", "true", "[1]", "{}"]
            .map(|id| {
                text(
                    &format!("{{\"id\":{id},\"ping\":{{}}}}"),
                    Back::Refused(None, "invalid_argument"),
                )
            })
            .into();
    rows.extend([
        text("{\"id\":1,\"id\":2,\"ping\":{}}", Back::Refused(Some(1), "invalid_argument")),
        // As good as absent.
        text("{\"id\":null,\"ping\":{}}", Back::Open),
        text(
            "{\"id\":18446744073709551615,\"fly\":{}}",
            Back::Refused(Some(u64::MAX), "invalid_argument"),
        ),
    ]);
    rows
}

/// A command that can't be is told so, by its number.
fn commands() -> Vec<Row> {
    let of = |command: &str, code| {
        text(&format!("{{\"id\":7,{command}}}"), Back::Refused(Some(7), code))
    };
    let bad = |command: &str| of(command, "invalid_argument");
    let deep = "[".repeat(129) + &"]".repeat(129);
    let cursor = "A".repeat(25);
    let mut rows: Vec<_> = [
        r#""fly":{}"#,
        r#""PING":{}"#,
        r#""":{}"#,
        r#""ping":{},"ping":{}"#,
        r#""ping":{},"presence":{"channel":"a"}"#,
        r#""ping":null"#,
        r#""ping":1"#,
        r#""ping":[]"#,
        r#""ping":{"x":1}"#,
        r#""subscribe":{}"#,
        r#""subscribe":null"#,
        r#""subscribe":"a""#,
        r#""subscribe":{"channel":null}"#,
        r#""subscribe":{"channel":1}"#,
        r#""subscribe":{"channel":["a"]}"#,
        r#""subscribe":{"channel":""}"#,
        r#""subscribe":{"channel":"a..b"}"#,
        r#""subscribe":{"channel":"a,b"}"#,
        r#""subscribe":{"channel":"a.>"}"#,
        r#""subscribe":{"channel":"a\u0000"}"#,
        r#""subscribe":{"channel":"\ud800"}"#,
        r#""subscribe":{"channel":"a","channel":"b"}"#,
        r#""subscribe":{"channel":"a","since":"x"}"#,
        r#""subscribe":{"channel":"a","since":1}"#,
        r#""subscribe":{"channel":"a","since":"now","last":1}"#,
        r#""subscribe":{"channel":"a","last":-1}"#,
        r#""subscribe":{"channel":"a","last":"1"}"#,
        r#""subscribe":{"channel":"a","last":99999999999999999999}"#,
        r#""subscribe":{"channel":"a","from":1}"#,
        r#""unsubscribe":{"channel":"a"}"#,
        r#""unsubscribe":{}"#,
        r#""publish":{}"#,
        r#""publish":{"channel":"victim"}"#,
        r#""publish":{"channel":"*","data":1}"#,
        r#""publish":{"channel":"victim","data":1,"text":"a"}"#,
        r#""publish":{"channel":"victim","base64":"_-8="}"#,
        r#""publish":{"channel":"victim","base64":"YQ"}"#,
        r#""publish":{"channel":"victim","text":"\ud800"}"#,
        r#""publish":{"channel":"victim","data":1,"event":"tidegate-x"}"#,
        r#""publish":{"channel":"victim","data":1,"key":""}"#,
        r#""publish":{"channel":"victim","data":1,"end":"yes"}"#,
        r#""publish":{"channel":"victim","data":1,"user":"root"}"#,
        r#""history":{"channel":"a","limit":0}"#,
        r#""history":{"channel":"a","limit":1001}"#,
        r#""history":{"channel":"a","limit":1.5}"#,
        r#""history":{"channel":"a","before":"x"}"#,
        r#""history":{"channel":"a","before":"start","since":"start"}"#,
        r#""refresh":{}"#,
        r#""refresh":{"token":1}"#,
        r#""refresh":{"token":"x"}"#,
        &format!(r#""subscribe":{{"channel":"a","since":"{cursor}"}}"#),
        &format!(r#""publish":{{"channel":"victim","data":{deep}}}"#),
        &format!(r#""publish":{{"channel":"{}","data":1}}"#, "a".repeat(256)),
        &format!(r#""publish":{{"channel":"victim","data":1,"key":"{}"}}"#, "k".repeat(129)),
        &format!(r#""fly":{}"#, "[".repeat(100_000) + &"]".repeat(100_000)),
    ]
    .map(bad)
    .into();
    rows.extend([
        of(r#""presence":{"channel":"a"}"#, "not_found"),
        // A parser gives up at a name that is no text, wherever the number is.
        text("{\"id\":7,\"\\ud800\":{}}", Back::Refused(None, "invalid_argument")),
        // Alone it is no command.
        text("{}", Back::Refused(None, "invalid_argument")),
        text("{\"id\":7}", Back::Refused(Some(7), "invalid_argument")),
    ]);
    rows
}
