//! An enveloped session that is cut and comes back: it subscribes from where it was, publishes with
//! keys (some twice), asks who is present, reads history and pings, and sees each publication of its
//! channel once and in order, over all its lives.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::{Value, json};

use super::Soak;
use crate::frame;
use crate::http::{ACCEPT, Connection, UPGRADE};

/// Lives until the soak is over.
pub(super) fn run(soak: &Soak, number: usize, mut rng: Rng) -> anyhow::Result<()> {
    let mut state =
        State { channel: format!("session.{number}"), cursor: None, next: 0, published: 0 };
    while !soak.is_over() {
        let mut life = Life::begin(soak)?;
        life.subscribe(&mut state)?;
        for _ in 0..rng.u32(1..20) {
            life.publish(&mut state, rng.bool())?;
            // A modest rate, no wait for anything.
            std::thread::sleep(Duration::from_millis(rng.u64(..50)));
        }
        life.ask(&mut state, &mut rng)?;
        if rng.bool() {
            // Else it is cut with publications on their way, and resumes before them.
            life.catch_up(&mut state)?;
        }
    }
    let mut life = Life::begin(soak)?;
    life.subscribe(&mut state)?;
    life.catch_up(&mut state)
}

/// What outlives a connection.
struct State {
    channel: String,
    cursor: Option<String>,
    /// The number of the publication that is due, and of the next to be published.
    next: u64,
    published: u64,
}

/// One connection.
struct Life {
    stream: TcpStream,
    input: Vec<u8>,
    id: u64,
    session: String,
}

impl Life {
    fn begin(soak: &Soak) -> anyhow::Result<Life> {
        let mut connection = Connection::open(&soak.address)?;
        let headers = [&UPGRADE[..], &[("Sec-WebSocket-Protocol", "tidegate.v1.json")]].concat();
        let head = connection.request("GET", "/connect", &headers, b"")?;
        anyhow::ensure!(head.header("Sec-WebSocket-Accept") == Some(ACCEPT), "no WebSocket");
        let (stream, input) = connection.into_parts();
        let mut life = Life { stream, input, id: 0, session: String::new() };
        let welcome = life.read()?;
        let session = welcome.pointer("/welcome/session").and_then(Value::as_str);
        life.session = session.with_context(|| format!("no welcome: {welcome}"))?.to_owned();
        Ok(life)
    }

    fn subscribe(&mut self, state: &mut State) -> anyhow::Result<()> {
        let since = state.cursor.as_deref().unwrap_or("start");
        let command = json!({ "channel": state.channel, "since": since });
        self.command("subscribe", command, state)?;
        Ok(())
    }

    /// Publishes the next number; `again`: once more with the same key, which must change nothing.
    fn publish(&mut self, state: &mut State, again: bool) -> anyhow::Result<()> {
        let (channel, number) = (state.channel.clone(), state.published);
        let command =
            json!({ "channel": channel, "data": { "n": number }, "key": number.to_string() });
        for is_retry in [false, true] {
            if is_retry && !again {
                break;
            }
            let reply = self.command("publish", command.clone(), state)?;
            let duplicate = reply.pointer("/published/duplicate").and_then(Value::as_bool);
            anyhow::ensure!(duplicate == Some(is_retry), "publishing {number}: {reply}");
            state.published = number + 1;
        }
        Ok(())
    }

    /// Everything else that one can ask.
    fn ask(&mut self, state: &mut State, rng: &mut Rng) -> anyhow::Result<()> {
        let channel = state.channel.clone();
        let reply = self.command("presence", json!({ "channel": channel }), state)?;
        let is_there = reply.to_string().contains(&self.session);
        anyhow::ensure!(is_there, "{} is not present: {reply}", self.session);
        let command = json!({ "channel": channel, "last": 5 });
        let reply = self.command("history", command, state)?;
        let last = reply
            .pointer("/history/messages")
            .and_then(Value::as_array)
            .and_then(|it| it.last()?.pointer("/data/n")?.as_u64());
        anyhow::ensure!(last == state.published.checked_sub(1), "history: {reply}");
        self.command("ping", json!({}), state)?;
        if rng.u8(..4) == 0 {
            self.command("unsubscribe", json!({ "channel": channel }), state)?;
            self.subscribe(state)?;
        }
        Ok(())
    }

    fn catch_up(&mut self, state: &mut State) -> anyhow::Result<()> {
        while state.next < state.published {
            let push = self.read()?;
            take(&push, state)?;
        }
        Ok(())
    }

    /// Sends a command and waits for its reply, taking what is pushed meanwhile.
    fn command(&mut self, verb: &str, body: Value, state: &mut State) -> anyhow::Result<Value> {
        self.id += 1;
        let mut text = json!({ "id": self.id });
        text.as_object_mut().context("an object")?.insert(verb.to_owned(), body);
        let mut bytes = Vec::new();
        frame::write(&mut bytes, frame::TEXT, text.to_string().as_bytes());
        self.stream.write_all(&bytes)?;
        loop {
            let message = self.read()?;
            match message.get("id").and_then(Value::as_u64) {
                None => take(&message, state)?,
                Some(id) if id == self.id && message.get("error").is_none() => return Ok(message),
                Some(_) => anyhow::bail!("{text} was answered with {message}"),
            }
        }
    }

    /// The next message, waiting for it.
    fn read(&mut self) -> anyhow::Result<Value> {
        loop {
            let mut rest = &self.input[..];
            if let Some(frame) = frame::read(&mut rest)? {
                let (first, payload) = (frame.first, frame.payload.to_vec());
                let used = self.input.len() - rest.len();
                self.input.drain(..used);
                match first {
                    frame::TEXT => return Ok(serde_json::from_slice(&payload)?),
                    frame::PING => {
                        let mut pong = Vec::new();
                        frame::write(&mut pong, frame::PONG, &payload);
                        self.stream.write_all(&pong)?;
                    }
                    _ => anyhow::bail!("a frame {first:#04x}: {payload:?}"),
                }
                continue;
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes)?;
            anyhow::ensure!(count > 0, "the server closed an enveloped session");
            self.input.extend(bytes.iter().take(count));
        }
    }
}

/// Takes a push; a publication must be the next.
fn take(push: &Value, state: &mut State) -> anyhow::Result<()> {
    anyhow::ensure!(push.get("gap").is_none(), "a gap where there is none: {push}");
    let Some(message) = push.get("message") else { return Ok(()) };
    let number = message.pointer("/data/n").and_then(Value::as_u64);
    anyhow::ensure!(number == Some(state.next), "{} is next, not {push}", state.next);
    state.next += 1;
    state.cursor = message.get("cursor").and_then(Value::as_str).map(str::to_owned);
    Ok(())
}
