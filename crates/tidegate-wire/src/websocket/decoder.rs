//! Bytes read → events (RFC 6455 §5, RFC 7692 §6).
//!
//! The input is a scratch buffer that many connections share. A message that lies in it whole is
//! unmasked where it is and lent from there: no allocation, no copy. What is incomplete when the
//! input ends moves into a [`Partial`], which exists only then; its memory grows with the bytes
//! that came, never with those that a header announced.
//!
//! ```text
//!            whole final frame in the input
//!          ┌────────────────────────────────► Event
//!   idle ──┤                                    ▲
//!          └─► Partial: header ─► frame ─► message
//!                  ▲                │  more fragments, control frames between them
//!                  └────────────────┘
//! ```

use super::{
    DeflateError, DeflateParams, InflaterPool, Kind, OpCode, Role, close,
    deflate::{Checker, Window},
    header::{self, Header, HeaderError, Rules},
    mask::{advance, extend_masked, mask},
    utf8::{self, Utf8},
};

/// From here on an allocation costs more than what it takes to keep it until the input ends.
const BUFFER_KEPT_MIN: usize = 16 * 1024;

/// Bounds on what a peer can make us keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, compressed and inflated; a longer one is refused on the header that
    /// announces it, or on the byte that inflates beyond it. At most `u32::MAX`.
    pub message_len_max: u32,
    /// Frames of one message.
    pub fragments_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_len_max: 1 << 20, fragments_max: 131_072 }
    }
}

/// What a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message {
        /// Text or binary.
        kind: Kind,
        /// Its payload, inflated; of a text it is UTF-8.
        data: &'a [u8],
    },
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// Answers a ping, or says that the peer lives.
    Pong(&'a [u8]),
    /// The last event. It is to be answered with the same code, unless we closed first.
    Close {
        /// Why, if the peer said; valid by [`close::is_valid`].
        code: Option<u16>,
        /// In words, at most 123 bytes.
        reason: &'a str,
    },
}

/// How a peer broke the protocol or a limit. Nothing more is decoded after it; [`close::code`] says
/// what to close with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame header was refused.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A continuation frame, with no message to continue (§5.4).
    #[error("continuation frame without a message")]
    Orphan,
    /// A message began inside another (§5.4).
    #[error("{0:?} frame inside a fragmented message")]
    Interrupted(OpCode),
    /// A message is longer than [`Limits::message_len_max`].
    #[error("message is longer than {len_max} bytes")]
    TooLong {
        /// The limit.
        len_max: usize,
    },
    /// A message has more frames than [`Limits::fragments_max`].
    #[error("message has more than {max} fragments")]
    TooManyFragments {
        /// The limit.
        max: u32,
    },
    /// A text is not UTF-8 (§8.1).
    #[error("text is not UTF-8")]
    Utf8,
    /// A Close payload of one byte (§5.5.1).
    #[error("close payload of one byte")]
    CloseLength,
    /// A close code that may not travel (§7.4).
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    /// A close reason is not UTF-8 (§5.5.1).
    #[error("close reason is not UTF-8")]
    CloseReason,
    /// A compressed message does not inflate.
    #[error(transparent)]
    Deflate(#[from] DeflateError),
}

/// Decodes one direction of one connection.
///
/// For each read, call [`Decoder::next`] until it says `Ok(None)`; then all of the input is
/// consumed and the buffer may be used for another connection. After [`Event::Close`] or an error
/// the rest is consumed unread.
#[derive(Debug)]
pub struct Decoder {
    rules: Rules,
    limits: Limits,
    deflate: Option<DeflateParams>,
    is_over: bool,
    /// What is incomplete; `None` while nothing is.
    partial: Option<Box<Partial>>,
    /// What the peer's next compressed message may refer to; `None` before the first.
    window: Option<Box<Window>>,
}

