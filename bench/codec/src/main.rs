//! The codec in memory, beside tungstenite, tokio-websockets and fastwebsockets in one run.
//!
//! Decode: a server reads a stream of masked binary frames, from memory, and is given each message.
//! Encode: a server writes binary messages in batches to a sink that copies, as a socket does.
//! Everyone reads and writes through the same two streams, and everyone sums up the bytes and the
//! first byte of what it decoded. Rounds of all four take turns; what counts is each one's median.
//!
//! `cargo run --release -p codec` (in `bench/`) prints one line of JSON: nanoseconds per message,
//! and our ratio to the best of the others.

use std::{
    io::{IoSlice, Read, Result, Write},
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tidegate_wire::websocket::{
    Decoder, Event, InflaterPool, Kind, Limits, Role,
    encode::{self, FrameInfo},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SIZES: [usize; 6] = [16, 64, 125, 1024, 16 * 1024, 64 * 1024];
const ROUNDS: usize = 21;
/// Bytes decoded or encoded in a round, about; at least 64 messages.
const ROUND_LEN: usize = 8 << 20;
/// Messages per flush, about as many as make a full buffer.
const FLUSH_LEN: usize = 64 * 1024;
/// What the clients of a worker share to read into. A message that a read cuts is copied once more;
/// with half of this a quarter of the 64 KiB ones are, and the ratio is 1.02 to 1.1 instead of 0.96.
const SCRATCH_LEN: usize = 512 * 1024;

/// Bytes of a peer that never stops: the same frames again and again. Writes are copied to a place
/// that stays, as the kernel would.
struct Memory {
    frames: Vec<u8>,
    at: usize,
    sink: Vec<u8>,
    written: usize,
}

impl Memory {
    /// Masked frames of `size`, a quarter of a MiB of them or four.
    fn new(size: usize) -> Self {
        let mut frames = Vec::new();
        let payload = vec![b'x'; size];
        for round in 0..((256 << 10) / size).max(4) {
            let [a, b, ..] = round.to_le_bytes();
            encode::masked_message(Kind::Binary, &payload, [a ^ 0x5A, b, 0xC3, 0x99], &mut frames);
        }
        Self { frames, at: 0, sink: vec![0; 256 << 10], written: 0 }
    }
}

impl Read for Memory {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.at == self.frames.len() {
            self.at = 0;
        }
        let len = out.len().min(self.frames.len() - self.at);
        out[..len].copy_from_slice(&self.frames[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let len = bytes.len().min(self.sink.len());
        self.sink[..len].copy_from_slice(&bytes[..len]);
        self.written += len;
        Ok(len)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<usize> {
        let mut place = self.sink.as_mut_slice();
        let mut len = 0;
        for part in parts {
            let (front, rest) = place.split_at_mut(part.len().min(place.len()));
            front.copy_from_slice(&part[..front.len()]);
            len += front.len();
            place = rest;
        }
        self.written += len;
        Ok(len)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.at == self.frames.len() {
            self.at = 0;
        }
        let len = out.remaining().min(self.frames.len() - self.at);
        out.put_slice(&self.frames[self.at..self.at + len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<Result<usize>> {
        Poll::Ready(self.write(b))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Poll::Ready(self.write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What was decoded, so that no work is skipped and everyone's is the same.
#[derive(Default, PartialEq, Debug)]
struct Sum {
    messages: usize,
    bytes: usize,
    firsts: usize,
}

impl Sum {
    fn add(&mut self, data: &[u8]) {
        self.messages += 1;
        self.bytes += data.len();
        self.firsts += usize::from(data[0]);
    }
}

fn decode_tidegate(memory: &mut Memory, messages: usize, scratch: &mut [u8]) -> Sum {
    let mut decoder = Decoder::new(Role::Server, &Limits::default(), None);
    let mut pool = InflaterPool::new();
    let mut sum = Sum::default();
    while sum.messages < messages {
        let len = memory.read(scratch).expect("memory");
        let mut input = &mut scratch[..len];
        while let Some(event) = decoder.next(&mut input, &mut pool).expect("frames") {
            let Event::Message { data, .. } = event else { unreachable!("only messages") };
            sum.add(data);
            if sum.messages == messages {
                break;
            }
        }
    }
    sum
}

fn decode_tungstenite(memory: &mut Memory, messages: usize) -> Sum {
    let role = tungstenite::protocol::Role::Server;
    let mut socket = tungstenite::WebSocket::from_raw_socket(memory, role, None);
    let mut sum = Sum::default();
    while sum.messages < messages {
        let tungstenite::Message::Binary(data) = socket.read().expect("frames") else {
            unreachable!("only messages")
        };
        sum.add(&data);
    }
    sum
}

async fn decode_tokio_websockets(memory: &mut Memory, messages: usize) -> Sum {
    let mut socket = tokio_websockets::ServerBuilder::new().serve(memory);
    let mut sum = Sum::default();
    while sum.messages < messages {
        let message = socket.next().await.expect("endless").expect("frames");
        sum.add(message.as_payload());
    }
    sum
}

async fn decode_fastwebsockets(memory: &mut Memory, messages: usize) -> Sum {
    let role = fastwebsockets::Role::Server;
    let mut socket = fastwebsockets::WebSocket::after_handshake(memory, role);
    let mut sum = Sum::default();
    while sum.messages < messages {
        let frame = socket.read_frame().await.expect("frames");
        sum.add(&frame.payload);
    }
    sum
}

fn encode_tidegate(memory: &mut Memory, payload: &[u8], messages: usize, batch: usize) {
    // As the gateway does: short payloads are copied behind their headers, long ones written from
    // where they are.
    if payload.len() >= 4096 {
        let mut headers = Vec::with_capacity(batch);
        for message in 1..=messages {
            headers.push(encode::header(FrameInfo::message(Kind::Binary), payload.len()));
            if message % batch == 0 || message == messages {
                let parts: Vec<IoSlice<'_>> = headers
                    .iter()
                    .flat_map(|header| [IoSlice::new(header), IoSlice::new(payload)])
                    .collect();
                let all: usize = parts.iter().map(|part| part.len()).sum();
                assert_eq!(memory.write_vectored(&parts).expect("memory"), all);
                headers.clear();
            }
        }
        return;
    }
    let mut out = Vec::with_capacity(SCRATCH_LEN * 2);
    for message in 1..=messages {
        encode::message(Kind::Binary, payload, &mut out);
        if message % batch == 0 || message == messages {
            memory.write_all(&out).expect("memory");
            out.clear();
        }
    }
}

fn encode_tungstenite(memory: &mut Memory, payload: &bytes::Bytes, messages: usize, batch: usize) {
    let role = tungstenite::protocol::Role::Server;
    let mut socket = tungstenite::WebSocket::from_raw_socket(memory, role, None);
    for message in 1..=messages {
        socket.write(tungstenite::Message::Binary(payload.clone())).expect("memory");
        if message % batch == 0 || message == messages {
            socket.flush().expect("memory");
        }
    }
}

async fn encode_tokio_websockets(
    memory: &mut Memory,
    payload: &bytes::Bytes,
    messages: usize,
    batch: usize,
) {
    let mut socket = tokio_websockets::ServerBuilder::new().serve(memory);
    for message in 1..=messages {
        let it = tokio_websockets::Message::binary(payload.clone());
        socket.feed(it).await.expect("memory");
        if message % batch == 0 || message == messages {
            socket.flush().await.expect("memory");
        }
    }
}

async fn encode_fastwebsockets(memory: &mut Memory, payload: &[u8], messages: usize, batch: usize) {
    let role = fastwebsockets::Role::Server;
    let mut socket = fastwebsockets::WebSocket::after_handshake(memory, role);
    for message in 1..=messages {
        let payload = fastwebsockets::Payload::Borrowed(payload);
        socket.write_frame(fastwebsockets::Frame::binary(payload)).await.expect("memory");
        if message % batch == 0 || message == messages {
            socket.flush().await.expect("memory");
        }
    }
}

const NAMES: [&str; 4] = ["tidegate", "tungstenite", "tokio-websockets", "fastwebsockets"];

/// Median nanoseconds per message of each, over rounds in which they take turns.
fn race(messages: usize, mut run: impl FnMut(usize)) -> [f64; 4] {
    let mut times = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        for (who, times) in times.iter_mut().enumerate() {
            let start = Instant::now();
            run(who);
            // The first round warms up.
            if round > 0 {
                times.push(start.elapsed().as_nanos() as f64 / messages as f64);
            }
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn report(size: usize, times: [f64; 4]) -> serde_json::Value {
    let best = times[1..].iter().copied().fold(f64::INFINITY, f64::min);
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let mut line = json!({ "bytes": size, "ratio_to_best": round(times[0] / best) });
    for (name, time) in NAMES.iter().zip(times) {
        line[*name] = json!(round(time));
    }
    line
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut scratch = vec![0; SCRATCH_LEN];
    let (mut decoded, mut encoded, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let messages = (ROUND_LEN / (size + 40)).max(64);
        let mut memory = Memory::new(size);
        let expect = Sum { messages, bytes: messages * size, firsts: messages * usize::from(b'x') };
        let times = race(messages, |who| {
            memory.at = 0;
            let sum = match who {
                0 => decode_tidegate(&mut memory, messages, &mut scratch),
                1 => decode_tungstenite(&mut memory, messages),
                2 => runtime.block_on(decode_tokio_websockets(&mut memory, messages)),
                _ => runtime.block_on(decode_fastwebsockets(&mut memory, messages)),
            };
            assert_eq!(sum, expect, "{}", NAMES[who]);
        });
        decoded.push(report(size, times));

        let payload = bytes::Bytes::from(vec![b'x'; size]);
        let batch = (FLUSH_LEN / size).max(1);
        let mut written = None;
        let times = race(messages, |who| {
            memory.written = 0;
            let (m, n) = (&mut memory, messages);
            match who {
                0 => encode_tidegate(m, &payload, n, batch),
                1 => encode_tungstenite(m, &payload, n, batch),
                2 => runtime.block_on(encode_tokio_websockets(m, &payload, n, batch)),
                _ => runtime.block_on(encode_fastwebsockets(m, &payload, n, batch)),
            };
            assert_eq!(*written.get_or_insert(memory.written), memory.written, "{}", NAMES[who]);
        });
        encoded.push(report(size, times));

        // The floor: the bytes are copied once, as every socket does.
        let source = vec![1_u8; size];
        let mut target = vec![0_u8; size];
        let start = Instant::now();
        for _ in 0..messages {
            target.copy_from_slice(std::hint::black_box(&source));
            std::hint::black_box(&mut target);
        }
        let time = start.elapsed().as_nanos() as f64 / messages as f64;
        copied.push(json!({ "bytes": size, "ns": (time * 10.0).round() / 10.0 }));
    }
    println!(
        "{}",
        json!({ "unit": "ns per message, median", "decode": decoded, "encode": encoded,
                "memcpy": copied })
    );
}
