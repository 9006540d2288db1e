//! Publishing: publishers in closed loops, a request for each publication or one for all.
//!
//! No publication has a key: a gateway remembers keys for minutes, and a run would fill its table.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use tidegate_client::Failure;
use tidegate_wire::chunk::ChunkReader;
use tidegate_wire::ndjson::{self, LineSplitter};
use tokio::task::JoinSet;

use super::line::Line;
use super::meter::Meter;
use super::payload::Template;
use super::run::{Shared, open_everyone};
use super::target::{Head, refused};
use super::{End, Outcome, Target, files};

/// Publishing, before it begins.
#[derive(Clone, Debug)]
pub(in super::super) struct Publish {
    pub(in super::super) channel: String,
    pub(in super::super) publishers: u64,
    pub(in super::super) way: Way,
    pub(in super::super) size: usize,
    pub(in super::super) duration: Duration,
}

/// How a publisher hands in what it publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// A POST each, on a connection that is kept.
    Post,
    /// All in the body of one POST, so many at a time without a result.
    Stream(u64),
}

impl Publish {
    pub(super) async fn run(
        &self,
        target: &Target,
        meter: &Rc<Meter>,
        interrupted: impl Future<Output = ()>,
    ) -> anyhow::Result<Outcome> {
        files::allow(self.publishers)?;
        let shared = Rc::new(Shared::new(meter));
        let mut interrupted = std::pin::pin!(interrupted);
        let mut publishers = Vec::new();
        let open = |_| {
            let target = target.clone();
            async move { target.dial().await }
        };
        let opened = |io| publishers.push(self.publisher(target, Line::new(io, Vec::new())));
        let (count, until) = (self.publishers, interrupted.as_mut());
        let is_open = open_everyone("publisher", count, meter, until, open, opened).await?;
        anyhow::ensure!(is_open, "interrupted before everyone was connected");
        let mut tasks = JoinSet::new();
        for publisher in publishers {
            tasks.spawn_local(publisher.run(Rc::clone(&shared)));
        }
        let nothing = std::future::pending();
        let mut outcome = shared.measure(&mut tasks, nothing, self.duration, interrupted).await;
        if !matches!(outcome.end, End::Failed(_)) {
            outcome.counts.lost = shared.on_the_way.get();
        }
        tasks.shutdown().await;
        Ok(outcome)
    }

    fn publisher(&self, target: &Target, line: Line) -> Publisher {
        let (begin, answers, in_flight) = match self.way {
            Way::Post => {
                let begin = target.request("POST", &format!("/channels/{}?as=text", self.channel));
                let begin = format!("{begin}Content-Length: {}\r\n\r\n", self.size);
                (begin.into_bytes(), Answers::Whole(Vec::new()), 1)
            }
            Way::Stream(in_flight) => {
                let begin = format!("{{\"channel\":\"{}\",\"text\":\"", self.channel);
                let head = Vec::new();
                (begin.into_bytes(), Answers::Head(head), in_flight)
            }
        };
        let head = target.request("POST", "/publish")
            + "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        Publisher {
            line,
            begin,
            head: if self.way == Way::Post { Vec::new() } else { head.into_bytes() },
            template: Template::new(self.size),
            number: 0,
            in_flight,
            sent: VecDeque::new(),
            answers,
        }
    }
}

struct Publisher {
    line: Line,
    /// What stands in front of each payload: a request's head, or a line's beginning.
    begin: Vec<u8>,
    /// Of a stream: its head.
    head: Vec<u8>,
    template: Template,
    number: u64,
    in_flight: u64,
    /// When what has no answer was sent, in order.
    sent: VecDeque<Instant>,
    answers: Answers,
}

/// What is read of answers.
enum Answers {
    /// One after another: what has come of the next.
    Whole(Vec<u8>),
    /// A stream's, whose head has not all come.
    Head(Vec<u8>),
    /// A stream's lines.
    Lines(ChunkReader, LineSplitter),
}

/// Results are short; a problem may have many words.
const LINE_BYTES_MAX: usize = 64 << 10;

