//! What is asked for, and by which name: targets, hosts, channels, queries (CONTRACT 2 and 4).

use super::{Back, Closed, Kept, Row, TARGET, get, row};

const BAD: Back = Back::Problem(400, "invalid_argument");
const NONE: Back = Back::Problem(404, "not_found");

pub(super) fn rows() -> Vec<Row> {
    [forms(), hosts(), names(), queries()].into_iter().flatten().collect()
}

fn forms() -> Vec<Row> {
    let with = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    vec![
        row(
            "absolute form is read",
            "RFC 9112 §3.2.2",
            with(&format!("GET http://localhost{TARGET}")),
            Back::Status(200),
            Kept,
        ),
        row(
            "absolute form with a foreign host, whatever Host says",
            "RFC 9112 §3.2.2, CONTRACT 11",
            with(&format!("GET http://evil.example{TARGET}")),
            Back::Problem(403, "permission_denied"),
            Kept,
        ),
        row(
            "absolute form with a user",
            "RFC 9110 §4.2.4",
            with(&format!("GET http://a:b@localhost{TARGET}")),
            BAD,
            Kept,
        ),
        row("authority form is CONNECT's", "RFC 9112 §3.2.3", with("GET localhost:80"), BAD, Kept),
        row(
            "CONNECT to elsewhere",
            "CONTRACT 7",
            "CONNECT localhost:25 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            Back::Problem(405, "invalid_argument"),
            Kept,
        ),
        row("asterisk form is OPTIONS'", "RFC 9112 §3.2.4", with("GET *"), BAD, Kept),
        row("asterisk form", "RFC 9112 §3.2.4", with("OPTIONS *"), Back::Status(204), Kept),
        row(
            "a target without a slash",
            "RFC 9112 §3.2.1",
            with("GET channels/a"),
            Back::Bare(400),
            Closed,
        ),
        row(
            "a target that is a query",
            "RFC 9112 §3.2.1",
            with("GET ?a=b"),
            Back::Bare(400),
            Closed,
        ),
        row("an empty target", "RFC 9112 §3.2", with("GET "), Back::Bare(400), Closed),
        row(
            "a backslash for a slash",
            "RFC 3986 §3.3",
            with("GET \\channels\\a"),
            Back::Bare(400),
            Closed,
        ),
        row(
            "a blank in a target",
            "RFC 9112 §3.2",
            with("GET /channels/a b"),
            Back::Bare(400),
            Closed,
        ),
        row(
            "a NUL in a target",
            "RFC 3986 §3.3",
            with("GET /channels/a\0"),
            Back::Bare(400),
            Closed,
        ),
        // A fragment is nothing that a server acts on; it is cut off.
        row(
            "a fragment in a target",
            "RFC 9110 §4.2.5",
            with(&format!("GET {TARGET}#since=x")),
            Back::Status(200),
            Kept,
        ),
    ]
}

fn hosts() -> Vec<Row> {
    let of = |name, says, hosts: &str, back, then| {
        row(name, says, format!("GET {TARGET} HTTP/1.1\r\n{hosts}\r\n"), back, then)
    };
    let bad = |name, hosts| of(name, "RFC 9112 §3.2", hosts, BAD, Kept);
    let denied =
        |name, hosts| of(name, "CONTRACT 11", hosts, Back::Problem(403, "permission_denied"), Kept);
    vec![
        bad("no Host", ""),
        bad("two Hosts that are the same", "Host: localhost\r\nHost: localhost\r\n"),
        bad("a Host that is two", "Host: localhost, evil.example\r\n"),
        bad("an empty Host", "Host:\r\n"),
        bad("a Host with a path", "Host: localhost/channels\r\n"),
        bad("a Host with a user", "Host: evil@localhost\r\n"),
        bad("a Host with a port that is none", "Host: localhost:99999\r\n"),
        bad("a Host with half a bracket", "Host: [::1\r\n"),
        bad("a Host that is not ASCII", "Host: löcalhost\r\n"),
        denied("a Host from elsewhere", "Host: evil.example\r\n"),
        denied("a Host that begins with a loopback name", "Host: localhost.evil.example\r\n"),
        denied("a Host that begins with a loopback address", "Host: 127.0.0.1.evil.example\r\n"),
        denied("a Host that is a number", "Host: 2130706433\r\n"),
        denied("a page from elsewhere", "Host: localhost\r\nOrigin: https://evil.example\r\n"),
        denied("a page without an origin", "Host: localhost\r\nOrigin: null\r\n"),
        denied(
            "a page whose name ends like ours",
            "Host: localhost\r\nOrigin: http://notlocalhost\r\n",
        ),
        bad(
            "two Origins",
            "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://localhost\r\n",
        ),
        bad("an Origin that is not ASCII", "Host: localhost\r\nOrigin: http://löcalhost\r\n"),
    ]
}

