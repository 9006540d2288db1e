//! What was accepted, and the judgement on what one client was given of it (CONTRACT 1, 4).
//!
//! The oracle forgets nothing. Lives of a log that share a beginning share its facts, so that a
//! position can be looked at from another life.

use std::collections::{BTreeMap, HashMap, HashSet};

use tidegate_core::{Entry, Epoch, Gap, Position};

/// Every entry that was ever accepted, per life of a log and channel.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    lives: HashMap<Epoch, Life>,
    accepted: u64,
}

#[derive(Debug, Default)]
struct Life {
    /// The life that it shares everything with up to this offset.
    parent: Option<(Epoch, u64)>,
    channels: HashMap<usize, BTreeMap<u64, Accepted>>,
}

/// A fact, and its place among all that were ever accepted: a draft that is sent again after its key
/// was forgotten is another publication.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    fact: Fact,
    nth: u64,
}

/// An entry: a publication by its number, or an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fact {
    End,
    Publication(u64),
}

impl Fact {
    pub(crate) fn of(entry: &Entry) -> Self {
        entry.publication().map_or(Self::End, |it| {
            let text = std::str::from_utf8(&it.payload.bytes).unwrap();
            Self::Publication(text.trim_end().parse().unwrap())
        })
    }
}

impl Oracle {
    /// A log begins another life; what it shares with its parent was accepted in both.
    pub(crate) fn begin(&mut self, epoch: Epoch, parent: Option<(Epoch, u64)>) {
        let mut channels = HashMap::new();
        if let Some((of, fork)) = parent {
            for (channel, facts) in &self.lives[&of].channels {
                let shared = facts.range(..=fork).map(|(offset, fact)| (*offset, *fact));
                channels.insert(*channel, shared.collect());
            }
        }
        assert!(self.lives.insert(epoch, Life { parent, channels }).is_none(), "a new epoch");
    }

    pub(crate) fn accept(&mut self, channel: usize, entry: &Entry) {
        let life = self.lives.get_mut(&entry.position.epoch).unwrap();
        let facts = life.channels.entry(channel).or_default();
        self.accepted += 1;
        let accepted = Accepted { fact: Fact::of(entry), nth: self.accepted };
        assert!(facts.insert(entry.position.offset, accepted).is_none(), "a new offset");
    }

    fn at(&self, channel: usize, at: Position) -> Option<Accepted> {
        self.lives.get(&at.epoch)?.channels.get(&channel)?.get(&at.offset).copied()
    }

    /// The first entry behind `after` and not behind `to`, in one life.
    pub(crate) fn first_in(&self, channel: usize, after: Position, to: u64) -> Option<u64> {
        let facts = self.lives[&after.epoch].channels.get(&channel)?;
        let from = after.offset + 1;
        if from > to {
            return None;
        }
        facts.range(from..=to).next().map(|(offset, _)| *offset)
    }

    /// `at` as a position of `epoch`, if both lives share everything up to there.
    pub(crate) fn express(&self, at: Position, epoch: Epoch) -> Option<Position> {
        let fork = self.fork(at.epoch, epoch).or_else(|| self.fork(epoch, at.epoch))?;
        (at.offset <= fork).then_some(Position { epoch, offset: at.offset })
    }

    /// Up to where `older` and its descendant `younger` are one.
    fn fork(&self, older: Epoch, younger: Epoch) -> Option<u64> {
        let (mut at, mut fork) = (younger, u64::MAX);
        while at != older {
            let (parent, shared) = self.lives.get(&at)?.parent?;
            (at, fork) = (parent, fork.min(shared));
        }
        Some(fork)
    }
}

/// Whether a client has to get everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// All that it is not told a gap for.
    Everything,
    /// `conflate` on a bare WebSocket: whatever, but in order and once.
    Newest,
}

/// What one client has seen of one channel.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// `None`: wherever its next stream opens.
    pub(crate) position: Option<Position>,
    /// Which publications, by [`Accepted::nth`].
    publications: HashSet<u64>,
    /// The end was told in this stream.
    pub(crate) has_ended: bool,
}

