//! Sessions by hand: what each wire's words come to. What holds over all of them, whatever happens,
//! is `tests/simulation`.

use super::*;

struct Scene {
    session: Session,
    now: Instant,
}

fn config(choice: impl Into<Choice>) -> SessionConfig {
    SessionConfig {
        channels: vec![ChannelName::parse("a").unwrap()],
        since: Since::Now,
        choice: choice.into(),
        remembered: None,
        limits: Limits::default(),
        timing: Timing::default(),
        backoff: BackoffConfig::default(),
        attempts_max: None,
        seed: 7,
    }
}

impl Scene {
    fn new(config: SessionConfig) -> Self {
        let now = Instant::now();
        Self { session: Session::new(config, now).unwrap(), now }
    }

    /// A session whose stream stands.
    fn open(wire: Wire) -> Self {
        let mut scene = Self::new(config(wire));
        scene.connect();
        scene.head(wire);
        scene
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
    }

    /// Goes to the next time that it names, and has what it asks for.
    #[track_caller]
    fn connect(&mut self) -> Connect {
        let at = self.session.poll_timeout().expect("it is over");
        self.now = self.now.max(at);
        self.session.handle_timeout(self.now);
        let actions = self.actions();
        let [Action::Connect(connect)] = actions.as_slice() else { panic!("{actions:?}") };
        connect.clone()
    }

    fn head(&mut self, wire: Wire) {
        let (status, content_type) = match wire {
            Wire::Ws | Wire::WsBare => (101, ""),
            Wire::Sse => (200, "text/event-stream"),
            Wire::Ndjson => (200, "application/x-ndjson"),
            Wire::LongPoll | Wire::Poll => (200, "application/json"),
        };
        self.answer(status, content_type, Some("C0"), None);
    }

    fn answer(
        &mut self,
        status: u16,
        content_type: &str,
        cursor: Option<&str>,
        retry_after: Option<u64>,
    ) {
        let head = Head {
            status,
            content_type: Some(content_type.into()),
            cursor: cursor.map(str::to_owned),
            retry_after: retry_after.map(Duration::from_secs),
            location: None,
        };
        self.session.handle_head(head, self.now);
    }

