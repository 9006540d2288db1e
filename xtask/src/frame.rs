//! WebSocket frames (RFC 6455 §5.2) in a few lines of their own: none of what is tested is used to
//! test it.

/// The mask of every frame that we send. It need not be random here, only not zero, for the server
/// should have the work of unmasking.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// First bytes of frames: the last (or only) of a text, a binary message, and so on.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8A;

/// Appends a client's frame that begins with the byte `first`.
pub(crate) fn write(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match u16::try_from(payload.len()) {
        Ok(len @ ..126) => out.extend(len.to_be_bytes().get(1).map(|it| it | 0x80)),
        Ok(len) => {
            out.push(0x80 | 126);
            out.extend(len.to_be_bytes());
        }
        Err(_) => {
            out.push(0x80 | 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// A server's frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Its first byte.
    pub(crate) first: u8,
    pub(crate) payload: &'a [u8],
}

/// The frame at the front of `bytes`, which come behind it then; `None`: not all of it is there.
///
/// # Errors
///
/// It is masked, or longer than memory.
pub(crate) fn read<'a>(bytes: &mut &'a [u8]) -> anyhow::Result<Option<Frame<'a>>> {
    let [first, second, rest @ ..] = *bytes else { return Ok(None) };
    anyhow::ensure!(second & 0x80 == 0, "a server's frame is masked");
    let (len, rest) = match second {
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        len => (u64::from(*len), rest),
    };
    let Some((payload, rest)) = rest.split_at_checked(usize::try_from(len)?) else {
        return Ok(None);
    };
    *bytes = rest;
    Ok(Some(Frame { first: *first, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_three_forms() {
        for (len, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut bytes = Vec::new();
            write(&mut bytes, TEXT, &vec![0; len]);
            assert_eq!(bytes.len(), head + 4 + len);
            assert_eq!(&bytes[head..][..4], MASK);
            assert!(bytes[head + 4..].iter().zip(MASK.iter().cycle()).all(|(a, b)| a == b));
            // Without its mask it is a server's.
            bytes[1] &= 0x7F;
            bytes.drain(head..head + 4);
            for cut in 0..bytes.len().min(20) {
                assert_eq!(read(&mut &bytes[..cut]).unwrap(), None);
            }
            let mut rest = &bytes[..];
            let frame = read(&mut rest).unwrap().unwrap();
            assert_eq!((frame.first, frame.payload.len(), rest.len()), (TEXT, len, 0));
        }
    }
}
