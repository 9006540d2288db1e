//! The answer to a body of many publications: it reads them, publishes, and says what became of each,
//! all as far as it is itself read (CONTRACT 3).
//!
//! There is no queue between request and answer. Whoever does not read the answer is not read from
//! either; what is held is one piece of the request, one unfinished entry, one unanswered draft, and
//! at most [`FLUSH_BYTES`] and a line of the answer.
//!
//! ```text
//!            ┌── entry ──► publish ──► result ──┐
//! Reading ──►┤                                  ├──► Reading …
//!            ├── end of the body ──► Finishing ──► the end that is due ──► Over ──► tally ──► Done
//!            └── cut, too slow, no JSON, draining: last problem ──► Over
//! ```

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tidegate_broker::{PublishError, Published, Reply};
use tidegate_core::ChannelName;
use tidegate_core::envelope::PublishCommand;
use tidegate_core::envelope::json::{write_published, write_tally};
use tokio::time::{Instant, Sleep, sleep};

use super::body::{cut, too_slow};
use super::entries::{Entries, Refusal};
use crate::driver::wake;
use crate::problem::Problem;

/// Results that are collected while there is more to publish at once.
const FLUSH_BYTES: usize = 16 << 10;

/// Entries after which other tasks of the worker get a turn; a publication costs it 1 to 2 µs.
const TURN_ENTRIES: u32 = 256;

/// Where publications go.
pub(super) trait Sink {
    /// Publishes, if that is allowed.
    ///
    /// # Errors
    ///
    /// The refusal, where the broker was not even asked.
    fn publish(&self, command: PublishCommand) -> Result<Outcome, Problem>;

    /// Logs a refusal, under the instance that its body is to name.
    fn log(&self, problem: &Problem) -> u128;

    /// Whether this node goes down.
    fn is_draining(&self) -> bool;
}

/// What becomes of a publication.
pub(super) type Outcome = Reply<Result<Published, PublishError>>;

/// What is told of many publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The result of each.
    All,
    /// The problems, then how many went well.
    Problems,
}

/// A response's body, which publishes what `source` brings.
#[derive(Debug)]
pub(super) struct Results<B, S> {
    source: B,
    sink: S,
    entries: Entries,
    told: Told,
    body_timeout: Duration,
    /// What is not yet cut of the request's last piece.
    input: Bytes,
    unanswered: Option<Unanswered>,
    phase: Phase,
    /// The next entry's.
    index: u64,
    published: u64,
    duplicates: u64,
    failed: u64,
    out: Vec<u8>,
    /// Entries since others had a turn.
    turn: u32,
    /// Whether `timer` runs, since the source had nothing.
    is_waiting: bool,
    timer: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Finishing,
    Over,
    Done,
}

/// A draft that the broker has.
#[derive(Debug)]
struct Unanswered {
    channel: ChannelName,
    outcome: Outcome,
    told_as: ToldAs,
}

/// What a draft is to its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToldAs {
    /// An entry, whose result is told.
    Entry,
    /// The end after the last entry: only its failure is told.
    End,
}

/// What a step came to.
enum Step {
    Went,
    Waits,
    Done,
}

