//! The hub's task: drains the worker's inbox and writes to every live subscriber (DESIGN 2).
//!
//! It writes to sockets itself where nothing waits before it, in slices of `SLICE` clients between
//! which it yields; a client's own task is woken only for what is left.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_broker::{From, Page, Read, Reply};
use tidegate_core::envelope::ServerBody;
use tidegate_core::hub::{Effect, ReadId};
use tidegate_core::presence::Told;
use tidegate_core::{ChannelName, Entry, SessionId};

use super::client::Client;
use super::forms::{Encoder, Form, Shared};
use super::late::Answer;
use super::opening::Opening;
use super::output::COMMIT_BYTES;
use super::wake;
use crate::server::EndOnPanic;
use crate::transport::poll::Waiter;
use crate::worker::Worker;

/// Clients that are written to before others get a turn.
const SLICE: usize = 256;

/// Who is behind a hub's subscription.
#[derive(Clone, Debug)]
pub enum Subscriber {
    /// A stream that is being made.
    Opening(Rc<Opening>),
    /// A stream's socket, and which of its subscriptions this is.
    Stream(Rc<Client>, u32),
    /// A long-poll.
    Waiter(Rc<Waiter>, u32),
}

/// Entries of one channel on their way to its subscribers, small enough to be committed at once.
#[derive(Debug)]
pub struct Batch<'a> {
    /// At least one, in order.
    entries: &'a [Arc<Entry>],
    /// The same as they wait in outboxes, once somebody's socket was not free.
    shared: Vec<Shared>,
    /// All of them, per form, once somebody needed it.
    forms: Vec<(Form, Bytes)>,
    /// To how many it was written at once since that was counted.
    pub written: u64,
}

impl<'a> Batch<'a> {
    fn new(entries: &'a [Arc<Entry>]) -> Self {
        Self { entries, shared: Vec::new(), forms: Vec::new(), written: 0 }
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        self.entries
    }

    /// The entries for outboxes, with those forms that were needed already.
    pub fn shared(&mut self) -> &[Shared] {
        if self.shared.is_empty() {
            self.shared.extend(self.entries.iter().cloned().map(Shared::new));
            if let [one] = self.shared.as_slice() {
                self.forms.iter().for_each(|(form, bytes)| one.keep(*form, bytes));
            }
        }
        &self.shared
    }

    /// Counts how long it took to whom it was written since the last call.
    fn count_written(&mut self, worker: &Worker) {
        let written = std::mem::take(&mut self.written);
        if written == 0 {
            return;
        }
        let now = worker.now();
        for entry in self.entries {
            worker.metrics.publish_to_write.observe(now.micros_since(entry.time), written);
        }
    }

    /// Whether `session` published any of it.
    #[must_use]
    pub fn is_from(&self, session: SessionId) -> bool {
        self.entries.iter().any(|it| it.origin() == Some(session))
    }

    /// The bytes of all its entries.
    pub fn bytes(&mut self, form: Form, encoder: &mut Encoder) -> Bytes {
        if let Some((_, bytes)) = self.forms.iter().find(|(it, _)| *it == form) {
            return bytes.clone();
        }
        let bytes = match self.shared.as_slice() {
            [one] => one.bytes(form, encoder),
            // Encoded where they are sent from: a piece of its own is only needed for outboxes.
            _ => encoder.batch(self.entries, form),
        };
        self.forms.push((form, bytes.clone()));
        bytes
    }
}

/// What is new of who is present in a channel, on its way to its subscribers.
#[derive(Debug)]
pub struct News {
    /// What it is.
    pub told: Arc<Told>,
    /// The whole list, and the changes, once somebody needed them.
    list: Option<Bytes>,
    changes: Option<Bytes>,
}

impl News {
    /// Whether anybody joined or left.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.told.joined.is_empty() || !self.told.left.is_empty()
    }

    /// The push of everyone.
    pub fn list(&mut self, encoder: &mut Encoder) -> Bytes {
        let Told { channel, members, .. } = &*self.told;
        let body = ServerBody::Presence { channel, members };
        self.list.get_or_insert_with(|| encoder.frame(None, body)).clone()
    }

    /// The pushes of who joined and who left.
    pub fn changes(&mut self, encoder: &mut Encoder) -> Bytes {
        let Told { channel, joined, left, .. } = &*self.told;
        let encode = || {
            let joins = joined.iter().map(|member| ServerBody::Join { channel, member });
            let leaves = left.iter().map(|member| ServerBody::Leave { channel, member });
            let mut frames = Vec::new();
            for body in joins.chain(leaves) {
                frames.extend_from_slice(&encoder.frame(None, body));
            }
            frames.into()
        };
        self.changes.get_or_insert_with(encode).clone()
    }
}

