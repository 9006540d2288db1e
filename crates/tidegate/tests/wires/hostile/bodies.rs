//! What is published: JSON, base64, lines, keys, events (CONTRACT 2 and 3).

use super::{Back, Closed, InStep, Kept, Row, TARGET, post, row};

const BAD: Back = Back::Problem(400, "invalid_argument");

pub(super) fn rows() -> Vec<Row> {
    [json(), commands(), lines(), terms()].into_iter().flatten().collect()
}

/// A body that is said to be JSON.
fn json() -> Vec<Row> {
    let of = |name: &str, body: &[u8], back| {
        row(
            name,
            "CONTRACT 2",
            post(TARGET, "Content-Type: application/json\r\n", body),
            back,
            Kept,
        )
    };
    let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
    let mut rows = vec![
        of("JSON of depth 129", deep(129).as_bytes(), BAD),
        of("JSON of depth 128 is none too deep", deep(128).as_bytes(), Back::Status(200)),
        of("1 MiB of brackets", &vec![b'['; 1 << 20], BAD),
        of("1 MiB of braces", "{\"a\":".repeat((1 << 20) / 5).as_bytes(), BAD),
        // The grammar allows them (RFC 8259 §8.2), and payloads are kept byte for byte.
        of("a lone surrogate, escaped", b"\"\\ud800\"", Back::Status(200)),
        of("a name twice", b"{\"a\":1,\"a\":2}", Back::Status(200)),
        of(
            "a number that no machine has",
            b"[1e999999, -0.0000000000000000000000001E-999999]",
            Back::Status(200),
        ),
    ];
    for (name, body) in [
        ("nothing", &b""[..]),
        ("white space", b" \r\n\t"),
        ("garbage behind the value", b"{} x"),
        ("two values", b"1 2"),
        ("a value that is cut", b"{\"a\":[1"),
        ("NaN", b"NaN"),
        ("Infinity", b"[-Infinity]"),
        ("a zero before a number", b"01"),
        ("a plus before a number", b"+1"),
        ("a point behind a number", b"1."),
        ("a point before a number", b".5"),
        ("a hexadecimal number", b"0x10"),
        ("a comma at the end", b"[1,]"),
        ("a comma at the beginning", b"[,1]"),
        ("a name without quotes", b"{a:1}"),
        ("single quotes", b"'a'"),
        ("a comment", b"/* */ 1"),
        ("a mark of byte order", b"\xEF\xBB\xBF{}"),
        ("a line break in a string", b"\"a\nb\""),
        ("a NUL in a string", b"\"a\0b\""),
        ("a NUL behind the value", b"{}\0"),
        ("an escape that is none", b"\"\\x41\""),
        ("an escape that is cut", b"\"\\u12\""),
        ("a string without an end", b"\"a"),
        ("a string that is no UTF-8", b"\"\xFF\""),
        ("half a surrogate in UTF-8", b"\"\xED\xA0\x80\""),
        ("a bracket for a brace", b"{\"a\":1]"),
        ("True", b"True"),
    ] {
        rows.push(of(&format!("JSON: {name}"), body, BAD));
    }
    rows
}

