//! `tidegate sub`, `pub` and `ws` against the real server (CONTRACT 13).

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::common::Server;

/// What came of a command: exit code, standard output, standard error.
pub(super) fn tidegate(args: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read it has refused its arguments.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn url(server: &Server, channels: &str) -> String {
    format!("http://{}/channels/{channels}", server.address)
}

#[track_caller]
fn publish(args: &[&str], input: &str) -> Vec<String> {
    let (code, stdout, stderr) = tidegate(&[&["pub"], args].concat(), input);
    assert_eq!((code, stderr.as_str()), (0, ""));
    stdout.lines().map(str::to_owned).collect()
}

#[test]
fn what_is_published_is_printed_on_every_wire() {
    let server = Server::dev();
    let url = &url(&server, "news");
    assert_eq!(publish(&[url, "{\"a\":\n1}", "--event", "tick"], "").len(), 1);
    assert_eq!(publish(&[url, "-"], "one\r\ntwo\n\n[3]").len(), 4);
    let expect = "{\"a\": 1}\none\ntwo\n\n[3]\n";
    for wire in ["auto", "ws", "sse", "ndjson", "long-poll", "poll"] {
        let args = ["sub", url, "--since", "start", "--count", "5", "--wire", wire];
        let got = tidegate(&args, "");
        assert_eq!(got, (0, expect.to_owned(), String::new()), "{wire}");
    }
    let args = ["sub", url, "--last", "5", "--count", "5", "--json", "--wire", "sse"];
    let (_, stdout, _) = tidegate(&args, "");
    let mine: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let theirs = server.get("/channels/news").json();
    assert_eq!(theirs["messages"], Value::from(mine), "the same as a poll has");
}

#[test]
fn a_key_is_told_and_an_end_ends() {
    let server = Server::dev();
    let url = &url(&server, "match.7");
    let first = publish(&[url, "goal", "--key", "k1"], "");
    let again = publish(&[url, "goal", "--key", "k1"], "");
    assert_eq!(again, [format!("{} duplicate", first[0])]);
    publish(&[url, "full time", "--end"], "");
    let (code, stdout, stderr) = tidegate(&["sub", url, "--since", "start"], "");
    let expect = (0, "goal\nfull time\n", "end: match.7\n");
    assert_eq!((code, stdout.as_str(), stderr.as_str()), expect);
    let (code, stdout, stderr) = tidegate(&["pub", url, "late"], "");
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: ended (409): "), "{stderr}");
    let (code, stdout, stderr) = tidegate(&["pub", url, "-"], "late\nlater\n");
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: line 1 was not published: ended (409): "), "{stderr}");
}

#[test]
fn a_cursor_may_begin_with_a_hyphen() {
    let url = "http://127.0.0.1:9/channels/a";
    let args = ["sub", url, "--since", "-3Wk0XyLQm2-----------0Av", "--count", "0"];
    assert_eq!(tidegate(&args, ""), (0, String::new(), String::new()));
}

#[test]
fn a_gap_is_told_beside_what_is_printed() {
    let server = Server::dev();
    let cursor = server.publish("a", "lost");
    server.delete("a");
    server.publish("a", "kept");
    server.end("a");
    let url = &url(&server, "a");
    let (code, stdout, stderr) = tidegate(&["sub", url, "--since", &cursor], "");
    assert_eq!((code, stdout.as_str()), (0, "kept\n"));
    assert!(stderr.starts_with("gap: a: publications were or may have been missed ("), "{stderr}");
    let (_, stdout, stderr) = tidegate(&["sub", url, "--since", &cursor, "--json"], "");
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["gap"]["requested"], cursor);
    assert_eq!((lines[1]["text"].as_str(), stderr.as_str()), (Some("kept"), ""));
    assert_eq!(lines[2]["end"]["channel"], "a");
}

