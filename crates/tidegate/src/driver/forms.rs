//! The forms of an entry on the wires, each encoded once per worker and shared (DESIGN 3).
//!
//! This is where `tidegate-core` and `tidegate-wire` meet. What is a subscriber's own (the joined
//! cursor of several channels, gaps) is written beside the shared bytes.

use std::cell::{OnceCell, RefCell};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::envelope::{ServerBody, ServerFrame, json};
use tidegate_core::outbox::Weight;
use tidegate_core::subscription::{self, Item};
use tidegate_core::{ChannelName, Cursor, Entry, Gap, PayloadKind, Position};
use tidegate_wire::websocket::{COMPRESSED_LEN_MIN, Kind, SharedDeflater, encode};
use tidegate_wire::{ndjson, sse};

use super::compressed::Compressed;

/// How a stream's entries look, HTTP's chunk framing apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An event of an EventSource, with the payload as data.
    Sse,
    /// An event with the JSON form as data.
    SseJson,
    /// A line of the JSON form.
    Ndjson,
    /// A WebSocket message of the payload.
    Ws,
    /// A WebSocket message of the JSON form.
    WsJson,
    /// A push of `tidegate.v1.json`.
    Envelope,
}

/// What a format's bytes are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1 chunks, or WebSocket frames as they are.
    Plain,
    /// No chunks, for HTTP/1.0.
    Unchunked,
    /// WebSocket frames compressed by permessage-deflate, each message alone.
    Deflated,
}

/// A form: a format in a framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// How an entry looks.
    pub format: Format,
    /// What that is wrapped in.
    pub framing: Framing,
}

/// An entry with those of its forms that somebody needed.
#[derive(Debug)]
pub struct Encoded {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Most entries are needed in one form only, and that takes no memory of its own.
    first: OnceCell<(Form, Bytes)>,
    others: RefCell<Vec<(Form, Bytes)>>,
}

/// An [`Encoded`] entry as it waits in outboxes.
#[derive(Clone, Debug)]
pub struct Shared(pub Rc<Encoded>);

/// What encoding needs beside the entry; one per worker.
#[derive(Debug)]
pub struct Encoder {
    deflater: SharedDeflater,
    /// What this worker and the others have compressed.
    compressed: Arc<Compressed>,
    scratch: Vec<u8>,
}

impl Shared {
    /// An entry that nobody has encoded yet.
    #[must_use]
    pub fn new(entry: Arc<Entry>) -> Self {
        Self(Rc::new(Encoded { entry, first: OnceCell::new(), others: RefCell::default() }))
    }

    /// The entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// Keeps a form of it that was made elsewhere.
    pub fn keep(&self, form: Form, bytes: &Bytes) {
        if self.0.first.set((form, bytes.clone())).is_err() {
            self.0.others.borrow_mut().push((form, bytes.clone()));
        }
    }

    /// The bytes to write. Empty for the end on a bare WebSocket, which is a close.
    pub fn bytes(&self, form: Form, encoder: &mut Encoder) -> Bytes {
        let Encoded { entry, first, others } = &*self.0;
        let (first_form, bytes) = first.get_or_init(|| (form, encoder.encode(entry, form)));
        if *first_form == form {
            return bytes.clone();
        }
        let mut others = others.borrow_mut();
        if let Some((_, bytes)) = others.iter().find(|(it, _)| *it == form) {
            return bytes.clone();
        }
        let bytes = encoder.encode(entry, form);
        others.push((form, bytes.clone()));
        bytes
    }
}

impl Weight for Shared {
    fn weight(&self) -> usize {
        self.entry().weight()
    }

    fn supersedes(&self, older: &Self) -> bool {
        subscription::supersedes(self.entry(), older.entry())
    }
}

impl Item for Shared {
    fn position(&self) -> Position {
        self.entry().position
    }

    fn prev(&self) -> u64 {
        self.entry().prev
    }

    fn is_end(&self) -> bool {
        self.entry().is_end()
    }
}

impl Encoder {
    /// An encoder of a worker that shares `compressed` with the others.
    #[must_use]
    pub fn new(compressed: Arc<Compressed>) -> Self {
        // Level 1 costs least, and small messages that stand alone gain little from more.
        Self { deflater: SharedDeflater::new(1), compressed, scratch: Vec::new() }
    }