/// Tells the subscribers of a channel who is present.
pub async fn tell_presence(worker: &Rc<Worker>, told: Arc<Told>) {
    let channel = told.channel.clone();
    let mut news = News { told, list: None, changes: None };
    let mut slice = Vec::with_capacity(SLICE);
    let mut from = 0;
    loop {
        let next = take_slice(worker, &channel, from, SLICE, &mut slice);
        for subscriber in slice.drain(..) {
            if let Subscriber::Stream(client, _) = subscriber {
                client.tell_presence(worker, &mut news);
            }
        }
        let Some(next) = next else { return };
        from = next;
        tokio::task::yield_now().await;
    }
}

/// Runs until it is aborted. Whatever is done to who is live is done here, one thing after another.
pub async fn run(worker: Rc<Worker>) {
    let _guard = EndOnPanic;
    let mut spare = Vec::new();
    let waker = poll_fn(|cx| Poll::Ready(wake::holdable(cx.waker()))).await;
    loop {
        // A task's waker is the same at each poll. Cancel safe: nothing is taken before it is ready.
        let mut inbox = Context::from_waker(&waker);
        let next = poll_fn(|cx| {
            let answer = worker.late.poll(cx);
            match (answer, worker.inbox.poll_drain(&mut inbox, &mut spare)) {
                (Poll::Pending, Poll::Pending) => Poll::Pending,
                (answer, drained) => Poll::Ready((answer, drained)),
            }
        });
        let (answer, drained) = next.await;
        worker.is_hub_idle.set(false);
        worker.metrics.hub_turns.inc();
        // Before the entries: those that a page has need not be read for again.
        if let Poll::Ready(answer) = answer {
            let effects = handle_answer(&worker, answer);
            apply(&worker, effects).await;
        }
        if let Poll::Ready(drained) = drained {
            let effects = worker.hub.borrow_mut().handle(drained);
            apply(&worker, effects).await;
        }
        worker.is_hub_idle.set(true);
    }
}

fn handle_answer(worker: &Rc<Worker>, answer: Answer) -> Vec<Effect> {
    match answer {
        Answer::Page(channel, id, Ok(page)) => handle_page(worker, &channel, id, page),
        Answer::Page(..) if worker.is_draining() => Vec::new(),
        Answer::Page(channel, id, Err(_)) => {
            worker.hub.borrow_mut().handle_read_failed(&channel, id).into_iter().collect()
        }
        Answer::Watched(channel, Ok(state)) => worker.open(&channel, &state).into_iter().collect(),
        Answer::Watched(channel, Err(_)) => {
            worker.watch_failed(channel);
            Vec::new()
        }
    }
}

/// Does what the hub said, and what follows from that.
async fn apply(worker: &Rc<Worker>, effects: Vec<Effect>) {
    let mut effects: std::collections::VecDeque<_> = effects.into();
    while let Some(effect) = effects.pop_front() {
        match effect {
            Effect::Deliver { channel, entries } => {
                deliver(worker, &channel, &entries).await;
            }
            Effect::Gap { channel, gap } => {
                let mut subscribers = Vec::new();
                take_slice(worker, &channel, 0, usize::MAX, &mut subscribers);
                for subscriber in subscribers {
                    match subscriber {
                        Subscriber::Opening(_) => {}
                        Subscriber::Stream(client, index) => client.gap(index, gap),
                        Subscriber::Waiter(waiter, index) => waiter.gap(index, gap),
                    }
                }
            }
            Effect::Read { channel, after, at_least, id } => {
                let read = Read {
                    channel: channel.clone(),
                    from: From::After(after),
                    at_least,
                    entries_max: const { std::num::NonZeroU32::new(256).unwrap() },
                    bytes_max: 1 << 20,
                };
                match worker.broker.read(read) {
                    // In the order of the effects: what follows builds on it.
                    Reply::Now(Ok(page)) => {
                        for effect in handle_page(worker, &channel, id, page).into_iter().rev() {
                            effects.push_front(effect);
                        }
                    }
                    reply => worker.late.read(channel, id, reply),
                }
            }
        }
    }
}