impl Publisher {
    /// Publishes until it can't.
    async fn run(mut self, shared: Rc<Shared>) -> Failure {
        let head = std::mem::take(&mut self.head);
        self.line.push(|out| out.extend_from_slice(&head));
        self.send(self.in_flight, Instant::now());
        shared.on_the_way.set(shared.on_the_way.get() + self.in_flight);
        loop {
            let turn = std::future::poll_fn(|cx| self.poll_turn(cx, &shared));
            if let Err(failure) = turn.await {
                return failure;
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Result<(), Failure>> {
        let mut scratch = shared.scratch.borrow_mut();
        let input = ready!(self.line.poll_read(cx, &mut scratch.bytes))?;
        let (mut state, now) = (shared.meter.borrow(), Instant::now());
        state.counts.received_bytes += input.len() as u64;
        let done = self.answers.read(input)?;
        for _ in 0..done {
            let Some(sent) = self.sent.pop_front() else {
                let words = "the gateway answered what it was not asked";
                return Poll::Ready(Err(Failure::Protocol(words.into())));
            };
            state.record(now.saturating_duration_since(sent));
            state.counts.publications += 1;
        }
        if shared.is_stopping.get() {
            shared.settle(done);
        } else {
            self.send(done, now);
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, count: u64, now: Instant) {
        let is_post = matches!(self.answers, Answers::Whole(_));
        let mut lines = Vec::new();
        for _ in 0..count {
            self.number += 1;
            let (begin, payload) = (&self.begin, self.template.payload(self.number));
            lines.extend_from_slice(begin);
            lines.extend_from_slice(payload);
            if !is_post {
                lines.extend_from_slice(b"\"}\n");
            }
            self.sent.push_back(now);
        }
        // What is sent together is one piece of the body.
        self.line.push(|out| match is_post {
            true => out.extend_from_slice(&lines),
            false => ndjson::write_chunk(out, &lines),
        });
    }
}

/// A result of `POST /publish`, or a problem (CONTRACT 3); the answer of a single one too.
#[derive(Deserialize)]
struct Accepted<'a> {
    #[serde(borrow)]
    cursor: Option<&'a str>,
    status: Option<u16>,
}

impl Answers {
    /// How many publications are answered by this.
    fn read(&mut self, input: &[u8]) -> Result<u64, Failure> {
        let mut done = 0;
        match self {
            Self::Whole(rest) => {
                rest.extend_from_slice(input);
                while let Some(head) = Head::parse(rest)? {
                    let len = head.len + head.content_length.unwrap_or_default();
                    let Some(body) = rest.get(head.len..len) else { break };
                    accepted(head.status, body)?;
                    rest.drain(..len);
                    done += 1;
                }
            }
            Self::Head(rest) => {
                rest.extend_from_slice(input);
                let Some(head) = Head::parse(rest)? else { return Ok(0) };
                if head.status != 200 {
                    let len = head.len + head.content_length.unwrap_or_default();
                    let Some(body) = rest.get(head.len..len) else { return Ok(0) };
                    return Err(refused(head.status, body));
                }
                let early = rest.split_off(head.len);
                *self = Self::Lines(ChunkReader::default(), LineSplitter::new(LINE_BYTES_MAX));
                return self.read(&early);
            }
            Self::Lines(chunks, lines) => {
                let (mut input, wrong) =
                    (input, |it: &dyn std::fmt::Display| Failure::Protocol(it.to_string()));
                while let Some(piece) = chunks.next(&mut input).map_err(|it| wrong(&it))? {
                    let mut piece = Bytes::copy_from_slice(piece);
                    while let Some(line) = lines.next(&mut piece) {
                        let line = line.map_err(|it| wrong(&it))?;
                        if !line.is_empty() {
                            accepted(200, &line)?;
                            done += 1;
                        }
                    }
                }
                if chunks.is_over() {
                    return Err(Failure::Cut("the gateway ended the answer".into()));
                }
            }
        }
        Ok(done)
    }
}

/// Whether an answer, or a line of one, says that a publication was accepted.
fn accepted(status: u16, body: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice(body) {
        Ok(Accepted { cursor: Some(_), .. }) if status == 200 => Ok(()),
        Ok(Accepted { status: Some(status), .. }) => Err(refused(status, body)),
        _ => Err(refused(status, body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answers: impl Fn() -> Answers, input: &[u8], expect: Result<u64, &str>) {
        for cut in 0..=input.len() {
            let (mut answers, (first, second)) = (answers(), input.split_at(cut));
            let got = answers.read(first).and_then(|done| Ok(done + answers.read(second)?));
            match (&got, expect) {
                (Ok(got), Ok(expect)) => assert_eq!(*got, expect, "cut at {cut}"),
                (Err(got), Err(expect)) => assert!(got.to_string().contains(expect), "{got}"),
                _ => panic!("{got:?}, cut at {cut}"),
            }
        }
    }

    #[test]
    fn answers_are_counted_wherever_they_are_cut() {
        let one = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"cursor\":\"ab\"}";
        check(|| Answers::Whole(Vec::new()), one.repeat(3).as_bytes(), Ok(3));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let lines = "{\"index\":0,\"cursor\":\"a\"}\n\n{\"index\":1,\"cursor\":\"b\"}\n";
        let mut input = head.as_bytes().to_vec();
        ndjson::write_chunk(&mut input, lines.as_bytes());
        check(|| Answers::Head(Vec::new()), &input, Ok(2));
        input.extend_from_slice(ndjson::LAST_CHUNK);
        check(|| Answers::Head(Vec::new()), &input, Err("ended the answer"));
    }

    #[test]
    fn a_refusal_is_told() {
        let problem = "{\"code\":\"ended\",\"status\":409,\"detail\":\"it has ended\"}";
        let len = problem.len();
        let one = format!("HTTP/1.1 409 Conflict\r\nContent-Length: {len}\r\n\r\n{problem}");
        check(|| Answers::Whole(Vec::new()), one.as_bytes(), Err("it has ended"));
        let mut input = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        ndjson::write_chunk(&mut input, format!("{problem}\n").as_bytes());
        check(|| Answers::Head(Vec::new()), &input, Err("it has ended"));
        let other = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}";
        check(|| Answers::Whole(Vec::new()), other, Err("has status 502"));
    }
}
