//! HTTP/1.1 chunks (RFC 9112 §7.1) → the bytes of a body, for a client that reads streams.
//!
//! Strict: no extensions and no trailers but an empty one, which no stream of a gateway has; what is
//! refused here, a client that must take anything has an HTTP library for. Bytes are lent, not
//! copied. `ndjson` writes chunks.

/// Takes a chunked body apart as it comes.
///
/// For each piece that arrives call [`ChunkReader::next`] until it answers `Ok(None)`: then the
/// piece is used up, or the body has ended ([`ChunkReader::is_over`]) and the rest is not its.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkReader {
    place: Place,
}

/// Where in the body the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The first digit of a size.
    #[default]
    Start,
    /// Behind it: the size so far.
    Size(u64),
    /// The LF of a size's line.
    SizeEnd(u64),
    /// Data, of which so much is left; not 0.
    Data(u64),
    /// What follows a chunk's data.
    DataCr,
    DataLf,
    /// What follows the last chunk.
    EndCr,
    EndLf,
    Over,
}

/// Larger chunks are refused: 16 TiB.
const CHUNK_BYTES_MAX: u64 = 1 << 44;

impl ChunkReader {
    /// The next bytes of the body in `input`, which they are taken off; never empty.
    ///
    /// # Errors
    ///
    /// [`ChunkError`]: the body is not chunked as it should be, and nothing more can be read.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<&'i [u8]>, ChunkError> {
        while let Some((&byte, rest)) = input.split_first() {
            let place = match (self.place, byte) {
                (Place::Data(left), _) => {
                    let here = usize::try_from(left).map_or(input.len(), |it| it.min(input.len()));
                    let (data, rest) = input.split_at(here);
                    *input = rest;
                    let left = left - here as u64;
                    self.place = if left == 0 { Place::DataCr } else { Place::Data(left) };
                    return Ok(Some(data));
                }
                (Place::Over, _) => return Ok(None),
                (Place::Start, _) => Place::Size(digit(byte).ok_or(ChunkError(byte))?),
                (Place::Size(size), b'\r') => Place::SizeEnd(size),
                (Place::Size(size), _) if size < CHUNK_BYTES_MAX >> 4 => {
                    Place::Size(size << 4 | digit(byte).ok_or(ChunkError(byte))?)
                }
                (Place::SizeEnd(0), b'\n') => Place::EndCr,
                (Place::SizeEnd(size), b'\n') => Place::Data(size),
                (Place::DataCr, b'\r') => Place::DataLf,
                (Place::DataLf, b'\n') => Place::Start,
                (Place::EndCr, b'\r') => Place::EndLf,
                (Place::EndLf, b'\n') => Place::Over,
                _ => return Err(ChunkError(byte)),
            };
            (self.place, *input) = (place, rest);
        }
        Ok(None)
    }

    /// Whether the body has ended as it should.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.place == Place::Over
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// A byte where none like it may be; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not chunked as it should be: byte {0:#04x}")]
pub struct ChunkError(pub u8);

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pieces` say, how many pieces of data that was, and whether it ended.
    fn read<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let (mut reader, mut body, mut count) = (ChunkReader::default(), Vec::new(), 0);
        for mut piece in pieces {
            while let Some(data) = reader.next(&mut piece)? {
                assert!(!data.is_empty());
                body.extend_from_slice(data);
                count += 1;
            }
        }
        Ok((body, count, reader.is_over()))
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let input = b"5\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n001\r\n!\r\n0\r\n\r\nmore";
        let body = b"helloabcdefghijklmnopqrstuvwxyz!".to_vec();
        assert_eq!(read([&input[..]]), Ok((body.clone(), 3, true)));
        for cut in 0..=input.len() {
            let (got, _, is_over) = read([&input[..cut], &input[cut..]]).unwrap();
            assert_eq!((got, is_over), (body.clone(), true), "cut at {cut}");
            let whole = input.len() - "more".len();
            assert_eq!(read([&input[..cut]]).unwrap().2, cut >= whole, "ended at {cut}");
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let mut out = Vec::new();
        let lens = [1, 9, 15, 16, 255, 256, 4095, 4096];
        for len in lens {
            crate::ndjson::write_chunk(&mut out, &vec![b'x'; len]);
        }
        out.extend_from_slice(crate::ndjson::LAST_CHUNK);
        let (body, count, is_over) = read([&out[..]]).unwrap();
        assert_eq!((body.len(), count, is_over), (lens.iter().sum(), lens.len(), true));
    }

    #[test]
    fn a_wrong_byte_is_refused_however_late_it_comes() {
        for (input, byte) in [
            (&b"x"[..], b'x'),
            (b"\r\n", b'\r'),
            (b"5\n", b'\n'),
            (b"5;name=value\r\n", b';'),
            (b"1\r\nab", b'b'),
            (b"1\r\na\n", b'\n'),
            (b"0\r\nName: value\r\n", b'N'),
            (b"fffffffffffffffff\r\n", b'f'),
        ] {
            assert_eq!(read([input]), Err(ChunkError(byte)));
            assert_eq!(read(input.chunks(1)), Err(ChunkError(byte)));
        }
    }
}