    /// Several entries as one piece, and as one chunk where there are chunks.
    #[must_use]
    pub fn batch(&mut self, entries: &[Arc<Entry>], form: Form) -> Bytes {
        let mut out = Vec::with_capacity(entries.iter().map(Weight::weight).sum());
        self.write(entries, form, &mut out);
        out.into()
    }

    fn encode(&mut self, entry: &Arc<Entry>, form: Form) -> Bytes {
        let mut out = Vec::with_capacity(entry.weight());
        self.write(std::slice::from_ref(entry), form, &mut out);
        out.into()
    }

    fn write(&mut self, entries: &[Arc<Entry>], form: Form, out: &mut Vec<u8>) {
        if matches!(form.format, Format::Ws | Format::WsJson | Format::Envelope) {
            entries.iter().for_each(|entry| self.write_websocket(entry, form, out));
            return;
        }
        self.scratch.clear();
        for entry in entries {
            match form.format {
                Format::Sse => write_sse(entry, &mut self.scratch),
                Format::SseJson => {
                    write_sse_json(entry, &entry.cursor().encode(), &mut self.scratch);
                }
                Format::Ndjson | Format::Ws | Format::WsJson | Format::Envelope => {
                    json::write_entry(entry, &mut self.scratch);
                    self.scratch.push(b'\n');
                }
            }
        }
        wrap(form.framing, &self.scratch, out);
        self.scratch.shrink_to(64 << 10);
    }

    fn write_websocket(&mut self, entry: &Arc<Entry>, form: Form, out: &mut Vec<u8>) {
        self.scratch.clear();
        let (kind, payload): (Kind, &[u8]) = match form.format {
            Format::WsJson => {
                json::write_entry(entry, &mut self.scratch);
                (Kind::Text, &self.scratch)
            }
            Format::Envelope => {
                json::write_message(entry, &mut self.scratch);
                (Kind::Text, &self.scratch)
            }
            Format::Ws | Format::Sse | Format::SseJson | Format::Ndjson => {
                let Some(publication) = entry.publication() else { return };
                let kind = match publication.payload.kind {
                    PayloadKind::Json | PayloadKind::Text => Kind::Text,
                    PayloadKind::Binary => Kind::Binary,
                };
                (kind, &publication.payload.bytes)
            }
        };
        let is_deflated = form.framing == Framing::Deflated && payload.len() >= COMPRESSED_LEN_MIN;
        let deflated = is_deflated.then(|| {
            let deflater = &mut self.deflater;
            let make = || deflater.deflate(payload).map(Bytes::copy_from_slice);
            self.compressed.get_or_make(entry, form.format, make)
        });
        match deflated.flatten() {
            Some(deflated) => encode::compressed_message(kind, &deflated, out),
            None => encode::message(kind, payload, out),
        }
    }

    /// An entry of one of several channels: the shared form, with the joined cursor in it.
    pub fn joined(&mut self, entry: &Entry, form: Form, resume: &[Cursor]) -> Bytes {
        let mut inner = Vec::with_capacity(entry.weight() + json::resume_len(resume.len()));
        match form.format {
            Format::Sse | Format::SseJson => write_sse_json(entry, &joined(resume), &mut inner),
            // Envelopes have a cursor in each message, and no joined one.
            Format::Envelope => json::write_message(entry, &mut inner),
            Format::Ndjson | Format::WsJson | Format::Ws => {
                json::write_entry(entry, &mut inner);
                add_resume(resume, &mut inner);
            }
        }
        self.finish(form, inner)
    }

    /// A gap, for those formats that can tell one; empty on a bare WebSocket. Envelopes have no
    /// `resume`.
    pub fn gap(
        &mut self,
        channel: &ChannelName,
        gap: &Gap,
        resume: &[Cursor],
        form: Form,
    ) -> Bytes {
        let mut inner = Vec::new();
        match form.format {
            Format::Sse | Format::SseJson => {
                let mut data = Vec::new();
                json::write_gap_object(channel, gap, &mut data);
                sse::write_event(&mut inner, Some(&joined(resume)), Some("tidegate-gap"), &data);
            }
            Format::Ndjson | Format::WsJson | Format::Envelope => {
                json::write_gap(channel, gap, &mut inner);
                if resume.len() > 1 {
                    add_resume(resume, &mut inner);
                }
            }
            Format::Ws => return Bytes::new(),
        }
        self.finish(form, inner)
    }

