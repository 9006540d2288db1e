//! 100,000 channels made and dropped in each stretch: published to, subscribed to and left again over
//! one enveloped connection, with presence on, and dropped by `DELETE`. Nothing may be left of them.
//!
//! Memory: 1,000 of them have a log at a time, about 1 KiB each, and who leaves by a command is no
//! member any more. 16 MiB.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::stage::{Stage, Told};
use super::{Flood, Place};
use crate::frame;
use crate::http::{Connection, UPGRADE};

pub(super) const FLOOD: Flood = Flood {
    name: "channels",
    title: "100,000 channels published to, joined, left and dropped",
    config: "[[channel]]\nmatch = \"flood.>\"\npresence = true\n",
    memory_mib: 16,
    place: Place::Loopback,
    run,
};

const CHANNELS: usize = 100_000;

/// Made, used and dropped together.
const SOME: usize = 1000;

/// Requests and commands of one write.
const TOGETHER: usize = 50;

fn run(stage: &Stage) -> anyhow::Result<Told> {
    let mut told = Told::default();
    let address = stage.address.to_string();
    let mut publisher = Connection::open(&address)?;
    let mut dropper = Wire { stream: connect(stage)?, input: Vec::new() };
    let mut envelopes = {
        let mut connection = Connection::open(&address)?;
        let headers = [&UPGRADE[..], &[("Sec-WebSocket-Protocol", "tidegate.v1.json")]].concat();
        let head = connection.request("GET", "/connect", &headers, b"")?;
        anyhow::ensure!(head.status()? == 101, "no enveloped connection: {}", head.status()?);
        let (stream, input) = connection.into_parts();
        Wire { stream, input }
    };
    let mut made = 0;
    // All of them, however long it takes: that is the flood.
    while made < stage.size(CHANNELS) {
        let names: Vec<String> =
            (made..made + SOME).map(|it| format!("flood.{}.{it}", stage.number)).collect();
        let line = |name: &String| format!("{{\"channel\":\"{name}\",\"text\":\"hello\"}}\n");
        let lines: String = names.iter().map(line).collect();
        let answer = publisher.post("/publish?quiet=1", &[], lines.as_bytes())?;
        let count = format!("\"published\":{SOME}");
        let is_done = String::from_utf8_lossy(&answer.body).contains(&count);
        anyhow::ensure!(answer.status == 200 && is_done, "publishing: {}", answer.describe());
        told.add_many("published", u64::try_from(SOME)?);

        for some in names.chunks(TOGETHER) {
            let mut commands = Vec::new();
            for name in some {
                for verb in ["subscribe", "unsubscribe"] {
                    let text = format!("{{\"id\":1,\"{verb}\":{{\"channel\":\"{name}\"}}}}");
                    frame::write(&mut commands, frame::TEXT, text.as_bytes());
                }
            }
            envelopes.stream.write_all(&commands)?;
            told.add_many("joined and left", envelopes.unsubscribed(some.len())?);

            let delete = |name: &String| {
                format!("DELETE /channels/{name} HTTP/1.1\r\nHost: {address}\r\n\r\n")
            };
            let requests: String = some.iter().map(delete).collect();
            dropper.stream.write_all(requests.as_bytes())?;
            told.add_many("204", dropper.dropped(some.len())?);
        }
        made += SOME;
    }
    told.expect(&["published", "joined and left", "204"], &[])?;
    Ok(told)
}

fn connect(stage: &Stage) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(stage.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// A socket, and what was read from it and not yet used.
struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    fn fill(&mut self) -> anyhow::Result<()> {
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes)?;
        anyhow::ensure!(count > 0, "the server closed a connection that was in use");
        self.input.extend(bytes.iter().take(count));
        Ok(())
    }

    /// Reads until so many channels were left.
    fn unsubscribed(&mut self, count: usize) -> anyhow::Result<u64> {
        let mut left = count;
        while left > 0 {
            let mut rest = &self.input[..];
            while let Some(frame) = frame::read(&mut rest)? {
                let text = std::str::from_utf8(frame.payload)?;
                anyhow::ensure!(!text.contains("\"error\""), "a command failed: {text}");
                left -= usize::from(text.starts_with("{\"id\":1,\"unsubscribed\""));
            }
            let used = self.input.len() - rest.len();
            self.input.drain(..used);
            if left > 0 {
                self.fill()?;
            }
        }
        Ok(u64::try_from(count)?)
    }

    /// Reads until so many requests were answered with 204, which has no body.
    fn dropped(&mut self, count: usize) -> anyhow::Result<u64> {
        let mut left = count;
        while left > 0 {
            if let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n") {
                let head = self.input.drain(..end + 4).collect::<Vec<u8>>();
                let head = String::from_utf8_lossy(&head).into_owned();
                anyhow::ensure!(head.starts_with("HTTP/1.1 204 "), "dropping: {head}");
                left -= 1;
            } else {
                self.fill()?;
            }
        }
        Ok(u64::try_from(count)?)
    }
}
