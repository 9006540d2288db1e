//! The peer that a Rust programmer would write first: tokio-tungstenite, a task per connection, a
//! `tokio::sync::broadcast` channel between them, one thread.
//!
//! `/pub` publishes, `/sub` subscribes, `/echo` gets back what it sends. Each message is written
//! and flushed alone, which is what the crate's own examples do.

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Publications that a subscriber may lag behind before it misses some.
const LAG_MAX: usize = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let (publications, _) = broadcast::channel(LAG_MAX);
    loop {
        let (stream, _) = listener.accept().await?;
        let publications = publications.clone();
        tokio::spawn(async move {
            // A client that goes away ends its task; there is nobody to tell.
            let _ = serve(stream, publications).await;
        });
    }
}

async fn serve(stream: TcpStream, publications: broadcast::Sender<Message>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let note = |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, note).await?;
    match path.as_str() {
        "/pub" => {
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() {
                    // No subscriber yet is no error.
                    let _ = publications.send(message);
                }
            }
        }
        "/echo" => {
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
        }
        _ => {
            let mut inbox = publications.subscribe();
            loop {
                tokio::select! {
                    message = inbox.recv() => socket.send(message?).await?,
                    incoming = socket.next() => match incoming {
                        Some(message) => drop(message?),
                        None => break,
                    },
                }
            }
        }
    }
    Ok(())
}
