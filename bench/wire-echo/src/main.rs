//! A plain echo on Tidegate's codec, driven as the gateway drives it: reads go straight into a
//! scratch buffer that all clients of the thread share, all messages of a read are decoded in place,
//! and their answers leave in one write.
//!
//! What the gateway's own echo costs more than this is the price of publishing, log and hub.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};

use anyhow::{Context as _, Result, bail};
use tidegate_wire::websocket::handshake::{self, Request};
use tidegate_wire::websocket::{Decoder, Event, InflaterPool, Limits, Role, encode};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of one read, as the gateway has it.
const SCRATCH_LEN: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_LEN]);
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that goes away ends its task; there is nobody to tell.
            let _ = serve(stream).await;
        });
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    upgrade(&mut stream).await?;
    let mut decoder = Decoder::new(Role::Server, &Limits::default(), None);
    let mut inflaters = InflaterPool::new();
    let mut out = Vec::new();
    loop {
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                if let Err(error) = ready!(pin!(&mut stream).poll_read(cx, &mut buffer)) {
                    return Poll::Ready(Err(error.into()));
                }
                let mut input = buffer.filled_mut();
                if input.is_empty() {
                    return Poll::Ready(Err(anyhow::anyhow!("the client left")));
                }
                Poll::Ready(answer(&mut decoder, &mut inflaters, &mut input, &mut out))
            })
        })
        .await?;
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
    }
}

/// Decodes all of `input`, and appends what is due for it to `out`.
fn answer(
    decoder: &mut Decoder,
    inflaters: &mut InflaterPool,
    input: &mut &mut [u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    while let Some(event) = decoder.next(input, inflaters)? {
        match event {
            Event::Message { kind, data } => encode::message(kind, data, out),
            Event::Ping(payload) => encode::pong(payload, None, out),
            Event::Pong(_) => {}
            Event::Close { .. } => bail!("the client closed"),
        }
    }
    Ok(())
}

/// Reads the request's head and agrees. The load generator sends nothing behind it.
async fn upgrade(stream: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > 16 << 10 {
            bail!("no request head");
        }
    }
    let text = std::str::from_utf8(&head)?;
    let mut lines = text.split("\r\n");
    let method = lines.next().and_then(|it| it.split(' ').next()).unwrap_or_default();
    let headers: Vec<(&str, &[u8])> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim().as_bytes()))
        .collect();
    let request = Request { method, is_http_1_1: true, headers: headers.as_slice() };
    let mut answer = Vec::new();
    match handshake::check(&request, None) {
        Ok(accepted) => accepted.response(None, &[], &mut answer),
        Err(refusal) => bail!("refused: {}", refusal.status()),
    }
    stream.write_all(&answer).await?;
    Ok(())
}