/// A frame or message of which a part has arrived.
#[derive(Debug, Default)]
struct Partial {
    /// Bytes of a header that is incomplete.
    head: [u8; header::LEN_MAX],
    head_len: u8,
    /// The frame whose payload is incomplete.
    frame: Option<Frame>,
    message: Option<Message>,
    /// Payload of the message so far, unmasked; after its end, what is lent.
    buffer: Vec<u8>,
    /// Payload of the control frame so far, unmasked; after its end, what is lent.
    control: Vec<u8>,
    lent: Lent,
}

/// Where the event given last lies; that memory is free again once the next is asked for.
#[derive(Clone, Copy, Debug, Default)]
enum Lent {
    #[default]
    Elsewhere,
    Buffer,
    Control,
}

/// A frame whose payload is not all there.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    /// Bytes still to come.
    left: usize,
    /// The mask for the next of them.
    key: Option<[u8; 4]>,
}

/// A message whose last frame is not all there.
#[derive(Debug)]
struct Message {
    kind: Kind,
    is_compressed: bool,
    /// Frames so far, and the bytes that their headers announced.
    fragments: u32,
    announced: usize,
    /// Of a text: where the check is.
    utf8: Utf8,
    check: Check,
}

/// Whether a compressed text is looked into before its end.
#[derive(Debug)]
enum Check {
    /// All that came so far came at once.
    NotBegun,
    /// Begun; so many bytes of the buffer were seen.
    Begun(Box<Checker>, usize),
    /// The pool has none to spare, or the stream can't be followed: it is checked at its end.
    AtEnd,
}

/// Where an event is to be found. It borrows from no one but the input, so that the state may still
/// change while it is looked for.
enum Found<'i> {
    Nothing,
    /// A control frame or a plain message, in the input.
    Input(OpCode, &'i mut [u8]),
    /// A control frame, in `Partial::control`.
    Control(OpCode),
    /// A message, in `Partial::buffer`.
    Buffer(Kind),
    /// A message, in the pool's output.
    Inflated(Kind),
}

impl Decoder {
    /// A decoder at the first byte after the handshake. `deflate` is what the handshake agreed on.
    #[must_use]
    pub fn new(role: Role, limits: &Limits, deflate: Option<DeflateParams>) -> Self {
        let rules = Rules {
            expect_mask: role == Role::Server,
            rsv_claimed: if deflate.is_some() { header::RSV1 } else { 0 },
            payload_len_max: match deflate {
                Some(_) => compressed_len_max(limits.message_len_max as usize) as u64,
                None => u64::from(limits.message_len_max),
            },
        };
        Self { rules, limits: *limits, deflate, is_over: false, partial: None, window: None }
    }

