//! `tidegate ws`: a WebSocket by hand, lines in and lines out.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use tidegate_client::websocket::{Frame, WebSocket, WebSocketOptions};
use tokio::sync::mpsc;

use super::{FAILURE, Token, read_line, usage};

const LONG_ABOUT: &str = "\
Open a WebSocket and talk over it: each line of standard input is sent as a message, each message that \
comes is a line of standard output. It takes any server, not gateways alone.

When standard input ends, the WebSocket is closed (1000), and what comes before the server's own close \
is printed still; with --listen it stays open.

Exit codes: 0 after a close with 1000, 1001 or no code, 1 after any other or where the connection \
breaks, 2 usage.";

const EXAMPLES: &str = "\
Examples:
  tidegate ws ws://127.0.0.1:8080/channels/chat
      Talk in a channel.
  echo hello | tidegate ws ws://127.0.0.1:8080/channels/chat
      Send one message, and print what comes until the server has closed.
  tidegate ws ws://127.0.0.1:8080/connect --subprotocol tidegate.v1.json --control
      Talk in envelopes, and see pings and closes.";

/// Open a WebSocket: lines in, lines out
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct WsArgs {
    /// The WebSocket's URL
    #[arg(value_name = "URL")]
    url: String,
    /// Offer this subprotocol; the one liked best first
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// Send this header field with the handshake
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Send lines as binary messages
    #[arg(long)]
    binary: bool,
    /// Show pings, pongs and closes, on standard error
    #[arg(long)]
    control: bool,
    /// Stay open when standard input ends
    #[arg(long)]
    listen: bool,
    /// Do not offer compression (permessage-deflate)
    #[arg(long)]
    no_deflate: bool,
    /// Over HTTP/2. Not yet in this version
    #[arg(long, hide = true)]
    http2: bool,
    #[command(flatten)]
    token: Token,
}

/// Lines that wait to be sent.
const LINES_MAX: usize = 16;

/// No line is taken while so many bytes wait for the socket.
const WAITING_BYTES_MAX: usize = 1 << 20;

pub(super) fn run(args: WsArgs) -> ExitCode {
    super::run_client(talk(args))
}

async fn talk(args: WsArgs) -> anyhow::Result<ExitCode> {
    args.token.refuse()?;
    if args.http2 {
        return Err(usage("--http2 is not yet in this version; leave it out"));
    }
    let options = WebSocketOptions {
        subprotocols: args.subprotocol.clone(),
        headers: args.header.clone(),
        deflate: !args.no_deflate,
        ..WebSocketOptions::default()
    };
    let mut socket = WebSocket::open(&args.url, &options).await?;
    if args.control {
        let protocol = socket.subprotocol().map_or_else(String::new, |it| format!(", {it}"));
        let cursor = socket.cursor().map_or_else(String::new, |it| format!(", at {it}"));
        eprintln!("open{protocol}{cursor}");
    }
    let mut lines = lines();
    let mut has_input = true;
    let is_terminal = io::stdout().is_terminal();
    loop {
        let takes_lines = has_input && socket.waiting_bytes() < WAITING_BYTES_MAX;
        // Cancel safe: a frame and a line are taken when they are returned.
        let frame = tokio::select! {
            frame = socket.next() => frame.context("the connection broke")?,
            line = lines.recv(), if takes_lines => {
                match line.transpose()? {
                    Some(line) if args.binary => socket.push(&Frame::Binary(line.into())),
                    Some(line) => {
                        let text = String::from_utf8(line);
                        let text = text.context("a line is no UTF-8; send it with --binary")?;
                        socket.push(&Frame::Text(text));
                    }
                    None => {
                        has_input = false;
                        if !args.listen {
                            socket.push(&Frame::Close { code: Some(1000), reason: String::new() });
                        }
                    }
                }
                continue;
            }
        };
        match frame {
            Some(Frame::Text(text)) => print(text.as_bytes())?,
            Some(Frame::Binary(bytes)) if is_terminal => print(shown(&bytes).as_bytes())?,
            Some(Frame::Binary(bytes)) => print(&bytes)?,
            Some(Frame::Ping(payload)) if args.control => eprintln!("ping {}", shown(&payload)),
            Some(Frame::Pong(payload)) if args.control => eprintln!("pong {}", shown(&payload)),
            Some(Frame::Ping(_) | Frame::Pong(_)) => {}
            Some(Frame::Close { code, reason }) => {
                // What answers it leaves before the end.
                let _ = socket.flush().await;
                let is_well = matches!(code, None | Some(1000 | 1001));
                if args.control || !is_well {
                    let code = code.map_or_else(|| "without a code".into(), |it| it.to_string());
                    let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
                    eprintln!("closed {code}{reason}");
                }
                return Ok(if is_well { ExitCode::SUCCESS } else { FAILURE.into() });
            }
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Lines of standard input, read by a thread of their own: the process ends without it.
fn lines() -> mpsc::Receiver<anyhow::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Some(line) = read_line(&mut input).transpose() {
            let is_over = line.is_err();
            if sender.blocking_send(line).is_err() || is_over {
                return;
            }
        }
    });
    receiver
}

fn print(message: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(message)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Bytes for people: text as it is, or else hexadecimal.
fn shown(bytes: &Bytes) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.iter().map(|it| format!("{it:02x}")).collect(),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("a header field is NAME:VALUE, such as \"Origin: http://localhost\"".to_owned()),
    }
}
