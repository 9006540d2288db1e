//! What the targets share.

/// `stream` in pieces of 0 to 15 bytes, as `seed` says.
#[must_use]
pub fn pieces(mut seed: u64, mut stream: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let len = (seed & 15) as usize;
        seed = seed.rotate_right(4).wrapping_add(1);
        let (piece, rest) = stream.split_at(len.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}
