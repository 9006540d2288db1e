//! An HTTP/1.1 client that is as simple as can be, and none of ours: blocking, one request at a
//! time, bodies by length, in chunks or to the close.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;
use memchr::memmem;

/// What asks for a WebSocket. The key is the example of RFC 6455 §1.3, whose accept everyone knows.
pub(crate) const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// The answer to that key.
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A connection, with what was read and not yet used.
pub(crate) struct Connection {
    stream: TcpStream,
    address: String,
    buffer: Vec<u8>,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn describe(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// The lines of an answer's head.
pub(crate) struct Head(String);

impl Head {
    pub(crate) fn status(&self) -> anyhow::Result<u16> {
        let code = self.0.split(' ').nth(1).and_then(|it| it.parse().ok());
        code.with_context(|| format!("this is no answer: {}", self.0))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1.trim())
    }
}

/// How a body ends.
enum Framing {
    /// So many bytes are left.
    Length(usize),
    /// So many bytes are left of this chunk.
    Chunk(usize),
    /// A chunk's size is due.
    ChunkHead,
    Close,
    Done,
}

/// A body as it comes.
pub(crate) struct Body {
    connection: Connection,
    framing: Framing,
}

impl Connection {
    pub(crate) fn open(address: &str) -> anyhow::Result<Connection> {
        Connection::on(TcpStream::connect(address)?, address)
    }

    /// A connection that is open already, to `address`.
    pub(crate) fn on(stream: TcpStream, address: &str) -> anyhow::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection { stream, address: address.to_owned(), buffer: Vec::new() })
    }

    /// The socket, and what was read from it and not yet used.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Sends a request and reads the head of its answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Head> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut request = head.into_bytes();
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.stream.write_all(&request)?;
        loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Ok(Head(String::from_utf8(head)?));
            }
            anyhow::ensure!(self.fill()? > 0, "the connection was closed before an answer");
        }
    }

    /// Sends a body and reads the whole answer; the connection can be used again.
    pub(crate) fn post(
        &mut self,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        self.exchange("POST", target, headers, body)
    }

    /// Asks and reads the whole answer; the connection can be used again.
    pub(crate) fn get(&mut self, target: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.exchange("GET", target, headers, b"")
    }

    fn exchange(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let head = self.request(method, target, headers, body)?;
        let stream = Connection {
            stream: self.stream.try_clone()?,
            address: self.address.clone(),
            buffer: std::mem::take(&mut self.buffer),
        };
        let mut reader = Body::new(stream, &head)?;
        let body = reader.rest()?;
        self.buffer = reader.connection.buffer;
        Ok(Answer { status: head.status()?, body })
    }

    /// Reads what has come, waiting for it; 0 at the close.
    pub(crate) fn fill(&mut self) -> anyhow::Result<usize> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).context("reading")?;
        self.buffer.extend(bytes.iter().take(count));
        Ok(count)
    }

    /// Whether something was read and not yet used.
    pub(crate) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Takes what was read.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }
}

impl Body {
    pub(crate) fn new(connection: Connection, head: &Head) -> anyhow::Result<Body> {
        let chunked = head.header("Transfer-Encoding").is_some_and(|it| it.contains("chunked"));
        let framing = match head.header("Content-Length") {
            _ if chunked => Framing::ChunkHead,
            Some(length) => Framing::Length(length.parse()?),
            None => Framing::Close,
        };
        Ok(Body { connection, framing })
    }

    /// The next bytes, waiting for them; `None` at the body's proper end.
    ///
    /// A body that is cut is an error, as curl has it.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let buffer = &mut self.connection.buffer;
            match &mut self.framing {
                Framing::Done | Framing::Length(0) => return Ok(None),
                Framing::Length(left) if !buffer.is_empty() => {
                    let rest = buffer.split_off(buffer.len().min(*left));
                    *left -= buffer.len();
                    return Ok(Some(std::mem::replace(buffer, rest)));
                }
                Framing::Close if !buffer.is_empty() => return Ok(Some(std::mem::take(buffer))),
                // The two bytes after a chunk's data.
                Framing::Chunk(0) if buffer.len() >= 2 => {
                    anyhow::ensure!(buffer.starts_with(b"\r\n"), "a chunk does not end with CRLF");
                    buffer.drain(..2);
                    self.framing = Framing::ChunkHead;
                    continue;
                }
                Framing::Chunk(left) if *left > 0 && !buffer.is_empty() => {
                    let rest = buffer.split_off(buffer.len().min(*left));
                    *left -= buffer.len();
                    return Ok(Some(std::mem::replace(buffer, rest)));
                }
                Framing::ChunkHead => {
                    if let Some(end) = memmem::find(buffer, b"\r\n") {
                        let line: Vec<u8> = buffer.drain(..end + 2).collect();
                        let size = String::from_utf8_lossy(&line);
                        let size = size.trim_end().split(';').next().unwrap_or_default();
                        let size = usize::from_str_radix(size, 16);
                        self.framing = match size.context("a chunk's size is no number")? {
                            // No trailers here: an empty line, and the body is over.
                            0 => Framing::Done,
                            size => Framing::Chunk(size),
                        };
                        continue;
                    }
                }
                _ => {}
            }
            if self.connection.fill()? == 0 {
                anyhow::ensure!(matches!(self.framing, Framing::Close), "the body was cut");
                self.framing = Framing::Done;
            }
        }
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next()? {
            all.extend(bytes);
        }
        // The empty line after the last chunk belongs to this answer.
        if self.connection.buffer.starts_with(b"\r\n") {
            self.connection.buffer.drain(..2);
        }
        Ok(all)
    }
}