fn names() -> Vec<Row> {
    let bad = |name: &str, segment: &str| {
        row(name, "CONTRACT 2", get(&format!("/channels/{segment}"), ""), BAD, Kept)
    };
    let none = |name: &str, target: &str| row(name, "CONTRACT 7", get(target, ""), NONE, Kept);
    let many: Vec<_> = (0..101).map(|it| format!("c{it}")).collect();
    vec![
        bad("an empty name", ""),
        bad("an empty name among others", "a,,b"),
        bad("a comma at the end", "a,"),
        bad("the folder above", ".."),
        bad("the folder above, encoded", "%2e%2e"),
        bad("an empty segment", "a..b"),
        bad("a dot before a name", ".a"),
        bad("a dot behind a name", "a."),
        bad("a name twice", "a,a"),
        bad("a name twice, once encoded", "a,%61"),
        bad("101 names", &many.join(",")),
        bad("a name of 256 bytes", &"a".repeat(256)),
        bad("a pattern", "*"),
        bad("a pattern at the end", "a.%3E"),
        bad("a pattern among names", "a,b.*"),
        bad("a slash, encoded", "a%2Fb"),
        bad("a NUL, encoded", "a%00"),
        bad("a line break, encoded", "a%0D%0AX:%20y"),
        bad("an escape that is none", "a%zz"),
        bad("an escape that is cut", "a%2"),
        bad("an escape of an escape", "a%252e"),
        bad("a name that is not ASCII", "gr%C3%BCn"),
        bad("an overlong slash", "a%C0%AFb"),
        bad("an overlong dot", "a%C0%AE"),
        bad("an overlong NUL", "a%E0%80%80"),
        bad("half a surrogate", "a%ED%A0%80"),
        bad("a byte that begins nothing", "%FF"),
        bad("a name with a plus", "a+b"),
        row("raw UTF-8 in a name", "CONTRACT 2", get("/channels/grün", ""), BAD, Kept),
        row(
            "raw bytes in a name that are no UTF-8",
            "CONTRACT 7",
            b"GET /channels/\xFF\xFE HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            Back::Bare(400),
            Closed,
        ),
        row(
            "a pattern in letters that no URL has",
            "RFC 3986 §3.3",
            get("/channels/a.>", ""),
            Back::Bare(400),
            Closed,
        ),
        none("a slash behind a name", &format!("{TARGET}/")),
        none("two slashes before a name", &format!("/{TARGET}")),
        none("a file of the server's", "/channels/../../etc/passwd"),
        none("the folder above as a segment", "/channels/a/../b"),
        none("a path in capitals", "/CHANNELS/a"),
        none("a dot before a path", "/./channels/a"),
    ]
}

fn queries() -> Vec<Row> {
    let cursor = "A".repeat(25);
    let bad = |query: &str| {
        let name = format!("?{:.40}", query.replace(&cursor, "CURSOR"));
        row(name, "CONTRACT 2", get(&format!("{TARGET}?{query}"), ""), BAD, Kept)
    };
    let many = vec!["x"; 101].join(".");
    let mut rows: Vec<_> = [
        "since=",
        "since=x",
        "since=START",
        "since=-",
        "since=!!!!!!!!!!!!!!!!!!!!!!!!!",
        "since=%00",
        "since=%zz",
        "since=gr%C3%BCn",
        "since=now%20",
        "since=now.now",
        &format!("since={many}"),
        // Of an epoch that no log has: its first letter is too high.
        "since=zzzzzzzzzzzzzzzzzzzzzzzzz",
        // Another channel's.
        &format!("since={cursor}"),
        &format!("since={cursor}.{cursor}"),
        "since=now&last=1",
        "last=-1",
        "last=",
        "last=1e3",
        "last=0x10",
        "last=99999999999999999999",
        "last=4294967296",
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=99999999999999999999",
        "limit=%F0%9F%8C%8A",
        "wait=-1",
        "wait=NaN",
        "wait=inf",
        "wait=1e9",
        "wait=61s",
        "wait=99999999999999999999h",
        "before=x",
        &format!("before={cursor}&since=start"),
        "before=x&wait=1",
        "wire=",
        "wire=WS",
        "wire=sse%00",
        "envelope=2",
        "envelope=0&echo=maybe",
        "subscribe=no",
    ]
    .map(bad)
    .into();
    rows.extend([
        row(
            "?wire=ws",
            "CONTRACT 4",
            get(&format!("{TARGET}?wire=ws"), ""),
            Back::Problem(426, "upgrade_required"),
            Kept,
        ),
        row(
            "nothing that we have is accepted",
            "CONTRACT 4",
            get(TARGET, "Accept: image/*;q=1, */*;q=0\r\n"),
            Back::Problem(406, "invalid_argument"),
            Kept,
        ),
        row(
            "weights that are none",
            "RFC 9110 §12.4.2",
            get(TARGET, "Accept: application/json;q=NaN, text/event-stream;q=-1\r\n"),
            Back::Problem(406, "invalid_argument"),
            Kept,
        ),
        row(
            "a last event id that is none",
            "CONTRACT 2",
            get(TARGET, "Accept: text/event-stream\r\nLast-Event-ID: x\r\n"),
            BAD,
            Kept,
        ),
        row(
            "a last event id of several channels",
            "CONTRACT 2",
            get(TARGET, "Accept: text/event-stream\r\nLast-Event-ID: a.b.c\r\n"),
            BAD,
            Kept,
        ),
        row(
            "4,000 queries, of which the first counts",
            "CONTRACT 2",
            get(&format!("{TARGET}?limit=1{}", "&".repeat(4000)), ""),
            Back::Status(200),
            Kept,
        ),
        row(
            "envelopes for several channels can't be left out",
            "CONTRACT 4",
            get("/channels/a,b?envelope=0&wire=sse", ""),
            BAD,
            Kept,
        ),
        row(
            "pages backwards of several channels",
            "CONTRACT 4",
            get(&format!("/channels/a,b?before={cursor}"), ""),
            BAD,
            Kept,
        ),
        row("a listing's limit", "CONTRACT 3", get("/channels?limit=-1", ""), BAD, Kept),
    ]);
    rows
}
