//! One world from one seed: a broker, workers, publishers and clients under a virtual clock, of which
//! each step does one thing to one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tidegate_core::hub::ReadId;
use tidegate_core::inbox::{InboxQueue, TailEvent};
use tidegate_core::log::{Page, Read};
use tidegate_core::{
    ChannelName, ChannelState, Draft, EventName, Key, OutboxBounds, Payload, PayloadKind, Policy,
    Publication, Timestamp,
};

use crate::broker::Broker;
use crate::client::{Begin, Client, Link};
use crate::oracle::{Due, Seen};
use crate::plan::{Fault, Plan};
use crate::stream::Stream;
use crate::worker::Worker;

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    pub(crate) broker: Broker,
    pub(crate) workers: Vec<Worker>,
    pub(crate) streams: BTreeMap<usize, Stream>,
    pub(crate) clients: Vec<Client>,
    /// Each client's bounds for each of its subscriptions.
    pub(crate) outboxes: Vec<OutboxBounds>,
    /// Answers on their way.
    pub(crate) pending: Vec<Pending>,
    pub(crate) next_stream: usize,
    pub(crate) stats: Stats,
    pub(crate) fault: Option<Fault>,
    /// Nothing is published any more, and everyone gets all the turns they need.
    pub(crate) is_settling: bool,
    published: u64,
    /// Drafts with keys that may be sent again.
    keyed: Vec<(usize, Draft)>,
    is_verbose: bool,
    violation: Option<String>,
}

/// An answer of the broker. What is `None` is read when it comes, the rest was when it was asked.
pub(crate) enum Pending {
    Begin { client: usize, id: usize, worker: usize, states: Vec<ChannelState> },
    HubRead { worker: usize, id: ReadId, read: Read, page: Option<Option<Page>> },
    SubRead { stream: usize, index: usize, read: Read, page: Option<Option<Page>> },
    Watch { worker: usize, channel: ChannelName, state: ChannelState },
}

/// What happened, so that a simulation in which nothing does is noticed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stats {
    pub(crate) published: u64,
    pub(crate) received: u64,
    pub(crate) at_once: usize,
    pub(crate) ends: usize,
    pub(crate) cuts: usize,
    pub(crate) polls: u64,
    pub(crate) marks: usize,
    pub(crate) hub_pages: u64,
    pub(crate) sub_pages: u64,
    pub(crate) dropped: usize,
    pub(crate) spilled: usize,
    pub(crate) over_total: usize,
    pub(crate) closed: usize,
    pub(crate) duplicates: u64,
    pub(crate) epochs: u64,
    pub(crate) restarts: u64,
    /// Gaps that clients were told.
    pub(crate) told: u64,
    /// Gaps that streams had to tell, by reason.
    pub(crate) gaps: [u64; 5],
}

