//! One publication over HTTP, tried until its outcome is known (CONTRACT 3).
//!
//! ```text
//!   Send ──200──► Done                        every attempt has the same idempotency key, so that
//!    ▲ └──failure that may pass──► Wait ──┐   one which was accepted without our hearing of it
//!    └────────────────────────────────────┘   is found, not doubled
//! ```
//! A gateway keeps keys for 2 minutes by default: the deadline has to be shorter than that.

use std::time::Instant;

use serde::Deserialize;
use tidegate_core::ChannelName;
use tidegate_core::envelope::member::Text;

use super::backoff::{Backoff, BackoffConfig};
use super::form::{Names, cursor, parse};
use super::{Head, refusal};
use crate::error::{Error, Failure};
use crate::message::Published;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send the request, and say what came of it.
    Send,
    /// Call [`Post::handle_timeout`] then.
    Wait(Instant),
    /// The outcome.
    Done(Result<Published, Error>),
}

/// One publication's attempts. Call [`Post::poll`], do what it says, tell, and poll again.
#[derive(Debug)]
pub struct Post {
    backoff: Backoff,
    deadline: Instant,
    attempts_max: u32,
    attempts: u32,
    is_outcome_unknown: bool,
    /// Whether nobody else can have used the key: then a duplicate is our own earlier attempt.
    is_own_key: bool,
    step: Step,
}

/// How a publication is tried.
#[derive(Clone, Copy, Debug)]
pub struct PostConfig {
    /// When to try again.
    pub backoff: BackoffConfig,
    /// When to give up: no attempt begins after it.
    pub deadline: Instant,
    /// Attempts at most.
    pub attempts_max: u32,
    /// Whether the key was made for this call alone.
    pub is_own_key: bool,
    /// Where the jitter comes from.
    pub seed: u64,
}

impl Post {
    /// A publication that nobody has sent yet.
    #[must_use]
    pub fn new(config: &PostConfig) -> Self {
        Self {
            backoff: Backoff::new(config.backoff, config.seed),
            deadline: config.deadline,
            attempts_max: config.attempts_max,
            attempts: 0,
            is_outcome_unknown: false,
            is_own_key: config.is_own_key,
            step: Step::Send,
        }
    }

    /// What to do now.
    #[must_use]
    pub fn poll(&self) -> &Step {
        &self.step
    }

    /// The time that [`Step::Wait`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.step, Step::Wait(until) if until <= now) {
            self.step = Step::Send;
        }
    }

    /// The answer is there.
    pub fn handle_answer(&mut self, head: &Head, body: &[u8], now: Instant) {
        if head.status != 200 || head.content_type.as_deref() != Some("application/json") {
            return self.handle_failure(refusal(head, body), now);
        }
        match published(body) {
            Ok(mut published) => {
                published.is_duplicate &= !self.is_own_key;
                self.step = Step::Done(Ok(published));
            }
            Err(failure) => self.handle_failure(failure, now),
        }
    }

    /// The attempt failed.
    pub fn handle_failure(&mut self, failure: Failure, now: Instant) {
        self.attempts += 1;
        self.is_outcome_unknown |= may_be_accepted(&failure);
        if !failure.is_temporary() {
            self.step = Step::Done(Err(Error::Failed(failure)));
            return;
        }
        let until = now + self.backoff.next(failure.retry_after());
        self.step = if self.attempts >= self.attempts_max || until > self.deadline {
            let (attempts, is_outcome_unknown) = (self.attempts, self.is_outcome_unknown);
            Step::Done(Err(Error::Exhausted { attempts, last: failure, is_outcome_unknown }))
        } else {
            Step::Wait(until)
        };
    }
}

/// Whether a publication may be in the log although its attempt failed like this.
fn may_be_accepted(failure: &Failure) -> bool {
    match failure {
        Failure::Problem(problem) => problem.is_outcome_unknown,
        Failure::Cut(_)
        | Failure::Closed { .. }
        | Failure::Foreign { .. }
        | Failure::Protocol(_)
        | Failure::Silent(_)
        | Failure::Timeout { .. } => true,
        Failure::Status { status, .. } => *status >= 500,
        Failure::Redirect { .. }
        | Failure::Request(_)
        | Failure::TooLarge { .. }
        | Failure::Unreachable { .. } => false,
    }
}

/// Reads `{"channel","cursor","duplicate"}`.
pub(super) fn published(json: &[u8]) -> Result<Published, Failure> {
    let raw: RawPublished<'_> = parse(json)?;
    raw.read(&Names(&[]))
}

#[derive(Deserialize)]
pub(super) struct RawPublished<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    cursor: Text<'a>,
    duplicate: bool,
}

