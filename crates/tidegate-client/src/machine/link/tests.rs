//! A link against a gateway that says what the test wants.

use std::num::NonZeroU64;
use std::sync::Arc;

use tidegate_core::envelope::ClientFrame;
use tidegate_core::{Epoch, Position};

use super::*;
use crate::payload::Payload;

struct Scene {
    link: Link,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        let config = LinkConfig {
            timing: Timing::default(),
            backoff: BackoffConfig::default(),
            attempts_max: None,
            command_timeout: Duration::from_secs(60),
            seed: 7,
        };
        Self { link: Link::new(config, now), now }
    }

    /// A link whose first WebSocket stands.
    fn open() -> Self {
        let mut scene = Self::new();
        scene.connect();
        scene
    }

    /// Lets it connect, and accepts; what it sends at once.
    fn connect(&mut self) -> Vec<String> {
        self.now = self.now.max(self.link.poll_timeout().unwrap());
        self.link.handle_timeout(self.now);
        let actions: Vec<_> = std::iter::from_fn(|| self.link.poll_action()).collect();
        assert!(actions.contains(&Action::Connect), "{actions:?}");
        let head = Head { status: 101, ..Head::default() };
        self.link.handle_head(head, Some(PROTOCOL), self.now);
        self.sent()
    }

    fn sent(&mut self) -> Vec<String> {
        let actions = std::iter::from_fn(|| self.link.poll_action());
        actions
            .filter_map(|it| if let Action::Send(text) = it { Some(text) } else { None })
            .collect()
    }

    fn command(&mut self, command: Command) -> (Ticket, Vec<String>) {
        let ticket = self.link.handle_command(command, self.now);
        (ticket, self.sent())
    }

    fn subscribe(&mut self, name: &str) -> (Ticket, Vec<String>) {
        self.command(Command::Subscribe { channel: channel(name), since: Since::Now })
    }

    fn say(&mut self, text: &str) {
        self.link.handle_message(Kind::Text, text.as_bytes(), self.now);
    }

    fn cut(&mut self) {
        self.link.handle_failure(Failure::Cut("x".into()), self.now);
    }

    fn replies(&mut self) -> Vec<(Ticket, Result<Reply, Error>)> {
        std::iter::from_fn(|| self.link.poll_reply()).collect()
    }

    fn pushes(&mut self) -> Vec<String> {
        let pushes = std::iter::from_fn(|| self.link.poll_push());
        pushes
            .map(|push| match push {
                Ok(Push::Event(Event::Publication(it))) => it.payload.text().unwrap().into_owned(),
                Ok(Push::Event(Event::Gap(it))) => format!("gap {}", it.channel),
                Ok(Push::Event(Event::End(it))) => format!("end {}", it.channel),
                Ok(Push::Event(Event::Retry(it))) => format!("retry {}", it.failure),
                Ok(Push::Open(it)) => format!("open {}", it.session),
                Ok(Push::Unsubscribed { channel, problem }) => format!("gone {channel}: {problem}"),
                Ok(Push::Presence(it)) => format!("{} are in {}", it.members.len(), it.channel),
                Ok(Push::Join { member, .. }) => format!("join {}", member.id),
                Ok(Push::Leave { member, .. }) => format!("leave {}", member.id),
                Ok(other) => format!("{other:?}"),
                Err(error) => format!("error {error}"),
            })
            .collect()
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn publish(payload: impl Into<Payload>) -> Command {
    Command::Publish {
        channel: channel("a"),
        payload: Some(payload.into()),
        event: None,
        key: "k1".into(),
        is_own_key: true,
        is_end: false,
    }
}

fn message(channel: &str, cursor: &str, data: u32) -> String {
    format!(
        "{{\"message\":{{\"channel\":\"{channel}\",\"cursor\":\"{cursor}\",\"time\":\"t\",\"data\":{data}}}}}"
    )
}

#[test]
fn commands_are_written_as_the_contract_has_them() {
    let a = || channel("a");
    let history = |since, before, limit| Command::History { channel: a(), since, before, limit };
    let position = Position { epoch: Epoch::new(7), offset: 9 };
    let place = position.cursor(&a()).to_string();
    let cursor = || Cursor::parse(&place).unwrap();
    let full = Command::Publish {
        channel: a(),
        payload: Some(Payload::typed("\0", "image/png")),
        event: Some("tick".into()),
        key: "k".into(),
        is_own_key: false,
        is_end: true,
    };
    for (command, expect) in [
        (
            Command::Subscribe { channel: a(), since: Since::Now },
            r#"{"id":1,"subscribe":{"channel":"a","since":"now"}}"#,
        ),
        (
            Command::Subscribe { channel: a(), since: Since::Last(3) },
            r#"{"id":1,"subscribe":{"channel":"a","last":3}}"#,
        ),
        (
            Command::Subscribe { channel: a(), since: Since::After(cursor()) },
            r#"{"id":1,"subscribe":{"channel":"a","since":"C1"}}"#,
        ),
        (Command::Unsubscribe { channel: a() }, r#"{"id":1,"unsubscribe":{"channel":"a"}}"#),
        (Command::Presence { channel: a() }, r#"{"id":1,"presence":{"channel":"a"}}"#),
        (Command::Ping, r#"{"id":1,"ping":{}}"#),
        (history(None, None, None), r#"{"id":1,"history":{"channel":"a"}}"#),
        (
            history(Some(Since::Start), None, Some(5)),
            r#"{"id":1,"history":{"channel":"a","since":"start","limit":5}}"#,
        ),
        (
            history(None, Some(cursor()), None),
            r#"{"id":1,"history":{"channel":"a","before":"C1"}}"#,
        ),
        (
            publish("say \"hi\"\n"),
            r#"{"id":1,"publish":{"channel":"a","key":"k1","text":"say \"hi\"\n"}}"#,
        ),
        (
            publish(Payload::json("{\"n\":\n1}")),
            r#"{"id":1,"publish":{"channel":"a","key":"k1","data":{"n": 1}}}"#,
        ),
        (
            full,
            r#"{"id":1,"publish":{"channel":"a","key":"k","event":"tick","base64":"AA==","type":"image/png","end":true}}"#,
        ),
    ] {
        let expect = expect.replace("C1", &place);
        assert_eq!(Scene::open().command(command).1, [expect.as_str()]);
        // And so does the gateway read it.
        let read = ClientFrame::parse_json(expect.as_bytes(), &Arc::from("me")).unwrap();
        assert_eq!(read.id.map(NonZeroU64::get), Some(1));
    }
}

#[test]
fn replies_come_to_who_asked_in_whatever_order() {
    let mut scene = Scene::open();
    let (first, _) = scene.command(publish("x"));
    let (second, _) = scene.command(Command::Ping);
    let (third, _) = scene.command(Command::Presence { channel: channel("a") });
    let (fourth, _) = scene.command(Command::History {
        channel: channel("a"),
        since: None,
        before: None,
        limit: None,
    });
    scene.say(r#"{"id":4,"history":{"messages":[{"channel":"a","cursor":"C1","time":"t","data":1}],"cursor":"C1","ended":true}}"#);
    scene.say(r#"{"id":2,"pong":{}}"#);
    scene.say(r#"{"id":1,"published":{"channel":"a","cursor":"C1","duplicate":false}}"#);
    scene.say(r#"{"id":3,"presence":{"channel":"a","members":[{"id":"m1","joined":"t"}]}}"#);
    scene.say(r#"{"id":77,"pong":{}}"#);
    let replies = scene.replies();
    let tickets: Vec<_> = replies.iter().map(|it| it.0).collect();
    assert_eq!(tickets, [fourth, second, first, third]);
    let replies: Vec<_> = replies.into_iter().map(|it| it.1.unwrap()).collect();
    let Reply::History(history) = &replies[0] else { panic!("{replies:?}") };
    assert!(history.is_ended && history.messages.len() == 1 && history.gap.is_none());
    assert_eq!(replies[1], Reply::Pong);
    assert!(matches!(&replies[2], Reply::Published(it) if it.cursor.as_str() == "C1"));
    assert!(matches!(&replies[3], Reply::Presence(it) if it.members[0].id == "m1"));
}

#[test]
fn what_is_subscribed_to_goes_on_from_its_cursor_on_the_next_connection() {
    let mut scene = Scene::open();
    scene.subscribe("a");
    scene.subscribe("b");
    scene.say(r#"{"welcome":{"session":"s1","node":"n1","version":"0.1.0","ping":25}}"#);
    scene.say(r#"{"id":1,"subscribed":{"channel":"a","cursor":"A0"}}"#);
    scene.say(r#"{"id":2,"subscribed":{"channel":"b","cursor":"B0"}}"#);
    scene.say(&message("a", "A1", 1));
    scene.say(r#"{"gap":{"channel":"a","requested":"A1","resumed":"A5","reason":"slow"}}"#);
    scene.cut();
    let told = ["open s1", "1", "gap a", "retry the connection was cut: x"];
    assert_eq!(scene.pushes(), told);
    assert_eq!(scene.replies().len(), 2);
    let sent = scene.connect();
    assert_eq!(
        sent,
        [
            r#"{"id":3,"subscribe":{"channel":"a","since":"A5"}}"#,
            r#"{"id":4,"subscribe":{"channel":"b","since":"B0"}}"#,
        ]
    );
    // Nobody asked for these replies.
    scene.say(r#"{"id":3,"subscribed":{"channel":"a","cursor":"A5"}}"#);
    assert!(scene.replies().is_empty());
    scene.say(&message("a", "A6", 6));
    scene.say(r#"{"end":{"channel":"a","cursor":"A7"}}"#);
    assert_eq!(scene.pushes(), ["6", "end a"]);
    scene.cut();
    assert_eq!(scene.connect(), [r#"{"id":5,"subscribe":{"channel":"b","since":"B0"}}"#]);
}

#[test]
fn what_comes_of_a_subscription_that_was_given_up_is_passed_over() {
    let mut scene = Scene::open();
    scene.subscribe("a");
    scene.say(r#"{"id":1,"subscribed":{"channel":"a","cursor":"A0"}}"#);
    scene.command(Command::Unsubscribe { channel: channel("a") });
    scene.say(&message("a", "A1", 1));
    let again = Command::Subscribe { channel: channel("a"), since: Since::Start };
    scene.command(again);
    // Still of the first: it is on its way while the commands are.
    scene.say(&message("a", "A2", 2));
    scene.say(r#"{"id":2,"unsubscribed":{"channel":"a"}}"#);
    scene.say(r#"{"id":3,"subscribed":{"channel":"a","cursor":"A-"}}"#);
    scene.say(&message("a", "A1", 1));
    assert_eq!(scene.pushes(), ["1"]);
    assert_eq!(scene.replies().len(), 3);
}

#[test]
fn a_publication_without_its_reply_is_sent_again_with_its_key() {
    let mut scene = Scene::open();
    let (ticket, sent) = scene.command(publish("x"));
    scene.cut();
    assert_eq!(scene.connect(), sent);
    scene.say(r#"{"id":1,"error":{"code":"unavailable","message":"away","retry_after":2,"outcome":"unknown"}}"#);
    assert!(scene.replies().is_empty() && scene.sent().is_empty());
    let before = scene.now;
    while scene.sent().is_empty() {
        scene.now = scene.link.poll_timeout().unwrap();
        scene.link.handle_timeout(scene.now);
        scene.link.handle_alive(scene.now);
    }
    assert!(scene.now - before >= Duration::from_secs(2));
    scene.say(r#"{"id":1,"published":{"channel":"a","cursor":"C1","duplicate":true}}"#);
    let replies = scene.replies();
    let [(found, Ok(Reply::Published(published)))] = replies.as_slice() else {
        panic!("{replies:?}")
    };
    assert_eq!(*found, ticket);
    assert!(!published.is_duplicate, "the first of it was our own");
}

#[test]
fn an_error_is_the_reply_of_its_command_alone() {
    let mut scene = Scene::open();
    let (first, _) = scene.subscribe("a");
    let (second, _) = scene.command(publish("x"));
    scene.say(r#"{"id":1,"error":{"code":"permission_denied","message":"no"}}"#);
    scene.say(r#"{"id":2,"error":{"code":"ended","message":"over"}}"#);
    let replies = scene.replies();
    assert_eq!((replies[0].0, replies[1].0), (first, second));
    assert!(replies.iter().all(|it| it.1.as_ref().is_err_and(|it| it.problem().is_some())));
    scene.cut();
    assert!(scene.connect().is_empty(), "what was refused is not subscribed to");
}

#[test]
fn a_subscription_that_the_gateway_ends_is_made_again_or_told() {
    let mut scene = Scene::open();
    scene.subscribe("a");
    scene.subscribe("b");
    scene.say(r#"{"id":1,"subscribed":{"channel":"a","cursor":"A0"}}"#);
    scene.say(r#"{"id":2,"subscribed":{"channel":"b","cursor":"B0"}}"#);
    scene.say(r#"{"unsubscribed":{"channel":"a","reason":"slow_consumer"}}"#);
    scene.say(r#"{"unsubscribed":{"channel":"b","reason":"permission_denied"}}"#);
    assert_eq!(scene.pushes(), ["gone b: permission_denied"]);
    scene.now = scene.link.poll_timeout().unwrap();
    scene.link.handle_timeout(scene.now);
    assert_eq!(scene.sent(), [r#"{"id":3,"subscribe":{"channel":"a","since":"A0"}}"#]);
}

#[test]
fn presence_is_passed_on() {
    let mut scene = Scene::open();
    scene.subscribe("a");
    scene.say(r#"{"id":1,"subscribed":{"channel":"a","cursor":"A0"}}"#);
    scene.say(r#"{"presence":{"channel":"a","members":[{"id":"m1"},{"id":"m2","user":"u"}]}}"#);
    scene.say(r#"{"join":{"channel":"a","member":{"id":"m3","info":{"n":1},"joined":"t"}}}"#);
    scene.say(r#"{"leave":{"channel":"a","member":{"id":"m1"}}}"#);
    scene.say(r#"{"ping":{}}"#);
    scene.say(r#"{"something":{"new":1}}"#);
    assert_eq!(scene.pushes(), ["2 are in a", "join m3", "leave m1"]);
}

#[test]
fn a_command_without_a_reply_is_given_up_in_time() {
    let mut scene = Scene::open();
    let (ticket, _) = scene.command(publish("x"));
    let began = scene.now;
    while scene.now - began < Duration::from_secs(60) {
        scene.now = scene.link.poll_timeout().unwrap();
        scene.link.handle_timeout(scene.now);
        scene.link.handle_alive(scene.now);
    }
    let replies = scene.replies();
    let [(found, Err(Error::Exhausted { is_outcome_unknown: true, .. }))] = replies.as_slice()
    else {
        panic!("{replies:?}")
    };
    assert_eq!(*found, ticket);
}

#[test]
fn a_peer_that_does_not_speak_it_is_final() {
    let mut scene = Scene::new();
    scene.link.handle_timeout(scene.now);
    let ticket = scene.link.handle_command(Command::Ping, scene.now);
    scene.link.handle_head(Head { status: 101, ..Head::default() }, None, scene.now);
    let replies = scene.replies();
    assert_eq!(replies[0].0, ticket);
    assert!(replies[0].1.is_err());
    assert!(scene.pushes()[0].starts_with("error the peer broke the protocol"));
    assert_eq!(scene.link.poll_timeout(), None);
    let late = scene.link.handle_command(Command::Ping, scene.now);
    assert_eq!(scene.replies(), [(late, Err(Error::Closed))]);
}

#[test]
fn a_gateway_without_envelopes_says_so() {
    let mut scene = Scene::new();
    scene.link.handle_timeout(scene.now);
    let head = Head {
        status: 404,
        content_type: Some("application/problem+json".into()),
        ..Head::default()
    };
    scene.link.handle_head(head, None, scene.now);
    scene.link.handle_data(Some(br#"{"code":"not_found","detail":"not here"}"#), scene.now);
    scene.link.handle_data(None, scene.now);
    assert_eq!(scene.pushes(), ["error not_found (404): not here"]);
}

#[test]
fn silence_is_asked_about_and_then_given_up() {
    let mut scene = Scene::open();
    scene.now += Duration::from_secs(20);
    scene.link.handle_timeout(scene.now);
    assert_eq!(scene.link.poll_action(), Some(Action::Ping));
    scene.now += Duration::from_secs(10);
    scene.link.handle_timeout(scene.now);
    let told = scene.pushes();
    assert_eq!(told, ["retry nothing came for 30000 ms; the connection was given up"]);
}

#[test]
fn what_is_no_json_is_the_peers_fault() {
    for text in ["", "[]", "{\"id\":1}", "{\"message\":{\"channel\":\"a b\",\"data\":1}}"] {
        let mut scene = Scene::open();
        scene.command(Command::Ping);
        scene.say(text);
        assert!(scene.pushes()[0].contains("broke the protocol"), "{text}");
    }
}

/// `spec/vectors`: every frame that a gateway sends is one that a client takes.
#[test]
fn the_golden_frames_are_understood() {
    let vectors = include_str!("../../../../../spec/vectors/envelope-json.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    for (name, frame) in vectors["frames"].as_object().unwrap() {
        let mut scene = Scene::open();
        for name in ["prices", "b", "c", "d", "e", "f"] {
            scene.subscribe(name);
        }
        let text = frame.as_str().unwrap();
        scene.say(text);
        let cut = scene.pushes().into_iter().find(|it| it.contains("broke the protocol"));
        // There is no such command here.
        assert_eq!(cut.is_some(), name == "refreshed", "{name}: {text}: {cut:?}");
    }
}