    fn data(&mut self, data: &str) {
        self.session.handle_data(data.as_bytes(), self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        let actions = std::iter::from_fn(|| self.session.poll_action());
        actions.filter(|it| !matches!(it, Action::Disconnect)).collect()
    }

    /// What it has told, shortened, each with its cursor.
    fn told(&mut self) -> Vec<String> {
        let told = std::iter::from_fn(|| self.session.poll_delivery());
        told.map(|Delivery { event, cursor }| {
            let cursor = cursor.map_or(String::new(), |it| format!("@{it}"));
            let event = match event {
                None => String::new(),
                Some(Err(error)) => format!("error {error}"),
                Some(Ok(Event::Open(open))) => format!("open {}", open.wire),
                Some(Ok(Event::Publication(it))) => it.payload.text().unwrap().into_owned(),
                Some(Ok(Event::Gap(it))) => format!("gap {}", it.channel),
                Some(Ok(Event::End(it))) => format!("end {}", it.channel),
                Some(Ok(Event::Retry(it))) => format!("retry {}", it.failure),
            };
            event + &cursor
        })
        .collect()
    }

    #[track_caller]
    fn check(&mut self, expect: &[&str]) {
        assert_eq!(self.told(), expect);
    }
}

const LINE: &str = r#"{"channel":"a","cursor":"C1","time":"t","data":1}"#;
const END: &str = r#"{"end":{"channel":"a","cursor":"C2"}}"#;

#[test]
fn each_wire_is_asked_for_as_the_contract_has_it() {
    for (wire, target, accept) in [
        (Wire::Ws, "/channels/a?since=now&envelope=1", None),
        (Wire::WsBare, "/channels/a?since=now", None),
        (Wire::Sse, "/channels/a?since=now&envelope=1", Some("text/event-stream")),
        (Wire::Ndjson, "/channels/a?since=now", Some("application/x-ndjson")),
        (Wire::LongPoll, "/channels/a?since=now&wait=25000ms&limit=100", Some("application/json")),
        (Wire::Poll, "/channels/a?since=now&limit=100", Some("application/json")),
    ] {
        let expect = Connect { wire, target: target.into(), accept };
        assert_eq!(Scene::new(config(wire)).connect(), expect);
    }
    let since = |since| Scene::new(SessionConfig { since, ..config(Wire::Ndjson) }).connect();
    assert_eq!(since(Since::Start).target, "/channels/a?since=start");
    assert_eq!(since(Since::Last(5)).target, "/channels/a?last=5");
}

#[test]
fn a_stream_that_is_cut_goes_on_from_its_last_cursor_wherever_it_is_cut() {
    let stream = format!("{LINE}\n\n{END}\n");
    for cut in 0..=stream.len() {
        let mut scene = Scene::open(Wire::Ndjson);
        scene.check(&["open ndjson@C0"]);
        let (before, _) = stream.split_at(cut);
        scene.data(before);
        scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
        let told = scene.told();
        let cursor = match () {
            () if before.contains("C2\"}}\n") => {
                assert_eq!(told, ["1@C1", "end a@C2"]);
                assert!(scene.session.is_over());
                continue;
            }
            () if before.contains("1}\n") => "C1",
            () => "C0",
        };
        let expect = format!("/channels/a?since={cursor}");
        assert_eq!(scene.connect().target, expect, "cut at {cut}: {told:?}");
    }
}

#[test]
fn an_end_is_told_once_and_is_the_end() {
    let mut scene = Scene::new(SessionConfig {
        channels: ["a", "b"].iter().map(|it| ChannelName::parse(it).unwrap()).collect(),
        ..config(Wire::Ndjson)
    });
    scene.connect();
    scene.head(Wire::Ndjson);
    let end = |channel: &str| {
        format!(
            "{{\"end\":{{\"channel\":\"{channel}\",\"cursor\":\"C2\"}},\"resume\":\"C2.C3\"}}\n"
        )
    };
    scene.data(&end("a"));
    scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
    scene.check(&["open ndjson@C0", "end a@C2.C3", "retry the connection was cut: x"]);
    scene.connect();
    scene.head(Wire::Ndjson);
    scene.data(&(end("a") + &end("b")));
    // The first one is not told again; where it is, is.
    scene.check(&["open ndjson@C2.C3", "end b@C2.C3"]);
    assert!(scene.session.is_over());
    assert_eq!(scene.session.poll_timeout(), None);
}

#[test]
fn an_event_stream_past_its_end_is_over() {
    let mut scene = Scene::new(config(Wire::Sse));
    scene.connect();
    scene.answer(204, "", Some("C9"), None);
    scene.check(&["end a@C9"]);
    assert!(scene.session.is_over());
}

#[test]
fn an_error_in_mid_stream_is_the_gateways_word() {
    let mut scene = Scene::open(Wire::Ndjson);
    scene.data("{\"error\":{\"code\":\"unavailable\",\"message\":\"away\",\"retry_after\":4}}\n");
    scene.check(&["open ndjson@C0", "retry unavailable: away"]);
    let before = scene.now;
    scene.connect();
    assert!(scene.now - before >= Duration::from_secs(4));
    let mut scene = Scene::open(Wire::Sse);
    scene.data(
        "event: tidegate-error\ndata: {\"code\":\"permission_denied\",\"message\":\"no\"}\n\n",
    );
    scene.check(&["open sse@C0", "error permission_denied: no"]);
    assert!(scene.session.is_over());
}

#[test]
fn an_event_streams_retry_is_the_least_wait() {
    let mut scene = Scene::open(Wire::Sse);
    scene.data("retry: 9000\n\nid: C5\n\n");
    scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
    let before = scene.now;
    assert_eq!(scene.connect().target, "/channels/a?since=C5&envelope=1");
    assert!(scene.now - before >= Duration::from_secs(9));
}

#[test]
fn a_refusal_is_read_to_its_end() {
    let problem = r#"{"code":"not_found","status":404,"detail":"there is nothing here"}"#;
    let mut scene = Scene::new(config(Wire::Ndjson));
    scene.connect();
    scene.answer(404, "application/problem+json", None, None);
    let (front, back) = problem.split_at(20);
    scene.data(front);
    scene.data(back);
    assert!(scene.told().is_empty());
    scene.session.handle_body_end(scene.now);
    scene.check(&["error not_found (404): there is nothing here"]);
}

#[test]
fn a_page_of_something_else_is_no_gateways() {
    let mut scene = Scene::new(config(Wire::Ndjson));
    scene.connect();
    scene.answer(200, "text/html", None, None);
    scene.session.handle_body_end(scene.now);
    scene.check(&["error the answer is text/html, which is not a gateway's"]);
    // But where there was a gateway, it is a portal, and passes.
    let mut scene = Scene::open(Wire::Ndjson);
    scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
    scene.connect();
    scene.answer(200, "text/html", None, None);
    scene.session.handle_body_end(scene.now);
    let told = scene.told();
    assert!(told.last().unwrap().starts_with("retry the answer is text/html"), "{told:?}");
}

#[test]
fn silence_is_asked_about_and_then_given_up() {
    let mut scene = Scene::open(Wire::Ws);
    scene.check(&["open ws@C0"]);
    scene.pass(Duration::from_secs(20));
    assert_eq!(scene.actions(), [Action::Ping]);
    // An answer will do, and so will anything else.
    scene.pass(Duration::from_secs(9));
    scene.session.handle_alive(scene.now);
    scene.pass(Duration::from_secs(19));
    assert!(scene.actions().is_empty());
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.actions(), [Action::Ping]);
    scene.pass(Duration::from_secs(10));
    scene.check(&["retry nothing came for 30000 ms; the connection was given up"]);

