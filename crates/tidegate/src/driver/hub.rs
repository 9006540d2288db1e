//! The hub's task: drains the worker's inbox and writes to every live subscriber (DESIGN 2).
//!
//! It writes to sockets itself where nothing waits before it, in slices of [`SLICE`] clients between
//! which it yields; a client's own task is woken only for what is left.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tidegate_broker::{From, Page, Read, Reply, Unavailable};
use tidegate_core::hub::Effect;
use tidegate_core::subscription::Item;
use tidegate_core::{ChannelName, Position, SessionId};

use super::client::Client;
use super::forms::{Encoder, Form, Shared};
use super::output::COMMIT_BYTES;
use crate::transport::poll::Waiter;
use crate::worker::Worker;

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
pub struct Batch {
    /// At least one, in order.
    pub items: Vec<Shared>,
    /// All of them, per form, once somebody needed it.
    forms: Vec<(Form, Bytes)>,
}

impl Batch {
    fn new(items: Vec<Shared>) -> Self {
        Self { items, forms: Vec::new() }
    }

    /// The first entry, with which a subscriber has to be level.
    #[must_use]
    pub fn first(&self) -> Option<&Shared> {
        self.items.first()
    }

    /// Where a subscriber is after it, and whether that is the end.
    #[must_use]
    pub fn last(&self) -> Option<(Position, bool)> {
        self.items.last().map(|it| (it.position(), it.is_end()))
    }

    /// Whether `session` published any of it.
    #[must_use]
    pub fn is_from(&self, session: SessionId) -> bool {
        self.items.iter().any(|it| it.origin() == Some(session))
    }

    /// The bytes of all its entries.
    pub fn bytes(&mut self, form: Form, encoder: &mut Encoder) -> Bytes {
        if let Some((_, bytes)) = self.forms.iter().find(|(it, _)| *it == form) {
            return bytes.clone();
        }
        let bytes = match self.items.as_slice() {
            [one] => one.bytes(form, encoder),
            many => {
                let mut joined = BytesMut::new();
                for item in many {
                    joined.extend_from_slice(&item.bytes(form, encoder));
                }
                joined.freeze()
            }
        };
        self.forms.push((form, bytes.clone()));
        bytes
    }
}

/// Runs until the worker's runtime is dropped.
pub async fn run(worker: Rc<Worker>) {
    let mut spare = Vec::new();
    loop {
        let drained = poll_fn(|cx| worker.inbox.poll_drain(cx, &mut spare)).await;
        worker.metrics.hub_turns.inc();
        // `handle` consumes the vector; the inbox gets a fresh one next time it is full.
        let effects = worker.hub.borrow_mut().handle(drained);
        apply(&worker, effects).await;
        worker.turned();
    }
}

/// Does what the hub said, and what follows from that.
async fn apply(worker: &Rc<Worker>, effects: Vec<Effect>) {
    let mut effects: std::collections::VecDeque<_> = effects.into();
    while let Some(effect) = effects.pop_front() {
        match effect {
            Effect::Deliver { channel, entries } => {
                deliver(worker, &channel, entries.into_iter().map(Shared::new)).await;
            }
            Effect::Gap { channel, gap } => {
                for subscriber in slice(worker, &channel, 0, usize::MAX) {
                    match subscriber {
                        Subscriber::Stream(client, index) => client.gap(index, gap),
                        Subscriber::Waiter(waiter, index) => waiter.gap(index, gap),
                    }
                }
            }
            Effect::Read { channel, after, at_least } => {
                let read = Read {
                    channel: channel.clone(),
                    from: From::After(after),
                    at_least,
                    entries_max: const { std::num::NonZeroU32::new(256).unwrap() },
                    bytes_max: 1 << 20,
                };
                match worker.broker.read(read) {
                    // In the order of the effects: what follows builds on it.
                    Reply::Now(page) => {
                        for effect in handle_page(worker, &channel, page).into_iter().rev() {
                            effects.push_front(effect);
                        }
                    }
                    later @ Reply::Later(_) => {
                        let worker = Rc::clone(worker);
                        worker.clone().spawn(async move {
                            let effects = handle_page(&worker, &channel, later.await);
                            Box::pin(apply(&worker, effects)).await;
                        });
                    }
                }
            }
        }
    }
}

fn handle_page(
    worker: &Worker,
    channel: &ChannelName,
    page: Result<Page, Unavailable>,
) -> Vec<Effect> {
    let mut hub = worker.hub.borrow_mut();
    match page {
        Ok(page) => {
            let tail = page.tail();
            hub.handle_page(channel, page.gap, page.entries, tail, page.is_last)
        }
        // The tail says when the broker is back, and then every channel is compared.
        Err(Unavailable) => {
            hub.handle_read_failed(channel);
            Vec::new()
        }
    }
}

/// Gives entries to every live subscriber, in batches that a socket may be committed to.
async fn deliver(
    worker: &Rc<Worker>,
    channel: &ChannelName,
    entries: impl Iterator<Item = Shared>,
) {
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(item) =
            entries.next_if(|it| items.is_empty() || bytes + it.entry().weight() <= COMMIT_BYTES)
        {
            bytes += item.entry().weight();
            items.push(item);
        }
        deliver_batch(worker, channel, Batch::new(items)).await;
    }
}

async fn deliver_batch(worker: &Rc<Worker>, channel: &ChannelName, mut batch: Batch) {
    let mut from = 0;
    loop {
        let subscribers = slice(worker, channel, from, SLICE);
        let Some(last) = subscribers.last() else { break };
        from = last.0 + 1;
        let is_full = subscribers.len() == SLICE;
        worker.metrics.deliveries.add((subscribers.len() * batch.items.len()) as u64);
        for (_, subscriber) in subscribers {
            match subscriber {
                Subscriber::Stream(client, index) => client.deliver(worker, index, &mut batch),
                Subscriber::Waiter(waiter, index) => waiter.deliver(index, &batch.items),
            }
        }
        if !is_full {
            break;
        }
        tokio::task::yield_now().await;
    }
}