#[test]
fn a_websocket_is_lines_in_and_lines_out() {
    let server = Server::dev();
    let url = &url(&server, "chat").replace("http://", "ws://");
    // The close comes behind its own echo.
    let (code, stdout, stderr) = tidegate(&["ws", url], "one\r\n{\"a\":2}\nthree");
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "one\n{\"a\":2}\nthree\n", ""));
    let (code, stdout, stderr) = tidegate(&["ws", url, "--binary", "--control"], "\u{1}x\n");
    assert_eq!((code, stdout.as_str()), (0, "\u{1}x\n"));
    assert!(stderr.starts_with("open, at ") && stderr.contains("\nclosed 1000"), "{stderr}");
    let kinds: Vec<_> = server.get("/channels/chat").json()["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| ["data", "text", "base64"].into_iter().find(|kind| it.get(kind).is_some()))
        .collect();
    assert_eq!(kinds, [Some("text"), Some("data"), Some("text"), Some("base64")]);
}

#[test]
fn a_websocket_that_is_closed_for_a_reason_tells_it() {
    let server = Server::dev();
    let several = &url(&server, "a,b?envelope=1").replace("http://", "ws://");
    let (code, stdout, stderr) = tidegate(&["ws", several, "--listen"], "to whom?\n");
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("closed 1003"), "{stderr}");
    let connect = &format!("ws://{}/connect", server.address);
    let protocol = ["--subprotocol", "tidegate.v1.json"];
    let input = "{\"id\":1,\"ping\":{}}\n";
    let (code, stdout, _) = tidegate(&[&["ws", connect][..], &protocol].concat(), input);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("{\"welcome\":{"), "{stdout}");
    assert!(stdout.ends_with("\n{\"id\":1,\"pong\":{}}\n"), "{stdout}");
    let (code, _, stderr) = tidegate(&["ws", &connect.replace("/connect", "/nowhere")], "");
    assert_eq!(code, 1);
    assert!(stderr.starts_with("error: not_found (404): "), "{stderr}");
}

#[test]
fn arguments_that_contradict_each_other_exit_with_2() {
    let a = "http://127.0.0.1:9/channels/a";
    let several = "http://127.0.0.1:9/channels/a,b";
    for (args, message) in [
        (&["pub", several, "x"][..], "the URL names several channels"),
        (&["pub", a], "<DATA|->"),
        (&["pub", a, "-", "--key", "k"], "--key is for one publication"),
        (&["pub", a, "--end", "--event", "e"], "an end alone is none"),
        (&["pub", a, "x", "--wire", "grpc"], "--wire grpc is not yet in this version"),
        (&["pub", a, "x", "--token", "t"], "--token is not yet in this version"),
        (&["pub", a, "x", "--event", "a b"], "visible ASCII"),
        (&["pub", "https://a.example/channels/a", "x"], "TLS (https, wss) is not in this version"),
        (&["pub", "127.0.0.1/channels/a", "x"], "write http:// in front of it"),
        (&["sub", "http://127.0.0.1:9/", "--count", "1"], "the URL is not a channel's"),
        (&["sub", a, "--since", "now", "--last", "1"], "cannot be used with"),
        (&["sub", &format!("{a}?last=1"), "--since", "now"], "so does an option"),
        (&["sub", a, "--wire", "ws2"], "not in this version yet"),
        (&["sub", a, "--wire", "tcp"], "no wire"),
        (&["sub", a, "--since", "nowhere"], "no cursor"),
        (&["sub", a, "--last", "ten"], "allowed is a whole number, such as 10"),
        (&["sub", a, "--count=-1"], "allowed is a whole number, such as 10"),
        (&["ws", "127.0.0.1:9/"], "in front of it"),
        (&["ws", "ws://127.0.0.1:9/", "--header", "Origin"], "a header field is NAME:VALUE"),
        (&["ws", "ws://127.0.0.1:9/", "--http2"], "--http2 is not yet in this version"),
    ] {
        let (code, stdout, stderr) = tidegate(args, "");
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
}
