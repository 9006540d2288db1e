//! Runs all cases of Autobahn's fuzzing server against a client made of the codec.
//!
//! `cargo run --release -p tidegate-wire --example autobahn_client -- ws://127.0.0.1:9002 --agent tidegate`
#![expect(clippy::disallowed_types, reason = "an example does IO")]

use std::{
    error::Error,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use tidegate_wire::websocket::{
    Decoder, DeflateOffer, Deflater, DeflaterPool, Event, InflaterPool, Kind, Limits, OpCode, Role,
    close,
    encode::{self, FrameInfo},
    handshake::{ClientHandshake, ClientRequest},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut url, mut agent) = (None, "tidegate".to_owned());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--agent" => agent = arguments.next().ok_or("--agent needs a name")?,
            _ => url = Some(argument),
        }
    }
    let url = url.ok_or("usage: autobahn_client ws://HOST:PORT [--agent NAME]")?;
    let host = url.strip_prefix("ws://").ok_or("the URL is ws://HOST:PORT")?.trim_end_matches('/');

    let mut count = String::new();
    run(host, "/getCaseCount", |text| count.push_str(text))?;
    let count: u32 = count.parse()?;
    for case in 1..=count {
        if case % 50 == 0 {
            println!("case {case} of {count}");
        }
        if let Err(error) = run(host, &format!("/runCase?case={case}&agent={agent}"), |_| {}) {
            println!("case {case}: {error}");
        }
    }
    run(host, &format!("/updateReports?agent={agent}"), |_| {})
}

/// Echoes on one connection until it closes, and tells of each text.
fn run(host: &str, target: &str, mut on_text: impl FnMut(&str)) -> Outcome<()> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut keys = Keys(0x9E37_79B9_7F4A_7C15 ^ target.len() as u64);
    let mut nonce = [0; 16];
    nonce.as_chunks_mut().0.fill_with(|| keys.next());
    let request = ClientRequest {
        host,
        target,
        protocols: &[],
        deflate: Some(DeflateOffer::default()),
        headers: &[],
        nonce,
    };
    let mut out = Vec::new();
    let handshake = ClientHandshake::start(&request, &mut out)?;
    stream.write_all(&out)?;
    out.clear();

    let mut head = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    let answer = loop {
        let read = stream.read(&mut scratch)?;
        if read == 0 {
            return Err("closed within the handshake".into());
        }
        head.extend_from_slice(scratch.get(..read).unwrap_or_default());
        if let Some(answer) = handshake.finish(&head)? {
            break answer;
        }
    };

    let limits = Limits { message_len_max: 64 << 20, ..Limits::default() };
    let mut decoder = Decoder::new(Role::Client, &limits, answer.deflate);
    let mut deflater = answer.deflate.map(Deflater::new);
    let (mut inflaters, mut deflaters) = (InflaterPool::new(), DeflaterPool::new(6));
    let mut rest = head.split_off(answer.head_len);
    let mut input = rest.as_mut_slice();
    loop {
        loop {
            match decoder.next(&mut input, &mut inflaters) {
                Ok(Some(Event::Message { kind, data })) => {
                    if kind == Kind::Text {
                        on_text(std::str::from_utf8(data)?);
                    }
                    let compressed =
                        deflater.as_mut().and_then(|it| it.deflate(data, &mut deflaters));
                    let info = FrameInfo {
                        opcode: OpCode::from(kind),
                        is_final: true,
                        is_compressed: compressed.is_some(),
                        mask: Some(keys.next()),
                    };
                    encode::frame(info, compressed.unwrap_or(data), &mut out);
                }
                Ok(Some(Event::Ping(payload))) => {
                    encode::pong(payload, Some(keys.next()), &mut out);
                }
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, .. })) => {
                    encode::close(code, "", Some(keys.next()), &mut out);
                }
                Ok(None) => break,
                Err(error) => {
                    let code = Some(close::code(&error));
                    encode::close(code, &error.to_string(), Some(keys.next()), &mut out);
                    break;
                }
            }
        }
        // Some cases have the server leave without a handshake: what can't be written is no fault.
        if stream.write_all(&out).is_err() {
            return Ok(());
        }
        out.clear();
        if decoder.is_over() {
            // A client lets the server close the connection first (RFC 6455 §7.1.1).
            while !matches!(stream.read(&mut scratch), Ok(0) | Err(_)) {}
            let _ = stream.shutdown(Shutdown::Both);
            return Ok(());
        }
        let read = match stream.read(&mut scratch) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            read => read?,
        };
        input = scratch.get_mut(..read).unwrap_or_default();
    }
}

/// Masking keys for a test on loopback; a client that browsers or proxies see needs random ones.
struct Keys(u64);

impl Keys {
    fn next(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let [_, _, _, _, key @ ..] = self.0.to_le_bytes();
        key
    }
}
