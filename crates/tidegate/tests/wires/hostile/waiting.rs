//! Peers that begin something and never end it: nothing comes before a limit (CONTRACT 7, 8, 14).

use super::handshakes::good;
use super::{Back, Closed, Row, chunked, framed, row};

/// The limits, as short as a busy machine allows.
pub(super) const CONFIG: &str = r#"
[http]
header_timeout = "500ms"
idle_timeout = "500ms"
body_timeout = "500ms"
[websocket]
ping_interval = "1s"
ping_timeout = "1s"
"#;

pub(super) fn rows() -> Vec<Row> {
    let slow = Back::Problem(408, "invalid_argument");
    let websocket = |bytes: &[u8]| [good(&[]).as_bytes(), bytes].concat();
    vec![
        row("nothing at all", "CONTRACT 14", "", Back::Nothing, Closed),
        row("a letter", "CONTRACT 7", "G", Back::Bare(408), Closed),
        row(
            "a head without its end",
            "CONTRACT 7",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            Back::Bare(408),
            Closed,
        ),
        row("half a handshake", "CONTRACT 7", good(&[]).trim_end(), Back::Bare(408), Closed),
        row(
            "none of a body",
            "CONTRACT 14",
            framed("Content-Length: 5\r\n", ""),
            slow.clone(),
            Closed,
        ),
        row(
            "half a body",
            "CONTRACT 14",
            framed("Content-Length: 5\r\n", "ab"),
            slow.clone(),
            Closed,
        ),
        row("half a chunk's size", "CONTRACT 14", chunked("1"), slow.clone(), Closed),
        row("half a chunk", "CONTRACT 14", chunked("5\r\nab"), slow.clone(), Closed),
        row("chunks without the last", "CONTRACT 14", chunked("1\r\na\r\n"), slow.clone(), Closed),
        row(
            "trailers without an end",
            "CONTRACT 14",
            chunked("1\r\na\r\n0\r\nA: b\r\n"),
            slow,
            Closed,
        ),
        row("half a frame", "CONTRACT 8", websocket(&[0x82, 0xFE, 0x01]), Back::Silence, Closed),
        row(
            "half a payload",
            "CONTRACT 8",
            websocket(&[0x82, 0x85, 1, 2, 3, 4, 5]),
            Back::Silence,
            Closed,
        ),
        row(
            "half a message",
            "CONTRACT 8",
            websocket(&[0x02, 0x80, 1, 2, 3, 4]),
            Back::Silence,
            Closed,
        ),
    ]
}
