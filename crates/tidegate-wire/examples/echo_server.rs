//! A WebSocket echo server on nothing but the codec and a thread per client: what a conformance
//! suite runs against, and the shortest way to see the calls in order.
//!
//! `cargo run --release -p tidegate-wire --example echo_server -- 127.0.0.1:9001`
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "an example does IO")]

use std::{
    io::{Error, ErrorKind, Read as _, Result, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use tidegate_wire::websocket::{
    Decoder, DeflateParams, DeflatePolicy, Deflater, DeflaterPool, Event, InflaterPool, Limits,
    Role, close, encode,
    handshake::{self, Request},
};

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on ws://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let Some((deflate, rest)) = upgrade(&mut stream)? else { return Ok(()) };

    let limits = Limits { message_len_max: 64 << 20, ..Limits::default() };
    let mut decoder = Decoder::new(Role::Server, &limits, deflate);
    let mut deflater = deflate.map(Deflater::new);
    let (mut inflaters, mut deflaters) = (InflaterPool::new(), DeflaterPool::new(6));
    let mut scratch = vec![0; 64 * 1024];
    let mut out = Vec::new();

    let mut read = rest.len();
    scratch.splice(..read, rest);
    loop {
        let mut input = scratch.get_mut(..read).unwrap_or_default();
        loop {
            match decoder.next(&mut input, &mut inflaters) {
                Ok(Some(Event::Message { kind, data })) => {
                    let compressed =
                        deflater.as_mut().and_then(|it| it.deflate(data, &mut deflaters));
                    match compressed {
                        Some(payload) => encode::compressed_message(kind, payload, &mut out),
                        None => encode::message(kind, data, &mut out),
                    }
                }
                Ok(Some(Event::Ping(payload))) => encode::pong(payload, None, &mut out),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, .. })) => encode::close(code, "", None, &mut out),
                Ok(None) => break,
                Err(error) => {
                    encode::close(Some(close::code(&error)), &error.to_string(), None, &mut out);
                    break;
                }
            }
        }
        stream.write_all(&out)?;
        out.clear();
        if decoder.is_over() {
            // What is still under way is read to the end, or a reset could overtake the Close.
            stream.shutdown(Shutdown::Write)?;
            while stream.read(&mut scratch)? > 0 {}
            return Ok(());
        }
        read = stream.read(&mut scratch)?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// Answers the request; gives what is agreed and the bytes that came behind the request's head.
fn upgrade(stream: &mut TcpStream) -> Result<Option<(Option<DeflateParams>, Vec<u8>)>> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|it| it == b"\r\n\r\n") {
            break end + 4;
        }
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes)?;
        if read == 0 || head.len() > 16 * 1024 {
            return Err(Error::new(ErrorKind::InvalidData, "no request head"));
        }
        head.extend_from_slice(bytes.get(..read).unwrap_or_default());
    };
    let rest = head.split_off(end);
    let text = String::from_utf8(head).map_err(|it| Error::new(ErrorKind::InvalidData, it))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, version) = (words.next().unwrap_or_default(), words.nth(1));
    let headers: Vec<(&str, &[u8])> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim().as_bytes()))
        .collect();

    let request =
        Request { method, is_http_1_1: version == Some("HTTP/1.1"), headers: headers.as_slice() };
    let mut out = Vec::new();
    match handshake::check(&request, Some(&DeflatePolicy::default())) {
        Ok(accepted) => {
            accepted.response(None, &[], &mut out);
            stream.write_all(&out)?;
            Ok(Some((accepted.deflate.map(|(params, _)| params), rest)))
        }
        Err(refusal) => {
            let status = refusal.status();
            write!(
                stream,
                "HTTP/1.1 {status} Refused\r\nSec-WebSocket-Version: {}\r\nConnection: close\r\n\
                 Content-Length: 0\r\n\r\n",
                handshake::VERSION
            )?;
            Ok(None)
        }
    }
}