/// Publications for many channels.
fn commands() -> Vec<Row> {
    let of = |body: &str, results: &'static [&'static str]| {
        let name = format!("/publish {body:.60}");
        row(name, "CONTRACT 3", post("/publish", "", body), Back::Results(results), InStep)
    };
    let bad =
        |members: &str| of(&format!("{{\"channel\":\"v\",{members}}}"), &["invalid_argument"]);
    let mut rows: Vec<_> = [
        r#""base64":"*""#,
        r#""base64":"YQ""#,
        r#""base64":"YQ=""#,
        r#""base64":"YQ===""#,
        r#""base64":"YR==""#,
        r#""base64":"=YQ=""#,
        r#""base64":"Y Q=""#,
        r#""base64":"_-8=""#,
        r#""base64":"YQ==\n""#,
        r#""base64":"ÿ""#,
        r#""base64":1"#,
        r#""text":1"#,
        r#""text":"\ud800""#,
        r#""text":null"#,
        r#""data":1,"text":"a""#,
        r#""data":1,"data":2"#,
        r#""data":1,"channel":"w""#,
        r#""data":1,"unknown":2"#,
        r#""data":1,"event":"open""#,
        r#""data":1,"event":"""#,
        r#""data":1,"event":"a b""#,
        r#""data":1,"key":"""#,
        r#""data":1,"key":1"#,
        r#""data":1,"end":"yes""#,
        r#""data":1,"end":1"#,
        r#""base64":"","type":"a\nb""#,
        r#""event":"e","end":true"#,
        r#""end":false"#,
    ]
    .map(bad)
    .into();
    rows.extend([
        of("{}", &["invalid_argument"]),
        of("[{\"channel\":\"v\",\"data\":1}]", &["invalid_argument"]),
        of("1 null \"a\"", &["invalid_argument"; 3]),
        of(r#"{"channel":null,"data":1}"#, &["invalid_argument"]),
        of(r#"{"channel":1,"data":1}"#, &["invalid_argument"]),
        of(r#"{"channel":"*","data":1}"#, &["invalid_argument"]),
        of(r#"{"channel":"a..b","data":1}"#, &["invalid_argument"]),
        of(r#"{"channel":"a,b","data":1}"#, &["invalid_argument"]),
        of(r#"{"channel":"a\u0000","data":1}"#, &["invalid_argument"]),
        // A command that is none does not hide the next; bytes that are no JSON end it.
        of(r#"{"channel":"*","data":1}{"channel":"v","data":1}"#, &["invalid_argument", "ok"]),
        of(r#"{"channel":"v","data":1}}{"channel":"v","data":1}"#, &["ok", "invalid_argument"]),
        of(r#"{"channel":"v","data":1}{"channel":"v","da"#, &["ok", "invalid_argument"]),
        of("NaN", &["invalid_argument"]),
        of(&"[".repeat(1 << 20), &["invalid_argument"]),
        of(&format!("{{\"channel\":\"v\",\"text\":\"{}\"}}", "x".repeat(2 << 20)), &["too_large"]),
    ]);
    rows
}

/// A publication a line.
fn lines() -> Vec<Row> {
    let of = |name: &str, body: &str, back| {
        let headers = "Content-Type: application/x-ndjson\r\n";
        row(name, "CONTRACT 3", post(TARGET, headers, body), back, InStep)
    };
    vec![
        of(
            "lines that are cut in the midst of one",
            "{\"a\":1}\n{\"b\"",
            Back::Results(&["ok", "invalid_argument"]),
        ),
        of(
            "a line that is no JSON ends them",
            "1\nNaN\n2\n",
            Back::Results(&["ok", "invalid_argument"]),
        ),
        of("two values in a line", "1 2\n3\n", Back::Results(&["invalid_argument"])),
        of("a value over two lines", "[1,\n2]\n", Back::Results(&["invalid_argument"])),
        of("a line that is no UTF-8", "\"\u{0}\"\n", Back::Results(&["invalid_argument"])),
        of(
            "a line over the limit",
            &format!("1\n\"{}\"\n2\n", "x".repeat(1 << 20)),
            Back::Results(&["ok", "too_large", "ok"]),
        ),
        of("lines of nothing", &"\n".repeat(10_000), Back::Results(&[])),
        row(
            "a key for all lines",
            "CONTRACT 3",
            post(TARGET, "Content-Type: application/x-ndjson\r\nIdempotency-Key: k\r\n", "1\n"),
            BAD,
            Closed,
        ),
    ]
}

/// What is said beside the payload.
fn terms() -> Vec<Row> {
    let bad = |name: &str, headers: &str| {
        row(name, "CONTRACT 2 and 3", post(TARGET, headers, "x"), BAD, Closed)
    };
    let query = |query: &str| {
        row(
            format!("POST ?{query:.40}"),
            "CONTRACT 2 and 3",
            post(&format!("{TARGET}?{query}"), "", "x"),
            BAD,
            Closed,
        )
    };
    let unsupported = |name: &str, headers: &str| {
        row(
            name,
            "CONTRACT 2",
            post(TARGET, headers, "x"),
            Back::Problem(415, "invalid_argument"),
            Closed,
        )
    };
    let key = |key: &[u8]| {
        let head = b"POST /channels/victim HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n";
        [head, &b"Idempotency-Key: "[..], key, b"\r\n\r\nx"].concat()
    };
    vec![
        bad("a key of no bytes", "Idempotency-Key:\r\n"),
        bad("a key of 129 bytes", &format!("Idempotency-Key: {}\r\n", "k".repeat(129))),
        bad("two keys", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n"),
        row("a key that is no UTF-8", "CONTRACT 3", key(b"\xFF"), BAD, Closed),
        row(
            "a key of 129 bytes in 43 characters",
            "CONTRACT 3",
            key("€".repeat(43).as_bytes()),
            BAD,
            Closed,
        ),
        bad("an event that is the gateway's", "Tidegate-Event: error\r\n"),
        bad("an event that opens", "Tidegate-Event: open\r\n"),
        bad("an event with the gateway's prefix", "Tidegate-Event: tidegate-gap\r\n"),
        bad("an event of no bytes", "Tidegate-Event:\r\n"),
        bad("an event of 129 bytes", &format!("Tidegate-Event: {}\r\n", "e".repeat(129))),
        bad("an event with a blank", "Tidegate-Event: a b\r\n"),
        bad("an event that is not ASCII", "Tidegate-Event: grün\r\n"),
        bad("two events", "Tidegate-Event: a\r\nTidegate-Event: a\r\n"),
        bad("an end that is neither true nor false", "Tidegate-End: 1\r\n"),
        bad("a type that is not ASCII", "Content-Type: text/grün\r\n"),
        bad("a type of 256 bytes", &format!("Content-Type: {}\r\n", "x".repeat(256))),
        bad("two types", "Content-Type: text/plain\r\nContent-Type: application/json\r\n"),
        query("event=error"),
        query("event=a%0Ab"),
        query("event=%FF"),
        query("key="),
        query(&format!("key={}", "k".repeat(129))),
        query("end=maybe"),
        query("as=xml"),
        query("as="),
        unsupported("a form with files", "Content-Type: multipart/form-data; boundary=x\r\n"),
        unsupported("a body that was compressed", "Content-Encoding: gzip\r\n"),
        unsupported(
            "a body that was compressed twice",
            "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
        ),
        row("a body of many channels", "CONTRACT 3", post("/channels/a,b", "", "x"), BAD, Closed),
        row(
            "a lone end with an event",
            "CONTRACT 3",
            post(&format!("{TARGET}?end=1&event=e"), "", ""),
            BAD,
            Kept,
        ),
    ]
}
