//! Presence: who is connected to a channel (CONTRACT 5).
//!
//! [`Members`] is what one process knows of it: its own members, of whom those that were cut stay for
//! [`GRACE`] so that a reload does not flicker, and those that the broker names for other nodes. What
//! its clients are told, list and changes, comes from one place, a *round*: the list as it was agreed
//! with the broker last, and how that differs from the round before.
//!
//! ```text
//! join, leave ──► mine ── begin_round ──► the broker: mine in, everyone's out
//!  5 s past a cut ─► │                          │
//!        told ◄──────┴─ end_round ◄─────────────┘ ──► a list, and who joined and left since the last
//! ```
//!
//! Members come and go at the pace of clients, so what they leave behind is bounded: who was cut by
//! [`CUT_MAX`], and a channel that the broker was never told of goes with its last member.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::ChannelName;
use crate::entry::{SessionId, Timestamp};

/// How long a member stays after it was cut.
pub const GRACE: Duration = Duration::from_secs(5);

/// How many members of a process may stay after they were cut; over it, those that were cut first
/// leave early. Under 600 bytes each, where each has a channel of its own: 56 MiB in all.
pub const CUT_MAX: usize = 100_000;

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

/// Why a client is not subscribed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Its connection or its waiting is over, or we failed it: it may be back within [`GRACE`].
    Cut,
    /// It unsubscribed, or the channel ended, and its connection goes on: there is nothing to wait for.
    Left,
}

/// Which round of a process; a later one has seen all that was done before it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// The members of every channel of this process that has any.
///
/// Order of calls: [`Members::join`] and [`Members::leave`] as clients come and go, [`Members::tick`]
/// as time passes. While [`Members::due`] names a channel: [`Members::begin_round`], ask the broker,
/// and [`Members::end_round`] with its answer, or [`Members::fail_round`]. One round at a time.
#[derive(Debug)]
pub struct Members {
    channels: BTreeMap<ChannelName, Channel>,
    /// Ours, of all channels: a container for each channel would cost one of a single member more
    /// than the member.
    mine: BTreeMap<(ChannelName, SessionId), Mine>,
    /// Channels that need a round, in the order in which they began to.
    due: Line<ChannelName>,
    /// Those of ours that were cut, in the order in which they are forgotten.
    cut: Line<Cut>,
    cut_max: usize,
    /// The round that begins next.
    next: Round,
}

#[derive(Debug, Default)]
struct Channel {
    told: Option<Last>,
    /// Somebody who came wants the list of this round or a later one.
    wanted: Option<Round>,
    /// Its place among those that need a round, if it does.
    due: Option<u64>,
    /// A round has begun, so the broker may have been told of us.
    is_known: bool,
}

/// What the last round has found.
#[derive(Debug)]
struct Last {
    round: Round,
    /// Everyone, in the order in which they came.
    members: Arc<[Arc<Member>]>,
    /// Who of them is on other nodes.
    others: Box<[Arc<Member>]>,
}

#[derive(Debug)]
struct Mine {
    member: Arc<Member>,
    stay: Stay,
}

#[derive(Debug)]
enum Stay {
    /// With so many live subscriptions: a connection may have several requests.
    Live(u32),
    /// Its place among those that were cut.
    Cut(u64),
}

#[derive(Debug)]
struct Cut {
    until: Duration,
    channel: ChannelName,
    session: SessionId,
}

/// What a round has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose members.
    pub channel: ChannelName,
    /// Which round it was.
    pub round: Round,
    /// Everyone, in the order in which they came.
    pub members: Arc<[Arc<Member>]>,
    /// Who was not there in the round before.
    pub joined: Vec<Arc<Member>>,
    /// Who was, and is not any more.
    pub left: Vec<Arc<Member>>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            channels: BTreeMap::new(),
            mine: BTreeMap::new(),
            due: Line::default(),
            cut: Line::default(),
            cut_max: CUT_MAX,
            next: Round::default(),
        }
    }
}

impl Members {
    /// A client is there, as `member`, whose id is the session's. The answer is the first round that
    /// knows of it.
    pub fn join(&mut self, channel: &ChannelName, session: SessionId, member: Member) -> Round {
        let mine = self.mine.entry((channel.clone(), session));
        let mine = mine.or_insert_with(|| Mine { member: member.into(), stay: Stay::Live(0) });
        let live = match mine.stay {
            Stay::Live(live) => live,
            Stay::Cut(ticket) => {
                self.cut.take(ticket);
                0
            }
        };
        mine.stay = Stay::Live(live.saturating_add(1));
        let it = self.channels.entry(channel.clone()).or_default();
        it.wanted = Some(self.next);
        it.due.get_or_insert_with(|| self.due.push(channel.clone()));
        self.next
    }