    for wire in [Wire::Sse, Wire::Ndjson] {
        let mut scene = Scene::open(wire);
        scene.pass(Duration::from_secs(39));
        scene.data("\n");
        scene.pass(Duration::from_secs(39));
        assert_eq!(scene.told().len(), 1);
        scene.pass(Duration::from_secs(1));
        scene.check(&["retry nothing came for 40000 ms; the connection was given up"]);
    }
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for() {
    for (wire, seconds) in [(Wire::Ws, 10), (Wire::Sse, 10), (Wire::LongPoll, 35)] {
        let mut scene = Scene::new(config(wire));
        scene.connect();
        scene.pass(Duration::from_secs(seconds - 1));
        assert!(scene.told().is_empty());
        scene.pass(Duration::from_secs(1));
        let expect = format!("retry connecting and the answer took longer than {seconds}000 ms");
        scene.check(&[&expect]);
    }
}

#[test]
fn auto_wants_a_proof_and_remembers_what_gave_one() {
    let mut scene = Scene::new(config(Choice::Auto));
    assert_eq!(scene.connect().wire, Wire::Ws);
    scene.head(Wire::Ws);
    assert_eq!(scene.actions(), [Action::Ping], "a quiet channel proves nothing");
    scene.pass(Duration::from_secs(10));
    assert_eq!(scene.connect().wire, Wire::Sse, "its upgrade was let through, and nothing else");
    scene.head(Wire::Sse);
    scene.data("id: C0\n\n");
    let actions = scene.actions();
    assert!(matches!(actions.as_slice(), [Action::Remember(Some((Wire::Sse, _)))]), "{actions:?}");
    scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
    assert_eq!(scene.connect().wire, Wire::Sse, "it had worked");
    scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
    scene.now += crate::machine::ladder::MEMORY;
    assert_eq!(scene.connect().wire, Wire::Ws, "perhaps it works again");
}

#[test]
fn a_bare_websocket_leaves_out_by_count_what_it_has_had() {
    let mut scene = Scene::open(Wire::WsBare);
    let now = scene.now;
    for text in ["1", "2"] {
        scene.session.handle_message(Kind::Text, text.as_bytes(), now);
    }
    scene.session.handle_failure(Failure::Cut("x".into()), now);
    assert_eq!(scene.connect().target, "/channels/a?since=C0");
    scene.head(Wire::WsBare);
    let now = scene.now;
    for text in ["1", "2", "3"] {
        scene.session.handle_message(Kind::Text, text.as_bytes(), now);
    }
    // The close says where it is: nothing is to be left out after that.
    scene.session.handle_close(Some(1012), "C7", now);
    let told = scene.told();
    let payloads: Vec<_> = told.iter().filter(|it| it.len() == 1).collect();
    assert_eq!(payloads, ["1", "2", "3"]);
    assert_eq!(scene.connect().target, "/channels/a?since=C7");
    scene.head(Wire::WsBare);
    scene.session.handle_message(Kind::Text, b"4", scene.now);
    scene.session.handle_close(Some(4010), "C9", scene.now);
    let told = scene.told();
    assert_eq!(&told[1..3], ["4", "gap a@C9"]);
    assert_eq!(scene.connect().target, "/channels/a?since=C9");
    scene.head(Wire::WsBare);
    scene.session.handle_close(Some(1000), "CA", scene.now);
    assert_eq!(scene.told().last().unwrap(), "end a@CA");
    assert!(scene.session.is_over());
}

#[test]
fn a_refusal_that_comes_as_a_close_is_a_refusal() {
    let mut scene = Scene::open(Wire::Ws);
    scene.session.handle_close(Some(1008), "rate_limited 6", scene.now);
    scene.check(&["open ws@C0", "retry rate_limited"]);
    let before = scene.now;
    scene.connect();
    assert!(scene.now - before >= Duration::from_secs(6));
    scene.head(Wire::Ws);
    scene.session.handle_close(Some(3003), "permission_denied", scene.now);
    assert_eq!(scene.told().last().unwrap(), "error permission_denied");
}

#[test]
fn a_page_that_is_too_large_or_cut_is_asked_for_in_parts() {
    let limits = Limits { page_bytes_max: 100, page_messages_max: 8, ..Limits::default() };
    let mut scene = Scene::new(SessionConfig { limits, ..config(Wire::Poll) });
    for limit in [8, 4, 2] {
        assert_eq!(scene.connect().target, format!("/channels/a?since=now&limit={limit}"));
        scene.head(Wire::Poll);
        match limit {
            4 => {
                scene.data("{\"messages\":[");
                scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
            }
            _ => scene.data(&"x".repeat(101)),
        }
        assert!(!scene.session.is_over());
    }
    scene.connect();
    scene.head(Wire::Poll);
    scene.data(&"x".repeat(101));
    let told = scene.told();
    assert!(told.last().unwrap().starts_with("error a poll's answer is larger"), "{told:?}");
}

#[test]
fn a_page_moves_the_cursor_with_its_last_event() {
    let page = |messages: &str, cursor: &str| {
        format!("{{\"messages\":[{messages}],\"cursor\":\"{cursor}\",\"gaps\":[],\"ended\":[]}}")
    };
    let mut scene = Scene::new(config(Wire::LongPoll));
    scene.connect();
    scene.head(Wire::LongPoll);
    scene.data(&page(LINE, "C4"));
    scene.session.handle_body_end(scene.now);
    scene.check(&["open long-poll", "1@C4"]);
    let before = scene.now;
    assert!(scene.connect().target.contains("since=C4&"));
    assert_eq!(scene.now, before, "at once");
    // One that says nothing at once is not asked again at once.
    scene.head(Wire::LongPoll);
    scene.data(&page("", "C5"));
    scene.session.handle_body_end(scene.now);
    scene.check(&["@C5"]);
    scene.connect();
    assert!(scene.now - before > Duration::from_secs(1));
}

#[test]
fn what_was_too_much_is_the_last_word() {
    let limits = Limits { message_bytes_max: 60, ..Limits::default() };
    for (wire, bytes) in [(Wire::Ndjson, "x".repeat(70)), (Wire::Sse, "data: x\n".repeat(70))] {
        let mut scene = Scene::new(SessionConfig { limits, ..config(wire) });
        scene.connect();
        scene.head(wire);
        scene.data(&bytes);
        let told = scene.told();
        assert!(told.last().unwrap().contains("larger than the 60 bytes"), "{told:?}");
        assert!(scene.session.is_over());
    }
}

#[test]
fn attempts_are_counted_until_one_works() {
    let mut scene = Scene::new(SessionConfig { attempts_max: Some(3), ..config(Wire::Ndjson) });
    let away = || Failure::Unreachable { address: "a:1".into(), reason: "no".into() };
    for _ in 0..2 {
        scene.connect();
        scene.session.handle_failure(away(), scene.now);
    }
    scene.connect();
    scene.head(Wire::Ndjson);
    scene.data(&format!("{LINE}\n"));
    scene.session.handle_failure(Failure::Cut("x".into()), scene.now);
    for _ in 0..3 {
        scene.connect();
        scene.session.handle_failure(away(), scene.now);
    }
    let told = scene.told();
    assert_eq!(told.last().unwrap(), "error gave up after 3 attempts: can't connect to a:1: no");
    assert!(scene.session.is_over());
}

/// Whatever bytes come, broken at any place: nothing panics, and what is told is what was said.
#[test]
fn no_bytes_of_a_peer_can_break_a_session() {
    let gap = r#"{"gap":{"channel":"a","requested":"C1","resumed":"C2","reason":"slow"}}"#;
    let error = r#"{"error":{"code":"unavailable","message":"x","retry_after":1}}"#;
    let page = format!("{{\"messages\":[{LINE}],\"cursor\":\"C4\",\"gaps\":[],\"ended\":[]}}");
    let sse = format!(
        "retry: 2000\n\nid: C1\n\nid: C2\ndata: {LINE}\n\nevent: tidegate-gap\nid: C3\n\
                       data: {{\"channel\":\"a\",\"requested\":\"C1\",\"resumed\":\"C2\",\"reason\":\"x\"}}\n\n"
    );
    let lines = format!("{LINE}\n\n{gap}\n{error}\n{END}\n");
    for seed in 0..3000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let wire = Wire::ALL[rng.usize(..6)];
        let mut bytes = match wire {
            Wire::Sse => &sse,
            Wire::LongPoll | Wire::Poll => &page,
            Wire::Ndjson | Wire::Ws | Wire::WsBare => &lines,
        }
        .clone()
        .into_bytes();
        for _ in 0..rng.usize(1..5) {
            let at = rng.usize(..bytes.len().max(1));
            match rng.u32(..4) {
                0 => bytes[at] = rng.u8(..),
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\"{}[],:\n0\\"[rng.usize(..10)]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut scene = Scene::open(wire);
        for piece in bytes.chunks(rng.usize(1..40)) {
            scene.session.handle_data(piece, scene.now);
        }
        for line in bytes.split(|it| *it == b'\n') {
            scene.session.handle_message(Kind::Text, line, scene.now);
        }
        scene.session.handle_close(
            Some(rng.u16(1000..5000)),
            &String::from_utf8_lossy(&bytes),
            scene.now,
        );
        scene.session.handle_body_end(scene.now);
        assert!(scene.told().len() <= 16);
        // It goes on, or has said why not.
        assert_eq!(scene.session.is_over(), scene.session.poll_timeout().is_none());
    }
}
