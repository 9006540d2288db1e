//! Buffers that one message after another is made in.

/// What a buffer keeps from one message to the next.
pub(crate) const KEPT_MAX: usize = 1 << 20;

/// Empties a buffer for the next message. One that has grown beyond [`KEPT_MAX`] gives its memory back.
pub(crate) fn reuse(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_MAX {
        *buffer = Vec::new();
    }
    buffer.clear();
}
