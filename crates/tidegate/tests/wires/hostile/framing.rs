//! Where a request begins and ends: heads, lengths, chunks (RFC 9112).

use super::{Back, Closed, Kept, Row, SMUGGLED, TARGET, chunked, framed, get, post, row};

const BAD: Back = Back::Problem(400, "invalid_argument");

pub(super) fn rows() -> Vec<Row> {
    [heads(), versions(), lengths(), codings(), chunks(), pipelines(), sizes()]
        .into_iter()
        .flatten()
        .collect()
}

fn heads() -> Vec<Row> {
    let head = |lines: &str| format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let bad = |name, says, lines: &str| row(name, says, head(lines), Back::Bare(400), Closed);
    vec![
        bad("a header is folded", "RFC 9112 §5.2", "A: b\r\n c\r\n"),
        bad("a header is folded with a tab", "RFC 9112 §5.2", "A: b\r\n\tc\r\n"),
        bad("the first header is folded", "RFC 9112 §2.2", " A: b\r\n"),
        bad("a blank stands before a colon", "RFC 9112 §5.1", "Content-Length : 0\r\n"),
        bad("a tab stands before a colon", "RFC 9112 §5.1", "Transfer-Encoding\t: chunked\r\n"),
        bad("a header has no colon", "RFC 9112 §5", "Content-Length 5\r\n"),
        bad("a header has no name", "RFC 9110 §5.1", ": b\r\n"),
        bad("a header's name has a blank", "RFC 9110 §5.1", "Content Length: 5\r\n"),
        bad("a header's name has a NUL", "RFC 9110 §5.1", "A\0: b\r\n"),
        bad("a header's name is not ASCII", "RFC 9110 §5.1", "Contént: b\r\n"),
        bad("a value has a CR", "RFC 9112 §2.2", "A: b\rContent-Length: 5\r\n"),
        bad("a value has a NUL", "RFC 9110 §5.5", "A: b\0c\r\n"),
        bad("a value has a DEL", "RFC 9110 §5.5", "A: b\x7Fc\r\n"),
        row(
            "lines end with a bare LF",
            "RFC 9112 §2.2 allows it",
            "GET /healthz HTTP/1.1\nHost: localhost\n\n",
            Back::Status(200),
            Kept,
        ),
        row(
            "empty lines stand before a request",
            "RFC 9112 §2.2",
            format!("\r\n\r\n{}", get("/healthz", "")),
            Back::Status(200),
            Kept,
        ),
        row(
            "a CR stands before a request",
            "RFC 9112 §2.2",
            format!("\r{}", get("/healthz", "")),
            Back::Bare(400),
            Closed,
        ),
        row(
            "a TLS hello on a plain port",
            "CONTRACT 7",
            b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03\r\n\r\n".to_vec(),
            Back::Bare(400),
            Closed,
        ),
        row("NULs", "CONTRACT 7", vec![0; 64], Back::Bare(400), Closed),
        row(
            "a proxy's header that was not asked for",
            "CONTRACT 14, proxy_protocol is off",
            format!("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n{}", get("/healthz", "")),
            Back::Bare(400),
            Closed,
        ),
        row("an HTTP/0.9 request", "RFC 9112 §3", "GET /healthz\r\n\r\n", Back::Bare(400), Closed),
        row(
            "two blanks in the request line",
            "RFC 9112 §3",
            "GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            Back::Bare(400),
            Closed,
        ),
        row(
            "a tab in the request line",
            "RFC 9112 §3",
            "GET\t/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            Back::Bare(400),
            Closed,
        ),
        row(
            "a method in lower case is another method",
            "RFC 9110 §9.1",
            format!("get {TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Back::Problem(405, "invalid_argument"),
            Kept,
        ),
        row(
            "a method of 1,000 letters",
            "CONTRACT 7",
            format!("{} {TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\n", "A".repeat(1000)),
            Back::Problem(405, "invalid_argument"),
            Kept,
        ),
        row(
            "a method that is no token",
            "RFC 9110 §9.1",
            format!("GE(T {TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Back::Bare(400),
            Closed,
        ),
        row(
            "TRACE",
            "CONTRACT 7",
            format!("TRACE {TARGET} HTTP/1.1\r\nHost: localhost\r\nCookie: secret\r\n\r\n"),
            Back::Problem(405, "invalid_argument"),
            Kept,
        ),
    ]
}

fn versions() -> Vec<Row> {
    let of = |name: &str, version: &str, says, back, then| {
        let head = format!("GET /healthz {version}\r\nHost: localhost\r\n\r\n");
        row(name, says, head, back, then)
    };
    let bad = |version: &str| {
        let name = format!("{version} is no version");
        of(&name, version, "CONTRACT 7", Back::Bare(400), Closed)
    };
    vec![
        of("HTTP/1.0 closes", "HTTP/1.0", "RFC 9112 §9.3", Back::Status(200), Closed),
        bad("HTTP/2.0"),
        bad("HTTP/9"),
        bad("HTTP/1.2"),
        bad("HTTP/1.10"),
        bad("HTTP/01.1"),
        bad("http/1.1"),
        bad("HTTPS/1.1"),
        bad("HTTP/1.1 x"),
        row(
            "the preface of HTTP/2, which is not spoken",
            "CONTRACT 7",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            Back::Bare(400),
            Closed,
        ),
        row(
            "a chunked body in HTTP/1.0",
            "RFC 9112 §6.1",
            format!(
                "POST {TARGET} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                 1\r\na\r\n0\r\n\r\n"
            ),
            Back::Bare(400),
            Closed,
        ),
    ]
}

fn lengths() -> Vec<Row> {
    let bad = |name, lines: &str| {
        let sends = framed(lines, format!("a{SMUGGLED}"));
        row(name, "RFC 9112 §6.3", sends, Back::Bare(400), Closed)
    };
    vec![
        bad("two lengths differ", "Content-Length: 1\r\nContent-Length: 80\r\n"),
        bad("two lengths differ in one line", "Content-Length: 1, 80\r\n"),
        bad("a length is repeated in one line", "Content-Length: 1, 1\r\n"),
        bad("a length has a sign", "Content-Length: +1\r\n"),
        bad("a length is negative", "Content-Length: -1\r\n"),
        bad("a length is hexadecimal", "Content-Length: 0x1\r\n"),
        bad("a length has blanks within", "Content-Length: 1 1\r\n"),
        bad("a length is no whole number", "Content-Length: 1.0\r\n"),
        bad("a length is empty", "Content-Length:\r\n"),
        bad("a length has digits of another script", "Content-Length: \u{661}\r\n"),
        bad("a length is over 64 bits", "Content-Length: 18446744073709551617\r\n"),
        // A length that is said twice, the same, is known.
        row(
            "a length is said twice",
            "RFC 9110 §8.6 allows it",
            framed("Content-Length: 1\r\nContent-Length: 1\r\n", "a"),
            Back::Status(200),
            Kept,
        ),
        row(
            "a length has zeros before it",
            "RFC 9110 §8.6",
            framed("Content-Length: 00000000000000000000001\r\n", "a"),
            Back::Status(200),
            Kept,
        ),
        row(
            "a length of 2^63 is too large before a byte of it",
            "CONTRACT 7",
            framed("Content-Length: 9223372036854775808\r\n", ""),
            Back::Problem(413, "too_large"),
            Closed,
        ),
    ]
}

fn codings() -> Vec<Row> {
    let of = |name, says, lines: &str, back, then| {
        row(name, says, framed(lines, "1\r\na\r\n0\r\n\r\n"), back, then)
    };
    let bad = |name, lines| of(name, "RFC 9112 §6.3", lines, Back::Bare(400), Closed);
    // CONTRACT 7 has no 501, which RFC 9112 §6.1 would like best.
    let unknown = |name, lines| of(name, "RFC 9112 §6.1", lines, BAD, Closed);
    let both = |name, lines| of(name, "RFC 9112 §6.1", lines, Back::Status(200), Closed);
    vec![
        bad("a coding that is nearly chunked", "Transfer-Encoding: xchunked\r\n"),
        bad("a coding with a vertical tab", "Transfer-Encoding: \x0Bchunked\r\n"),
        bad("a coding in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        bad("an empty coding", "Transfer-Encoding:\r\n"),
        bad("chunked is not the last coding", "Transfer-Encoding: chunked, gzip\r\n"),
        bad(
            "identity after chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        unknown("gzip before chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        unknown(
            "gzip before chunked, in its own line",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        ),
        unknown("chunked twice", "Transfer-Encoding: chunked, chunked\r\n"),
        unknown(
            "chunked twice, in two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        unknown("a parameter of chunked", "Transfer-Encoding: x;chunked, chunked\r\n"),
        of(
            "a coding in capitals",
            "RFC 9112 §7",
            "Transfer-Encoding: CHUNKED\r\n",
            Back::Status(200),
            Kept,
        ),
        both("a length before chunks", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        both("a length after chunks", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
        row(
            "chunks win over a length, and what is behind them is not read",
            "RFC 9112 §6.1",
            framed(
                "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
                format!("0\r\n\r\n{SMUGGLED}"),
            ),
            Back::Status(200),
            Closed,
        ),
        row(
            "a length that covers what follows the chunks",
            "RFC 9112 §6.1",
            framed(
                &format!(
                    "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
                    SMUGGLED.len() + 5
                ),
                format!("0\r\n\r\n{SMUGGLED}"),
            ),
            Back::Status(200),
            Closed,
        ),
    ]
}

fn chunks() -> Vec<Row> {
    let bad = |name: &str, body: &str| row(name, "RFC 9112 §7.1", chunked(body), BAD, Closed);
    let long = "x".repeat(1 << 20);
    vec![
        bad("a chunk's size has a plus", "+1\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size has a minus", "-1\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size has 0x", "0x1\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size has a blank before it", " 1\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size is empty", "\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size is no number", "g\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size is over 64 bits", "10000000000000001\r\na\r\n0\r\n\r\n"),
        bad("a chunk's size is followed by a bare LF", "1\na\r\n0\r\n\r\n"),
        bad("a chunk's size is followed by a bare CR", "1\ra\r\n0\r\n\r\n"),
        bad("a chunk's size has an underscore", "1_0\r\na\r\n0\r\n\r\n"),
        bad("a chunk is longer than its size", "1\r\nab\r\n0\r\n\r\n"),
        bad("a chunk is shorter than its size", "5\r\na\r\n0\r\n\r\n"),
        bad("a chunk ends with a bare LF", "1\r\na\n0\r\n\r\n"),
        bad("a chunk has no end", "1\r\na0\r\n\r\n"),
        bad("an extension has a bare LF", "1;a\nb\r\na\r\n0\r\n\r\n"),
        bad("an extension of a megabyte", &format!("1;{long}\r\na\r\n0\r\n\r\n")),
        bad("trailers of a megabyte", &format!("1\r\na\r\n0\r\nA: {long}\r\n\r\n")),
        bad("1,000 trailers", &format!("1\r\na\r\n0\r\n{}\r\n", "A: b\r\n".repeat(1000))),
        bad(
            "extensions of a megabyte in small chunks",
            &format!("1;{0}\r\na\r\n", "x".repeat(1000)).repeat(1000),
        ),
        row(
            "trailers say nothing",
            "RFC 9110 §6.5.1",
            chunked("1\r\na\r\n0\r\nContent-Length: 80\r\nTidegate-End: true\r\n\r\n"),
            Back::Status(200),
            Kept,
        ),
        row(
            "an extension says nothing",
            "RFC 9112 §7.1.1",
            chunked("1;ext=\"a;b\"\r\na\r\n0\r\n\r\n"),
            Back::Status(200),
            Kept,
        ),
        row(
            "a chunk of 2^64-1 bytes",
            "RFC 9112 §7.1",
            chunked(format!("ffffffffffffffff\r\na\r\n0\r\n\r\n{SMUGGLED}")),
            BAD,
            Closed,
        )
        .hanging_up(),
        row(
            "a body that is cut",
            "RFC 9112 §8",
            framed("Content-Length: 10\r\n", "12345"),
            BAD,
            Closed,
        )
        .hanging_up(),
    ]
}

fn pipelines() -> Vec<Row> {
    vec![
        row(
            "behind an unread body another request is not read",
            "RFC 9112 §9.3.2",
            post("/nowhere", "", SMUGGLED),
            Back::Problem(404, "not_found"),
            Closed,
        ),
        row(
            "a GET's body is no request",
            "RFC 9110 §9.3.1",
            [get("/healthz", &format!("Content-Length: {}\r\n", SMUGGLED.len())), SMUGGLED.into()]
                .concat(),
            Back::Status(200),
            Closed,
        ),
        row(
            "a request behind a bad one is not read",
            "CONTRACT 7",
            format!("GET / HTTP/1.1\r\nbad\r\n\r\n{SMUGGLED}"),
            Back::Bare(400),
            Closed,
        ),
        row(
            "a request behind the last one is not read",
            "RFC 9112 §9.6",
            format!("{}{SMUGGLED}", get("/healthz", "Connection: close\r\n")),
            Back::Status(200),
            Closed,
        ),
        row(
            "a request behind a stream is not read",
            "RFC 9112 §9.6",
            format!("{}{SMUGGLED}", get(TARGET, "Accept: text/event-stream\r\n")),
            Back::Stream,
            Kept,
        ),
        row(
            "keep-alive after close changes nothing",
            "RFC 9112 §9.3",
            format!(
                "{}{SMUGGLED}",
                get("/healthz", "Connection: close\r\nConnection: keep-alive\r\n")
            ),
            Back::Status(200),
            Closed,
        ),
        row(
            "an expectation is not met by waiting for too much",
            "RFC 9110 §10.1.1",
            framed("Expect: 100-continue\r\nContent-Length: 99999999\r\n", ""),
            Back::Problem(413, "too_large"),
            Closed,
        ),
    ]
}

fn sizes() -> Vec<Row> {
    let x = |length| "x".repeat(length);
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", x(length));
    vec![
        row(
            "a URL of 8 KiB and a byte",
            "CONTRACT 2",
            get(&format!("{TARGET}?{}", x(8192 - TARGET.len())), ""),
            Back::Problem(414, "too_large"),
            Kept,
        ),
        row(
            "a URL of 8 KiB and a byte in absolute form",
            "CONTRACT 2",
            get(&format!("http://localhost{TARGET}?{}", x(8192 - TARGET.len() - 16)), ""),
            Back::Problem(414, "too_large"),
            Kept,
        ),
        row(
            "a head of 16 KiB in two headers",
            "CONTRACT 2",
            get(TARGET, &format!("A: {0}\r\nB: {0}\r\n", x(8192))),
            Back::Problem(431, "too_large"),
            Kept,
        ),
        row(
            "a header of 30 KiB",
            "CONTRACT 7",
            get(TARGET, &format!("A: {}\r\n", x(30 << 10))),
            Back::Bare(431),
            Closed,
        ),
        row(
            "a header's name of 30 KiB",
            "CONTRACT 7",
            get(TARGET, &format!("{}: a\r\n", x(30 << 10))),
            Back::Bare(431),
            Closed,
        ),
        row(
            "101 headers",
            "CONTRACT 7",
            get(TARGET, &"A: b\r\n".repeat(100)),
            Back::Bare(431),
            Closed,
        ),
        row(
            "a megabyte of empty lines",
            "CONTRACT 7",
            "\r\n".repeat(1 << 19),
            Back::Bare(431),
            Closed,
        ),
        row(
            "a body of 1 MiB and a byte by its length",
            "CONTRACT 2",
            post(TARGET, "", x((1 << 20) + 1)),
            Back::Problem(413, "too_large"),
            Closed,
        ),
        row(
            "a body of 1 MiB and a byte by a chunk",
            "CONTRACT 2",
            chunked(format!("{}0\r\n\r\n", chunk((1 << 20) + 1))),
            Back::Problem(413, "too_large"),
            Closed,
        ),
        row(
            "a body of 1 MiB and a byte by two chunks",
            "CONTRACT 2",
            chunked(format!("{}{}0\r\n\r\n", chunk(1 << 20), chunk(1))),
            Back::Problem(413, "too_large"),
            Closed,
        ),
        row(
            "a body of 1 MiB is none too large",
            "CONTRACT 2",
            post(TARGET, "", x(1 << 20)),
            Back::Status(200),
            Kept,
        ),
    ]
}
