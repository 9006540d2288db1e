//! Presence: who is connected to a channel (CONTRACT 5).
//!
//! [`Members`] is what one process knows of it: its own members, who stay for [`GRACE`] after they
//! have gone so that a reload does not flicker, and those that the broker names for other nodes. What
//! its clients are told, list and changes, comes from one place, a *round*: the list as it was agreed
//! with the broker last, and how that differs from the round before.
//!
//! ```text
//! join, leave ──► mine ── begin_round ──► the broker: mine in, everyone's out
//! tick: 5 s past the leave ──► mine            │
//!        told ◄──────── end_round ◄────────────┘ ──► a list, and who joined and left since the last
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::ChannelName;
use crate::entry::Timestamp;

/// How long a member stays after it has gone.
pub const GRACE: Duration = Duration::from_secs(5);

/// A member of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The session.
    pub id: Box<str>,
    /// Its token's subject.
    pub user: Option<Box<str>>,
    /// JSON of at most 1 KiB from its token.
    pub info: Option<Box<str>>,
    /// When it came.
    pub joined: Timestamp,
}

/// Which round of a process; a later one has seen all that was done before it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// The members of every channel of this process that has any.
///
/// Order of calls: [`Members::join`] and [`Members::leave`] as clients come and go, [`Members::tick`]
/// as time passes. While [`Members::due`] names a channel: [`Members::begin_round`], ask the broker,
/// and [`Members::end_round`] with its answer, or [`Members::fail_round`]. One round at a time.
#[derive(Debug, Default)]
pub struct Members {
    channels: BTreeMap<ChannelName, Channel>,
    /// Channels that need a round.
    due: BTreeSet<ChannelName>,
    /// The round that begins next.
    next: Round,
}

#[derive(Debug, Default)]
struct Channel {
    mine: BTreeMap<Box<str>, Mine>,
    /// As it was told last: ours and those of other nodes.
    told: BTreeMap<Box<str>, Member>,
    told_at: Option<Round>,
    /// Somebody who came wants the list of this round or a later one.
    wanted: Option<Round>,
    /// When the first of those that have gone is forgotten, if any has gone.
    forgets_at: Option<Duration>,
}

#[derive(Debug)]
struct Mine {
    member: Member,
    /// Its live subscriptions: a connection may have several requests.
    live: u32,
    /// When it is forgotten, where none is.
    until: Option<Duration>,
}

/// What a round has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose members.
    pub channel: ChannelName,
    /// Which round it was.
    pub round: Round,
    /// Everyone, in the order in which they came.
    pub members: Arc<[Member]>,
    /// Who was not there in the round before.
    pub joined: Vec<Member>,
    /// Who was, and is not any more.
    pub left: Vec<Member>,
}

impl Members {
    /// A client is there. The answer is the first round that knows of it.
    pub fn join(&mut self, channel: &ChannelName, member: Member) -> Round {
        let it = self.channels.entry(channel.clone()).or_default();
        let mine = it.mine.entry(member.id.clone()).or_insert_with(|| Mine {
            member,
            live: 0,
            until: None,
        });
        mine.live += 1;
        mine.until = None;
        it.wanted = Some(self.next);
        self.due.insert(channel.clone());
        self.next
    }

    /// A client has gone; it stays a member for [`GRACE`].
    pub fn leave(&mut self, channel: &ChannelName, id: &str, now: Duration) {
        let Some(it) = self.channels.get_mut(channel) else { return };
        let Some(mine) = it.mine.get_mut(id) else { return };
        mine.live = mine.live.saturating_sub(1);
        if mine.live == 0 {
            let until = now.saturating_add(GRACE);
            mine.until = Some(until);
            it.forgets_at = Some(it.forgets_at.map_or(until, |at| at.min(until)));
        }
    }

    /// Forgets who has been gone for long enough.
    pub fn tick(&mut self, now: Duration) {
        for (channel, it) in &mut self.channels {
            if it.forgets_at.is_none_or(|at| at > now) {
                continue;
            }
            it.mine.retain(|_, mine| mine.until.is_none_or(|until| until > now));
            it.forgets_at = it.mine.values().filter_map(|mine| mine.until).min();
            self.due.insert(channel.clone());
        }
    }