    /// Takes the next event off the front of `input`; `Ok(None)` once all of it is consumed.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`] if the peer broke the protocol or a limit. There are no events after it.
    #[inline]
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        pool: &'a mut InflaterPool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let found = match self.find(input, pool) {
            Ok(found) => found,
            Err(error) => {
                self.is_over = true;
                *input = &mut [];
                return Err(error);
            }
        };
        let (opcode, payload) = match found {
            Found::Nothing => return Ok(None),
            Found::Input(opcode, payload) => (opcode, &*payload),
            Found::Inflated(kind) => (kind.into(), pool.output()),
            Found::Buffer(kind) => {
                (kind.into(), self.partial.as_ref().map_or(&[][..], |partial| &partial.buffer))
            }
            Found::Control(opcode) => {
                (opcode, self.partial.as_ref().map_or(&[][..], |partial| &partial.control))
            }
        };
        Ok(Some(match opcode {
            OpCode::Text => Event::Message { kind: Kind::Text, data: payload },
            OpCode::Binary | OpCode::Continuation => {
                Event::Message { kind: Kind::Binary, data: payload }
            }
            OpCode::Ping => Event::Ping(payload),
            OpCode::Pong => Event::Pong(payload),
            OpCode::Close => {
                self.is_over = true;
                *input = &mut [];
                let (code, reason) = close::parse(payload)?;
                Event::Close { code, reason }
            }
        }))
    }

    /// Whether a close or an error was seen: no more events come.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether a frame or a message is incomplete.
    #[must_use]
    pub fn is_within_message(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| !partial.is_idle())
    }

    /// Finds the next event. The fast path: nothing is incomplete, and the next frame is a message
    /// or a control frame that lies in the input whole.
    #[inline]
    fn find<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        pool: &mut InflaterPool,
    ) -> Result<Found<'i>, ProtocolError> {
        if self.partial.is_none() && !self.is_over {
            let Some(header) = header::decode(input, &self.rules)? else {
                return self.find_slowly(input, pool);
            };
            let payload_len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
            let is_whole = payload_len <= input.len() - header.header_len;
            if is_whole && header.is_final {
                if header.opcode == OpCode::Continuation {
                    return Err(ProtocolError::Orphan);
                }
                let is_compressed = header.rsv != 0;
                self.check_len(payload_len, is_compressed, header.opcode)?;
                let bytes = std::mem::take(input);
                let (frame, rest) = bytes.split_at_mut(header.header_len + payload_len);
                *input = rest;
                let (_, payload) = frame.split_at_mut(header.header_len);
                unmask(payload, header.mask);
                if is_compressed {
                    let kind =
                        if header.opcode == OpCode::Text { Kind::Text } else { Kind::Binary };
                    self.inflate(payload, kind, pool)?;
                    return Ok(Found::Inflated(kind));
                }
                if header.opcode == OpCode::Text {
                    utf8::check(payload).map_err(|_| ProtocolError::Utf8)?;
                }
                return Ok(Found::Input(header.opcode, payload));
            }
        }
        self.find_slowly(input, pool)
    }

    /// Finds the next event, whatever is incomplete before or after it.
    fn find_slowly<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        pool: &mut InflaterPool,
    ) -> Result<Found<'i>, ProtocolError> {
        if self.is_over {
            *input = &mut [];
            self.partial = None;
            return Ok(Found::Nothing);
        }
        let mut partial = self.partial.take().unwrap_or_default();
        match std::mem::take(&mut partial.lent) {
            Lent::Elsewhere => {}
            // A large one may serve the message that the end of this input cuts.
            Lent::Buffer if partial.buffer.capacity() >= BUFFER_KEPT_MIN => partial.buffer.clear(),
            Lent::Buffer => partial.buffer = Vec::new(),
            Lent::Control => partial.control = Vec::new(),
        }
        loop {
            let Some(mut frame) = partial.frame.take() else {
                let Some(header) = partial.take_header(input, &self.rules)? else {
                    // Between two messages nothing is kept.
                    if !partial.is_idle() {
                        self.look_ahead(&mut partial, pool)?;
                        self.partial = Some(partial);
                    }
                    return Ok(Found::Nothing);
                };
                partial.frame = Some(self.accept(&mut partial, &header)?);
                continue;
            };

            let bytes = std::mem::take(input);
            let (payload, rest) = bytes.split_at_mut(frame.left.min(bytes.len()));
            *input = rest;
            frame.left -= payload.len();
            let (key, len) = (frame.key, payload.len());
            let found = if frame.opcode.is_control() {
                partial.add_control(frame, payload)
            } else {
                self.add_data(&mut partial, frame, payload, pool)?
            };
            if frame.left > 0 {
                frame.key = key.map(|key| advance(key, len));
                partial.frame = Some(frame);
                self.look_ahead(&mut partial, pool)?;
                self.partial = Some(partial);
                return Ok(Found::Nothing);
            }
            let Some(found) = found else {
                // So that a control frame between fragments comes before or after an error in
                // them whether or not the input ends there.
                self.look_ahead(&mut partial, pool)?;
                continue;
            };
            let is_needed = matches!(found, Found::Buffer(_) | Found::Control(_))
                || !partial.is_idle()
                || partial.buffer.capacity() > 0;
            if is_needed {
                self.partial = Some(partial);
            }
            return Ok(found);
        }
    }

    /// Judges a frame by its header: what must not follow what came, and what would be too much.
    fn accept(&self, partial: &mut Partial, header: &Header) -> Result<Frame, ProtocolError> {
        let payload_len = usize::try_from(header.payload_len)
            .map_err(|_| HeaderError::TooLarge(header.payload_len))?;
        let kind = match header.opcode {
            OpCode::Text => Some(Kind::Text),
            OpCode::Binary => Some(Kind::Binary),
            OpCode::Continuation | OpCode::Close | OpCode::Ping | OpCode::Pong => None,
        };
        match (kind, &mut partial.message) {
            (Some(_), Some(_)) => return Err(ProtocolError::Interrupted(header.opcode)),
            (Some(kind), None) => {
                let is_compressed = header.rsv & header::RSV1 != 0;
                self.check_len(payload_len, is_compressed, header.opcode)?;
                partial.message = Some(Message {
                    kind,
                    is_compressed,
                    fragments: 1,
                    announced: payload_len,
                    utf8: Utf8::default(),
                    check: Check::NotBegun,
                });
            }
            (None, Some(message)) if header.opcode == OpCode::Continuation => {
                message.fragments += 1;
                if message.fragments > self.limits.fragments_max {
                    let max = self.limits.fragments_max;
                    return Err(ProtocolError::TooManyFragments { max });
                }
                message.announced = message.announced.saturating_add(payload_len);
                self.check_len(message.announced, message.is_compressed, header.opcode)?;
            }
            (None, None) if header.opcode == OpCode::Continuation => {
                return Err(ProtocolError::Orphan);
            }
            (None, _) => {}
        }
        Ok(Frame {
            opcode: header.opcode,
            is_final: header.is_final,
            left: payload_len,
            key: header.mask,
        })
    }

    /// Refuses a message of `len` bytes that is over the limit.
    #[inline]
    fn check_len(
        &self,
        len: usize,
        is_compressed: bool,
        opcode: OpCode,
    ) -> Result<(), ProtocolError> {
        let len_max = self.limits.message_len_max as usize;
        let allowed = if is_compressed { compressed_len_max(len_max) } else { len_max };
        if len > allowed && !opcode.is_control() {
            return Err(ProtocolError::TooLong { len_max });
        }
        Ok(())
    }

    /// Takes the bytes of a data frame that have come. `None`: more are to come.
    fn add_data<'i>(
        &mut self,
        partial: &mut Partial,
        frame: Frame,
        payload: &'i mut [u8],
        pool: &mut InflaterPool,
    ) -> Result<Option<Found<'i>>, ProtocolError> {
        let Some(message) = &mut partial.message else { return Err(ProtocolError::Orphan) };
        let (kind, is_compressed) = (message.kind, message.is_compressed);
        let is_checked = kind == Kind::Text && !is_compressed;
        let is_done = frame.is_final && frame.left == 0;

        // The first bytes are also the last: they need not move.
        if is_done && partial.buffer.is_empty() {
            partial.message = None;
            unmask(payload, frame.key);
            if is_compressed {
                self.inflate(payload, kind, pool)?;
                return Ok(Some(Found::Inflated(kind)));
            }
            if is_checked {
                utf8::check(payload).map_err(|_| ProtocolError::Utf8)?;
            }
            return Ok(Some(Found::Input(kind.into(), payload)));
        }

        reserve(&mut partial.buffer, payload.len(), message.announced);
        let start = partial.buffer.len();
        match frame.key {
            Some(key) => extend_masked(&mut partial.buffer, payload, key),
            None => partial.buffer.extend_from_slice(payload),
        }
        if is_checked {
            let fresh = partial.buffer.get(start..).unwrap_or_default();
            message.utf8.push(fresh).map_err(|_| ProtocolError::Utf8)?;
        }
        if !is_done {
            return Ok(None);
        }
        if is_checked {
            message.utf8.finish().map_err(|_| ProtocolError::Utf8)?;
        }
        partial.message = None;
        if is_compressed {
            let buffer = std::mem::take(&mut partial.buffer);
            self.inflate(&buffer, kind, pool)?;
            return Ok(Some(Found::Inflated(kind)));
        }
        partial.lent = Lent::Buffer;
        Ok(Some(Found::Buffer(kind)))
    }

    /// Inflates a whole message into the pool's output, and keeps what the next may refer to.
    fn inflate(
        &mut self,
        payload: &[u8],
        kind: Kind,
        pool: &mut InflaterPool,
    ) -> Result<(), ProtocolError> {
        let len_max = self.limits.message_len_max as usize;
        pool.inflate(payload, kind, self.window.as_deref(), len_max)?;
        if let Some(params) = self.deflate.filter(|params| params.receive_takeover) {
            let len_max = params.receive_window_len();
            let window = self.window.get_or_insert_with(|| Box::new(Window::new(len_max)));
            window.push(pool.output());
        }
        Ok(())
    }

    /// Checks what has come of a compressed text, now that the input or a fragment has ended.
    fn look_ahead(
        &self,
        partial: &mut Partial,
        pool: &mut InflaterPool,
    ) -> Result<(), ProtocolError> {
        let Some(message) = &mut partial.message else { return Ok(()) };
        if !message.is_compressed || message.kind != Kind::Text || partial.buffer.is_empty() {
            return Ok(());
        }
        if matches!(message.check, Check::NotBegun) {
            message.check = match pool.checker(self.window.as_deref()) {
                Some(checker) => Check::Begun(checker, 0),
                None => Check::AtEnd,
            };
        }
        let Check::Begun(checker, seen) = &mut message.check else { return Ok(()) };
        let part = partial.buffer.get(*seen..).unwrap_or_default();
        *seen = partial.buffer.len();
        let len_max = self.limits.message_len_max as usize;
        if !checker.push(part, pool, len_max)? {
            message.check = Check::AtEnd;
        }
        Ok(())
    }
}

