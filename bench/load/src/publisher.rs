//! The publisher: one WebSocket, or a few kept-alive HTTP connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::frame::{self, Masking};
use crate::http;
use crate::net::{self, Poll};
use crate::peer::{self, Peer, Publishing};
use crate::wire::{self, Item, Wire};

/// Tokens of the publisher's connections begin here; below are subscribers.
pub(crate) const TOKENS: u64 = 1 << 32;

/// A handshake of the publisher's must be done by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hands publications in, and reads what comes back.
pub(crate) struct Publisher {
    peer: Peer,
    address: SocketAddr,
    publishing: Publishing,
    lanes: Vec<Lane>,
    /// HTTP: lanes without a request under way, and payloads that wait for one.
    free: Vec<usize>,
    waiting: VecDeque<Vec<u8>>,
    scratch: Vec<u8>,
    writes: Writes,
    /// WebSocket: frames that leave with the next [`Self::flush`].
    held: Vec<u8>,
}

/// How publications that become due together are handed in over a WebSocket.
///
/// Joined, every server gets the same batches and counters repeat to the third digit. Single, what a
/// server finds when it wakes, one of sixteen publications or all, is a matter of wake-up times, and
/// the floor itself varies by a factor of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Writes {
    /// In one write.
    #[default]
    Joined,
    /// Each in a write of its own, as by publishers that don't know of each other.
    Single,
}