    /// Has every channel agreed with the broker again: our lease is refreshed, and we learn who is
    /// on other nodes.
    pub fn refresh(&mut self) {
        self.due.extend(self.channels.keys().cloned());
    }

    /// A channel that needs a round, if any does.
    #[must_use]
    pub fn due(&self) -> Option<ChannelName> {
        self.due.iter().next().cloned()
    }

    /// Begins a round: who is here, for the broker.
    pub fn begin_round(&mut self, channel: &ChannelName) -> (Round, Vec<Member>) {
        self.due.remove(channel);
        let round = self.next;
        self.next.0 += 1;
        let mine = self.channels.get(channel).into_iter().flat_map(|it| it.mine.values());
        (round, mine.map(|it| it.member.clone()).collect())
    }

    /// Ends the round with what the broker says, members of ours included. `None` where there is
    /// nothing to tell: no change, and nobody who waits for the list.
    pub fn end_round(
        &mut self,
        channel: &ChannelName,
        round: Round,
        everyone: Vec<Member>,
    ) -> Option<Told> {
        let it = self.channels.get_mut(channel)?;
        let now: BTreeMap<_, _> = everyone.into_iter().map(|it| (it.id.clone(), it)).collect();
        let missing = |from: &BTreeMap<Box<str>, Member>, of: &BTreeMap<Box<str>, Member>| {
            sorted(of.values().filter(|it| !from.contains_key(&it.id)).cloned().collect())
        };
        let told = Told {
            channel: channel.clone(),
            round,
            joined: missing(&it.told, &now),
            left: missing(&now, &it.told),
            members: sorted(now.values().cloned().collect()).into(),
        };
        it.told = now;
        it.told_at = Some(round);
        let is_wanted = it.wanted.take_if(|wanted| *wanted <= round).is_some();
        if it.mine.is_empty() {
            // Nobody here is told of it any more.
            self.channels.remove(channel);
        }
        (is_wanted || !told.joined.is_empty() || !told.left.is_empty()).then_some(told)
    }

    /// The broker did not answer: the same again, later.
    pub fn fail_round(&mut self, channel: &ChannelName) {
        if self.channels.contains_key(channel) {
            self.due.insert(channel.clone());
        }
    }

    /// What was told last of a channel, if anything was.
    #[must_use]
    pub fn told(&self, channel: &ChannelName) -> Option<(Round, Vec<Member>)> {
        let it = self.channels.get(channel)?;
        Some((it.told_at?, sorted(it.told.values().cloned().collect())))
    }

    /// Who is there now: ours at this moment, and who the last round found elsewhere. `None` where
    /// nobody is here, so that only the broker knows.
    #[must_use]
    pub fn now(&self, channel: &ChannelName) -> Option<Vec<Member>> {
        let it = self.channels.get(channel).filter(|it| !it.mine.is_empty())?;
        // Of ours that have been forgotten since, the round did not know yet.
        let mine = it.mine.values().map(|it| &it.member);
        let others = it.told.values().filter(|other| !it.mine.contains_key(&other.id));
        Some(sorted(mine.chain(others).cloned().collect()))
    }
}