impl Partial {
    fn is_idle(&self) -> bool {
        self.head_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Takes a header off the front of `input`, or all of it if the header is incomplete.
    fn take_header(
        &mut self,
        input: &mut &mut [u8],
        rules: &Rules,
    ) -> Result<Option<Header>, ProtocolError> {
        let have = usize::from(self.head_len);
        let mut head = self.head;
        let mut head_len = have;
        for (place, byte) in head.iter_mut().skip(have).zip(input.iter()) {
            *place = *byte;
            head_len += 1;
        }
        let decoded = header::decode(head.get(..head_len).unwrap_or_default(), rules)?;
        let used = match &decoded {
            Some(header) => header.header_len - have,
            None => input.len(),
        };
        match decoded {
            Some(_) => self.head_len = 0,
            None => {
                self.head = head;
                // A header that is incomplete has fewer than 14 bytes.
                self.head_len = u8::try_from(head_len).unwrap_or_default();
            }
        }
        *input = std::mem::take(input).split_at_mut(used).1;
        Ok(decoded)
    }

    /// Takes the bytes of a control frame that have come. `None`: more are to come.
    fn add_control<'i>(&mut self, frame: Frame, payload: &'i mut [u8]) -> Option<Found<'i>> {
        unmask(payload, frame.key);
        if frame.left == 0 && self.control.is_empty() {
            return Some(Found::Input(frame.opcode, payload));
        }
        self.control.extend_from_slice(payload);
        if frame.left > 0 {
            return None;
        }
        self.lent = Lent::Control;
        Some(Found::Control(frame.opcode))
    }
}

/// How long a compressed message may be whose plain form may have `len_max` bytes: data that does
/// not compress grows, by an eighth at the very worst (every literal in 9 bits of a fixed code).
const fn compressed_len_max(len_max: usize) -> usize {
    len_max.saturating_add(len_max / 8).saturating_add(64)
}

/// Makes room for `len` bytes more: up to twice of what came, never beyond what was announced.
fn reserve(buffer: &mut Vec<u8>, len: usize, announced: usize) {
    let need = buffer.len() + len;
    if need > buffer.capacity() {
        buffer.reserve_exact(need.max((need * 2).min(announced)) - buffer.len());
    }
}

#[inline]
fn unmask(payload: &mut [u8], key: Option<[u8; 4]>) {
    if let Some(key) = key {
        mask(payload, key);
    }
}

#[cfg(test)]
mod tests;
