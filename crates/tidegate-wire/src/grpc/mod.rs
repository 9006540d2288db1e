//! gRPC over HTTP/2, what of it is bytes and header values, for both roles and without IO.
//!
//! ```text
//!   request head ──► content_type, coding, timeout, metadata
//!   DATA read    ──► Decoder ──► message, decompressed         shares the input's memory, if whole
//!   message      ──► encode, Compressor ──► a frame, once for every stream that it goes to
//!   Status       ──► the fields of the trailers, and back
//! ```
//! What a message means (protobuf) is the caller's business, as are streams, deadlines and the
//! order of things. "The specification" is gRPC's `PROTOCOL-HTTP2.md`, "the compression
//! specification" its `compression.md`. Lengths are in bytes.

pub mod coding;
mod compress;
pub mod content_type;
mod decoder;
pub mod encode;
pub(crate) mod frame;
pub mod metadata;
pub mod status;
pub mod timeout;

pub use coding::Encoding;
pub use compress::{COMPRESSED_LEN_MIN, Compressor, DecompressError, Decompressor};
pub use content_type::{ContentType, Protocol};
pub use decoder::{DecodeError, Decoder};
pub use status::{Code, Status};
