//! The hub's task: drains the worker's inbox and writes to every live subscriber (DESIGN 2).
//!
//! It writes to sockets itself where nothing waits before it, in slices of `SLICE` clients between
//! which it yields; a client's own task is woken only for what is left.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_broker::{From, Page, Read, Reply, Unavailable};
use tidegate_core::hub::{Effect, ReadId};
use tidegate_core::{ChannelName, Entry, SessionId};

use super::client::Client;
use super::forms::{Encoder, Form, Shared};
use super::output::COMMIT_BYTES;
use super::wake;
use crate::server::EndOnPanic;
use crate::transport::poll::Waiter;
use crate::worker::Worker;

/// After a read that failed.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Clients that are written to before others get a turn.
const SLICE: usize = 256;

/// Who is behind a hub's subscription.
#[derive(Clone, Debug)]
pub enum Subscriber {
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
}

impl<'a> Batch<'a> {
    fn new(entries: &'a [Arc<Entry>]) -> Self {
        Self { entries, shared: Vec::new(), forms: Vec::new() }
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

/// Runs until the worker's runtime is dropped.
pub async fn run(worker: Rc<Worker>) {
    let _guard = EndOnPanic;
    let mut spare = Vec::new();
    let waker = poll_fn(|cx| Poll::Ready(wake::holdable(cx.waker()))).await;
    loop {
        // A task's waker is the same at each poll. Cancel safe: nothing is taken before it is ready.
        let mut inbox = Context::from_waker(&waker);
        let drained = poll_fn(|_| worker.inbox.poll_drain(&mut inbox, &mut spare)).await;
        worker.is_hub_idle.set(false);
        worker.metrics.hub_turns.inc();
        let effects = worker.hub.borrow_mut().handle(drained);
        apply(&worker, effects).await;
        worker.is_hub_idle.set(true);
    }
}

/// Does what the hub said, and what follows from that.
pub async fn apply(worker: &Rc<Worker>, effects: Vec<Effect>) {
    // Also where a task of its own waited for the log: the hub can't go on without what it brings.
    let _guard = EndOnPanic;
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
                    reply => {
                        let task_worker = Rc::clone(worker);
                        worker.spawn(async move {
                            read_later(&task_worker, &channel, id, reply).await;
                        });
                    }
                }
            }
        }
    }
}

/// Waits for a page, and asks again while the broker is away and the channel has subscribers.
async fn read_later(
    worker: &Rc<Worker>,
    channel: &ChannelName,
    id: ReadId,
    reply: Reply<Result<Page, Unavailable>>,
) {
    let effects = match reply.await {
        Ok(page) => handle_page(worker, channel, id, page),
        Err(Unavailable) if worker.is_draining() => return,
        Err(Unavailable) => {
            tokio::time::sleep(RETRY).await;
            worker.hub.borrow_mut().handle_read_failed(channel, id).into_iter().collect()
        }
    };
    Box::pin(apply(worker, effects)).await;
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
                Subscriber::Stream(client, index) => client.deliver(worker, index, &mut batch),
                Subscriber::Waiter(waiter, index) => waiter.deliver(index, batch.shared()),
            }
        }
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
    use tidegate_core::{Gap, GapReason, Position};

    use super::*;
    use crate::server::tests::check_ends_the_process;
    use crate::worker::tests::worker;

    /// Runs a task of a worker whose hub nobody can have, so that whoever asks for it panics.
    fn run_without_a_hub<F: Future<Output = ()> + 'static>(task: impl FnOnce(Rc<Worker>) -> F) {
        let options = tokio::runtime::LocalOptions::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(options).unwrap();
        std::panic::set_hook(Box::new(|it| eprintln!("on purpose: {it}")));
        runtime.block_on(async {
            let worker = worker();
            drop(worker.inbox.push(TailEvent::Back));
            std::mem::forget(worker.hub.borrow_mut());
            // A panic in a task comes back as an error.
            let _ = tokio::task::spawn_local(task(worker)).await;
        });
    }

    #[test]
    fn a_panic_of_a_hub_ends_the_process() {
        let test = "driver::hub::tests::a_panic_of_a_hub_ends_the_process";
        check_ends_the_process(test, || run_without_a_hub(run));
    }

    #[test]
    fn so_does_one_behind_a_late_page() {
        let test = "driver::hub::tests::so_does_one_behind_a_late_page";
        let channel = ChannelName::parse("a").unwrap();
        let at = Position { epoch: Epoch::new(1), offset: 1 };
        let gap = Gap { requested: at, resumed: at, reason: GapReason::Broker };
        check_ends_the_process(test, || {
            run_without_a_hub(|worker| async move {
                apply(&worker, vec![Effect::Gap { channel, gap }]).await;
            });
        });
    }
}
