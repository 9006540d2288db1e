//! Echo: C clients with D messages in flight each; what a client sends comes back to it alone.
//!
//! A client answers each batch that it reads with as many new messages in one write, so the depth is
//! kept. Every frame that comes back is compared with the one that is due, header included.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::Target;
use crate::frame::{self, Masking};
use crate::http;
use crate::message::Template;
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
    /// Frames as they are sent, and as they come back: a raw echo returns the mask too.
    reply: Masking,
    template: Template,
    scratch: Vec<u8>,
    due: Vec<u8>,
}

struct Client {
    fd: OwnedFd,
    is_open: bool,
    sent: u64,
    received: u64,
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
            reply: if target.peer == Peer::Raw { Masking::Masked } else { Masking::Unmasked },
            template: Template::new(echo.bytes)?,
            scratch: vec![0; 1 << 20],
            due: Vec::new(),
        };
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
            let payload = self.template.write(client.sent, index as u64);
            frame::write(&mut client.output, frame::TEXT, payload, Masking::Masked);
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
            self.due.clear();
            let payload = self.template.write(client.received, index as u64);
            frame::write(&mut self.due, frame::TEXT, payload, self.reply);
            if input.starts_with(&self.due) {
                input = &input[self.due.len()..];
                client.received += 1;
                came += 1;
                continue;
            }
            if self.due.starts_with(input) {
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