    /// A reply or a push of an enveloped connection, uncompressed.
    #[must_use]
    pub fn frame(&mut self, id: Option<NonZeroU64>, body: ServerBody<'_>) -> Bytes {
        self.scratch.clear();
        ServerFrame { id, body }.write_json(&mut self.scratch);
        let mut out = Vec::with_capacity(self.scratch.len() + 16);
        encode::message(Kind::Text, &self.scratch, &mut out);
        self.scratch.shrink_to(64 << 10);
        out.into()
    }

    /// A mid-stream error; empty on a bare WebSocket, where it is a close alone.
    pub fn error(
        &mut self,
        code: &str,
        message: &str,
        retry_after: Option<Duration>,
        retry_ms: u32,
        form: Form,
    ) -> Bytes {
        let mut inner = Vec::new();
        match form.format {
            Format::Sse | Format::SseJson => {
                let mut data = Vec::new();
                json::write_error_object(code, message, retry_after, &mut data);
                sse::write_retry(&mut inner, retry_ms);
                sse::write_event(&mut inner, None, Some("tidegate-error"), &data);
            }
            Format::Ndjson | Format::WsJson => {
                json::write_error(code, message, retry_after, &mut inner);
            }
            Format::Envelope => {
                let outcome_unknown = false;
                let body = ServerBody::Error { code, message, retry_after, outcome_unknown };
                return self.frame(None, body);
            }
            Format::Ws => return Bytes::new(),
        }
        self.finish(form, inner)
    }

    /// What keeps an idle stream alive; empty on WebSockets, which have pings.
    #[must_use]
    pub fn keepalive(form: Form) -> &'static [u8] {
        match (form.format, form.framing) {
            (Format::Sse | Format::SseJson, Framing::Unchunked) => b":\n\n",
            (Format::Sse | Format::SseJson, _) => b"3\r\n:\n\n\r\n",
            (Format::Ndjson, Framing::Unchunked) => b"\n",
            (Format::Ndjson, _) => b"1\r\n\n\r\n",
            (Format::Ws | Format::WsJson | Format::Envelope, _) => b"",
        }
    }

    /// Bytes of a stream's own, such as its opening: wrapped as its entries are.
    pub fn finish(&mut self, form: Form, mut inner: Vec<u8>) -> Bytes {
        let mut out = Vec::with_capacity(inner.len() + 16);
        match form.format {
            Format::Ws | Format::WsJson | Format::Envelope => {
                let deflater = (form.framing == Framing::Deflated).then_some(&mut self.deflater);
                match deflater.and_then(|it| it.deflate(&inner)) {
                    Some(deflated) => encode::compressed_message(Kind::Text, deflated, &mut out),
                    None => encode::message(Kind::Text, &inner, &mut out),
                }
            }
            Format::Ndjson => {
                inner.push(b'\n');
                wrap(form.framing, &inner, &mut out);
            }
            Format::Sse | Format::SseJson => wrap(form.framing, &inner, &mut out),
        }
        out.into()
    }
}

/// What ends a stream's body properly.
#[must_use]
pub fn last_chunk(form: Form) -> &'static [u8] {
    match (form.format, form.framing) {
        (Format::Ws | Format::WsJson | Format::Envelope, _) | (_, Framing::Unchunked) => b"",
        _ => ndjson::LAST_CHUNK,
    }
}

/// Wraps stream bytes for HTTP/1.1, or leaves them as they are.
fn wrap(framing: Framing, bytes: &[u8], out: &mut Vec<u8>) {
    match framing {
        Framing::Unchunked => out.extend_from_slice(bytes),
        Framing::Plain | Framing::Deflated => ndjson::write_chunk(out, bytes),
    }
}

/// The payload as an event, or the end as one of the gateway's.
fn write_sse(entry: &Entry, out: &mut Vec<u8>) {
    let cursor = entry.cursor().encode();
    let Some(publication) = entry.publication() else {
        return write_sse_end(entry, &cursor, out);
    };
    let mut scratch = Vec::new();
    let data = json::bare_text(&publication.payload, &mut scratch);
    sse::write_event(out, Some(&cursor), json::bare_event(publication), data);
}

