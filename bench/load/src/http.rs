//! As much HTTP/1.1 as a subscriber and a publisher need: heads, and chunked bodies taken apart.

use anyhow::{Context, Result, bail, ensure};

/// The head of a response.
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Bytes of the head, blank line included.
    pub(crate) len: usize,
    pub(crate) is_chunked: bool,
    pub(crate) content_length: Option<usize>,
    pub(crate) content_type: String,
    pub(crate) accept: String,
}

/// The response head at the front of `input`; `None` means that it has not all arrived.
pub(crate) fn head(input: &[u8]) -> Result<Option<Head>> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(input.len() < 16 << 10, "a response head has no end");
        return Ok(None);
    };
    let text = std::str::from_utf8(&input[..end]).context("a response head is not text")?;
    let (first, lines) = text.split_once("\r\n").unwrap_or((text, ""));
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut head = Head {
        status: status.with_context(|| format!("no status in {first:?}"))?,
        len: end + 4,
        is_chunked: false,
        content_length: None,
        content_type: String::new(),
        accept: String::new(),
    };
    for line in lines.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').with_context(|| format!("header {line:?}"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => head.is_chunked = value.eq_ignore_ascii_case("chunked"),
            "content-length" => head.content_length = Some(value.parse()?),
            "content-type" => head.content_type = value.to_ascii_lowercase(),
            "sec-websocket-accept" => value.clone_into(&mut head.accept),
            _ => {}
        }
    }
    Ok(Some(head))
}

/// Takes a chunked body apart as it comes (RFC 9112 §7.1), cut anywhere.
#[derive(Default)]
pub(crate) struct Dechunker {
    state: State,
}

#[derive(Default)]
enum State {
    /// In the size line; digits so far, and their value.
    #[default]
    Start,
    Size(usize),
    SizeEnd(usize),
    /// In the data; bytes left.
    Data(usize),
    DataCr,
    DataLf,
}

impl Dechunker {
    /// Appends the body's bytes in `input` to `out`. The end of the body is an error: no stream of
    /// ours ends while it is measured.
    pub(crate) fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while let Some((&byte, rest)) = input.split_first() {
            if let State::Data(left) = self.state {
                let (data, rest) = input.split_at(left.min(input.len()));
                out.extend_from_slice(data);
                input = rest;
                let left = left - data.len();
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                continue;
            }
            input = rest;
            self.state = match self.state {
                State::Start => State::Size(hex(byte).context("a chunk has no size")?),
                State::Size(size) => match hex(byte) {
                    Some(digit) if size < 1 << 24 => State::Size(size << 4 | digit),
                    None if byte == b'\r' => State::SizeEnd(size),
                    _ => bail!("byte {byte:#04x} in a chunk's size"),
                },
                State::SizeEnd(size) => {
                    ensure!(byte == b'\n', "a chunk's size is not followed by a line end");
                    ensure!(size > 0, "the stream was ended");
                    State::Data(size)
                }
                State::DataCr if byte == b'\r' => State::DataLf,
                State::DataLf if byte == b'\n' => State::Start,
                _ => bail!("a chunk is longer than its size"),
            };
        }
        Ok(())
    }
}

fn hex(byte: u8) -> Option<usize> {
    char::from(byte).to_digit(16).map(|digit| digit as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_wherever_they_are_cut() {
        let input = b"5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n1\r\n!\r\n";
        for cut in 0..=input.len() {
            let (mut dechunker, mut out) = (Dechunker::default(), Vec::new());
            dechunker.feed(&input[..cut], &mut out).unwrap();
            dechunker.feed(&input[cut..], &mut out).unwrap();
            assert_eq!(out, b"helloabcdefghijklmnopqrstuvwxyz!");
        }
    }

    #[test]
    fn a_wrong_chunk_is_refused() {
        for input in [&b"x"[..], b"5\n", b"1\r\nab", b"0\r\n"] {
            assert!(Dechunker::default().feed(input, &mut Vec::new()).is_err());
        }
    }
}
