//! What a gateway says on an enveloped connection, and what that comes to.

use std::time::Instant;

use tidegate_core::ChannelName;

use super::raw::{RawGone, RawMove, RawServer, RawWelcome};
use super::{Due, Link, State, What};
use crate::error::{Error, Failure, Problem, Word};
use crate::event::{Cursor, Event};
use crate::machine::backoff::Backoff;
use crate::machine::form::{self, Names};
use crate::message::{Command, Push, Reply, Welcome};

impl Link {
    pub(super) fn take(&mut self, raw: RawServer<'_>, now: Instant) -> Result<(), Failure> {
        if let State::Open { has_worked, .. } = &mut self.state {
            *has_worked = true;
        }
        if let Some(id) = raw.id {
            return self.take_reply(id, raw, now);
        }
        let none = Names(&[]);
        if let Some(welcome) = raw.welcome {
            let RawWelcome { session, node, version } = welcome;
            let welcome = Welcome { session, node, version };
            self.pushes.push_back(Ok(Push::Open(welcome)));
        } else if let Some(message) = raw.message {
            let Some(it) = form::publication(message, &none)? else { return Ok(()) };
            let cursor = it.cursor.clone();
            if self.is_taken(&it.channel, cursor) {
                self.tell(Event::Publication(it));
            }
        } else if let Some(gap) = raw.gap {
            let gap = form::gap(&gap, &none)?;
            if self.is_taken(&gap.channel, gap.resumed.clone()) {
                self.tell(Event::Gap(gap));
            }
        } else if let Some(end) = raw.end {
            let end = form::end(&end, &none)?;
            if self.is_taken(&end.channel, end.cursor.clone()) {
                self.subs.remove(&end.channel);
                self.tell(Event::End(end));
            }
        } else if let Some(gone) = raw.unsubscribed {
            self.take_unsubscribed(&gone, now)?;
        } else if let Some(presence) = raw.presence {
            let presence = presence.read()?;
            if self.subs.contains_key(&presence.channel) {
                self.pushes.push_back(Ok(Push::Presence(presence)));
            }
        } else if let Some(RawMove { channel, member }) = raw.join {
            let channel = none.find(&channel)?;
            self.pushes.push_back(Ok(Push::Join { channel, member }));
        } else if let Some(RawMove { channel, member }) = raw.leave {
            let channel = none.find(&channel)?;
            self.pushes.push_back(Ok(Push::Leave { channel, member }));
        } else if let Some(error) = raw.error {
            self.fail(Failure::Problem(error.into()), now);
        }
        // Pings, and what a later version pushes.
        Ok(())
    }

    /// Whether what comes of a channel is ours; then that is where it goes on.
    fn is_taken(&mut self, channel: &ChannelName, cursor: Option<Cursor>) -> bool {
        let Some(sub) = self.subs.get_mut(channel).filter(|sub| sub.is_live) else { return false };
        if cursor.is_some() {
            sub.cursor = cursor;
        }
        true
    }

    fn take_reply(&mut self, id: u64, raw: RawServer<'_>, now: Instant) -> Result<(), Failure> {
        let Some(pending) = self.pending.get(&id) else { return Ok(()) };
        if let Some(error) = raw.error {
            self.take_error(id, error.into(), now);
            return Ok(());
        }
        let none = Names(&[]);
        let is_own_key = match &pending.what {
            What::Command(Command::Publish { is_own_key, .. }) => *is_own_key,
            _ => false,
        };
        let is_again = matches!(pending.what, What::Again(_));
        let reply = if let Some(subscribed) = raw.subscribed {
            let channel = none.find(&subscribed.channel.0)?;
            let cursor = form::cursor(&subscribed.cursor.0)?;
            if let Some(sub) = self.subs.get_mut(&channel) {
                sub.is_live = true;
                sub.cursor.get_or_insert_with(|| cursor.clone());
            }
            Reply::Subscribed { channel, cursor }
        } else if let Some(gone) = raw.unsubscribed {
            Reply::Unsubscribed { channel: none.find(&gone.channel)? }
        } else if let Some(published) = raw.published {
            let mut published = published.read(&none)?;
            published.is_duplicate &= !is_own_key;
            Reply::Published(published)
        } else if let Some(history) = raw.history {
            Reply::History(history.read()?)
        } else if let Some(presence) = raw.presence {
            Reply::Presence(presence.read()?)
        } else if raw.pong.is_some() {
            Reply::Pong
        } else {
            return Err(Failure::Protocol(format!("the reply to command {id} says nothing")));
        };
        if is_again {
            self.pending.remove(&id);
        } else {
            self.answer(id, Ok(reply));
        }
        Ok(())
    }

    fn take_error(&mut self, id: u64, problem: Problem, now: Instant) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.attempts += 1;
        pending.is_outcome_unknown |= problem.is_outcome_unknown;
        pending.last = Some(Failure::Problem(problem.clone()));
        let is_temporary = problem.code.is_temporary();
        let subscribes = match &pending.what {
            What::Again(channel) | What::Command(Command::Subscribe { channel, .. }) => {
                Some(channel.clone())
            }
            What::Command(_) => None,
        };
        if is_temporary {
            let mut backoff = Backoff::new(self.config.backoff, self.config.seed ^ id);
            for _ in 1..pending.attempts {
                backoff.next(None);
            }
            let at = now + backoff.next(problem.retry_after);
            self.due(at, Due::Command(id));
            return;
        }
        let is_again = matches!(pending.what, What::Again(_));
        if let Some(channel) = subscribes
            && self.subs.get(&channel).is_some_and(|sub| sub.id == id)
        {
            self.subs.remove(&channel);
            if is_again {
                let problem = problem.clone();
                self.pushes.push_back(Ok(Push::Unsubscribed { channel, problem }));
            }
        }
        if is_again {
            self.pending.remove(&id);
        } else {
            self.answer(id, Err(Error::Failed(Failure::Problem(problem))));
        }
    }

    fn take_unsubscribed(&mut self, gone: &RawGone, now: Instant) -> Result<(), Failure> {
        let channel = Names(&[]).find(&gone.channel)?;
        let code = Word::parse(gone.reason.as_deref().unwrap_or_default());
        let Some(sub) = self.subs.get_mut(&channel) else { return Ok(()) };
        sub.is_live = false;
        if code.is_temporary() {
            let delay = self.backoff.next(None);
            self.due(now + delay, Due::Sub(channel));
            return Ok(());
        }
        self.subs.remove(&channel);
        self.pushes.push_back(Ok(Push::Unsubscribed { channel, problem: Problem::of(code) }));
        Ok(())
    }
}
