//! Echo: C clients with D messages in flight each; what a client sends comes back to it alone.
//!
//! A client answers each batch that it reads with as many new messages in one write, so the depth is
//! kept. Every frame that comes back is compared with the one that is due, header included.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::Target;
use crate::frame::{self, Masking};
use crate::http;
use crate::message::{SEQ_LEN, Template};
use crate::meter::{self, Calls};
use crate::net::{self, Poll};
use crate::peer::{self, ACCEPT, Peer};

/// The arguments.
#[derive(clap::Args)]
pub(crate) struct Echo {
    #[command(flatten)]
    target: Target,
    /// Clients.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Messages in flight, each.
    #[arg(long, default_value_t = 32)]
    depth: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 125)]
    bytes: usize,
    /// Messages of each client that are measured.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// Messages of each client before those.
    #[arg(long, default_value_t = 2000)]
    warm: u64,
    /// Messages of each client in a second pass in which system calls are counted; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    calls: u64,
}

/// What it cost.
#[derive(Serialize)]
pub(crate) struct Report {
    messages: u64,
    seconds: f64,
    /// The server's CPU time per message, in microseconds.
    cpu_us: f64,
    /// The generator's.
    generator_cpu_us: f64,
    /// The server's system calls per message.
    calls: Option<f64>,
    calls_by: Option<&'static str>,
}

impl Echo {
    pub(crate) fn run(&self) -> Result<Report> {
        self.target.prepare()?;
        let pids = &self.target.pids;
        let mut clients = Clients::connect(&self.target, self)?;
        clients.run(self.warm)?;

        let (server, own) = (meter::cpu(pids)?, meter::own_cpu()?);
        let took = clients.run(self.count)?;
        let (server, own) = (meter::cpu(pids)? - server, meter::own_cpu()? - own);

        let messages = self.count * self.clients as u64;
        let mut report = Report {
            messages,
            seconds: took.as_secs_f64(),
            cpu_us: server.as_secs_f64() * 1e6 / messages as f64,
            generator_cpu_us: own.as_secs_f64() * 1e6 / messages as f64,
            calls: None,
            calls_by: None,
        };
        if self.calls > 0 {
            let counter = Calls::start(pids)?;
            clients.run(self.calls)?;
            let (count, tool) = counter.stop()?;
            report.calls = Some(count as f64 / (self.calls * self.clients as u64) as f64);
            report.calls_by = Some(tool);
        }
        Ok(report)
    }
}

struct Clients {
    poll: Poll,
    clients: Vec<Client>,
    depth: u64,
    scratch: Vec<u8>,
}

/// A frame whose sequence number counts up in place: building each anew would cost the generator
/// more than an echo costs the server.
struct Counter {
    frame: Vec<u8>,
    /// Where the digits are, and what they are masked with.
    digits: Range<usize>,
    mask: [u8; 4],
}

impl Counter {
    /// The first frame of client `index`.
    fn new(bytes: usize, index: usize, masking: Masking) -> Result<Self> {
        let mut frame = Vec::new();
        frame::write(
            &mut frame,
            frame::TEXT,
            Template::new(bytes)?.write(0, index as u64),
            masking,
        );
        let start = frame.len() - bytes;
        let mask = if masking == Masking::Masked { frame::MASK } else { [0; 4] };
        Ok(Self { frame, digits: start..start + SEQ_LEN, mask })
    }

    fn advance(&mut self) {
        for (place, byte) in self.frame[self.digits.clone()].iter_mut().enumerate().rev() {
            let key = self.mask[place % 4];
            if *byte ^ key != b'9' {
                *byte = ((*byte ^ key) + 1) ^ key;
                return;
            }
            *byte = b'0' ^ key;
        }
    }
}

struct Client {
    fd: OwnedFd,
    is_open: bool,
    sent: u64,
    received: u64,
    /// The next frame that is sent, and the next that is due.
    next: Counter,
    due: Counter,
    /// Where this run ends.
    until: u64,
    rest: Vec<u8>,
    /// What the socket did not take, and whether we wait for it to take more.
    output: Vec<u8>,
    is_waiting: bool,
}

/// Without any progress for so long, a run has failed.
const PATIENCE: Duration = Duration::from_secs(20);

