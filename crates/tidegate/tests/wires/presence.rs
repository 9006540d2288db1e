//! Presence (CONTRACT 5): who is there, on every wire, over all workers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::{Message, SOON, Server, Ws};

const RULES: &str = "[[channel]]\nmatch = \"room.>\"\npresence = true\n";

fn server(name: &str) -> Server {
    Server::start(&format!("presence-{name}"), RULES, &["--dev"])
}

/// An enveloped connection and its session.
#[track_caller]
fn connect(server: &Server) -> (Ws, String) {
    let mut ws = server.ws_offering(server.connect(), "/connect", &["tidegate.v1.json"], None);
    let session = ws.json()["welcome"]["session"].as_str().unwrap().to_owned();
    (ws, session)
}

/// Subscribes; the list that is pushed then.
#[track_caller]
fn subscribe(ws: &mut Ws, channel: &str) -> BTreeSet<String> {
    ws.ask(1, &format!(r#""subscribe":{{"channel":"{channel}"}}"#), "subscribed");
    let push = ws.json();
    assert_eq!(push.get("id"), None);
    assert_eq!(push["presence"]["channel"], channel, "{push}");
    ids(&push["presence"])
}

fn ids(presence: &Value) -> BTreeSet<String> {
    let members = presence["members"].as_array().unwrap();
    let ids: BTreeSet<_> = members.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), members.len(), "each once");
    ids
}

fn set(ids: &[&String]) -> BTreeSet<String> {
    ids.iter().map(|it| (*it).clone()).collect()
}

/// The next message is a change of this member.
#[track_caller]
fn check_change(ws: &mut Ws, change: &str, channel: &str, id: &str) {
    let push = ws.json();
    let it = &push[change];
    assert_eq!((&it["channel"], &it["member"]["id"]), (&json!(channel), &json!(id)), "{push}");
}

