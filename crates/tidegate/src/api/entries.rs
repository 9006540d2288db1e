//! A body of many publications, cut into commands as it comes (CONTRACT 3).
//!
//! What is wrong with one entry does not touch the next, but for JSON that is none: nobody can say
//! where that ends.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::entry::EventName;
use tidegate_core::envelope::{JsonStream, JsonStreamError, PublishCommand};
use tidegate_core::{ChannelName, Payload, PayloadError};
use tidegate_wire::ndjson::LineSplitter;

use crate::problem::Problem;

/// Cuts a body. For each piece that arrives call [`Entries::next`] with it until the piece is empty
/// and the answer `None`; when the body is over, [`Entries::finish`] until it answers `None`.
#[derive(Debug)]
pub(super) enum Entries {
    /// JSON values one after another, each with its channel.
    Values {
        stream: JsonStream,
        /// Whose keys they are.
        publisher: Arc<str>,
    },
    /// Lines for one channel, each a JSON payload.
    Lines {
        splitter: LineSplitter,
        channel: ChannelName,
        event: Option<EventName>,
        /// Whether the channel ends after the last of them.
        ends: bool,
        /// Lines so far, blank ones too.
        line: usize,
    },
}

/// Why an entry is no publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// Whether what follows can't be read.
    pub(super) is_last: bool,
}

impl Entries {
    /// Publications for many channels, of at most so many bytes each.
    pub(super) fn values(publisher: Arc<str>, entry_bytes_max: usize) -> Self {
        Self::Values { stream: JsonStream::new(entry_bytes_max), publisher }
    }

    /// Payloads for one channel, of at most so many bytes each.
    pub(super) fn lines(
        channel: ChannelName,
        event: Option<EventName>,
        ends: bool,
        entry_bytes_max: usize,
    ) -> Self {
        let splitter = LineSplitter::new(entry_bytes_max);
        Self::Lines { splitter, channel, event, ends, line: 0 }
    }

    /// Takes the next entry off `input`.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Option<Result<PublishCommand, Refusal>> {
        match self {
            Self::Values { stream, publisher } => {
                // `None` may also mean that the rest of what was too large is over.
                while !input.is_empty() {
                    if let Some(value) = stream.next(input) {
                        return Some(command(value, publisher));
                    }
                }
                None
            }
            Self::Lines { splitter, channel, event, line, .. } => {
                while let Some(next) = splitter.next(input) {
                    *line += 1;
                    let next = next.map_err(|error| Refusal::one(error.into()));
                    if let Some(entry) = payload(next, channel, event.as_ref(), *line) {
                        return Some(entry);
                    }
                }
                None
            }
        }
    }

    /// Takes what was not ended when the body was.
    pub(super) fn finish(&mut self) -> Option<Result<PublishCommand, Refusal>> {
        match self {
            Self::Values { stream, publisher } => {
                stream.finish().transpose().map(|value| command(value, publisher))
            }
            Self::Lines { splitter, channel, event, line, .. } => {
                let last = splitter.finish().map_err(|error| Refusal::one(error.into()));
                payload(last.transpose()?, channel, event.as_ref(), *line + 1)
            }
        }
    }

    /// The end that is due after the last entry, once.
    pub(super) fn take_end(&mut self) -> Option<PublishCommand> {
        match self {
            Self::Lines { channel, ends: ends @ true, .. } => {
                *ends = false;
                let channel = channel.clone();
                Some(PublishCommand { channel, event: None, payload: None, key: None, ends: true })
            }
            Self::Lines { .. } | Self::Values { .. } => None,
        }
    }
}

impl Refusal {
    fn one(problem: Problem) -> Self {
        Self { problem, is_last: false }
    }

    fn last(problem: Problem) -> Self {
        Self { problem, is_last: true }
    }
}

fn command(
    value: Result<Bytes, JsonStreamError>,
    publisher: &Arc<str>,
) -> Result<PublishCommand, Refusal> {
    match value {
        Ok(value) => PublishCommand::parse(&value, publisher).map_err(|it| Refusal::one(it.into())),
        Err(error @ JsonStreamError::TooLarge(_)) => Err(Refusal::one(error.into())),
        Err(error @ JsonStreamError::Syntax(_)) => Err(Refusal::last(error.into())),
    }
}

/// The publication of a line; `None` if it is blank. `number` is the line's, from 1.
fn payload(
    line: Result<Bytes, Refusal>,
    channel: &ChannelName,
    event: Option<&EventName>,
    number: usize,
) -> Option<Result<PublishCommand, Refusal>> {
    let line = match line {
        Ok(line) if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) => return None,
        Ok(line) => line,
        Err(refusal) => return Some(Err(refusal)),
    };
    let payload = Payload::json(Bytes::copy_from_slice(&line)).map_err(|error| {
        Refusal::last(match error {
            PayloadError::Json(mut error) => {
                error.line = number;
                Problem::invalid(format!(
                    "the line is not JSON: {error}; what came before it was taken"
                ))
            }
            error => error.into(),
        })
    });
    Some(payload.map(|payload| PublishCommand {
        channel: channel.clone(),
        event: event.cloned(),
        payload: Some(payload),
        key: None,
        ends: false,
    }))
}