struct Lane {
    fd: OwnedFd,
    /// The upgrade was answered.
    is_upgraded: bool,
    /// Publications may be handed in.
    is_open: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Publisher {
    /// Connects, and waits until the server has agreed.
    pub(crate) fn connect(
        peer: Peer,
        address: SocketAddr,
        publishing: Publishing,
        lanes: usize,
        poll: &mut Poll,
    ) -> Result<Self> {
        let mut publisher = Self {
            peer,
            address,
            publishing,
            lanes: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            scratch: vec![0; 64 << 10],
            writes: Writes::default(),
            held: Vec::new(),
        };
        let lanes = if publishing == Publishing::Ws { 1 } else { lanes };
        for index in 0..lanes {
            let fd = net::dial(address, None)?;
            poll.add(&fd, TOKENS + index as u64)?;
            let is_open = publishing == Publishing::Http;
            let lane =
                Lane { fd, is_upgraded: false, is_open, input: Vec::new(), output: Vec::new() };
            publisher.lanes.push(lane);
            if is_open {
                publisher.free.push(index);
            } else {
                let head = peer::upgrade(address, peer.publish_path(publishing));
                publisher.send(index, head.as_bytes(), poll)?;
            }
        }
        let (until, mut ready) = (Instant::now() + PATIENCE, Vec::new());
        while publisher.lanes.iter().any(|lane| !lane.is_open) {
            ensure!(Instant::now() < until, "the publisher's handshake is not answered");
            poll.wait(Duration::from_millis(100), &mut ready)?;
            for token in ready.iter().filter(|token| **token >= TOKENS) {
                publisher.handle_ready(*token, poll)?;
            }
        }
        Ok(publisher)
    }

    /// Changes how publications are handed in from here on.
    pub(crate) fn set_writes(&mut self, writes: Writes) {
        self.writes = writes;
    }

    /// Publishes, at once or with the next flush.
    pub(crate) fn publish(&mut self, payload: &[u8], poll: &Poll) -> Result<()> {
        if self.publishing == Publishing::Http {
            self.waiting.push_back(payload.to_vec());
            return self.post(poll);
        }
        if self.peer == Peer::SocketIo {
            let event = [&br#"42["publish",""#[..], payload, br#""]"#].concat();
            frame::write(&mut self.held, frame::TEXT, &event, Masking::Masked);
        } else {
            frame::write(&mut self.held, frame::TEXT, payload, self.peer.masking());
        }
        if self.writes == Writes::Single { self.flush(poll) } else { Ok(()) }
    }

    /// Writes what has been held back.
    pub(crate) fn flush(&mut self, poll: &Poll) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.send(0, &held, poll)?;
        // Its memory is kept for the next.
        self.held = held;
        self.held.clear();
        Ok(())
    }

    /// Starts a request for each payload that waits, as far as there are free connections.
    fn post(&mut self, poll: &Poll) -> Result<()> {
        while !self.waiting.is_empty()
            && let Some(index) = self.free.pop()
            && let Some(payload) = self.waiting.pop_front()
        {
            let path = self.peer.publish_path(Publishing::Http);
            let (address, len) = (self.address, payload.len());
            let mut request =
                format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len}\r\n\r\n")
                    .into_bytes();
            request.extend_from_slice(&payload);
            self.send(index, &request, poll)?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize, bytes: &[u8], poll: &Poll) -> Result<()> {
        let lane = &mut self.lanes[index];
        let sent = if lane.output.is_empty() { net::write(&lane.fd, bytes)? } else { 0 };
        if sent < bytes.len() {
            if lane.output.is_empty() {
                poll.want_write(&lane.fd, TOKENS + index as u64, true)?;
            }
            lane.output.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    /// One of our sockets is ready: goes on writing, reads answers.
    pub(crate) fn handle_ready(&mut self, token: u64, poll: &Poll) -> Result<()> {
        let index = (token - TOKENS) as usize;
        let lane = &mut self.lanes[index];
        if !lane.output.is_empty() {
            let sent = net::write(&lane.fd, &lane.output)?;
            lane.output.drain(..sent);
            if lane.output.is_empty() {
                poll.want_write(&lane.fd, token, false)?;
            }
        }
        let Some(got) = net::read(&lane.fd, &mut self.scratch)? else { return Ok(()) };
        ensure!(got > 0, "the server closed the publisher's connection");
        lane.input.extend_from_slice(&self.scratch[..got]);
        match self.publishing {
            Publishing::Ws => self.read_frames(index, poll),
            Publishing::Http => self.read_answers(index, poll),
        }
    }

    fn read_answers(&mut self, index: usize, poll: &Poll) -> Result<()> {
        let lane = &mut self.lanes[index];
        let Some(head) = http::head(&lane.input)? else { return Ok(()) };
        ensure!(matches!(head.status, 200..=202), "a publication is answered with {}", head.status);
        let Some(len) = head.content_length else { bail!("an answer has no length") };
        if lane.input.len() >= head.len + len {
            lane.input.drain(..head.len + len);
            self.free.push(index);
            self.post(poll)?;
        }
        Ok(())
    }

    fn read_frames(&mut self, index: usize, poll: &Poll) -> Result<()> {
        let mut input = std::mem::take(&mut self.lanes[index].input);
        let mut used = 0;
        if !self.lanes[index].is_upgraded {
            let Some(head) = http::head(&input)? else {
                self.lanes[index].input = input;
                return Ok(());
            };
            if head.status != 101 {
                let answer = String::from_utf8_lossy(&input);
                bail!("the publisher's upgrade is answered with {answer}");
            }
            used = head.len;
            self.lanes[index].is_upgraded = true;
            // Socket.IO's publisher is open when its packets say so.
            self.lanes[index].is_open = self.peer != Peer::SocketIo;
        }
        let wire = if self.peer == Peer::SocketIo { Wire::SocketIo } else { Wire::Ws };
        while let Some((item, len)) = wire::read(wire, &input[used..])? {
            used += len;
            let mut answer = Vec::new();
            match item {
                Item::Ping(payload) => {
                    frame::write(&mut answer, frame::PONG, payload, Masking::Masked);
                }
                Item::Opened => frame::write(&mut answer, frame::TEXT, b"40", Masking::Masked),
                Item::EnginePing => frame::write(&mut answer, frame::TEXT, b"3", Masking::Masked),
                Item::Joined => self.lanes[index].is_open = true,
                // nchan confirms each publication so.
                Item::Message(_) | Item::Nothing => {}
            }
            if !answer.is_empty() {
                self.send(index, &answer, poll)?;
            }
        }
        input.drain(..used);
        self.lanes[index].input = input;
        Ok(())
    }
}