/// In the order in which they came.
fn sorted(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_unstable_by(|a, b| (a.joined, &a.id).cmp(&(b.joined, &b.id)));
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn channel() -> ChannelName {
        ChannelName::parse("a").unwrap()
    }

    /// A member who came at the time of its name.
    fn member(id: &str) -> Member {
        let joined = Timestamp(u64::from(id.as_bytes()[0]));
        Member { id: id.into(), user: None, info: None, joined }
    }

    fn ids<'a>(members: impl IntoIterator<Item = &'a Member>) -> String {
        members.into_iter().map(|it| &*it.id).collect()
    }

    /// Runs the round that is due, on a broker with members elsewhere, and checks what is told.
    #[track_caller]
    fn check(
        members: &mut Members,
        elsewhere: &str,
        mine: &str,
        told: (&str, &str, &str),
    ) -> Round {
        assert_eq!(members.due(), Some(channel()));
        let (round, mut everyone) = members.begin_round(&channel());
        everyone.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(ids(&everyone), mine);
        everyone.extend(elsewhere.chars().map(|it| member(&it.to_string())));
        let found = members.end_round(&channel(), round, everyone).unwrap();
        assert_eq!(members.due(), None);
        assert_eq!((&*ids(&*found.members), &*ids(&found.joined), &*ids(&found.left)), told);
        assert_eq!(found.round, round);
        round
    }

    #[test]
    fn who_joins_is_told_once_with_the_whole_list() {
        let mut members = Members::default();
        assert_eq!((members.due(), members.now(&channel())), (None, None));
        let first = members.join(&channel(), member("a"));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "a", "at once, before any round");
        assert_eq!(members.told(&channel()), None);
        assert_eq!(check(&mut members, "", "a", ("a", "a", "")), first);
        members.join(&channel(), member("c"));
        let last = members.join(&channel(), member("b"));
        assert!(last > first);
        assert_eq!(check(&mut members, "", "abc", ("abc", "bc", "")), last);
        let (round, list) = members.told(&channel()).unwrap();
        assert_eq!((round, &*ids(&list)), (last, "abc"));
    }

    #[test]
    fn who_joins_while_a_round_is_under_way_is_in_the_next() {
        let mut members = Members::default();
        members.join(&channel(), member("a"));
        let (round, mine) = members.begin_round(&channel());
        let later = members.join(&channel(), member("b"));
        assert!(later > round);
        assert_eq!(ids(&*members.end_round(&channel(), round, mine).unwrap().members), "a");
        assert_eq!(members.told(&channel()).unwrap().0, round);
        assert_eq!(check(&mut members, "", "ab", ("ab", "b", "")), later);
    }

    #[test]
    fn who_has_gone_stays_for_five_seconds() {
        let mut members = Members::default();
        members.join(&channel(), member("a"));
        members.join(&channel(), member("b"));
        check(&mut members, "", "ab", ("ab", "ab", ""));
        members.leave(&channel(), "a", at(10));
        members.leave(&channel(), "nobody", at(10));
        members.tick(at(14));
        assert_eq!(members.due(), None);
        assert_eq!(ids(&members.now(&channel()).unwrap()), "ab");
        members.tick(at(15));
        check(&mut members, "", "b", ("b", "", "a"));
        members.leave(&channel(), "b", at(16));
        members.tick(at(21));
        check(&mut members, "", "", ("", "", "b"));
        assert!(members.channels.is_empty(), "nothing is left of it");
    }

    #[test]
    fn who_is_back_in_time_was_never_away() {
        let mut members = Members::default();
        members.join(&channel(), member("a"));
        check(&mut members, "", "a", ("a", "a", ""));
        members.leave(&channel(), "a", at(10));
        members.join(&channel(), Member { joined: Timestamp(1), ..member("a") });
        members.tick(at(60));
        // A round all the same, for it wants the list.
        check(&mut members, "", "a", ("a", "", ""));
        assert_eq!(members.now(&channel()).unwrap()[0].joined, member("a").joined);
    }

    #[test]
    fn a_member_with_two_subscriptions_leaves_with_the_second() {
        let mut members = Members::default();
        members.join(&channel(), member("a"));
        members.join(&channel(), member("a"));
        check(&mut members, "", "a", ("a", "a", ""));
        members.leave(&channel(), "a", at(10));
        members.tick(at(60));
        assert_eq!(members.due(), None);
        members.leave(&channel(), "a", at(60));
        members.tick(at(65));
        check(&mut members, "", "", ("", "", "a"));
    }

    #[test]
    fn members_of_other_nodes_come_with_the_broker() {
        let mut members = Members::default();
        members.join(&channel(), member("b"));
        check(&mut members, "a", "b", ("ab", "ab", ""));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "ab");
        members.refresh();
        check(&mut members, "c", "b", ("bc", "c", "a"));
        members.refresh();
        let (round, _) = members.begin_round(&channel());
        assert_eq!(members.end_round(&channel(), round, vec![member("b"), member("c")]), None);
    }

    #[test]
    fn a_round_that_fails_is_due_again() {
        let mut members = Members::default();
        members.join(&channel(), member("a"));
        members.begin_round(&channel());
        assert_eq!(members.due(), None);
        members.fail_round(&channel());
        check(&mut members, "", "a", ("a", "a", ""));
    }
}