    /// A client has gone. Whether it stays a member for [`GRACE`] depends on how.
    pub fn leave(
        &mut self,
        channel: &ChannelName,
        session: SessionId,
        parting: Parting,
        now: Duration,
    ) {
        let key = (channel.clone(), session);
        let Some(Mine { stay: stay @ Stay::Live(_), .. }) = self.mine.get_mut(&key) else { return };
        match (&mut *stay, parting) {
            (Stay::Live(live @ 2..), _) => *live -= 1,
            (_, Parting::Left) => self.forget(key),
            (_, Parting::Cut) => {
                let (channel, session) = key;
                let until = now.saturating_add(GRACE);
                *stay = Stay::Cut(self.cut.push(Cut { until, channel, session }));
                if self.cut.len() > self.cut_max {
                    self.forget_first_cut();
                }
            }
        }
    }

    /// Forgets who was cut long enough ago.
    pub fn tick(&mut self, now: Duration) {
        while self.cut.first().is_some_and(|it| it.until <= now) {
            self.forget_first_cut();
        }
    }

    fn forget_first_cut(&mut self) {
        if let Some(Cut { channel, session, .. }) = self.cut.pop() {
            self.forget((channel, session));
        }
    }

    /// Takes one of ours away, and with the last one a channel of which nobody was told.
    fn forget(&mut self, key: (ChannelName, SessionId)) {
        self.mine.remove(&key);
        let (channel, _) = key;
        let Some(it) = self.channels.get_mut(&channel) else { return };
        if it.is_known || mine(&self.mine, &channel).next().is_some() {
            it.due.get_or_insert_with(|| self.due.push(channel));
        } else {
            if let Some(ticket) = it.due {
                self.due.take(ticket);
            }
            self.channels.remove(&channel);
        }
    }

    /// Has every channel agreed with the broker again: our lease is refreshed, and we learn who is
    /// on other nodes.
    pub fn refresh(&mut self) {
        for (channel, it) in &mut self.channels {
            it.due.get_or_insert_with(|| self.due.push(channel.clone()));
        }
    }

    /// The channel that has needed a round for the longest time, if any does.
    #[must_use]
    pub fn due(&self) -> Option<ChannelName> {
        self.due.first().cloned()
    }

    /// Begins a round: who is here, for the broker.
    pub fn begin_round(&mut self, channel: &ChannelName) -> (Round, Vec<Arc<Member>>) {
        if let Some(it) = self.channels.get_mut(channel) {
            if let Some(ticket) = it.due.take() {
                self.due.take(ticket);
            }
            it.is_known = true;
        }
        let round = self.next;
        self.next.0 += 1;
        (round, mine(&self.mine, channel).cloned().collect())
    }

    /// Ends the round in which the broker was told of `mine` with what it says, members of ours
    /// included. `None` where there is nothing to tell: no change, and nobody who waits for the list.
    pub fn end_round(
        &mut self,
        channel: &ChannelName,
        round: Round,
        mine: Vec<Arc<Member>>,
        everyone: Vec<Arc<Member>>,
    ) -> Option<Told> {
        let it = self.channels.get_mut(channel)?;
        let (mine, everyone) = (in_order(mine), in_order(everyone));
        let before: Arc<[_]> = it.told.take().map(|it| it.members).unwrap_or_default();
        let told = Told {
            channel: channel.clone(),
            round,
            joined: missing(&before, &everyone),
            left: missing(&everyone, &before),
            members: everyone.into(),
        };
        let others = missing(&mine, &told.members).into();
        it.told = Some(Last { round, members: Arc::clone(&told.members), others });
        let is_wanted = it.wanted.take_if(|wanted| *wanted <= round).is_some();
        if it.due.is_none() && self::mine(&self.mine, channel).next().is_none() {
            // Nobody here is told of it any more, and the broker knows that nobody is.
            self.channels.remove(channel);
        }
        (is_wanted || !told.joined.is_empty() || !told.left.is_empty()).then_some(told)
    }

    /// The broker did not answer: the same again, later.
    pub fn fail_round(&mut self, channel: &ChannelName) {
        if let Some(it) = self.channels.get_mut(channel) {
            it.due.get_or_insert_with(|| self.due.push(channel.clone()));
        }
    }

