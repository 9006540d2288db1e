//! What comes on a session's connection: bytes to events, and events to places in logs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_core::envelope::client::LIMIT_MAX;
use tidegate_wire::sse;
use tidegate_wire::websocket::Kind;

use super::{Action, Reader, Session, State};
use crate::error::Failure;
use crate::event::{Cursor, End, Event, Open, Publication, Wire};
use crate::machine::Head;
use crate::machine::form::{self, Form, Names, Page};

impl Session {
    pub(super) fn read(&mut self, data: &[u8], now: Instant) -> Result<(), Failure> {
        let State::Open(stream) = &mut self.state else { return Ok(()) };
        match &mut stream.reader {
            Reader::Sse(_) => self.read_sse(data, now),
            Reader::Lines(_) => self.read_lines(data, now),
            Reader::Page(body) => {
                let bytes_max = self.config.limits.page_bytes_max;
                if body.len() + data.len() <= bytes_max {
                    body.extend_from_slice(data);
                    return Ok(());
                }
                if self.page_messages == 1 {
                    return Err(Failure::TooLarge { what: "a poll's answer", bytes_max });
                }
                self.page_messages /= 2;
                self.actions.push_back(Action::Disconnect);
                self.state = State::Waiting { until: now };
                Ok(())
            }
            Reader::Messages | Reader::Bare { .. } => Ok(()),
        }
    }

    fn read_sse(&mut self, mut data: &[u8], now: Instant) -> Result<(), Failure> {
        loop {
            let State::Open(stream) = &mut self.state else { return Ok(()) };
            let Reader::Sse(parser) = &mut stream.reader else { return Ok(()) };
            let item = parser.next(&mut data).map_err(|sse::TooLarge(bytes_max)| {
                Failure::TooLarge { what: "an event", bytes_max }
            })?;
            match item {
                None => {
                    // Also that of an event without data, which is how a stream opens.
                    if !parser.last_event_id().is_empty() {
                        self.cursor = Some(form::cursor(parser.last_event_id())?);
                    }
                    return Ok(());
                }
                Some(sse::Item::Retry(millis)) => {
                    self.sse_retry = Some(Duration::from_millis(millis));
                }
                Some(sse::Item::Event(event)) => {
                    let form = self.sse_event(&event)?;
                    self.take(form, now)?;
                }
            }
        }
    }

    fn sse_event(&self, event: &sse::Event) -> Result<Form, Failure> {
        let (data, names) = (event.data.as_bytes(), Names(&self.config.channels));
        let resume = match event.id.as_str() {
            "" => None,
            id => Some(form::cursor(id)?),
        };
        Ok(match event.event.as_str() {
            "message" => match form::line(data, &names)? {
                Form::Publication(it, _) => Form::Publication(it, resume),
                _ => Form::Unknown,
            },
            "tidegate-gap" => Form::Gap(form::gap_object(data, &names)?, resume),
            "tidegate-end" => Form::End(form::end_object(data, &names)?, resume),
            "tidegate-error" => Form::Error(form::error_object(data)?),
            _ => Form::Unknown,
        })
    }

    fn read_lines(&mut self, data: &[u8], now: Instant) -> Result<(), Failure> {
        let mut input = Bytes::copy_from_slice(data);
        loop {
            let State::Open(stream) = &mut self.state else { return Ok(()) };
            let Reader::Lines(splitter) = &mut stream.reader else { return Ok(()) };
            let Some(line) = splitter.next(&mut input) else { return Ok(()) };
            let line = line.map_err(|it| Failure::TooLarge { what: "a line", bytes_max: it.0 })?;
            // An empty one says that the stream lives.
            if !line.is_empty() {
                let form = form::line(&line, &Names(&self.config.channels))?;
                self.take(form, now)?;
            }
        }
    }

