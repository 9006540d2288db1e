//! Clients over plain sockets, on HTTP/1.0: there a stream has no chunks, and its end is the socket's.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tidegate_wire::websocket::{Kind, encode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long anything may take that should take no time.
const SOON: Duration = Duration::from_secs(30);

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As it came, but for the status line.
    pub(crate) head: String,
    body: BufReader<TcpStream>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|it| it.split_once(": "));
        lines.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The next line that says something; `None` at the end.
    async fn text_line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            let read = timeout(SOON, self.body.read_line(&mut line)).await;
            match read.expect("nothing comes").ok()? {
                0 => return None,
                _ if line.trim().is_empty() => {}
                _ => return Some(line.trim_end().to_owned()),
            }
        }
    }

    /// The same as the JSON that it is.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        let line = self.text_line().await?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// The name and data of the next event of an EventSource that has data.
    pub(crate) async fn event(&mut self) -> Option<(String, String)> {
        let mut name = String::new();
        loop {
            let line = self.text_line().await?;
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => return Some((name, value.to_owned())),
                _ => {}
            }
        }
    }

    /// The first byte and the payload of the next frame of a WebSocket.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let mut header = [0; 2];
            self.body.read_exact(&mut header).await?;
            let length = match header[1] {
                126 => self.body.read_u16().await?,
                short => u16::from(short),
            };
            assert!(header[1] < 127, "a longer one is not made here");
            let mut payload = vec![0; usize::from(length)];
            self.body.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((header[0], payload))
        };
        timeout(SOON, read).await.expect("nothing comes").ok()
    }

    /// The next message of an enveloped connection.
    pub(crate) async fn message(&mut self) -> Value {
        let (first, payload) = self.frame().await.expect("it is open");
        assert_eq!(first, 0x81, "{payload:?}");
        serde_json::from_slice(&payload).unwrap()
    }

    /// Sends messages of a WebSocket in one write.
    pub(crate) async fn send(&mut self, messages: &[String]) {
        let mut frames = Vec::new();
        for message in messages {
            encode::masked_message(Kind::Text, message.as_bytes(), [1, 2, 3, 4], &mut frames);
        }
        self.body.get_mut().write_all(&frames).await.unwrap();
    }

    /// All of it.
    pub(crate) async fn text(mut self) -> String {
        let mut text = String::new();
        let read = timeout(SOON, self.body.read_to_string(&mut text)).await;
        read.expect("it does not end").unwrap();
        text
    }

    pub(crate) async fn json(self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }
}

/// One request on a connection of its own; its answer once the head is there. `None` where the server
/// has gone.
pub(crate) async fn request(
    address: SocketAddr,
    line: &str,
    headers: &str,
    body: &str,
) -> Option<Answer> {
    let mut stream = BufReader::new(TcpStream::connect(address).await.ok()?);
    let request = format!("{line}\r\nHost: {address}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = timeout(SOON, stream.read_line(&mut head)).await;
        if read.expect("no head comes").ok()? == 0 {
            return None;
        }
    }
    let (status, head) = head.split_once("\r\n").unwrap();
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Answer { status, head: head.to_owned(), body: stream })
}

/// The answer to a `GET`.
pub(crate) async fn get(address: SocketAddr, target: &str) -> Answer {
    let line = format!("GET {target} HTTP/1.0");
    request(address, &line, "", "").await.expect("the server is there")
}

/// The answer to a WebSocket's handshake.
pub(crate) async fn upgrade(address: SocketAddr, target: &str, headers: &str) -> Answer {
    let line = format!("GET {target} HTTP/1.1");
    let headers = format!(
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{headers}"
    );
    request(address, &line, &headers, "").await.expect("the server is there")
}

/// Publishes a text; the cursor.
pub(crate) async fn publish(address: SocketAddr, channel: &str, text: &str) -> String {
    let line = format!("POST /channels/{channel}?as=text HTTP/1.0");
    let length = format!("Content-Length: {}\r\n", text.len());
    let answer = request(address, &line, &length, text).await.expect("the server is there");
    assert_eq!(answer.status, 200);
    answer.json().await["cursor"].as_str().unwrap().to_owned()
}