impl<B, S> Results<B, S>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
    S: Sink,
{
    /// The answer to `source`, which may pause for `body_timeout` at most.
    pub(super) fn new(
        source: B,
        sink: S,
        entries: Entries,
        told: Told,
        body_timeout: Duration,
    ) -> Self {
        Self {
            source,
            sink,
            entries,
            told,
            body_timeout,
            input: Bytes::new(),
            unanswered: None,
            phase: Phase::Reading,
            index: 0,
            published: 0,
            duplicates: 0,
            failed: 0,
            out: Vec::new(),
            turn: 0,
            is_waiting: false,
            timer: Box::pin(sleep(body_timeout)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.turn < TURN_ENTRIES && self.out.len() < FLUSH_BYTES {
            match self.step(cx) {
                Step::Went => {}
                Step::Done if self.out.is_empty() => return Poll::Ready(None),
                Step::Waits if self.out.is_empty() => {
                    self.turn = 0;
                    return Poll::Pending;
                }
                Step::Done | Step::Waits => return self.flush(),
            }
        }
        if !self.out.is_empty() {
            return self.flush();
        }
        self.turn = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        if let Some(mut unanswered) = self.unanswered.take() {
            let Poll::Ready(outcome) = Pin::new(&mut unanswered.outcome).poll(cx) else {
                self.unanswered = Some(unanswered);
                return Step::Waits;
            };
            self.tell(&unanswered.channel, outcome, unanswered.told_as);
            return Step::Went;
        }
        match self.phase {
            Phase::Reading => match self.entries.next(&mut self.input) {
                Some(entry) => self.take(entry),
                None => return self.read(cx),
            },
            Phase::Finishing => match self.entries.finish() {
                Some(entry) => self.take(entry),
                None => self.end(),
            },
            Phase::Over => {
                if self.told == Told::Problems {
                    write_tally(self.published, self.duplicates, self.failed, &mut self.out);
                    self.out.push(b'\n');
                }
                self.phase = Phase::Done;
            }
            Phase::Done => return Step::Done,
        }
        Step::Went
    }

    /// Reads the next piece of the request.
    fn read(&mut self, cx: &mut Context<'_>) -> Step {
        match Pin::new(&mut self.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.is_waiting = false;
                // Trailers say nothing that we know.
                self.input = frame.into_data().unwrap_or_default();
            }
            Poll::Ready(Some(Err(error))) => self.give_up(cut(&error)),
            Poll::Ready(None) => self.phase = Phase::Finishing,
            // What had come was answered; who goes on sending has to go elsewhere.
            Poll::Pending if self.sink.is_draining() => self.give_up(Problem::draining()),
            Poll::Pending => {
                if !std::mem::replace(&mut self.is_waiting, true) {
                    self.timer.as_mut().reset(Instant::now() + self.body_timeout);
                }
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Step::Waits;
                }
                self.give_up(too_slow(self.body_timeout));
            }
        }
        Step::Went
    }

    fn take(&mut self, entry: Result<PublishCommand, Refusal>) {
        self.turn += 1;
        match entry {
            Ok(command) => self.publish(command, ToldAs::Entry),
            Err(Refusal { problem, is_last: false }) => self.refuse(problem),
            Err(Refusal { problem, is_last: true }) => self.give_up(problem),
        }
    }

    fn publish(&mut self, command: PublishCommand, told_as: ToldAs) {
        let channel = command.channel.clone();
        match self.sink.publish(command) {
            Ok(Reply::Now(outcome)) => self.tell(&channel, outcome, told_as),
            Ok(outcome) => self.unanswered = Some(Unanswered { channel, outcome, told_as }),
            Err(problem) => self.refuse(problem),
        }
    }

    /// Publishes the end that is due. An end can't be taken back, so it needs that all before it
    /// went well; it has a result of its own only where nothing was before it.
    fn end(&mut self) {
        self.phase = Phase::Over;
        let Some(end) = self.entries.take_end() else { return };
        if self.failed > 0 {
            return self.refuse(Problem::invalid(format!(
                "the channel was not ended, for {} of the publications before its end failed; \
                 publish them again, and then the end",
                self.failed
            )));
        }
        let told_as = if self.index == 0 { ToldAs::Entry } else { ToldAs::End };
        self.publish(end, told_as);
    }

    fn tell(
        &mut self,
        channel: &ChannelName,
        outcome: Result<Published, PublishError>,
        told_as: ToldAs,
    ) {
        let published = match outcome {
            Ok(_) if told_as == ToldAs::End => return,
            Ok(published) => published,
            Err(error) => return self.refuse(error.into()),
        };
        let (position, is_duplicate) = (published.position(), published.is_duplicate());
        if is_duplicate {
            self.duplicates += 1;
        } else {
            self.published += 1;
        }
        if self.told == Told::All {
            write_published(Some(self.index), channel, position, is_duplicate, &mut self.out);
            self.out.push(b'\n');
        }
        self.index += 1;
    }

    fn refuse(&mut self, problem: Problem) {
        let problem = problem.with_index(self.index);
        let instance = self.sink.log(&problem);
        self.out.extend_from_slice(&problem.to_json(instance));
        self.out.push(b'\n');
        self.failed += 1;
        self.index += 1;
    }

    /// Says why nothing more is read.
    fn give_up(&mut self, problem: Problem) {
        self.refuse(problem);
        self.phase = Phase::Over;
    }

    fn flush(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.out).into()))))
    }
}