impl World {
    pub(crate) fn new(seed: u64, fault: Option<Fault>, is_verbose: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng);
        let names = ["a", "prices.eur", "chat:42", "quiet"];
        let channels =
            names.iter().take(plan.channels).map(|it| ChannelName::parse(it).unwrap()).collect();
        let broker = Broker::new(channels, &plan, rng.fork());
        let (events, bytes) = (plan.inbox_events, plan.inbox_bytes);
        let workers = (0..plan.workers).map(|_| Worker::new(events, bytes)).collect();
        let outboxes: Vec<_> = (0..plan.clients).map(|_| plan.outbox(&mut rng)).collect();
        let clients = outboxes.iter().map(|it| client(&plan, it.policy, &mut rng)).collect();
        let it = Self {
            plan,
            rng,
            now: Duration::ZERO,
            broker,
            workers,
            streams: BTreeMap::new(),
            clients,
            outboxes,
            pending: Vec::new(),
            next_stream: 0,
            stats: Stats::default(),
            fault,
            is_settling: false,
            published: 0,
            keyed: Vec::new(),
            is_verbose,
            violation: None,
        };
        it.trace(|| format!("{:#?}\n{:#?}", it.plan, it.outboxes));
        it
    }

    /// Runs it. What is wrong first, if anything is.
    pub(crate) fn run(mut self) -> Result<Stats, String> {
        for _ in 0..self.plan.steps {
            self.step();
            if let Some(what) = self.violation {
                return Err(what);
            }
        }
        self.settle();
        match self.violation {
            Some(what) => Err(what),
            None => Ok(self.stats),
        }
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.trace(|| format!("WRONG: {what}"));
        self.violation.get_or_insert(what);
    }

    #[expect(clippy::print_stderr, reason = "a replay is there to be read")]
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_verbose {
            eprintln!("{}", what());
        }
    }

    fn step(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let trouble = self.plan.trouble;
        match self.rng.u32(..1000) {
            it if it < trouble => self.cut(client),
            it if it < 2 * trouble => self.upset(),
            it if it < 200 => {
                for _ in 0..self.rng.usize(1..=4) {
                    self.publish();
                }
            }
            200..450 => {
                let nth = self.rng.usize(..self.workers.len());
                if self.rng.u32(..100) >= self.plan.laziness {
                    (0..self.rng.usize(1..=4)).for_each(|_| self.turn(nth));
                }
            }
            450..600 => {
                // Some sockets are slower than others.
                if client.is_multiple_of(2) || self.rng.u8(..4) == 0 {
                    let count = self.rng.usize(1..=6);
                    self.receive(client, count);
                }
            }
            600..770 => {
                if let Link::Stream(id) = self.clients[client].link {
                    self.pump(id);
                }
            }
            770..900 => {
                for _ in 0..self.pending.len().min(2) {
                    if self.rng.u32(..100) < self.plan.haste {
                        let nth = self.rng.usize(..self.pending.len());
                        self.answer(nth, !self.plan.calm);
                    }
                }
            }
            900..980 => {
                if self.clients[client].link == Link::Offline {
                    self.connect(client);
                }
            }
            _ => self.now += Duration::from_millis(self.rng.u64(..3_000)),
        }
    }

    fn publish(&mut self) {
        let retry = self.rng.u8(..10) == 0 && !self.keyed.is_empty();
        let (channel, draft) = if retry {
            self.keyed[self.rng.usize(..self.keyed.len())].clone()
        } else {
            self.draft()
        };
        let mut inboxes: Vec<&mut InboxQueue> =
            self.workers.iter_mut().map(|it| &mut it.inbox).collect();
        let result = self.broker.publish(channel, draft.clone(), self.now, &mut inboxes);
        self.trace(|| {
            let result = result.as_ref().map(|it| it.as_ref().map(|it| it.position));
            format!("{:?}: publish to {channel}: {result:?}", self.now)
        });
        match result {
            Ok(Ok(it)) if it.is_duplicate => self.stats.duplicates += 1,
            Ok(Ok(_)) => {
                self.stats.published += 1;
                if draft.key.is_some() {
                    self.keyed.push((channel, draft));
                }
            }
            Ok(Err(_)) => {}
            Err(what) => self.fail(what),
        }
    }

    fn draft(&mut self) -> (usize, Draft) {
        let channel = self.rng.usize(..self.plan.channels);
        self.published += 1;
        let number = self.published;
        let ends = !self.plan.calm && self.rng.u8(..60) == 0;
        let is_lone = ends && self.rng.bool();
        let width = if self.rng.u8(..10) == 0 { self.rng.usize(..900) } else { 8 };
        let event = [None, Some("bid"), Some("ask")][self.rng.usize(..3)];
        let payload = Payload {
            kind: PayloadKind::Text,
            bytes: format!("{number:<width$}").into(),
            content_type: None,
        };
        let event = event.map(|it| EventName::parse(it).unwrap());
        let publication = Publication { payload, event, user: None, origin: None };
        let key =
            (self.rng.u8(..4) == 0).then(|| Key::parse("me".into(), &number.to_string()).unwrap());
        let time = Timestamp(u64::try_from(self.now.as_millis()).unwrap());
        let draft = Draft {
            channel: self.broker.channels[channel].clone(),
            publication: (!is_lone).then_some(publication),
            ends,
            key,
            time,
            id: u128::from(number),
        };
        (channel, draft)
    }

    /// Something that costs somebody something, or should not.
    fn upset(&mut self) {
        let channel = self.rng.usize(..self.plan.channels);
        let what = self.rng.u8(..10);
        if self.plan.calm {
            // A failover that lost nothing tells nothing, nor does a gateway that restarts.
            return match what {
                0..3 => self.fail_over(Some(0)),
                3 => self.restart(),
                4 => self.broker.sweep(self.now),
                _ => self.break_tail(),
            };
        }
        let mut inboxes: Vec<&mut InboxQueue> =
            self.workers.iter_mut().map(|it| &mut it.inbox).collect();
        match what {
            0..4 => {
                self.broker.drop_log(channel, self.now, &mut inboxes);
                self.trace(|| format!("drop {channel}"));
            }
            4 => self.broker.trim(self.rng.usize(..4_000), self.now),
            5 => self.broker.sweep(self.now),
            6 => self.restart(),
            7..9 => {
                let lost = self.rng.usize(..12);
                self.fail_over(Some(lost));
            }
            _ => self.fail_over(None),
        }
    }

    /// The tail says that it may have lost something.
    fn break_tail(&mut self) {
        self.trace(|| "the tail is broken".into());
        for worker in &mut self.workers {
            worker.inbox.push(TailEvent::Broken);
        }
    }

    fn fail_over(&mut self, lost: Option<usize>) {
        self.stats.epochs += 1;
        let nth = self.rng.usize(..self.broker.buckets());
        let mut inboxes: Vec<&mut InboxQueue> =
            self.workers.iter_mut().map(|it| &mut it.inbox).collect();
        self.broker.fail_over(nth, lost, self.now, &mut inboxes);
        self.trace(|| {
            let epoch = self.broker.epoch(nth);
            format!("bucket {nth} fails over to {epoch:?}, lost {lost:?}")
        });
    }

    /// The gateway restarts: connections, workers and what was asked are gone; so are the logs, where
    /// they live in it.
    fn restart(&mut self) {
        self.trace(|| "restart".into());
        self.stats.restarts += 1;
        self.cut_all();
        self.pending.clear();
        for channel in 0..self.plan.channels {
            (0..self.plan.workers).for_each(|worker| self.broker.unwatch(channel, worker));
        }
        let (events, bytes) = (self.plan.inbox_events, self.plan.inbox_bytes);
        self.workers = (0..self.plan.workers).map(|_| Worker::new(events, bytes)).collect();
        if !self.plan.durable {
            for nth in 0..self.broker.buckets() {
                self.broker.fail_over(nth, None, self.now, &mut []);
            }
        }
    }

    /// Gives an answer to who asked.
    fn answer(&mut self, nth: usize, may_fail: bool) {
        let fails = may_fail && self.rng.u8(..12) == 0;
        match self.pending.swap_remove(nth) {
            Pending::Begin { client, id, worker, states } => {
                self.begin(client, id, worker, &states);
            }
            Pending::HubRead { worker, id, read, page } => {
                let page = page.unwrap_or_else(|| self.broker.read(&read, self.now));
                let page = page.filter(|_| !fails);
                self.workers[worker].pages.push_back((read.channel, id, page));
            }
            Pending::SubRead { stream, index, read, page } => {
                let page = page.unwrap_or_else(|| self.broker.read(&read, self.now));
                self.sub_page(stream, index, page.filter(|_| !fails));
            }
            Pending::Watch { worker, channel, state } => self.open(worker, &channel, &state),
        }
    }

    // ---- The end -------------------------------------------------------------------------------

    /// Publishers stop, and everyone else goes on until nothing moves: nobody may have missed
    /// anything.
    fn settle(&mut self) {
        const ROUNDS_MAX: usize = 400;
        self.trace(|| "settling".into());
        self.is_settling = true;
        if self.plan.lost > 0 {
            self.break_tail();
        }
        for round in 0.. {
            if self.violation.is_some() {
                return;
            }
            if !self.round() {
                break;
            }
            if round == ROUNDS_MAX {
                return self.fail("it never comes to rest".into());
            }
        }
        for nth in 0..self.clients.len() {
            if let Err(what) = self.at_rest(nth) {
                self.fail(format!("client {nth}: {what}"));
            }
        }
    }

    /// A turn for everyone. Answers whether anything moved.
    fn round(&mut self) -> bool {
        let mut has_moved = !self.pending.is_empty();
        for _ in 0..self.pending.len() {
            self.answer(0, false);
        }
        for nth in 0..self.workers.len() {
            let mut turns = 0;
            while !self.workers[nth].is_at_rest() && turns < 200 {
                has_moved = true;
                turns += 1;
                self.turn(nth);
            }
        }
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for id in streams {
            has_moved |= self.pump(id);
        }
        for nth in 0..self.clients.len() {
            has_moved |= self.receive(nth, usize::MAX);
            if self.clients[nth].link == Link::Offline {
                has_moved = true;
                self.connect(nth);
            }
        }
        has_moved
    }

    fn at_rest(&mut self, nth: usize) -> Result<(), String> {
        let client = &self.clients[nth];
        if client.due == Due::Newest || client.link == Link::Done {
            return Ok(());
        }
        for (index, channel) in client.channels.iter().copied().enumerate() {
            let seen = &client.seen[index];
            if seen.has_ended {
                continue;
            }
            let state = self.broker.state(channel, self.now);
            if let Some(end) = state.ended {
                return Err(format!("the end of {channel} at {end} was not told"));
            }
            seen.at_rest(&self.broker.oracle, channel, state.start())?;
        }
        Ok(())
    }
}

fn client(plan: &Plan, policy: Policy, rng: &mut Rng) -> Client {
    let is_bare = rng.u8(..5) == 0;
    let mut channels: Vec<_> = (0..plan.channels).collect();
    rng.shuffle(&mut channels);
    channels.truncate(if is_bare || rng.bool() { 1 } else { rng.usize(1..=plan.channels) });
    let seen = channels.iter().map(|_| Seen::default()).collect();
    let begin = [Begin::Now, Begin::Start, Begin::Last(rng.u32(..4))][rng.usize(..3)];
    let is_told = !(is_bare && policy == Policy::Conflate);
    Client {
        channels,
        seen,
        link: Link::Offline,
        cursor: None,
        begin,
        is_bare,
        due: if is_told { Due::Everything } else { Due::Newest },
    }
}
