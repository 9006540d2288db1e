//! A subscription of the client and whatever a peer may answer: it never panics, keeps no more than
//! its bounds, asks to be woken as long as it lives, and is silent after its last word.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tidegate_client::machine::session::{Action, Session, SessionConfig};
use tidegate_client::machine::{Head, Limits, Timing};
use tidegate_client::{BackoffConfig, ChannelName, Choice, Event, Failure, Since, Wire};
use tidegate_wire::websocket::Kind;

#[derive(Arbitrary, Debug)]
enum Step {
    Head { status: u8, content_type: u8, cursor: Option<String>, retry_after: Option<u8> },
    Data(Vec<u8>),
    Form(u8, Vec<u8>),
    BodyEnd,
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Close(Option<u16>, String),
    Alive,
    Cut,
    Wait(u16),
    Due,
}

const CURSOR: &str = "F3Wk0XyLQm2-----------0Av";

fuzz_target!(|input: (u8, u8, u8, Vec<Step>)| {
    let (wire, since, count, steps) = input;
    let choice = match Wire::ALL.get(usize::from(wire % 7)) {
        Some(wire) => Choice::Only(*wire),
        None => Choice::Auto,
    };
    let count = if choice == Choice::Only(Wire::WsBare) { 1 } else { 1 + count % 2 };
    let names = ["a", "b"];
    let limits = Limits { message_bytes_max: 4096, page_bytes_max: 4096, ..Limits::default() };
    let config = SessionConfig {
        channels: names[..usize::from(count)]
            .iter()
            .map(|it| ChannelName::parse(it).unwrap())
            .collect(),
        since: [Since::Now, Since::Start, Since::Last(3), CURSOR.parse().unwrap()]
            [usize::from(since % 4)]
        .clone(),
        choice,
        remembered: None,
        limits,
        timing: Timing::default(),
        backoff: BackoffConfig::default(),
        attempts_max: None,
        seed: 1,
    };
    let mut now = Instant::now();
    let mut session = Session::new(config, now).unwrap();
    let mut is_over = false;
    drain(&mut session, &mut is_over);
    for step in steps {
        // At most one message, and what it is told as.
        assert!(session.queued_bytes() < 64 << 10, "{} bytes wait", session.queued_bytes());
        match step {
            Step::Head { status, content_type, cursor, retry_after } => {
                let status = [200, 101, 204, 301, 404, 429, 503][usize::from(status % 7)];
                let types =
                    ["text/event-stream", "application/x-ndjson", "application/json", "text/html"];
                let head = Head {
                    status,
                    cursor,
                    content_type: Some(types[usize::from(content_type % 4)].into()),
                    location: None,
                    retry_after: retry_after.map(|it| Duration::from_secs(it.into())),
                };
                session.handle_head(head, now);
            }
            Step::Data(data) => session.handle_data(&data, now),
            Step::Form(form, text) => {
                let text = String::from_utf8_lossy(&text);
                let form = match form % 8 {
                    0 => format!(
                        "{{\"channel\":\"a\",\"cursor\":\"{CURSOR}\",\"time\":\"t\",\"text\":\"{text}\"}}\n"
                    ),
                    1 => format!(
                        "{{\"channel\":\"a\",\"cursor\":\"{CURSOR}\",\"resume\":\"{CURSOR}\",\"time\":\"t\",\"data\":{text}}}\n"
                    ),
                    2 => format!(
                        "{{\"gap\":{{\"channel\":\"a\",\"requested\":null,\"resumed\":\"{CURSOR}\",\"reason\":\"{text}\"}}}}\n"
                    ),
                    3 => format!("{{\"end\":{{\"channel\":\"a\",\"cursor\":\"{text}\"}}}}\n"),
                    4 => format!(
                        "{{\"error\":{{\"code\":\"{text}\",\"message\":\"m\",\"retry_after\":1}}}}\n"
                    ),
                    5 => format!("id: {CURSOR}\nevent: {text}\ndata: {{}}\n\n"),
                    6 => format!(
                        "event: tidegate-gap\ndata: {{\"channel\":\"a\",\"resumed\":\"{text}\"}}\n\n"
                    ),
                    _ => format!(
                        "{{\"messages\":[{text}],\"cursor\":\"{CURSOR}\",\"gaps\":[],\"ended\":[\"a\"]}}"
                    ),
                };
                session.handle_data(form.as_bytes(), now);
                session.handle_message(Kind::Text, form.trim_end().as_bytes(), now);
            }
            Step::BodyEnd => session.handle_body_end(now),
            Step::Text(data) => session.handle_message(Kind::Text, &data, now),
            Step::Binary(data) => session.handle_message(Kind::Binary, &data, now),
            Step::Close(code, reason) => session.handle_close(code, &reason, now),
            Step::Alive => session.handle_alive(now),
            Step::Cut => session.handle_failure(Failure::Cut("here".into()), now),
            Step::Wait(millis) => {
                now += Duration::from_millis(millis.into());
                session.handle_timeout(now);
            }
            Step::Due => {
                if let Some(at) = session.poll_timeout() {
                    now = now.max(at);
                    session.handle_timeout(now);
                }
            }
        }
        drain(&mut session, &mut is_over);
        assert_eq!(session.poll_timeout().is_none(), session.is_over());
    }
});

/// Takes what is to be done and told.
fn drain(session: &mut Session, is_over: &mut bool) {
    while let Some(action) = session.poll_action() {
        if let Action::Connect(connect) = action {
            assert!(!*is_over, "it connects after its last word");
            assert!(connect.target.starts_with("/channels/"), "{}", connect.target);
            assert!(!connect.target.contains(|c: char| c.is_control() || c == ' '));
        }
    }
    while let Some(delivery) = session.poll_delivery() {
        assert!(!*is_over, "it tells something after its last word");
        *is_over = matches!(delivery.event, Some(Err(_)));
        if let Some(Ok(Event::Publication(it))) = delivery.event {
            assert!(["a", "b"].contains(&it.channel.as_str()), "nobody asked for {}", it.channel);
        }
    }
    assert_eq!(session.queued_bytes(), 0);
}
