//! Handshakes of WebSockets that are none (CONTRACT 8, RFC 6455 §4).

use super::{Back, Closed, Kept, Row, SMUGGLED, TARGET, row};

const BAD: Back = Back::Problem(400, "invalid_argument");
const OLD: Back = Back::Problem(426, "upgrade_required");

const LINES: [&str; 5] = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==",
];

/// A handshake without those of [`LINES`] whose names are among `lines`, and with `lines`; a name
/// alone is left out.
pub(super) fn upgrade(method: &str, target: &str, lines: &[&str]) -> String {
    let name = |line: &&str| line.split(':').next().unwrap().to_owned();
    let names: Vec<_> = lines.iter().map(name).collect();
    let kept = LINES.iter().filter(|it| !names.contains(&name(it)));
    let lines = kept.chain(lines.iter().filter(|it| it.contains(':')));
    let lines: String = lines.map(|it| format!("{it}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\n{lines}\r\n")
}

/// A handshake that is answered with 101.
pub(super) fn good(lines: &[&str]) -> String {
    upgrade("GET", TARGET, lines)
}

pub(super) fn rows() -> Vec<Row> {
    let of = |name, lines: &[&str], back| {
        row(name, "CONTRACT 8", upgrade("GET", TARGET, lines), back, Kept)
    };
    let key = "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==";
    let many: Vec<_> = (0..1000).map(|it| format!("p{it}")).collect();
    let many = format!("Sec-WebSocket-Protocol: {}", many.join(", "));
    let offers =
        format!("Sec-WebSocket-Extensions: {}", vec!["permessage-deflate"; 300].join(", "));
    vec![
        of("no key", &["Sec-WebSocket-Key"], BAD),
        of("two keys", &[key, key], BAD),
        of("an empty key", &["Sec-WebSocket-Key:"], BAD),
        of("a key of 15 bytes", &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4P"], BAD),
        of("a key of 17 bytes", &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEBE="], BAD),
        of("a key without padding", &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA"], BAD),
        of("a key that is no base64", &["Sec-WebSocket-Key: AQIDBAUG*wgJCgsMDQ4PEA=="], BAD),
        of("a key that is not ASCII", &["Sec-WebSocket-Key: ÄQIDBAUGBwgJCgsMDQ4PE=="], BAD),
        of("a key of 8,000 letters", &[&format!("Sec-WebSocket-Key: {}", "A".repeat(8000))], BAD),
        of("no version", &["Sec-WebSocket-Version"], OLD),
        of("version 8", &["Sec-WebSocket-Version: 8"], OLD),
        of("version 12", &["Sec-WebSocket-Version: 12"], OLD),
        of("version 14", &["Sec-WebSocket-Version: 14"], OLD),
        of("version 013", &["Sec-WebSocket-Version: 013"], OLD),
        of("two versions in one line", &["Sec-WebSocket-Version: 13, 8"], OLD),
        of("two versions", &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"], OLD),
        of("an upgrade that Connection does not name", &["Connection: keep-alive"], BAD),
        of("no Connection", &["Connection"], BAD),
        row(
            "an upgrade of HTTP/1.0",
            "CONTRACT 8",
            good(&[]).replace("HTTP/1.1", "HTTP/1.0"),
            BAD,
            Closed,
        ),
        of("a connection that upgrades to nothing is a poll", &["Upgrade"], Back::Status(200)),
        of("an upgrade to something else is a poll", &["Upgrade: h2c"], Back::Status(200)),
        of(
            "an upgrade to what begins alike is a poll",
            &["Upgrade: websocket2"],
            Back::Status(200),
        ),
        row(
            "a POST that upgrades",
            "CONTRACT 8",
            upgrade("POST", TARGET, &["Content-Length: 0"]),
            BAD,
            Kept,
        ),
        row("a DELETE that upgrades", "CONTRACT 8", upgrade("DELETE", TARGET, &[]), BAD, Kept),
        row(
            "a PATCH that upgrades",
            "CONTRACT 7",
            upgrade("PATCH", TARGET, &[]),
            Back::Problem(405, "invalid_argument"),
            Kept,
        ),
        row(
            "an upgrade with a body",
            "CONTRACT 8",
            upgrade("GET", TARGET, &[&format!("Content-Length: {}", SMUGGLED.len())]) + SMUGGLED,
            BAD,
            Closed,
        ),
        row(
            "an upgrade with a chunked body",
            "CONTRACT 8",
            upgrade("GET", TARGET, &["Transfer-Encoding: chunked"]) + "1\r\na\r\n0\r\n\r\n",
            BAD,
            Closed,
        ),
        of("subprotocols that are no names", &["Sec-WebSocket-Protocol: a b, \"c\""], BAD),
        of("subprotocols that are not ASCII", &["Sec-WebSocket-Protocol: grün"], BAD),
        of(
            "subprotocols with nothing between commas",
            &["Sec-WebSocket-Protocol: ,,,"],
            Back::Open,
        ),
        of("1,000 subprotocols", &[&many], Back::Open),
        of("extensions that are none", &["Sec-WebSocket-Extensions: ;;=,\"\\"], Back::Open),
        of(
            "an extension that nobody knows",
            &["Sec-WebSocket-Extensions: x-webkit-deflate-frame"],
            Back::Open,
        ),
        of("300 offers of one extension", &[&offers], Back::Open),
        of(
            "windows that are none",
            &[
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=7; server_max_window_bits=99",
            ],
            Back::Open,
        ),
        of(
            "a window twice",
            &[
                "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            ],
            Back::Open,
        ),
        of(
            "a Host from elsewhere",
            &["Host: evil.example"],
            Back::Problem(403, "permission_denied"),
        ),
        of("two Hosts", &["Host: localhost", "Host: localhost"], BAD),
        of("no Host", &["Host"], BAD),
        of(
            "a page from elsewhere",
            &["Origin: https://evil.example"],
            Back::Problem(403, "permission_denied"),
        ),
        of("a page without an origin", &["Origin: null"], Back::Problem(403, "permission_denied")),
        of("an upgrade of a file", &["Origin: file://"], Back::Problem(403, "permission_denied")),
        // What is behind the handshake is frames, and a request is none: its reserved bits are set.
        row(
            "a request behind an upgrade is frames",
            "RFC 6455 §5.2",
            good(&[]) + SMUGGLED,
            Back::Close(1002),
            Closed,
        ),
    ]
}