    pub(super) fn take(&mut self, form: Form, now: Instant) -> Result<(), Failure> {
        match form {
            Form::Publication(it, resume) => self.take_publication(it, resume),
            Form::Gap(gap, resume) => {
                self.progress();
                self.tell(Event::Gap(gap), resume);
            }
            Form::End(end, resume) => self.take_end(end, resume),
            Form::Error(problem) => self.fail(Failure::Problem(problem), now),
            Form::Unknown => {}
        }
        Ok(())
    }

    fn take_publication(&mut self, publication: Publication, resume: Option<Cursor>) {
        // A channel whose end has expired is as new.
        if let Some(ended) = self.ended_mut(&publication.channel) {
            *ended = false;
        }
        self.progress();
        self.tell(Event::Publication(publication), resume);
    }

    pub(super) fn take_bare(&mut self, kind: Kind, data: &[u8]) -> Result<(), Failure> {
        let Some(channel) = self.config.channels.first().cloned() else { return Ok(()) };
        let bytes = Bytes::copy_from_slice(data);
        let payload = match kind {
            Kind::Text => tidegate_core::Payload::from_websocket_text(bytes),
            Kind::Binary => tidegate_core::Payload::from_websocket_binary(bytes),
        };
        self.bare_had += 1;
        let payload = payload.into();
        let publication =
            Publication { channel, cursor: None, time: None, event: None, user: None, payload };
        self.take_publication(publication, None);
        Ok(())
    }

    pub(super) fn take_end(&mut self, end: End, resume: Option<Cursor>) {
        // One that was told before is sent again to whoever comes at or past it.
        let is_news =
            self.ended_mut(&end.channel).is_some_and(|ended| !std::mem::replace(ended, true));
        if is_news {
            self.progress();
            self.tell(Event::End(end), resume);
        } else if resume.is_some() {
            self.move_to(resume);
        }
        if self.ended.iter().all(|ended| *ended) {
            self.actions.push_back(Action::Disconnect);
            self.state = State::Over;
        }
    }

    /// An event stream that is past the ends of all its channels has nothing to say but that.
    pub(super) fn end_all(&mut self, head: &Head) {
        let cursor = head.cursor.as_deref().and_then(|it| Cursor::parse(it).ok());
        for channel in self.config.channels.clone() {
            self.take_end(End { channel, cursor: None }, None);
        }
        self.move_to(cursor);
    }

    pub(super) fn take_page(&mut self, page: Page, now: Instant) {
        self.has_opened = true;
        self.prove();
        let State::Open(stream) = &self.state else { return };
        let (wire, began) = (stream.wire, stream.began);
        let is_empty = page.messages.is_empty() && page.gaps.is_empty();
        if !std::mem::replace(&mut self.is_open_told, true) {
            let cursor = is_empty.then(|| page.cursor.clone());
            self.tell(Event::Open(Open { wire, cursor: cursor.clone() }), cursor);
        }
        for gap in page.gaps {
            self.tell(Event::Gap(gap), None);
        }
        let is_alone = self.config.channels.len() == 1;
        for message in page.messages {
            // Of several channels only the page's end is a place to go on from.
            let resume = message.cursor.clone().filter(|_| is_alone);
            self.take_publication(message, resume);
        }
        for channel in page.ended {
            self.take_end(End { channel, cursor: None }, None);
        }
        self.move_to(Some(page.cursor));
        self.attempts = 0;
        self.backoff.reset();
        if matches!(self.state, State::Over) {
            return;
        }
        let most = self.config.limits.page_messages_max.clamp(1, LIMIT_MAX);
        self.page_messages = self.page_messages.saturating_mul(2).min(most);
        let interval = self.config.timing.poll_interval;
        // A long-poll that has nothing to say and yet says it at once would be asked for ever.
        let is_hasty = now.saturating_duration_since(began) < interval;
        let delay = match wire {
            _ if !is_empty => Duration::ZERO,
            Wire::LongPoll if !is_hasty => Duration::ZERO,
            _ => self.backoff.jittered(interval),
        };
        self.state = State::Waiting { until: now + delay };
    }
}
