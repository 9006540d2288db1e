//! A stream of publications against a gateway that says what the test wants.

use super::*;
use crate::message::Message;

struct Scene {
    batch: Batch,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let config = BatchConfig {
            timing: Timing::default(),
            backoff: BackoffConfig::default(),
            attempts_max: None,
            entries_max: 4,
            bytes_max: 1000,
            give_up_after: Duration::from_secs(60),
            seed: 7,
        };
        Self { batch: Batch::new(config), now: Instant::now() }
    }

    /// A stream that was given numbered entries, and whose request is accepted.
    fn open(entries: u32) -> Self {
        let mut scene = Self::new();
        (0..entries).for_each(|n| scene.push(n));
        assert_eq!(scene.actions(), [Action::Connect]);
        scene.head();
        scene
    }

    fn push(&mut self, n: u32) {
        let message = Message::new("a", n.to_string()).key(format!("k{n}"));
        self.batch.handle_entry(&message.command().unwrap(), self.now);
    }

    fn head(&mut self) {
        let content_type = Some("application/x-ndjson".into());
        let head = Head { status: 200, content_type, ..Head::default() };
        self.batch.handle_head(head, self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.batch.poll_action()).collect()
    }

    /// The numbers of the lines that it sends now; an empty line is `-`.
    fn lines(&mut self) -> String {
        let mut lines = Vec::new();
        while let Some(line) = self.batch.poll_line(self.now) {
            let text = String::from_utf8(line.to_vec()).unwrap();
            lines.push(match text.trim() {
                "" => "-".to_owned(),
                json => {
                    let json: serde_json::Value = serde_json::from_str(json).unwrap();
                    assert_eq!(json["key"], format!("k{}", json["text"].as_str().unwrap()));
                    json["text"].as_str().unwrap().to_owned()
                }
            });
        }
        lines.join(" ")
    }

    fn accept(&mut self, count: u32) {
        for _ in 0..count {
            let line = "{\"index\":0,\"channel\":\"a\",\"cursor\":\"C1\",\"duplicate\":true}\n";
            self.batch.handle_data(line.as_bytes(), self.now);
        }
    }

    fn problem(&mut self, code: &str) {
        let line = format!("{{\"index\":0,\"code\":\"{code}\",\"detail\":\"x\"}}\n");
        self.batch.handle_data(line.as_bytes(), self.now);
    }

    /// `0+` was published, `1-` refused.
    fn outcomes(&mut self) -> String {
        let outcomes = std::iter::from_fn(|| self.batch.poll_outcome());
        let outcomes: Vec<_> = outcomes
            .map(|it| format!("{}{}", it.index, if it.result.is_ok() { '+' } else { '-' }))
            .collect();
        outcomes.join(" ")
    }

    /// Waits for what it waits for.
    fn wait(&mut self) {
        self.now = self.batch.poll_timeout().unwrap();
        self.batch.handle_timeout(self.now);
    }
}

#[test]
fn entries_are_sent_once_and_told_in_order() {
    let mut scene = Scene::open(3);
    assert_eq!(scene.lines(), "0 1 2");
    assert_eq!(scene.lines(), "");
    scene.accept(1);
    scene.problem("ended");
    scene.accept(1);
    assert_eq!(scene.outcomes(), "0+ 1- 2+");
    scene.batch.handle_finish(scene.now);
    assert_eq!(scene.actions(), [Action::EndBody]);
    assert_eq!(scene.batch.poll_end(), None);
    scene.batch.handle_body_end(scene.now);
    assert_eq!(scene.batch.poll_end(), Some(Ok(())));
}

#[test]
fn what_has_no_result_is_sent_again_from_the_first_on() {
    let mut scene = Scene::open(3);
    scene.lines();
    scene.accept(1);
    scene.batch.handle_failure(Failure::Cut("x".into()), scene.now);
    assert_eq!(scene.lines(), "");
    scene.push(3);
    scene.wait();
    assert_eq!(scene.actions(), [Action::Disconnect, Action::Connect]);
    scene.head();
    assert_eq!(scene.lines(), "1 2 3");
    // What is refused for now holds back what is behind it.
    scene.accept(1);
    scene.problem("unavailable");
    scene.wait();
    scene.head();
    assert_eq!(scene.lines(), "2 3");
    scene.accept(2);
    assert_eq!(scene.outcomes(), "0+ 1+ 2+ 3+");
}