impl RawPublished<'_> {
    pub(super) fn read(&self, names: &Names<'_>) -> Result<Published, Failure> {
        let channel: ChannelName = names.find(&self.channel.0)?;
        Ok(Published { channel, cursor: cursor(&self.cursor.0)?, is_duplicate: self.duplicate })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Tried {
        post: Post,
        now: Instant,
        waits: Vec<Duration>,
    }

    fn post(is_own_key: bool) -> Tried {
        let now = Instant::now();
        let config = PostConfig {
            backoff: BackoffConfig { base: Duration::from_secs(1), ..BackoffConfig::default() },
            deadline: now + Duration::from_secs(60),
            attempts_max: 5,
            is_own_key,
            seed: 7,
        };
        Tried { post: Post::new(&config), now, waits: Vec::new() }
    }

    impl Tried {
        fn answer(mut self, status: u16, content_type: &str, body: &str) -> Self {
            let content_type = Some(content_type.to_owned());
            let head = Head { status, content_type, ..Head::default() };
            assert_eq!(*self.post.poll(), Step::Send);
            self.post.handle_answer(&head, body.as_bytes(), self.now);
            self.wait()
        }

        fn fail(mut self, failure: Failure) -> Self {
            assert_eq!(*self.post.poll(), Step::Send);
            self.post.handle_failure(failure, self.now);
            self.wait()
        }

        /// Waits as long as it says, and not less.
        fn wait(mut self) -> Self {
            if let Step::Wait(until) = *self.post.poll() {
                self.waits.push(until - self.now);
                self.post.handle_timeout(until - Duration::from_nanos(1));
                assert_eq!(*self.post.poll(), Step::Wait(until));
                self.post.handle_timeout(until);
                self.now = until;
            }
            self
        }

        #[track_caller]
        fn check(&self, expect: &Result<bool, &str>) {
            let Step::Done(done) = self.post.poll() else { panic!("{:?}", self.post.poll()) };
            match (done, expect) {
                (Ok(published), Ok(is_duplicate)) => {
                    assert_eq!(published.is_duplicate, *is_duplicate);
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                _ => panic!("{done:?}"),
            }
        }
    }

    const JSON: &str = "application/json";
    const PROBLEM: &str = "application/problem+json";
    const FRESH: &str = r#"{"channel":"a","cursor":"C1","duplicate":false}"#;
    const AGAIN: &str = r#"{"channel":"a","cursor":"C1","duplicate":true}"#;
    const UNKNOWN: &str =
        r#"{"code":"unavailable","status":503,"detail":"x","retry_after":3,"outcome":"unknown"}"#;

    #[test]
    fn what_goes_well_is_done() {
        post(true).answer(200, JSON, FRESH).check(&Ok(false));
        post(false).answer(200, JSON, AGAIN).check(&Ok(true));
    }

    #[test]
    fn an_unknown_outcome_is_tried_again_and_is_then_no_duplicate_of_ours() {
        let tried = post(true).answer(503, PROBLEM, UNKNOWN);
        assert!(tried.waits[0] >= Duration::from_secs(3), "Retry-After is honoured");
        tried.answer(200, JSON, AGAIN).check(&Ok(false));
        post(true).fail(Failure::Cut("x".into())).answer(200, JSON, AGAIN).check(&Ok(false));
        post(false).fail(Failure::Cut("x".into())).answer(200, JSON, AGAIN).check(&Ok(true));
    }

    #[test]
    fn what_no_attempt_can_mend_is_told_at_once() {
        let ended = r#"{"code":"ended","status":409,"detail":"the channel has ended"}"#;
        post(true).answer(409, PROBLEM, ended).check(&Err("ended"));
        post(true).answer(200, "text/html", "<html>").check(&Err("text/html"));
        post(true).answer(302, "text/html", "").check(&Err("redirect"));
    }

    #[test]
    fn it_gives_up_after_so_many_attempts_or_at_its_deadline() {
        let mut tried = post(true);
        for _ in 0..5 {
            tried = tried.answer(502, "text/html", "");
        }
        tried.check(&Err("gave up after 5 attempts"));
        let late = r#"{"code":"rate_limited","detail":"x","retry_after":61}"#;
        post(true).answer(429, PROBLEM, late).check(&Err("gave up after 1 attempts"));
    }

    #[test]
    fn whether_it_may_be_accepted_is_known() {
        let known = |tried: Tried| match tried.post.poll() {
            Step::Done(Err(Error::Exhausted { is_outcome_unknown, .. })) => !is_outcome_unknown,
            other => panic!("{other:?}"),
        };
        let away = || Failure::Unreachable { address: "a".into(), reason: "b".into() };
        let five = |make: &dyn Fn() -> Failure| (0..5).fold(post(true), |it, _| it.fail(make()));
        assert!(known(five(&away)));
        assert!(!known(five(&|| Failure::Cut("x".into()))));
    }
}
