//! What a client has been told, held against what happened.

use tidegate_client::{Event, Gap};

use crate::gateway::Log;

/// One channel's story so far.
#[derive(Default)]
struct Story {
    /// The number that is due next; `None` before a subscription that began anywhere.
    due: Option<u32>,
    /// Whether numbers may be skipped: a gap was told since the last publication.
    gap: Option<Gap>,
    is_ended: bool,
}

pub(crate) struct Oracle {
    stories: Vec<Story>,
    /// A bare WebSocket may bring things twice after a gap (`Wire::WsBare`).
    may_double_after_gap: bool,
    pub(crate) publications: u32,
    pub(crate) gaps: u32,
}

impl Oracle {
    pub(crate) fn new(channels: usize, may_double_after_gap: bool) -> Self {
        let story = || Story { due: Some(0), ..Story::default() };
        let stories = (0..channels).map(|_| story()).collect();
        Self { stories, may_double_after_gap, publications: 0, gaps: 0 }
    }

    /// Takes the next event.
    pub(crate) fn take(&mut self, event: &Event, logs: &[Log]) -> Result<(), String> {
        match event {
            Event::Open(_) | Event::Retry(_) => {}
            Event::Gap(gap) => {
                self.gaps += 1;
                let at = logs.iter().position(|it| it.channel == gap.channel).unwrap();
                self.stories[at].gap = Some(gap.clone());
            }
            Event::End(end) => {
                let at = logs.iter().position(|it| it.channel == end.channel).unwrap();
                if std::mem::replace(&mut self.stories[at].is_ended, true) {
                    return Err(format!("{}: its end came twice", end.channel));
                }
                self.check_missing(at, logs[at].published, logs)?;
            }
            Event::Publication(it) => {
                self.publications += 1;
                let at = logs.iter().position(|log| log.channel == it.channel).unwrap();
                let number: u32 = it.payload.text().unwrap().parse().unwrap();
                if self.stories[at].is_ended {
                    return Err(format!("{}: {number} came after the end", it.channel));
                }
                let due = self.stories[at].due.unwrap_or(number);
                let is_again = number < due;
                if is_again && !(self.may_double_after_gap && self.stories[at].gap.is_some()) {
                    return Err(format!("{}: {number} came where {due} is due", it.channel));
                }
                if !is_again {
                    self.check_missing(at, number, logs)?;
                    self.stories[at].due = Some(number + 1);
                    if !self.may_double_after_gap {
                        self.stories[at].gap = None;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that whatever is missing before `number` was told.
    fn check_missing(&mut self, at: usize, number: u32, logs: &[Log]) -> Result<(), String> {
        let (story, log) = (&self.stories[at], &logs[at]);
        let due = story.due.unwrap_or(number);
        if number <= due {
            return Ok(());
        }
        let Some(gap) = &story.gap else {
            return Err(format!("{}: {due} to {} are missing untold", log.channel, number - 1));
        };
        // The gap ends where nothing is missing any more, so it reaches what is missing last.
        let last = gap.resumed.as_ref().and_then(|it| log.number_at(it.as_str()));
        match last {
            Some(last) if last + 1 < number => {
                let told = format!("the gap ends after {last}");
                Err(format!("{}: {due} to {} are missing, {told}", log.channel, number - 1))
            }
            _ => Ok(()),
        }
    }
}