#[test]
fn results_may_be_cut_anywhere() {
    let line = "{\"index\":0,\"channel\":\"a\",\"cursor\":\"C1\",\"duplicate\":false}\n";
    for cut in 0..line.len() {
        let mut scene = Scene::open(2);
        scene.lines();
        let (front, back) = line.split_at(cut);
        scene.batch.handle_data(front.as_bytes(), scene.now);
        assert_eq!(scene.outcomes(), "");
        scene.batch.handle_data(back.as_bytes(), scene.now);
        assert_eq!(scene.outcomes(), "0+");
    }
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let mut scene = Scene::open(4);
    assert!(!scene.batch.has_room());
    scene.lines();
    scene.accept(1);
    assert!(scene.batch.has_room());
    let mut scene = Scene::new();
    let large = Message::new("a", "x".repeat(2000)).command().unwrap();
    scene.batch.handle_entry(&large, scene.now);
    assert!(!scene.batch.has_room(), "its bytes are all that there is room for");
}

#[test]
fn a_pause_is_kept_alive_or_ends_the_request() {
    let mut scene = Scene::open(1);
    assert_eq!(scene.lines(), "0");
    scene.now += Duration::from_secs(10);
    scene.batch.handle_timeout(scene.now);
    assert_eq!(scene.lines(), "-", "a result is still due");
    scene.accept(1);
    scene.now += Duration::from_secs(10);
    scene.batch.handle_timeout(scene.now);
    assert_eq!(scene.actions(), [Action::EndBody]);
    // What is pushed meanwhile goes with the next request.
    scene.push(1);
    assert_eq!(scene.lines(), "");
    scene.batch.handle_body_end(scene.now);
    assert_eq!(scene.actions(), [Action::Disconnect, Action::Connect]);
    assert_eq!(scene.lines(), "1");
}

#[test]
fn a_gateway_that_says_nothing_is_given_up() {
    let mut scene = Scene::open(1);
    scene.lines();
    for _ in 0..3 {
        scene.now += Duration::from_secs(10);
        scene.batch.handle_timeout(scene.now);
        scene.lines();
    }
    scene.now += Duration::from_secs(10);
    scene.batch.handle_timeout(scene.now);
    assert_eq!(scene.actions(), [Action::Disconnect]);
    while scene.batch.poll_end().is_none() {
        scene.wait();
        scene.lines();
    }
    let end = scene.batch.poll_end().unwrap();
    assert!(matches!(end, Err(Error::Exhausted { is_outcome_unknown: true, .. })), "{end:?}");
}

#[test]
fn a_refusal_is_the_end_or_is_waited_out() {
    let refuse = |status, code: &str| {
        let mut scene = Scene::new();
        scene.push(0);
        let content_type = Some("application/problem+json".to_owned());
        scene.batch.handle_head(Head { status, content_type, ..Head::default() }, scene.now);
        let body = format!("{{\"code\":\"{code}\",\"detail\":\"x\",\"retry_after\":5}}");
        scene.batch.handle_data(body.as_bytes(), scene.now);
        scene.batch.handle_body_end(scene.now);
        scene
    };
    let scene = refuse(403, "permission_denied");
    assert!(matches!(scene.batch.poll_end(), Some(Err(Error::Failed(Failure::Problem(_))))));
    let mut scene = refuse(429, "rate_limited");
    let before = scene.now;
    scene.wait();
    assert!(scene.now - before >= Duration::from_secs(5));
    assert!(scene.actions().ends_with(&[Action::Connect]));
}

#[test]
fn answers_that_fit_nothing_are_the_peers_fault() {
    for line in ["{}\n", "[]\n", "x\n", "{\"channel\":\"a\",\"cursor\":\"now\"}\n"] {
        let mut scene = Scene::open(1);
        scene.lines();
        scene.batch.handle_data(line.as_bytes(), scene.now);
        assert_eq!(scene.actions(), [Action::Disconnect], "{line}");
        assert_eq!(scene.outcomes(), "");
    }
}

#[test]
fn nothing_to_finish_is_finished() {
    let mut scene = Scene::new();
    scene.batch.handle_finish(scene.now);
    assert_eq!(scene.batch.poll_end(), Some(Ok(())));
}