impl Clients {
    fn connect(target: &Target, echo: &Echo) -> Result<Self> {
        let mut clients = Self {
            poll: Poll::new()?,
            clients: Vec::new(),
            depth: echo.depth,
            scratch: vec![0; 1 << 20],
        };
        // A raw echo returns the mask too.
        let reply = if target.peer == Peer::Raw { Masking::Masked } else { Masking::Unmasked };
        for index in 0..echo.clients {
            let fd = net::dial(target.address, None)?;
            clients.poll.add(&fd, index as u64)?;
            let is_open = target.peer == Peer::Raw;
            if !is_open {
                hello(target.address, &target.peer.echo_path(index), &fd)?;
            }
            clients.clients.push(Client {
                fd,
                is_open,
                sent: 0,
                received: 0,
                next: Counter::new(echo.bytes, index, Masking::Masked)?,
                due: Counter::new(echo.bytes, index, reply)?,
                until: 0,
                rest: Vec::new(),
                output: Vec::new(),
                is_waiting: false,
            });
        }
        clients.turn_until(|client| client.is_open)?;
        Ok(clients)
    }

    /// Lets each client exchange `count` messages.
    fn run(&mut self, count: u64) -> Result<Duration> {
        let begun = Instant::now();
        for index in 0..self.clients.len() {
            self.clients[index].until += count;
            self.send(index, self.depth.min(count))?;
        }
        self.turn_until(|client| client.received == client.until)?;
        Ok(begun.elapsed())
    }

    fn turn_until(&mut self, is_done: impl Fn(&Client) -> bool) -> Result<()> {
        let mut ready = Vec::new();
        let mut since = Instant::now();
        while !self.clients.iter().all(&is_done) {
            // Looking at all clients after each turn would cost more than the turn.
            for _ in 0..100 {
                self.poll.wait(Duration::from_millis(1), &mut ready)?;
                for token in &ready {
                    let index = *token as usize;
                    self.handle_ready(index).with_context(|| format!("at client {index}"))?;
                    since = Instant::now();
                }
                if ready.is_empty() {
                    break;
                }
            }
            ensure!(since.elapsed() < PATIENCE, "nothing comes back any more");
        }
        Ok(())
    }

    /// Sends the next `count` messages of a client in one write.
    fn send(&mut self, index: usize, count: u64) -> Result<()> {
        let client = &mut self.clients[index];
        for _ in 0..count {
            client.output.extend_from_slice(&client.next.frame);
            client.next.advance();
            client.sent += 1;
        }
        if client.is_waiting { Ok(()) } else { self.flush(index) }
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        let client = &mut self.clients[index];
        let sent = net::write(&client.fd, &client.output)?;
        client.output.drain(..sent);
        let waits = !client.output.is_empty();
        if waits != client.is_waiting {
            client.is_waiting = waits;
            self.poll.want_write(&client.fd, index as u64, waits)?;
        }
        Ok(())
    }

    fn handle_ready(&mut self, index: usize) -> Result<()> {
        if self.clients[index].is_waiting {
            self.flush(index)?;
        }
        let client = &mut self.clients[index];
        let kept = client.rest.len();
        self.scratch[..kept].copy_from_slice(&client.rest);
        let Some(got) = net::read(&client.fd, &mut self.scratch[kept..])? else { return Ok(()) };
        ensure!(got > 0, "the server closed the connection");
        let mut input = &self.scratch[..kept + got];
        client.rest.clear();
        if !client.is_open {
            let Some(head) = http::head(input)? else {
                client.rest.extend_from_slice(input);
                return Ok(());
            };
            if head.status != 101 || head.accept != ACCEPT {
                bail!("the upgrade is answered with {}", String::from_utf8_lossy(input));
            }
            client.is_open = true;
            input = &input[head.len..];
        }
        let mut came = 0;
        while !input.is_empty() {
            let due = &client.due.frame;
            if input.starts_with(due) {
                input = &input[due.len()..];
                client.due.advance();
                client.received += 1;
                came += 1;
                continue;
            }
            if due.starts_with(input) {
                break;
            }
            // It is no echo: a ping, a close, or an error.
            let Some(frame) = frame::read(input)? else { break };
            ensure!(frame.opcode == frame::PING, "another frame, opcode {}", frame.opcode);
            frame::write(&mut client.output, frame::PONG, frame.payload, Masking::Masked);
            input = &input[frame.len..];
        }
        client.rest.extend_from_slice(input);
        let more = came.min(client.until - client.sent);
        if more > 0 || !client.output.is_empty() { self.send(index, more) } else { Ok(()) }
    }
}

fn hello(address: SocketAddr, path: &str, fd: &OwnedFd) -> Result<()> {
    let head = peer::upgrade(address, path);
    ensure!(net::write(fd, head.as_bytes())? == head.len(), "a head was not taken at once");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_frame_is_the_frame_that_would_be_built() {
        for masking in [Masking::Masked, Masking::Unmasked] {
            let mut counter = Counter::new(125, 7, masking).unwrap();
            let mut template = Template::new(125).unwrap();
            for seq in 0..1200 {
                let mut built = Vec::new();
                frame::write(&mut built, frame::TEXT, template.write(seq, 7), masking);
                assert_eq!(counter.frame, built, "message {seq}");
                counter.advance();
            }
        }
    }
}
