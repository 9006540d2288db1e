//! An enveloped connection of the client and whatever a peer may send: it never panics, each command
//! has one reply at most, and none is left without one when the link is over.
#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tidegate_client::machine::link::{Action, Link, LinkConfig};
use tidegate_client::machine::{Head, Timing};
use tidegate_client::{BackoffConfig, ChannelName, Command, Failure, Since};
use tidegate_wire::websocket::Kind;

#[derive(Arbitrary, Debug)]
enum Step {
    Command(u8),
    Head(u8),
    Data(Option<Vec<u8>>),
    Text(Vec<u8>),
    Form(u8, u8, Vec<u8>),
    Binary(Vec<u8>),
    Close(Option<u16>, String),
    Alive,
    Cut,
    Wait(u16),
    Due,
}

const CURSOR: &str = "F3Wk0XyLQm2-----------0Av";

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::now();
    let config = LinkConfig {
        timing: Timing::default(),
        backoff: BackoffConfig::default(),
        attempts_max: None,
        command_timeout: Duration::from_secs(60),
        seed: 1,
    };
    let mut link = Link::new(config, now);
    let mut open = BTreeSet::new();
    for step in steps {
        match step {
            Step::Command(which) => {
                let channel = ChannelName::parse(["a", "b"][usize::from(which & 1)]).unwrap();
                let command = match which / 2 % 5 {
                    0 => Command::Subscribe { channel, since: Since::Now },
                    1 => Command::Unsubscribe { channel },
                    2 => Command::Presence { channel },
                    3 => Command::History { channel, since: None, before: None, limit: None },
                    _ => Command::Ping,
                };
                assert!(open.insert(link.handle_command(command, now)), "a ticket came twice");
            }
            Step::Head(status) => {
                let status = [101, 200, 404, 429, 503][usize::from(status % 5)];
                let protocol = (status == 101).then_some("tidegate.v1.json");
                link.handle_head(Head { status, ..Head::default() }, protocol, now);
            }
            Step::Data(data) => link.handle_data(data.as_deref(), now),
            Step::Text(data) => link.handle_message(Kind::Text, &data, now),
            Step::Form(form, id, text) => {
                let text = String::from_utf8_lossy(&text);
                let form = match form % 10 {
                    0 => format!("{{\"id\":{id},\"subscribed\":{{\"channel\":\"a\",\"cursor\":\"{CURSOR}\"}}}}"),
                    1 => format!("{{\"id\":{id},\"unsubscribed\":{{\"channel\":\"{text}\"}}}}"),
                    2 => format!("{{\"id\":{id},\"history\":{{\"messages\":[{text}],\"cursor\":\"{CURSOR}\",\"ended\":false}}}}"),
                    3 => format!("{{\"id\":{id},\"error\":{{\"code\":\"{text}\",\"message\":\"m\"}}}}"),
                    4 => format!("{{\"id\":{id},\"presence\":{{\"channel\":\"a\",\"members\":[{text}]}}}}"),
                    5 => format!("{{\"id\":{id},\"pong\":{{}}}}"),
                    6 => format!("{{\"message\":{{\"channel\":\"a\",\"cursor\":\"{CURSOR}\",\"time\":\"t\",\"data\":{text}}}}}"),
                    7 => format!("{{\"unsubscribed\":{{\"channel\":\"a\",\"reason\":\"{text}\"}}}}"),
                    8 => "{\"welcome\":{\"session\":\"s\",\"node\":\"n\",\"version\":\"1\",\"ping\":25}}".to_owned(),
                    _ => format!("{{\"join\":{{\"channel\":\"a\",\"member\":{text}}}}}"),
                };
                link.handle_message(Kind::Text, form.as_bytes(), now);
            }
            Step::Binary(data) => link.handle_message(Kind::Binary, &data, now),
            Step::Close(code, reason) => link.handle_close(code, &reason, now),
            Step::Alive => link.handle_alive(now),
            Step::Cut => link.handle_failure(Failure::Cut("here".into()), now),
            Step::Wait(millis) => {
                now += Duration::from_millis(millis.into());
                link.handle_timeout(now);
            }
            Step::Due => {
                if let Some(at) = link.poll_timeout() {
                    now = now.max(at);
                    link.handle_timeout(now);
                }
            }
        }
        let mut is_over = false;
        while let Some(action) = link.poll_action() {
            if let Action::Send(text) = action {
                assert!(tidegate_core::json::check(text.as_bytes()).is_ok(), "{text}");
            }
        }
        while let Some((ticket, _)) = link.poll_reply() {
            assert!(open.remove(&ticket), "a reply to nothing, or the second one");
        }
        while let Some(push) = link.poll_push() {
            is_over |= push.is_err();
        }
        assert!(!is_over || open.is_empty(), "{open:?} have no reply");
    }
    // Whatever the peer does, a command has its reply in the end.
    now += Duration::from_secs(3600);
    for _ in 0..1000 {
        link.handle_timeout(now);
        while link.poll_action().is_some() {}
        while let Some((ticket, _)) = link.poll_reply() {
            assert!(open.remove(&ticket));
        }
        let Some(at) = link.poll_timeout().filter(|_| !open.is_empty()) else { break };
        now = now.max(at);
    }
    assert!(open.is_empty(), "{open:?} never got a reply");
});
