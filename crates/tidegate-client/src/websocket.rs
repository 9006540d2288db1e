//! A WebSocket as it is (RFC 6455), to a gateway or anything else: for tools that look at frames, and
//! for who wants to publish by bare messages. It does not reconnect.

use bytes::Bytes;
use tidegate_wire::websocket::{Event, Kind, OpCode};

use crate::error::{Error, Failure};
use crate::net::Gateway;
use crate::net::http::{Upgrade, Upgraded, upgrade};
use crate::net::websocket::Socket;
use crate::url::Url;

/// How a WebSocket is opened.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// Subprotocols to offer, the one liked best first.
    pub subprotocols: Vec<String>,
    /// More header fields.
    pub headers: Vec<(String, String)>,
    /// Largest message that is taken, in bytes. Default: 16 MiB.
    pub message_bytes_max: u32,
    /// Whether permessage-deflate is offered (RFC 7692). Default: yes.
    pub deflate: bool,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        let (subprotocols, headers) = (Vec::new(), Vec::new());
        Self { subprotocols, headers, message_bytes_max: 16 << 20, deflate: true }
    }
}

/// What goes over a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message of bytes.
    Binary(Bytes),
    /// The end: after one was sent and one was had, there is nothing more.
    Close {
        /// Why (RFC 6455 §7.4).
        code: Option<u16>,
        /// In words, at most 123 bytes.
        reason: String,
    },
    /// To be answered with a pong; that is done by itself. At most 125 bytes.
    Ping(Bytes),
    /// The answer to a ping, or a heartbeat. At most 125 bytes.
    Pong(Bytes),
    /// A message of text.
    Text(String),
}

impl Frame {
    /// What of a frame it is (RFC 6455 §5.2).
    #[must_use]
    pub fn opcode(&self) -> OpCode {
        match self {
            Self::Binary(_) => OpCode::Binary,
            Self::Close { .. } => OpCode::Close,
            Self::Ping(_) => OpCode::Ping,
            Self::Pong(_) => OpCode::Pong,
            Self::Text(_) => OpCode::Text,
        }
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    socket: Box<Socket>,
    subprotocol: Option<String>,
    cursor: Option<String>,
    /// A close was sent; another would not be legal.
    is_closing: bool,
    is_over: bool,
}

impl WebSocket {
    /// Opens one at `ws://host[:port]/path[?query]`. There is no time limit but the system's.
    ///
    /// # Errors
    ///
    /// [`Error::Url`]; [`Error::Failed`] with how the handshake failed, a gateway's refusal with its
    /// problem.
    pub async fn open(url: &str, options: &WebSocketOptions) -> Result<Self, Error> {
        let (url, target) = Url::with_target(url)?;
        let mut gateway = Gateway::new(url);
        if !options.deflate {
            gateway.deflate = None;
        }
        let protocols: Vec<&str> = options.subprotocols.iter().map(String::as_str).collect();
        let headers: Vec<_> =
            options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let asked = Upgrade {
            target: &target,
            protocols: &protocols,
            headers: &headers,
            message_bytes_max: options.message_bytes_max,
        };
        match Box::pin(upgrade(&gateway, asked)).await? {
            Upgraded::Socket(head, socket, subprotocol) => {
                let (cursor, is_closing, is_over) = (head.cursor, false, false);
                Ok(Self { socket, subprotocol, cursor, is_closing, is_over })
            }
            Upgraded::Refused(mut exchange) => {
                let body = exchange.read(REFUSAL_BYTES_MAX).await.unwrap_or_default();
                Err(Error::Failed(crate::machine::refusal(&exchange.head, &body)))
            }
        }
    }

    /// The subprotocol that the peer chose.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Where a gateway says that it begins (`Tidegate-Cursor`).
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next message or control frame; `None` after a close. Pings and closes are answered.
    ///
    /// Cancel safe: a frame is taken when it is returned.
    ///
    /// # Errors
    ///
    /// [`Failure`], after which there is nothing more: the connection broke, or the peer broke the
    /// protocol.
    pub async fn next(&mut self) -> Result<Option<Frame>, Failure> {
        loop {
            if self.is_over {
                // What answers its close may still have to leave.
                self.socket.flush().await?;
                return Ok(None);
            }
            let frame = match self.socket.decode() {
                Ok(event) => event.map(|event| match event {
                    Event::Message { kind: Kind::Text, data } => {
                        Frame::Text(String::from_utf8_lossy(data).into_owned())
                    }
                    Event::Message { kind: Kind::Binary, data } => {
                        Frame::Binary(Bytes::copy_from_slice(data))
                    }
                    Event::Ping(payload) => Frame::Ping(Bytes::copy_from_slice(payload)),
                    Event::Pong(payload) => Frame::Pong(Bytes::copy_from_slice(payload)),
                    Event::Close { code, reason } => {
                        Frame::Close { code, reason: reason.to_owned() }
                    }
                }),
                Err(failure) => {
                    self.is_over = true;
                    return Err(failure);
                }
            };
            match &frame {
                None => {
                    if let Err(failure) = self.socket.fill().await {
                        self.is_over = true;
                        return Err(failure);
                    }
                    continue;
                }
                Some(Frame::Ping(payload)) => self.socket.push_pong(payload),
                Some(Frame::Close { code, .. }) => {
                    self.is_over = true;
                    if !std::mem::replace(&mut self.is_closing, true) {
                        self.socket.push_close(*code, "");
                    }
                }
                Some(Frame::Binary(_) | Frame::Pong(_) | Frame::Text(_)) => {}
            }
            return Ok(frame);
        }
    }

    /// Puts a frame behind those that wait to be sent, without waiting. It leaves with
    /// [`WebSocket::flush`] or while [`WebSocket::next`] waits. After a close it is dropped.
    pub fn push(&mut self, frame: &Frame) {
        if self.is_closing {
            return;
        }
        match frame {
            Frame::Binary(bytes) => self.socket.push(Kind::Binary, bytes),
            Frame::Text(text) => self.socket.push(Kind::Text, text.as_bytes()),
            Frame::Ping(payload) => self.socket.push_ping(payload),
            Frame::Pong(payload) => self.socket.push_pong(payload),
            Frame::Close { code, reason } => {
                self.is_closing = true;
                self.socket.push_close(*code, reason);
            }
        }
    }

    /// Bytes that wait to be sent. Bound them where what is pushed comes faster than it leaves.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.socket.waiting_bytes()
    }

    /// Sends all that waits.
    ///
    /// Cancel safe: what has not left stays.
    ///
    /// # Errors
    ///
    /// [`Failure::Cut`].
    pub async fn flush(&mut self) -> Result<(), Failure> {
        self.socket.flush().await
    }

    /// Sends a frame, and all before it.
    ///
    /// Not cancel safe: the frame is sent at some time, unless the WebSocket is dropped.
    ///
    /// # Errors
    ///
    /// [`Failure::Cut`].
    pub async fn send(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.push(frame);
        self.flush().await
    }
}

/// Bytes of a refusal's body that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