    /// What was told last of a channel, if anything was.
    #[must_use]
    pub fn told(&self, channel: &ChannelName) -> Option<(Round, Arc<[Arc<Member>]>)> {
        let last = self.channels.get(channel)?.told.as_ref()?;
        Some((last.round, Arc::clone(&last.members)))
    }

    /// Who is there now: ours at this moment, and who the last round found elsewhere. `None` where
    /// nobody is here, so that only the broker knows.
    #[must_use]
    pub fn now(&self, channel: &ChannelName) -> Option<Vec<Arc<Member>>> {
        let mut members: Vec<_> = mine(&self.mine, channel).cloned().collect();
        if members.is_empty() {
            return None;
        }
        let last = self.channels.get(channel).and_then(|it| it.told.as_ref());
        members.extend(last.into_iter().flat_map(|it| it.others.iter().cloned()));
        Some(in_order(members))
    }
}

/// Ours in a channel.
fn mine<'a>(
    all: &'a BTreeMap<(ChannelName, SessionId), Mine>,
    channel: &ChannelName,
) -> impl Iterator<Item = &'a Arc<Member>> {
    let every = |session| (channel.clone(), SessionId(session));
    all.range(every(0)..=every(u64::MAX)).map(|(_, it)| &it.member)
}

/// In the order in which they came, each once.
fn in_order(mut members: Vec<Arc<Member>>) -> Vec<Arc<Member>> {
    members.sort_unstable_by(|a, b| order(a, b));
    members.dedup_by(|a, b| a.id == b.id);
    members
}

fn order(a: &Member, b: &Member) -> Ordering {
    (a.joined, &a.id).cmp(&(b.joined, &b.id))
}

/// Who of `of` is not in `from`, both in order, whenever it came. In step, for most are in both.
fn missing(from: &[Arc<Member>], of: &[Arc<Member>]) -> Vec<Arc<Member>> {
    let mut rest = from.iter().peekable();
    let mut only_from = BTreeSet::new();
    let mut only_of = Vec::new();
    for it in of {
        while let Some(other) = rest.next_if(|other| order(other, it).is_lt()) {
            only_from.insert(&*other.id);
        }
        if rest.next_if(|other| order(other, it).is_eq()).is_none() {
            only_of.push(it);
        }
    }
    only_from.extend(rest.map(|other| &*other.id));
    // Who left and came again between two rounds came at another time.
    only_of.into_iter().filter(|it| !only_from.contains(&*it.id)).cloned().collect()
}

/// Whoever waits in the order in which they came; each may step out before its turn.
#[derive(Debug)]
struct Line<T> {
    waiting: BTreeMap<u64, T>,
    next: u64,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: 0 }
    }
}

