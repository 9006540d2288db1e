//! What an enveloped connection is told of who is present in its channels (CONTRACT 5): the list after
//! it has subscribed, then changes; the list again where it was too slow for those.

use tidegate_core::envelope::ServerBody;
use tidegate_core::presence::Round;

use super::{Inner, Phase};
use crate::driver::hub::News;
use crate::driver::output::COMMIT_BYTES;
use crate::worker::Worker;

/// What a client knows of who is present in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Everything through this round.
    All(Round),
    /// It read too slowly for changes: it gets the whole list again when it has read what waits.
    Behind,
    /// Nothing yet: it gets the list of this round or a later one.
    Nothing(Round),
}

impl Inner {
    /// Takes what is new of who is present in a channel.
    pub(super) fn tell_presence(&mut self, worker: &Worker, news: &mut News) {
        if self.phase != Phase::Open {
            return;
        }
        let Some(mut socket) = self.socket.take() else { return };
        if let Some(session) = &mut socket.session
            && let Some((_, seen)) =
                session.presence.iter_mut().find(|(it, _)| *it == news.told.channel)
        {
            let round = news.told.round;
            let is_full = self.out.bytes() >= COMMIT_BYTES;
            match *seen {
                Seen::Nothing(from) if round >= from && is_full => *seen = Seen::Behind,
                Seen::Nothing(from) if round >= from => {
                    *seen = Seen::All(round);
                    self.push(worker, news.list(&mut worker.encoder.borrow_mut()));
                }
                Seen::All(before) if round > before && is_full && news.has_changes() => {
                    *seen = Seen::Behind;
                }
                Seen::All(before) if round > before => {
                    *seen = Seen::All(round);
                    if news.has_changes() {
                        self.push(worker, news.changes(&mut worker.encoder.borrow_mut()));
                    }
                }
                Seen::All(_) | Seen::Behind | Seen::Nothing(_) => {}
            }
        }
        self.socket = Some(socket);
        if !self.out.is_empty() {
            self.wake();
        }
    }

    /// Gives the whole list to who was too slow for changes, one at a time.
    pub(super) fn catch_up_presence(&mut self, worker: &Worker) -> bool {
        let Some(session) = self.socket.as_mut().and_then(|it| it.session.as_mut()) else {
            return false;
        };
        let behind = session.presence.iter_mut().find(|(_, seen)| *seen == Seen::Behind);
        let Some((channel, seen)) = behind else { return false };
        let Some((round, members)) = worker.gateway.presence.told(channel) else {
            // Nothing was told of it any more; what is told next is the list.
            *seen = Seen::Nothing(Round::default());
            return true;
        };
        *seen = Seen::All(round);
        let body = ServerBody::Presence { channel, members: &members };
        let frame = worker.encoder.borrow_mut().frame(None, body);
        self.push(worker, frame);
        true
    }
}