fn handle_page(worker: &Worker, channel: &ChannelName, id: ReadId, page: Page) -> Vec<Effect> {
    worker.hub.borrow_mut().handle_page(channel, id, page)
}

/// Gives entries to every live subscriber, in batches that a socket may be committed to.
async fn deliver(worker: &Rc<Worker>, channel: &ChannelName, mut entries: &[Arc<Entry>]) {
    while !entries.is_empty() {
        let mut bytes = 0;
        let fits = entries.iter().take_while(|it| {
            bytes += it.weight();
            bytes <= COMMIT_BYTES
        });
        let (batch, rest) = entries.split_at(fits.count().max(1));
        deliver_batch(worker, channel, Batch::new(batch)).await;
        entries = rest;
    }
}

async fn deliver_batch(worker: &Rc<Worker>, channel: &ChannelName, mut batch: Batch<'_>) {
    let mut slice = Vec::with_capacity(SLICE);
    let mut from = 0;
    loop {
        let next = take_slice(worker, channel, from, SLICE, &mut slice);
        for subscriber in slice.drain(..) {
            match subscriber {
                // It reads the log, or begins behind this.
                Subscriber::Opening(_) => {}
                Subscriber::Stream(client, index) => client.deliver(worker, index, &mut batch),
                Subscriber::Waiter(waiter, index) => waiter.deliver(index, batch.shared()),
            }
        }
        batch.count_written(worker);
        let Some(next) = next else { break };
        from = next;
        tokio::task::yield_now().await;
    }
}

/// Takes up to `max` of a channel's subscribers from key `from` on; the key to go on from, if there
/// may be more. The hub is not borrowed while they are served, for they may leave it.
fn take_slice(
    worker: &Worker,
    channel: &ChannelName,
    from: usize,
    max: usize,
    slice: &mut Vec<Subscriber>,
) -> Option<usize> {
    let hub = worker.hub.borrow();
    let subscribers = &hub.channel(channel)?.subscribers;
    let end = subscribers.capacity();
    for key in from..end {
        if slice.len() == max {
            return Some(key);
        }
        slice.extend(subscribers.get(key).cloned());
    }
    None
}

#[cfg(test)]
mod tests {
    use tidegate_core::cursor::Epoch;
    use tidegate_core::inbox::TailEvent;
    use tidegate_core::{ChannelState, Lineage};

    use super::*;
    use crate::server::tests::check_ends_the_process;
    use crate::worker::tests::worker;

    /// Runs a worker's hub that `prepare` has made panic.
    fn run_until_it_panics(prepare: impl FnOnce(&Worker)) {
        let options = tokio::runtime::LocalOptions::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(options).unwrap();
        std::panic::set_hook(Box::new(|it| eprintln!("on purpose: {it}")));
        runtime.block_on(async {
            let worker = worker();
            prepare(&worker);
            // A panic in a task comes back as an error.
            let _ = tokio::task::spawn_local(run(worker)).await;
        });
    }

    #[test]
    fn a_panic_of_a_hub_ends_the_process() {
        let test = "driver::hub::tests::a_panic_of_a_hub_ends_the_process";
        check_ends_the_process(test, || {
            run_until_it_panics(|worker| {
                drop(worker.inbox.push(TailEvent::Back));
                // Nobody can have it, so whoever asks for it panics.
                std::mem::forget(worker.hub.borrow_mut());
            });
        });
    }

    #[test]
    fn so_does_one_behind_a_late_answer() {
        let test = "driver::hub::tests::so_does_one_behind_a_late_answer";
        let lineage = Lineage::new(Epoch::new(1));
        let state = ChannelState { floor: 0, head: 1, ended: None, lineage };
        check_ends_the_process(test, || {
            run_until_it_panics(|worker| {
                worker.late.watch(ChannelName::parse("a").unwrap(), Reply::Now(Ok(state)));
                std::mem::forget(worker.hub.borrow_mut());
            });
        });
    }

    #[test]
    fn so_does_one_of_a_late_answer_itself() {
        let test = "driver::hub::tests::so_does_one_of_a_late_answer_itself";
        check_ends_the_process(test, || {
            run_until_it_panics(|worker| {
                let reply = Reply::Later(Box::pin(async { panic!("it has no answer") }));
                worker.late.watch(ChannelName::parse("a").unwrap(), reply);
            });
        });
    }
}
