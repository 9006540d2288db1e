//! Trailers in the body: the last frame of an answer, written and read (`PROTOCOL-WEB.md`, Message
//! framing).
//!
//! It is a block of header fields as HTTP/1.1 has them, names in lower case, each with its CRLF and
//! without the empty line that ends them there.

use bytes::Bytes;

use crate::grpc::{
    Status,
    content_type::is_token,
    encode::{PREFIX_LEN, TRAILERS, prefix},
};

/// The frame of these fields, names and values, in their order. Names are put into lower case.
///
/// What would break the block is kept out of it: a field whose name is no token (RFC 9110 §5.6.2)
/// is left out, and CR, LF and NUL in a value become spaces (§5.5). An HTTP library lets neither
/// come so far.
pub fn frame<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Bytes {
    let mut frame = vec![0; PREFIX_LEN];
    for (name, value) in fields {
        if name.is_empty() || !name.bytes().all(is_token) {
            continue;
        }
        frame.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        frame.extend_from_slice(b": ");
        frame.extend(value.iter().map(|byte| match byte {
            b'\r' | b'\n' | 0 => b' ',
            byte => *byte,
        }));
        frame.extend_from_slice(b"\r\n");
    }
    // An HTTP head of 4 GiB has been refused long before.
    let len = u32::try_from(frame.len().saturating_sub(PREFIX_LEN)).unwrap_or(u32::MAX);
    if let Some(place) = frame.first_chunk_mut() {
        *place = prefix(TRAILERS, len);
    }
    frame.into()
}

/// The frame of trailers that say `status`.
#[must_use]
pub fn status_frame(status: &Status) -> Bytes {
    let fields: Vec<_> = status.fields().collect();
    frame(fields.iter().map(|(name, value)| (*name, value.as_bytes())))
}

/// The fields of a frame of trailers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailers {
    fields: Vec<(String, Bytes)>,
}

impl Trailers {
    /// Reads a frame's payload. Names in any case, LF alone, and an empty line at the end are taken
    /// too, since some servers send them.
    ///
    /// # Errors
    ///
    /// [`InvalidTrailers`] for a line that is no field, folded ones (RFC 9112 §5.2) and control
    /// characters in values included.
    pub fn parse(payload: &Bytes) -> Result<Self, InvalidTrailers> {
        let mut fields = Vec::new();
        let mut rest: &[u8] = payload;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            rest = after.get(1..).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() && rest.is_empty() {
                break;
            }
            let colon = memchr::memchr(b':', line).ok_or(InvalidTrailers)?;
            let (name, value) = line.split_at_checked(colon).ok_or(InvalidTrailers)?;
            let value = trim(value.get(1..).unwrap_or_default());
            let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
            if name.is_empty()
                || !name.iter().copied().all(is_token)
                || value.iter().any(is_control)
            {
                return Err(InvalidTrailers);
            }
            let name = name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
            fields.push((name, payload.slice_ref(value)));
        }
        Ok(Self { fields })
    }

    /// The value of the first field of that name, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(it, _)| it == name).map(|(_, value)| &**value)
    }

    /// All fields in their order, names in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The status that they say; `None` without `grpc-status`.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        Status::from_fields(|name| self.get(name))
    }
}

/// Without optional whitespace, which in a field is space and tab alone (RFC 9110 §5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A frame of trailers that are none; the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trailers have a line that is no header field")]
pub struct InvalidTrailers;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;

    #[track_caller]
    fn check(payload: &str, expect: Result<&[(&str, &str)], InvalidTrailers>) {
        let trailers = Trailers::parse(&Bytes::copy_from_slice(payload.as_bytes()));
        let fields = trailers.as_ref().map_err(|error| *error).map(|it| {
            let fields = it.iter().map(|(name, value)| (name, str::from_utf8(value).unwrap()));
            fields.collect::<Vec<_>>()
        });
        assert_eq!(fields.as_deref(), expect.as_ref().map(|it| &**it), "{payload:?}");
    }

    #[test]
    fn trailers_are_a_block_of_header_fields() {
        let fields: [(&str, &[u8]); 3] =
            [("grpc-status", b"9"), ("grpc-message", b"error"), ("X-Custom", b"caf\xE9")];
        let expect =
            b"\x80\0\0\0\x35grpc-status: 9\r\ngrpc-message: error\r\nx-custom: caf\xE9\r\n";
        let frame = frame(fields);
        assert_eq!(frame, expect[..]);
        let trailers = Trailers::parse(&frame.slice(PREFIX_LEN..)).unwrap();
        let back: Vec<_> = trailers.iter().collect();
        assert_eq!(back, fields.map(|(name, value)| (&*name.to_lowercase().leak(), value)));
    }

    #[test]
    fn no_field_breaks_the_block() {
        let fields: [(&str, &[u8]); 4] =
            [("a\r\nb", b"1"), ("", b"2"), ("c:", b"3"), ("d", b"x\r\ngrpc-status: 0\0")];
        assert_eq!(frame(fields)[PREFIX_LEN..], b"d: x  grpc-status: 0 \r\n"[..]);
        assert_eq!(frame([]), b"\x80\0\0\0\0"[..]);
    }

    #[test]
    fn what_servers_send_is_read() {
        check("", Ok(&[]));
        check("grpc-status: 0\r\n", Ok(&[("grpc-status", "0")]));
        check(
            "grpc-status:0\r\ngrpc-message:\r\n",
            Ok(&[("grpc-status", "0"), ("grpc-message", "")]),
        );
        check(
            "Grpc-Status: 9\r\ngRPC-Message: a: b \r\n",
            Ok(&[("grpc-status", "9"), ("grpc-message", "a: b")]),
        );
        check("a: 1\r\na: 2\r\n", Ok(&[("a", "1"), ("a", "2")]));
        check("a: 1\nb:\t2", Ok(&[("a", "1"), ("b", "2")]));
        check("a: 1\r\n\r\n", Ok(&[("a", "1")]));
        check("\r\n", Ok(&[]));
    }

    #[test]
    fn trailers_that_are_none_are_refused() {
        for payload in [
            "grpc-status",
            "grpc-status 0\r\n",
            ": 0\r\n",
            "grpc status: 0\r\n",
            "grpc-status : 0\r\n",
            "\r\ngrpc-status: 0\r\n",
            "a: 1\r\n\r\n\r\n",
            "a: 1\r\n folded\r\n",
            "a: 1\r2\r\n",
            "a: \0\r\n",
            "é: 1\r\n",
        ] {
            check(payload, Err(InvalidTrailers));
        }
    }

    #[test]
    fn a_status_is_told_and_read() {
        let status = Status::new(Code::NotFound, "no such channel: é");
        let frame = status_frame(&status);
        let expect = "grpc-status: 5\r\ngrpc-message: no such channel: %C3%A9\r\n";
        assert_eq!(frame[PREFIX_LEN..], *expect.as_bytes());
        let trailers = Trailers::parse(&frame.slice(PREFIX_LEN..)).unwrap();
        assert_eq!(trailers.status(), Some(status));
        assert_eq!(trailers.get("grpc-message-type"), None);
        assert_eq!(Trailers::default().status(), None);
    }
}