impl Seen {
    /// Judges an entry that the client received.
    pub(crate) fn item(
        &mut self,
        oracle: &Oracle,
        channel: usize,
        entry: &Entry,
        due: Due,
    ) -> Result<(), String> {
        let (to, fact) = (entry.position, Fact::of(entry));
        let Some(accepted) = oracle.at(channel, to).filter(|it| it.fact == fact) else {
            return Err(format!("{to:?} was never accepted as {fact:?}"));
        };
        if self.has_ended {
            return Err(format!("{to:?} came after the end"));
        }
        if fact != Fact::End && !self.publications.insert(accepted.nth) {
            return Err(format!("{to:?} is a duplicate"));
        }
        let position = self.position.ok_or("an entry before the stream had opened")?;
        let here = oracle.express(position, to.epoch);
        match (here, due) {
            (None, Due::Newest) => {}
            (None, Due::Everything) => {
                return Err(format!("{to:?} after {position:?}: another log, and no gap was told"));
            }
            (Some(here), _) if to.offset <= here.offset => {
                // Who asks at or past the end is told it again.
                if fact != Fact::End {
                    return Err(format!("{to:?} after {position:?}: out of order"));
                }
            }
            (Some(here), Due::Everything) => {
                if let Some(lost) = oracle.first_in(channel, here, to.offset - 1) {
                    return Err(format!("{to:?} after {position:?}: {lost} lost untold"));
                }
            }
            (Some(_), Due::Newest) => {}
        }
        self.has_ended = fact == Fact::End;
        self.position = Some(to);
        Ok(())
    }

    /// Judges a gap that the client was told.
    pub(crate) fn gap(&mut self, oracle: &Oracle, channel: usize, gap: &Gap) -> Result<(), String> {
        let position = self.position.ok_or("a gap before the stream had opened")?;
        let requested = gap.requested;
        if self.has_ended {
            return Err(format!("{gap:?} came after the end"));
        }
        let Some(here) = oracle.express(position, requested.epoch) else {
            return Err(format!("{gap:?} at {position:?}: requested in another log"));
        };
        let (low, high) = (here.offset.min(requested.offset), here.offset.max(requested.offset));
        if let Some(lost) = oracle.first_in(channel, Position { offset: low, ..here }, high) {
            return Err(format!("{gap:?} at {position:?}: {lost} lies between"));
        }
        self.resume(oracle, gap.resumed, position)
    }

    /// Goes on after `resumed`, which must not lie behind where the client is.
    fn resume(
        &mut self,
        oracle: &Oracle,
        resumed: Position,
        position: Position,
    ) -> Result<(), String> {
        if let Some(here) = oracle.express(position, resumed.epoch)
            && resumed.offset < here.offset
        {
            return Err(format!("a gap goes back from {position:?} to {resumed:?}"));
        }
        self.position = Some(resumed);
        Ok(())
    }

    /// A bare WebSocket was closed with 4010: something was missed, it goes on after `resumed`.
    pub(crate) fn closed_for_gap(
        &mut self,
        oracle: &Oracle,
        resumed: Position,
    ) -> Result<(), String> {
        let position = self.position.ok_or("a gap before the stream had opened")?;
        self.resume(oracle, resumed, position)
    }

    /// A poll said that the channel has ended.
    pub(crate) fn ended(&mut self) {
        self.has_ended = true;
    }

    /// Judges a client that has read all there is: nothing lies before the log's head, and its
    /// beginning, at `start`, does not lie beyond.
    pub(crate) fn at_rest(
        &self,
        oracle: &Oracle,
        channel: usize,
        start: Position,
    ) -> Result<(), String> {
        let position = self.position.ok_or("it never opened")?;
        let Some(here) = oracle.express(position, start.epoch) else {
            return Err(format!("it rests at {position:?}, and the log is another: {start:?}"));
        };
        match oracle.first_in(channel, here, u64::MAX) {
            Some(lost) => Err(format!("it rests at {position:?} and lost {lost} untold")),
            None if here.offset < start.offset => {
                Err(format!("it rests at {position:?}; the log was dropped to {start:?} untold"))
            }
            None => Ok(()),
        }
    }
}
