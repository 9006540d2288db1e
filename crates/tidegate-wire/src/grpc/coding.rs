//! `grpc-encoding` and `grpc-accept-encoding`: which compression messages may have (the
//! specification's Message-Encoding and Message-Accept-Encoding, and the compression
//! specification).

use super::Code;

/// What `grpc-accept-encoding` says where all that we know is accepted.
pub const ACCEPT_ENCODING: &str = "identity,gzip,zstd";

/// A Content-Coding, of each message by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not compressed.
    #[default]
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878. The specification leaves it to `custom`; tonic, connect and others know it so.
    Zstd,
}

impl Encoding {
    /// Its name in the header fields.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The encoding of that name, in any case as HTTP's content codings are; `None` for others.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Identity, Self::Gzip, Self::Zstd]
            .into_iter()
            .find(|it| it.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// The encoding of a stream's messages, from its `grpc-encoding` if it has one.
///
/// # Errors
///
/// [`UnknownEncoding`]; whether any message is compressed with it does not count.
pub fn of_messages(grpc_encoding: Option<&[u8]>) -> Result<Encoding, UnknownEncoding> {
    let Some(name) = grpc_encoding.map(<[u8]>::trim_ascii) else { return Ok(Encoding::Identity) };
    Encoding::from_name(name).ok_or_else(|| {
        let name = name.get(..NAME_LEN_MAX).unwrap_or(name);
        UnknownEncoding { name: name.escape_ascii().to_string() }
    })
}

/// The first of `ours` that the peer accepts, as all its `grpc-accept-encoding` fields say, else
/// `Identity`. They have no weights, and their order means nothing.
pub fn negotiate<'a>(
    ours: &[Encoding],
    grpc_accept_encoding: impl IntoIterator<Item = &'a [u8]>,
) -> Encoding {
    let names = grpc_accept_encoding.into_iter().flat_map(|value| value.split(|it| *it == b','));
    let best = names
        .filter_map(|name| Encoding::from_name(name.trim_ascii()))
        .filter_map(|accepted| ours.iter().position(|it| *it == accepted))
        .min();
    best.and_then(|at| ours.get(at)).copied().unwrap_or_default()
}

/// How much of an unknown name is told back.
const NAME_LEN_MAX: usize = 32;

/// A peer's messages have an encoding that we don't know. Told as it stands it meets the
/// compression specification: it names what is supported. The answer has [`ACCEPT_ENCODING`] too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-encoding `{name}` is not supported; {ACCEPT_ENCODING} are")]
pub struct UnknownEncoding {
    /// Its name, cut after 32 bytes and escaped.
    pub name: String,
}

impl UnknownEncoding {
    /// What a server answers to a client that sent it.
    pub const AT_SERVER: Code = Code::Unimplemented;
    /// What a client makes of a server that sent it.
    pub const AT_CLIENT: Code = Code::Internal;
}

#[cfg(test)]
mod tests {
    use super::*;
    use Encoding::{Gzip, Identity, Zstd};

    #[test]
    fn what_we_accept_is_what_we_know() {
        let names: Vec<_> = ACCEPT_ENCODING.split(',').collect();
        assert_eq!(names, [Identity, Gzip, Zstd].map(Encoding::name));
        for name in names {
            assert_eq!(of_messages(Some(name.as_bytes())).unwrap().name(), name);
        }
    }

    #[test]
    fn no_encoding_is_identity_and_an_unknown_one_is_named() {
        assert_eq!(of_messages(None), Ok(Identity));
        assert_eq!(of_messages(Some(b" GZIP ")), Ok(Gzip));
        for (value, name) in [
            ("", ""),
            ("snappy", "snappy"),
            ("gzip,zstd", "gzip,zstd"),
            ("\r\n", ""),
            ("\x01é", r"\x01\xc3\xa9"),
        ] {
            assert_eq!(of_messages(Some(value.as_bytes())).unwrap_err().name, name);
        }
        let error = of_messages(Some(&[b'x'; 1000])).unwrap_err();
        assert_eq!(error.name.len(), NAME_LEN_MAX);
        assert!(error.to_string().ends_with("identity,gzip,zstd are"), "{error}");
    }

    #[test]
    fn the_first_of_ours_that_the_peer_accepts_is_taken() {
        #[track_caller]
        fn check(accept: &[&str], ours: &[Encoding], expect: Encoding) {
            assert_eq!(negotiate(ours, accept.iter().map(|it| it.as_bytes())), expect);
        }
        check(&[], &[Zstd, Gzip], Identity);
        check(&[""], &[Zstd, Gzip], Identity);
        check(&["gzip"], &[Zstd, Gzip], Gzip);
        check(&["identity,deflate,gzip"], &[Zstd, Gzip], Gzip);
        check(&["gzip, zstd"], &[Zstd, Gzip], Zstd);
        check(&["gzip", "snappy,zstd"], &[Zstd, Gzip], Zstd);
        check(&["gzip , zstd"], &[Gzip], Gzip);
        check(&["gzip,zstd"], &[], Identity);
        check(&["gzip;q=1"], &[Gzip], Identity);
    }
}