impl<T> Line<T> {
    /// Its place, by which it can be taken out.
    fn push(&mut self, it: T) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.waiting.insert(ticket, it);
        ticket
    }

    fn take(&mut self, ticket: u64) -> Option<T> {
        self.waiting.remove(&ticket)
    }

    fn first(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(_, it)| it)
    }

    fn pop(&mut self) -> Option<T> {
        self.waiting.pop_first().map(|(_, it)| it)
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }
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

    /// Its session.
    fn session(id: &str) -> SessionId {
        SessionId(u64::from(id.as_bytes()[0]))
    }

    fn join(members: &mut Members, id: &str) -> Round {
        members.join(&channel(), session(id), member(id))
    }

    fn cut(members: &mut Members, id: &str, now: Duration) {
        members.leave(&channel(), session(id), Parting::Cut, now);
    }

    /// Unsubscribes, at no time that would matter.
    fn leave(members: &mut Members, id: &str) {
        members.leave(&channel(), session(id), Parting::Left, at(0));
    }

    fn ids<'a>(members: impl IntoIterator<Item = &'a Arc<Member>>) -> String {
        members.into_iter().map(|it| &*it.id).collect()
    }

    /// Nothing at all is kept.
    #[track_caller]
    fn check_empty(members: &Members) {
        let Members { channels, mine, due, cut, .. } = members;
        assert_eq!((channels.len(), mine.len(), due.len(), cut.len()), (0, 0, 0, 0));
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
        let (round, ours) = members.begin_round(&channel());
        assert_eq!(ids(&ours), mine);
        let others = elsewhere.chars().map(|it| member(&it.to_string()).into());
        let everyone = others.chain(ours.iter().cloned()).collect();
        let found = members.end_round(&channel(), round, ours, everyone).unwrap();
        assert_eq!(members.due(), None);
        assert_eq!((&*ids(&*found.members), &*ids(&found.joined), &*ids(&found.left)), told);
        assert_eq!(found.round, round);
        round
    }

    #[test]
    fn who_joins_is_told_once_with_the_whole_list() {
        let mut members = Members::default();
        assert_eq!((members.due(), members.now(&channel())), (None, None));
        let first = join(&mut members, "a");
        assert_eq!(ids(&members.now(&channel()).unwrap()), "a", "at once, before any round");
        assert_eq!(members.told(&channel()), None);
        assert_eq!(check(&mut members, "", "a", ("a", "a", "")), first);
        join(&mut members, "c");
        let last = join(&mut members, "b");
        assert!(last > first);
        assert_eq!(check(&mut members, "", "abc", ("abc", "bc", "")), last);
        let (round, list) = members.told(&channel()).unwrap();
        assert_eq!((round, &*ids(&*list)), (last, "abc"));
    }

    #[test]
    fn who_joins_while_a_round_is_under_way_is_in_the_next() {
        let mut members = Members::default();
        join(&mut members, "a");
        let (round, mine) = members.begin_round(&channel());
        let later = join(&mut members, "b");
        assert!(later > round);
        let told = members.end_round(&channel(), round, mine.clone(), mine).unwrap();
        assert_eq!(ids(&*told.members), "a");
        assert_eq!(members.told(&channel()).unwrap().0, round);
        assert_eq!(check(&mut members, "", "ab", ("ab", "b", "")), later);
    }

    #[test]
    fn who_was_cut_stays_for_five_seconds() {
        let mut members = Members::default();
        join(&mut members, "a");
        join(&mut members, "b");
        check(&mut members, "", "ab", ("ab", "ab", ""));
        cut(&mut members, "a", at(10));
        cut(&mut members, "n", at(10));
        members.tick(at(14));
        assert_eq!(members.due(), None);
        assert_eq!(ids(&members.now(&channel()).unwrap()), "ab");
        members.tick(at(15));
        check(&mut members, "", "b", ("b", "", "a"));
        cut(&mut members, "b", at(16));
        members.tick(at(21));
        check(&mut members, "", "", ("", "", "b"));
        check_empty(&members);
    }

    #[test]
    fn who_is_back_in_time_was_never_away() {
        let mut members = Members::default();
        join(&mut members, "a");
        check(&mut members, "", "a", ("a", "a", ""));
        cut(&mut members, "a", at(10));
        let later = Member { joined: Timestamp(1), ..member("a") };
        members.join(&channel(), session("a"), later);
        members.tick(at(60));
        // A round all the same, for it wants the list.
        check(&mut members, "", "a", ("a", "", ""));
        assert_eq!(members.now(&channel()).unwrap()[0].joined, member("a").joined);
    }

    #[test]
    fn a_member_with_two_subscriptions_leaves_with_the_second() {
        let mut members = Members::default();
        join(&mut members, "a");
        join(&mut members, "a");
        check(&mut members, "", "a", ("a", "a", ""));
        cut(&mut members, "a", at(10));
        members.tick(at(60));
        assert_eq!(members.due(), None);
        cut(&mut members, "a", at(60));
        members.tick(at(65));
        check(&mut members, "", "", ("", "", "a"));
    }

    #[test]
    fn members_of_other_nodes_come_with_the_broker() {
        let mut members = Members::default();
        join(&mut members, "b");
        check(&mut members, "a", "b", ("ab", "ab", ""));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "ab");
        members.refresh();
        check(&mut members, "c", "b", ("bc", "c", "a"));
        members.refresh();
        let (round, mine) = members.begin_round(&channel());
        let everyone = ["b", "c"].map(|it| member(it).into()).to_vec();
        assert_eq!(members.end_round(&channel(), round, mine, everyone), None);
    }

    #[test]
    fn a_round_that_fails_is_due_again() {
        let mut members = Members::default();
        join(&mut members, "a");
        members.begin_round(&channel());
        assert_eq!(members.due(), None);
        members.fail_round(&channel());
        check(&mut members, "", "a", ("a", "a", ""));
    }

    #[test]
    fn who_leaves_is_gone_at_once() {
        let mut members = Members::default();
        join(&mut members, "a");
        join(&mut members, "b");
        check(&mut members, "z", "ab", ("abz", "abz", ""));
        leave(&mut members, "a");
        assert_eq!(ids(&members.now(&channel()).unwrap()), "bz", "before any round");
        check(&mut members, "z", "b", ("bz", "", "a"));
        // Of two subscriptions the last one counts, and how it ended.
        join(&mut members, "b");
        leave(&mut members, "b");
        check(&mut members, "z", "b", ("bz", "", ""));
        leave(&mut members, "b");
        assert_eq!(members.now(&channel()), None, "only the broker knows");
        check(&mut members, "z", "", ("z", "", "b"));
        check_empty(&members);
    }

    #[test]
    fn who_leaves_and_is_back_before_a_round_was_never_away() {
        let mut members = Members::default();
        join(&mut members, "a");
        check(&mut members, "", "a", ("a", "a", ""));
        leave(&mut members, "a");
        let later = Member { joined: Timestamp(200), ..member("a") };
        members.join(&channel(), session("a"), later);
        check(&mut members, "", "a", ("a", "", ""));
        assert_eq!(members.told(&channel()).unwrap().1[0].joined, Timestamp(200));
    }

    #[test]
    fn who_leaves_during_a_round_is_taken_off_by_the_next() {
        let mut members = Members::default();
        join(&mut members, "a");
        let (round, mine) = members.begin_round(&channel());
        leave(&mut members, "a");
        let told = members.end_round(&channel(), round, mine.clone(), mine).unwrap();
        assert_eq!((&*ids(&told.joined), &*ids(&told.left)), ("a", ""));
        check(&mut members, "", "", ("", "", "a"));
        check_empty(&members);
        // Also where the broker did not answer: it may know all the same.
        join(&mut members, "a");
        members.begin_round(&channel());
        leave(&mut members, "a");
        members.fail_round(&channel());
        assert_eq!(members.due(), Some(channel()));
        members.begin_round(&channel());
        members.fail_round(&channel());
        let (round, mine) = members.begin_round(&channel());
        assert_eq!((ids(&mine), members.due()), (String::new(), None));
        members.end_round(&channel(), round, mine, Vec::new());
        check_empty(&members);
    }

    #[test]
    fn channels_that_come_and_go_leave_nothing_behind() {
        let mut members = Members::default();
        for nth in 0..10_000 {
            let channel = ChannelName::parse(&format!("c{nth}")).unwrap();
            members.join(&channel, session("a"), member("a"));
            if nth % 3 == 0 {
                let (round, mine) = members.begin_round(&channel);
                members.end_round(&channel, round, mine.clone(), mine);
            }
            members.leave(&channel, session("a"), Parting::Left, at(0));
            // What the broker was never told of needs no round, so there is no queue of them.
            assert_eq!(members.channels.len(), usize::from(nth % 3 == 0));
            while let Some(channel) = members.due() {
                let (round, mine) = members.begin_round(&channel);
                members.end_round(&channel, round, mine.clone(), mine);
            }
            check_empty(&members);
        }
    }

    #[test]
    fn of_those_that_were_cut_only_so_many_stay() {
        let mut members = Members { cut_max: 3, ..Members::default() };
        for id in ["a", "b", "c", "d", "e", "f"] {
            join(&mut members, id);
        }
        for id in ["a", "b", "c"] {
            cut(&mut members, id, at(10));
        }
        // Whoever is back is not among them any more, whoever is cut again is the last.
        join(&mut members, "a");
        cut(&mut members, "a", at(11));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "abcdef");
        cut(&mut members, "d", at(11));
        assert_eq!(
            ids(&members.now(&channel()).unwrap()),
            "acdef",
            "the first was forgotten early"
        );
        join(&mut members, "c");
        cut(&mut members, "e", at(12));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "acdef");
        for _ in 0..1000 {
            cut(&mut members, "f", at(12));
            join(&mut members, "f");
        }
        assert_eq!(ids(&members.now(&channel()).unwrap()), "cdef");
        members.tick(at(16));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "cef");
        members.tick(at(17));
        assert_eq!(ids(&members.now(&channel()).unwrap()), "cf");
    }

    #[test]
    fn who_is_due_first_comes_first() {
        let mut members = Members::default();
        let [a, b, z] = ["a", "b", "z"].map(|it| ChannelName::parse(it).unwrap());
        for channel in [&z, &a, &z, &b] {
            members.join(channel, session("a"), member("a"));
        }
        let mut order = Vec::new();
        while let Some(channel) = members.due() {
            members.begin_round(&channel);
            order.push(channel);
        }
        assert_eq!(order, [z, a, b]);
    }

    /// A channel with one member is these, a member, and what is told of it. `cargo bench -p
    /// tidegate-broker --bench presence` measures what that comes to.
    #[test]
    fn little_is_kept_of_a_channel() {
        assert!(size_of::<Channel>() <= 80, "{}", size_of::<Channel>());
        assert!(size_of::<Mine>() <= 24, "{}", size_of::<Mine>());
        assert!(size_of::<Cut>() <= 48, "{}", size_of::<Cut>());
    }
}