impl<B, S> Body for Results<B, S>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
    S: Sink + Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        wake::together(|| this.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use tidegate_core::entry::EventName;
    use tidegate_core::{Epoch, Position};

    use super::super::body::tests::{Pieces, Then};
    use super::*;

    /// Takes publications as a broker of some moods.
    #[derive(Debug, Default)]
    struct Recorder {
        taken: RefCell<Vec<String>>,
        is_draining: bool,
        answers_later: bool,
    }

    impl Sink for &Recorder {
        fn publish(&self, command: PublishCommand) -> Result<Outcome, Problem> {
            let PublishCommand { channel, event, payload, key, ends } = command;
            if self.is_draining {
                return Err(Problem::draining());
            }
            let outcome = match channel.as_str() {
                "secret" => return Err(Problem::denied("not for you")),
                "ended" => Err(PublishError::Ended),
                _ => {
                    let payload = payload.map(|it| String::from_utf8(it.bytes.into()).unwrap());
                    let mut taken = self.taken.borrow_mut();
                    taken.push(format!(
                        "{channel} {} {}{}",
                        event.as_deref().unwrap_or("-"),
                        payload.as_deref().unwrap_or("-"),
                        if ends { " end" } else { "" }
                    ));
                    let position = Position { epoch: Epoch::new(1), offset: taken.len() as u64 };
                    Ok(match key {
                        Some(key) if &*key.key == "again" => Published::Duplicate(position),
                        _ => Published::New(position),
                    })
                }
            };
            if !self.answers_later {
                return Ok(Reply::Now(outcome));
            }
            Ok(Reply::Later(Box::pin(async move {
                tokio::task::yield_now().await;
                outcome
            })))
        }

        fn log(&self, _: &Problem) -> u128 {
            0
        }

        fn is_draining(&self) -> bool {
            self.is_draining
        }
    }

    fn values() -> Entries {
        Entries::values(Arc::from(""), 64)
    }

    fn lines(ends: bool) -> Entries {
        let event = EventName::parse("tick").unwrap();
        Entries::lines(ChannelName::parse("a").unwrap(), Some(event), ends, 16)
    }

    /// What is answered: of each result its index and channel, code or tally.
    fn answer(body: Pieces, entries: Entries, told: Told, sink: &Recorder) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let bytes = runtime.block_on(async {
            let results = Results::new(body, sink, entries, told, Duration::from_millis(10));
            http_body_util::BodyExt::collect(results).await.unwrap().to_bytes()
        });
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(summary).collect()
    }

    fn summary(line: &str) -> String {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(published) = json.get("published") {
            return format!("{published} {} {}", json["duplicates"], json["failed"]);
        }
        let index = json["index"].as_u64().unwrap();
        match json["code"].as_str() {
            Some(code) => format!("{index} {} {code}", json["status"]),
            None => format!("{index} {} {}", json["channel"].as_str().unwrap(), json["duplicate"]),
        }
    }

    /// The same is answered and taken, wherever the body is cut.
    #[track_caller]
    fn check(body: &str, entries: fn() -> Entries, told: Told, answers: &[&str], taken: &[&str]) {
        for (cut, answers_later) in (0..=body.len()).flat_map(|cut| [(cut, false), (cut, true)]) {
            let Some((front, back)) = body.split_at_checked(cut) else { continue };
            let sink = Recorder { answers_later, ..Recorder::default() };
            let pieces = Pieces::new(&[front, back], Then::End);
            assert_eq!(answer(pieces, entries(), told, &sink), answers, "cut at {cut}");
            assert_eq!(*sink.taken.borrow(), taken, "cut at {cut}");
        }
    }

    #[test]
    fn values_are_answered_in_order_with_their_index() {
        check(
            r#"{"channel":"a","data":1}
               {"channel":"b","text":"x","event":"e"}{"channel":"a","key":"again","data":[]}
               {"channel":"a","end":true}"#,
            values,
            Told::All,
            &["0 a false", "1 b false", "2 a true", "3 a false"],
            &["a - 1", "b e x", "a - []", "a - - end"],
        );
        check("", values, Told::All, &[], &[]);
    }

    #[test]
    fn one_bad_entry_does_not_touch_the_next() {
        check(
            r#"{"channel":"secret","data":1} {"channel":"ended","data":1} {"channel":"*","data":1} 7
               {"channel":"a"} {"channel":"a","data":1}"#,
            values,
            Told::All,
            &[
                "0 403 permission_denied",
                "1 409 ended",
                "2 400 invalid_argument",
                "3 400 invalid_argument",
                "4 400 invalid_argument",
                "5 a false",
            ],
            &["a - 1"],
        );
    }

    #[test]
    fn an_entry_is_bounded_and_the_stream_is_not() {
        let large = format!(r#"{{"channel":"a","text":"{}"}}"#, "x".repeat(64));
        check(
            &format!(r#"{{"channel":"a","data":1}} {large} {{"channel":"b","data":2}} {large}"#),
            values,
            Told::All,
            &["0 a false", "1 413 too_large", "2 b false", "3 413 too_large"],
            &["a - 1", "b - 2"],
        );
    }

    #[test]
    fn a_syntax_error_is_the_last_result() {
        check(
            r#"{"channel":"a","data":1} {"channel":"a","data":} {"channel":"a","data":3}"#,
            values,
            Told::All,
            &["0 a false", "1 400 invalid_argument"],
            &["a - 1"],
        );
        check(
            r#"{"channel":"a","data":1} {"channel":"a""#,
            values,
            Told::All,
            &["0 a false", "1 400 invalid_argument"],
            &["a - 1"],
        );
    }

    #[test]
    fn a_quiet_answer_has_the_problems_and_the_sums() {
        check(
            r#"{"channel":"a","data":1} {"channel":"ended","data":1}
               {"channel":"a","key":"again","data":1} {"channel":"a","data":2}"#,
            values,
            Told::Problems,
            &["1 409 ended", "2 1 1"],
            &["a - 1", "a - 1", "a - 2"],
        );
        check("", values, Told::Problems, &["0 0 0"], &[]);
        check("x", values, Told::Problems, &["0 400 invalid_argument", "0 0 1"], &[]);
    }

    #[test]
    fn each_line_is_a_payload_of_one_event() {
        check(
            "1\n\n {\"x\":2} \r\n[3]",
            || lines(false),
            Told::All,
            &["0 a false", "1 a false", "2 a false"],
            &["a tick 1", "a tick  {\"x\":2} ", "a tick [3]"],
        );
    }

    #[test]
    fn a_line_is_bounded_too() {
        check(
            "1\n\"0123456789012345\"\n3\n",
            || lines(false),
            Told::All,
            &["0 a false", "1 413 too_large", "2 a false"],
            &["a tick 1", "a tick 3"],
        );
    }

    #[test]
    fn a_line_that_is_no_json_is_the_last_result() {
        for bad in ["1\n{\n2\n", "1\n2 3\n", "1\nx"] {
            check(
                bad,
                || lines(true),
                Told::All,
                &["0 a false", "1 400 invalid_argument"],
                &["a tick 1"],
            );
        }
        let mut entries = lines(false);
        let refusal = entries.next(&mut Bytes::from_static(b"\n1\n\n[,]\n")).unwrap();
        assert!(refusal.is_ok());
        let mut rest = Bytes::from_static(b"\n[,]\n");
        let refusal = entries.next(&mut rest).unwrap().unwrap_err();
        assert!(refusal.problem.detail.contains("line 4"), "{}", refusal.problem.detail);
    }

    #[test]
    fn an_end_comes_after_the_last_line() {
        check(
            "1\n2",
            || lines(true),
            Told::All,
            &["0 a false", "1 a false"],
            &["a tick 1", "a tick 2", "a - - end"],
        );
        // Alone it has a result of its own.
        check("\n", || lines(true), Told::All, &["0 a false"], &["a - - end"]);
        check("", || lines(true), Told::Problems, &["1 0 0"], &["a - - end"]);
    }

    #[test]
    fn an_end_needs_that_all_before_it_went_well() {
        check(
            "1\n\"0123456789012345\"\n3\n",
            || lines(true),
            Told::All,
            &["0 a false", "1 413 too_large", "2 a false", "3 400 invalid_argument"],
            &["a tick 1", "a tick 3"],
        );
    }

    /// `taken`: what was published before the body broke off.
    #[track_caller]
    fn check_broken(then: Then, is_draining: bool, answers: &[&str], taken: usize) {
        let sink = Recorder { is_draining, ..Recorder::default() };
        let pieces = Pieces::new(&["1\n2\n", "3"], then);
        assert_eq!(answer(pieces, lines(true), Told::All, &sink), answers);
        assert_eq!(sink.taken.borrow().len(), taken);
    }

    #[test]
    fn a_body_that_breaks_off_is_told_and_never_ends_the_channel() {
        check_broken(Then::Stall, false, &["0 a false", "1 a false", "2 408 invalid_argument"], 2);
        check_broken(Then::Fail, false, &["0 a false", "1 a false", "2 400 invalid_argument"], 2);
    }

    #[test]
    fn while_draining_nothing_is_taken_and_nobody_is_waited_for() {
        let gone = ["0 503 unavailable", "1 503 unavailable", "2 503 unavailable"];
        check_broken(Then::Stall, true, &gone, 0);
    }

    #[test]
    fn others_have_their_turn_and_the_answer_is_bounded() {
        let body = "1\n".repeat(2000);
        for told in [Told::All, Told::Problems] {
            let sink = Recorder::default();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _time = runtime.enter();
            let source = Pieces::new(&[&body], Then::End);
            let timeout = Duration::from_secs(1);
            let mut results = Results::new(source, &sink, lines(false), told, timeout);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut pauses = 0;
            let mut before = 0;
            loop {
                let polled = Pin::new(&mut results).poll_frame(&mut cx);
                let taken = sink.taken.borrow().len();
                let (in_this_poll, max) = (taken - before, TURN_ENTRIES as usize);
                assert!(in_this_poll <= max, "{in_this_poll} in one poll");
                before = taken;
                match polled {
                    Poll::Pending => pauses += 1,
                    Poll::Ready(None) => break,
                    Poll::Ready(Some(Ok(frame))) => {
                        let bytes = frame.into_data().unwrap();
                        assert!(bytes.len() < FLUSH_BYTES + 256, "{} bytes", bytes.len());
                    }
                }
            }
            assert_eq!((before, pauses), (2000, 2000 / TURN_ENTRIES));
        }
    }
}