/// The joined cursor of a stream of several channels, as the last member of an object.
fn add_resume(resume: &[Cursor], out: &mut Vec<u8>) {
    out.pop();
    json::write_resume(resume, out);
}

/// Cursors as they are told where there is one place for all.
#[must_use]
pub fn joined(resume: &[Cursor]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(json::resume_len(resume.len()));
    json::write_joined(resume, &mut joined);
    joined
}

/// The JSON form as an event, which names the event itself.
fn write_sse_json(entry: &Entry, resume: &[u8], out: &mut Vec<u8>) {
    if entry.is_end() {
        return write_sse_end(entry, resume, out);
    }
    let mut data = Vec::with_capacity(entry.weight());
    json::write_entry(entry, &mut data);
    sse::write_event(out, Some(resume), None, &data);
}

fn write_sse_end(entry: &Entry, resume: &[u8], out: &mut Vec<u8>) {
    let mut data = Vec::new();
    json::write_end_object(&entry.channel, entry.position, &mut data);
    sse::write_event(out, Some(resume), Some("tidegate-end"), &data);
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Body, Epoch, Payload, Publication, Timestamp};

    use super::*;

    fn entry(offset: u64, text: &str) -> Arc<Entry> {
        let payload = Payload::from_text(text.into());
        let publication = Publication { payload, event: None, user: None, origin: None };
        Arc::new(Entry {
            channel: ChannelName::parse("a").unwrap(),
            position: Position { epoch: Epoch::new(1), offset },
            prev: offset - 1,
            time: Timestamp(0),
            body: Body::Publication(publication),
        })
    }

    const DEFLATED: Form = Form { format: Format::Ws, framing: Framing::Deflated };

    #[test]
    fn a_message_is_compressed_once_for_all_workers() {
        let entries: Vec<_> =
            (1..=200).map(|offset| entry(offset, &format!("{offset} ").repeat(50))).collect();
        let compressed = Arc::new(Compressed::default());
        let batches: Vec<Bytes> = std::thread::scope(|scope| {
            let worker = || Encoder::new(Arc::clone(&compressed)).batch(&entries, DEFLATED);
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert_eq!(compressed.made(), 200);
        assert!(batches.iter().all(|it| *it == batches[0]));
        let one = Shared::new(Arc::clone(&entries[7]));
        let mut encoder = Encoder::new(Arc::clone(&compressed));
        let alone = one.bytes(DEFLATED, &mut encoder);
        assert_eq!(compressed.made(), 200, "nor where it goes alone");
        let json = Form { format: Format::WsJson, ..DEFLATED };
        assert_ne!(one.bytes(json, &mut encoder), alone, "another format is another message");
        assert_eq!(compressed.made(), 201);
    }

    #[test]
    fn what_can_not_be_kept_is_right_all_the_same() {
        let compressed = Arc::new(Compressed::default());
        let mut encoder = Encoder::new(Arc::clone(&compressed));
        let large = entry(1, &"tide".repeat(400_000));
        let first = encoder.batch(std::slice::from_ref(&large), DEFLATED);
        assert_eq!(encoder.batch(&[large], DEFLATED), first);
        assert_eq!(compressed.made(), 2);
        // Of the same place, one after the other.
        let (one, other) = (entry(1, &"one ".repeat(40)), entry(1, &"other ".repeat(40)));
        let alone = encoder.batch(std::slice::from_ref(&one), DEFLATED);
        let both = encoder.batch(&[Arc::clone(&other), one], DEFLATED);
        assert!(both.ends_with(&alone) && !both.starts_with(&alone));
    }

    #[test]
    fn a_form_is_made_once_per_worker() {
        let mut encoder = Encoder::new(Arc::default());
        let shared = Shared::new(entry(1, "a"));
        for format in [Format::Ws, Format::Sse, Format::Ndjson, Format::WsJson, Format::SseJson] {
            let form = Form { format, framing: Framing::Plain };
            let bytes = shared.bytes(form, &mut encoder);
            assert_eq!(shared.bytes(form, &mut encoder).as_ptr(), bytes.as_ptr(), "{form:?}");
        }
    }
}