/// Who HTTP says is there.
#[track_caller]
fn present(server: &Server, channel: &str) -> BTreeSet<String> {
    let answer = server.get(&format!("/channels/{channel}/presence"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let presence = answer.json();
    assert_eq!(presence["channel"], channel);
    ids(&presence)
}

/// Goes on once so many are there.
#[track_caller]
fn until_present(server: &Server, channel: &str, count: usize) {
    let began = Instant::now();
    while present(server, channel).len() != count {
        assert!(began.elapsed() < SOON, "{:?}", present(server, channel));
    }
}

#[test]
fn who_comes_is_told_everyone_and_everyone_is_told_who_comes() {
    let server = server("join");
    assert_eq!(present(&server, "room.a"), set(&[]));
    let ((mut ann, a), (mut bob, b), (mut cat, c)) =
        (connect(&server), connect(&server), connect(&server));
    assert_eq!(subscribe(&mut ann, "room.a"), set(&[&a]));
    assert_eq!(subscribe(&mut bob, "room.a"), set(&[&a, &b]));
    check_change(&mut ann, "join", "room.a", &b);
    assert_eq!(subscribe(&mut cat, "room.a"), set(&[&a, &b, &c]));
    check_change(&mut ann, "join", "room.a", &c);
    check_change(&mut bob, "join", "room.a", &c);
    // Another room is another one.
    assert_eq!(subscribe(&mut ann, "room.b"), set(&[&a]));
    assert_eq!(present(&server, "room.a"), set(&[&a, &b, &c]));
    assert_eq!(present(&server, "room.b"), set(&[&a]));
    let reply = cat.ask(9, r#""presence":{"channel":"room.b"}"#, "presence");
    assert_eq!((&reply["channel"], ids(&reply)), (&json!("room.b"), set(&[&a])));
    let member = &reply["members"][0];
    assert_eq!(member.as_object().unwrap().len(), 2, "no token, so neither user nor info");
    assert!(member["joined"].as_str().unwrap().ends_with('Z'), "{member}");
    // Who is in the URL is in the room as well, and is told after its `subscribed`.
    let mut dan = server.enveloped("/channels/room.a,plain");
    assert!(dan.json()["subscribed"].is_object() && dan.json()["subscribed"].is_object());
    assert_eq!(ids(&dan.json()["presence"]).len(), 4);
}

#[test]
fn who_is_cut_stays_for_five_seconds_and_who_leaves_is_gone_at_once() {
    let server = server("leave");
    let ((mut ann, a), (mut bob, b), (mut cat, c)) =
        (connect(&server), connect(&server), connect(&server));
    for (ws, count) in [(&mut ann, 1), (&mut bob, 2), (&mut cat, 3)] {
        assert_eq!(subscribe(ws, "room.a").len(), count);
    }
    check_change(&mut ann, "join", "room.a", &b);
    check_change(&mut ann, "join", "room.a", &c);
    check_change(&mut bob, "join", "room.a", &c);
    bob.ask(2, r#""unsubscribe":{"channel":"room.a"}"#, "unsubscribed");
    assert_eq!(present(&server, "room.a"), set(&[&a, &c]), "in no list that is asked for from now");
    check_change(&mut ann, "leave", "room.a", &b);
    check_change(&mut cat, "leave", "room.a", &b);
    assert_eq!(subscribe(&mut bob, "room.a"), set(&[&a, &b, &c]));
    check_change(&mut ann, "join", "room.a", &b);
    let began = Instant::now();
    drop(cat);
    check_change(&mut ann, "leave", "room.a", &c);
    let after = began.elapsed();
    assert!((Duration::from_millis(4900)..SOON).contains(&after), "{after:?}");
    check_change(&mut bob, "leave", "room.a", &c);
    assert_eq!(present(&server, "room.a"), set(&[&a, &b]));
    // Who has unsubscribed is told of nobody any more.
    bob.ask(2, r#""unsubscribe":{"channel":"room.a"}"#, "unsubscribed");
    check_change(&mut ann, "leave", "room.a", &b);
    let (mut dan, d) = connect(&server);
    assert_eq!(subscribe(&mut dan, "room.a"), set(&[&a, &d]));
    check_change(&mut ann, "join", "room.a", &d);
    assert_eq!(bob.ask(3, r#""ping":{}"#, "pong"), json!({}));
}

#[test]
fn a_channel_that_ends_has_no_members_on_connections_that_go_on() {
    let server = server("end");
    let (mut ann, a) = connect(&server);
    assert_eq!(subscribe(&mut ann, "room.a"), set(&[&a]));
    server.end("room.a");
    assert_eq!(ann.json()["end"]["channel"], "room.a");
    assert_eq!(ann.json()["unsubscribed"]["channel"], "room.a");
    assert_eq!(present(&server, "room.a"), set(&[]));
}

/// Memory is what is looked at, and only Linux tells it.
#[cfg(target_os = "linux")]
#[test]
fn who_joins_and_leaves_without_end_leaves_nothing_behind() {
    const TOGETHER: u32 = 50;
    let server = server("without-end");
    let (mut ann, _) = connect(&server);
    let mut flood = |channels: std::ops::Range<u32>| {
        for first in channels.step_by(TOGETHER as usize) {
            for channel in first..first + TOGETHER {
                ann.send_text(&format!(r#"{{"subscribe":{{"channel":"room.{channel}"}}}}"#));
                ann.send_text(&format!(r#"{{"unsubscribe":{{"channel":"room.{channel}"}}}}"#));
            }
            // Commands without a number are answered only if they fail.
            for push in ann.until_pong() {
                let Message::Text(push) = push else { panic!("{push:?}") };
                assert!(!push.contains("error"), "{push}");
            }
        }
    };
    flood(0..2000);
    let before = server.resident_kib();
    flood(2000..22_000);
    let grown = server.resident_kib().saturating_sub(before);
    // At a kilobyte for each it would be 20 MiB.
    assert!(grown < 10 << 10, "{grown} KiB");
}

#[test]
fn subscribers_of_every_wire_are_members() {
    let server = server("wires");
    let (mut ann, a) = connect(&server);
    assert_eq!(subscribe(&mut ann, "room.a"), set(&[&a]));
    let mut seen = set(&[&a]);
    let mut check_joined = |ann: &mut Ws| {
        let push = ann.json();
        let id = push["join"]["member"]["id"].as_str().unwrap_or_else(|| panic!("{push}"));
        assert!(seen.insert(id.to_owned()));
        assert_eq!(present(&server, "room.a"), seen);
    };
    let _bare = server.ws("/channels/room.a");
    check_joined(&mut ann);
    let _json = server.ws("/channels/room.a?envelope=1");
    check_joined(&mut ann);
    let _sse = server.sse("/channels/room.a", "");
    check_joined(&mut ann);
    let _lines = server.ndjson("/channels/room.a,other");
    check_joined(&mut ann);
    // Neither who only publishes nor who polls.
    let _mute = server.ws("/channels/room.a?subscribe=0");
    assert_eq!(server.get("/channels/room.a").status, 200);
    // One that waits, though; on one connection it stays the same member.
    let mut poll = server.connect();
    poll.send_request("GET", "/channels/room.a?wait=60s", "", "");
    check_joined(&mut ann);
    for n in 0..3 {
        server.publish("room.a", &n.to_string());
        let cursor = poll.answer("GET").json()["cursor"].as_str().unwrap().to_owned();
        poll.send_request("GET", &format!("/channels/room.a?wait=60s&since={cursor}"), "", "");
        assert_eq!(ann.json()["message"]["text"], n.to_string());
    }
    assert_eq!(ann.ask(3, r#""ping":{}"#, "pong"), json!({}));
    drop((_bare, _json, _sse, _lines, poll));
    until_present(&server, "room.a", 1);
}

#[test]
fn where_presence_is_off_nobody_is_told() {
    let server = server("off");
    server.get("/channels/plain/presence").check_problem(404, "not_found", "presence is not on");
    let (mut ann, _) = connect(&server);
    ann.ask(1, r#""subscribe":{"channel":"plain"}"#, "subscribed");
    let error = ann.ask(2, r#""presence":{"channel":"plain"}"#, "error");
    assert_eq!(error["code"], "not_found");
    let (mut bob, _) = connect(&server);
    bob.ask(1, r#""subscribe":{"channel":"plain"}"#, "subscribed");
    assert_eq!(ann.ask(3, r#""ping":{}"#, "pong"), json!({}));
    let closed = Server::start(
        "presence-closed",
        "[[channel]]\nmatch = \"a\"\nsubscribe = \"nobody\"\npresence = true\n",
        &[],
    );
    closed.get("/channels/a/presence").check_problem(403, "permission_denied", "nobody");
    closed.get("/channels/b/presence").check_problem(401, "unauthenticated", "token");
}

#[test]
fn a_crowd_is_told_the_same_to_all() {
    let server = server("crowd");
    let mut crowd: Vec<_> = (0..100).map(|_| connect(&server)).collect();
    let everyone: BTreeSet<_> = crowd.iter().map(|(_, id)| id.clone()).collect();
    for (ws, _) in &mut crowd {
        ws.send_text(r#"{"subscribe":{"channel":"room.a"}}"#);
    }
    for (ws, id) in &mut crowd {
        let mut seen = ids(&ws.json()["presence"]);
        assert!(seen.contains(id));
        while seen != everyone {
            let push = ws.json();
            let joined = push["join"]["member"]["id"].as_str().unwrap();
            assert!(seen.insert(joined.to_owned()), "told twice: {push}");
        }
        assert_eq!(ws.ask(3, r#""ping":{}"#, "pong"), json!({}));
    }
    assert_eq!(present(&server, "room.a"), everyone);
}

#[test]
fn who_reads_too_slowly_for_changes_gets_the_list_again() {
    let server = server("slow");
    let peer = server.connect_narrow();
    let mut slow = server.ws_offering(peer, "/channels/room.a", &["tidegate.v1.json"], None);
    assert!(slow.json()["welcome"].is_object() && slow.json()["subscribed"].is_object());
    let mut seen = ids(&slow.json()["presence"]);
    // More than the kernel and the socket's share take.
    for _ in 0..40 {
        server.publish("room.a", &"x".repeat(256 << 10));
    }
    // Joins and leaves of more than the 64 KiB that may be committed.
    for _ in 0..700 {
        assert_eq!(server.get("/channels/room.a?wait=1ms").status, 200);
    }
    let mut stays = server.enveloped("/channels/room.a");
    assert!(stays.json()["subscribed"].is_object());
    until_present(&server, "room.a", 2);
    let everyone = present(&server, "room.a");
    let mut lists = 0;
    while lists == 0 || seen != everyone {
        let push = slow.json();
        let member = |change: &str| push[change]["member"]["id"].as_str().map(str::to_owned);
        if push["presence"].is_object() {
            seen = ids(&push["presence"]);
            lists += 1;
        } else if let Some(id) = member("join") {
            assert!(seen.insert(id), "{push}");
        } else if let Some(id) = member("leave") {
            assert!(seen.remove(&id), "{push}");
        } else {
            assert!(push["message"].is_object() || push["gap"].is_object());
        }
    }
}
