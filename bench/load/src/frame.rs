//! WebSocket frames (RFC 6455 §5.2) as a strict client needs them: ours masked, the server's not.

use anyhow::{Result, bail, ensure};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The mask of every frame we send. It need not be random here, only not zero, for the server
/// should have the work of unmasking.
pub(crate) const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Whether a peer wants frames masked, as clients must, or finished for it to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masking {
    Masked,
    Unmasked,
}

/// Appends one whole frame to `out`.
pub(crate) fn write(out: &mut Vec<u8>, opcode: u8, payload: &[u8], masking: Masking) {
    let mask_bit = if masking == Masking::Masked { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        len @ ..126 => out.push(mask_bit | len as u8),
        len @ 126..65536 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if masking == Masking::Unmasked {
        out.extend_from_slice(payload);
        return;
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    let mut chunks = out[start..].chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(MASK) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(MASK) {
        *byte ^= key;
    }
}

/// A server's frame: opcode, payload, and the bytes of the whole.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    pub(crate) len: usize,
}

/// The frame at the front of `input`; `None` means that it has not all arrived.
pub(crate) fn read(input: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    let opcode = first & 0x0F;
    ensure!(first & 0xF0 == 0x80, "a frame is not one whole plain message: {first:#04x}");
    ensure!(second & 0x80 == 0, "a server's frame is masked");
    let (len, rest) = match second & 0x7F {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let len = usize::from(u16::from_be_bytes(*bytes));
            ensure!(len > 125, "a frame's length is not in its shortest form");
            (len, rest)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let len = u64::from_be_bytes(*bytes);
            ensure!(len > 65535 && len < 1 << 32, "a frame's length is {len}");
            (len as usize, rest)
        }
        len => (usize::from(len), rest),
    };
    match opcode {
        TEXT | BINARY => {}
        CLOSE | PING | PONG => ensure!(len < 126, "a control frame has {len} bytes"),
        _ => bail!("a frame has opcode {opcode}"),
    }
    let Some(payload) = rest.get(..len) else { return Ok(None) };
    Ok(Some(Frame { opcode, payload, len: input.len() - rest.len() + len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_at_every_length() {
        for len in [0, 1, 125, 126, 65535, 65536] {
            let payload = vec![b'x'; len];
            let mut bytes = Vec::new();
            write(&mut bytes, TEXT, &payload, Masking::Unmasked);
            let frame = read(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload, frame.len), (TEXT, &*payload, bytes.len()));
            for cut in 0..bytes.len().min(200) {
                assert!(read(&bytes[..cut]).unwrap().is_none());
            }
        }
    }

    #[test]
    fn a_masked_frame_is_refused_from_a_server() {
        let mut bytes = Vec::new();
        write(&mut bytes, TEXT, b"hello", Masking::Masked);
        assert_eq!(bytes[6..], [b'h' ^ 0x37, b'e' ^ 0xFA, b'l' ^ 0x21, b'l' ^ 0x3D, b'o' ^ 0x37]);
        assert!(read(&bytes).is_err());
    }
}
