//! Answers of a broker that come later, on their one way back: into the hub's loop (DESIGN 2, 10).
//!
//! What a channel was asked for is never acted upon where the answer arrives. The hub's loop takes it
//! beside the inbox, and does all that follows from it before it takes anything else: so what one
//! worker delivers keeps its order, however many slices it takes. Of each channel at most one `watch`
//! and one page are under way, so they are no more than channels with subscribers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidegate_broker::{Broker, Page, Reply, SinkId, Unavailable};
use tidegate_core::hub::ReadId;
use tidegate_core::{ChannelName, ChannelState};
use tokio::task::{AbortHandle, JoinSet};

/// After an ask that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What came.
#[derive(Debug)]
pub enum Answer {
    /// A page for the hub, or that it could not be read a while ago: it is time to ask again.
    Page(ChannelName, ReadId, Result<Page, Unavailable>),
    /// A channel is watched from here on, or can't be.
    Watched(ChannelName, Result<ChannelState, Unavailable>),
}

/// What is under way for one worker's hub.
#[derive(Debug, Default)]
pub struct Late {
    asked: RefCell<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Each waits for one answer. What is no longer wanted is aborted.
    tasks: JoinSet<Answer>,
    watches: HashMap<ChannelName, AbortHandle>,
    pages: HashMap<ChannelName, AbortHandle>,
    /// The hub's loop, once it has found nothing.
    waker: Option<Waker>,
}

impl Late {
    /// Waits for a page of `channel`; one that was asked for before is not wanted any more.
    pub fn read(&self, channel: ChannelName, id: ReadId, reply: Reply<Result<Page, Unavailable>>) {
        let mut asked = self.asked.borrow_mut();
        let answer = {
            let channel = channel.clone();
            async move {
                let page = reply.await;
                if page.is_err() {
                    // Nobody but the hub waits for it, and that asks again.
                    tokio::time::sleep(RETRY).await;
                }
                Answer::Page(channel, id, page)
            }
        };
        let task = asked.spawn(answer);
        replace(&mut asked.pages, channel, task);
    }

    /// Waits until `channel` is watched.
    pub fn watch(&self, channel: ChannelName, reply: Reply<Result<ChannelState, Unavailable>>) {
        let mut asked = self.asked.borrow_mut();
        let answer = {
            let channel = channel.clone();
            async move { Answer::Watched(channel, reply.await) }
        };
        let task = asked.spawn(answer);
        replace(&mut asked.watches, channel, task);
    }

    /// Asks for a channel again that could not be watched, after a while.
    pub fn watch_again(&self, channel: ChannelName, broker: Arc<dyn Broker>, sink: SinkId) {
        let mut asked = self.asked.borrow_mut();
        let answer = {
            let channel = channel.clone();
            async move {
                tokio::time::sleep(RETRY).await;
                let watched = broker.watch(&channel, sink).await;
                Answer::Watched(channel, watched)
            }
        };
        let task = asked.spawn(answer);
        replace(&mut asked.watches, channel, task);
    }

    /// Nobody wants anything of `channel` any more. Before it is unwatched, or an answer from before
    /// would be taken for that of whoever comes next.
    pub fn forget(&self, channel: &ChannelName) {
        let Asked { watches, pages, .. } = &mut *self.asked.borrow_mut();
        for tasks in [watches, pages] {
            if let Some(task) = tasks.remove(channel) {
                task.abort();
            }
        }
    }

    /// Whether the hub waits for a page.
    pub fn is_reading(&self) -> bool {
        !self.asked.borrow().pages.is_empty()
    }

    /// Takes an answer that is wanted.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut asked = self.asked.borrow_mut();
        loop {
            // Nothing is ever under way with a broker that answers at once.
            if asked.tasks.is_empty() {
                if !asked.waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
                    asked.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            match std::task::ready!(asked.tasks.poll_join_next_with_id(cx)) {
                None => {}
                Some(Ok((id, answer))) => {
                    let (tasks, channel) = match &answer {
                        Answer::Page(channel, ..) => (&mut asked.pages, channel),
                        Answer::Watched(channel, _) => (&mut asked.watches, channel),
                    };
                    if let Entry::Occupied(task) = tasks.entry(channel.clone())
                        && task.get().id() == id
                    {
                        task.remove();
                        return Poll::Ready(answer);
                    }
                }
                Some(Err(error)) => {
                    // A panic of the broker is the hub's: its channel would be silent for ever.
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }

    /// Waits for nothing any more.
    pub async fn end(&self) {
        let mut asked = self.asked.take();
        asked.tasks.shutdown().await;
    }
}

impl Asked {
    fn spawn(&mut self, answer: impl Future<Output = Answer> + 'static) -> AbortHandle {
        // It found nothing to wait for, and does not know of this.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.tasks.spawn_local(answer)
    }
}

fn replace(tasks: &mut HashMap<ChannelName, AbortHandle>, channel: ChannelName, task: AbortHandle) {
    if let Some(older) = tasks.insert(channel, task) {
        older.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tidegate_core::{Epoch, Lineage};
    use tokio::sync::oneshot;

    use super::*;

    fn name(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn state(head: u64) -> ChannelState {
        ChannelState { floor: 0, head, ended: None, lineage: Lineage::new(Epoch::new(1)) }
    }

    /// An answer that comes when it is told to.
    fn later<T: Send + 'static>() -> (oneshot::Sender<T>, Reply<T>) {
        let (sender, answer) = oneshot::channel();
        (sender, Reply::Later(Box::pin(async move { answer.await.unwrap() })))
    }

    /// The head of the next channel that is watched.
    async fn watched(late: &Late) -> (ChannelName, u64) {
        match poll_fn(|cx| late.poll(cx)).await {
            Answer::Watched(channel, Ok(state)) => (channel, state.head),
            other => panic!("{other:?}"),
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let options = tokio::runtime::LocalOptions::default();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.build_local(options).unwrap().block_on(test);
    }

    #[test]
    fn answers_come_as_they_are_given() {
        run(async {
            let late = Late::default();
            let (first, reply) = later();
            late.watch(name("a"), reply);
            let (second, reply) = later();
            late.watch(name("b"), reply);
            second.send(Ok(state(2))).unwrap();
            assert_eq!(watched(&late).await, (name("b"), 2));
            first.send(Ok(state(1))).unwrap();
            assert_eq!(watched(&late).await, (name("a"), 1));
        });
    }

    #[test]
    fn who_waits_for_nothing_is_woken_by_the_first_ask() {
        run(async {
            let late = std::rc::Rc::new(Late::default());
            let waits = std::rc::Rc::clone(&late);
            let waits = tokio::task::spawn_local(async move { watched(&waits).await });
            tokio::task::yield_now().await;
            late.watch(name("a"), Reply::Now(Ok(state(1))));
            assert_eq!(waits.await.unwrap(), (name("a"), 1));
        });
    }

    #[test]
    fn an_answer_to_who_has_left_is_not_taken() {
        run(async {
            let late = Late::default();
            let (first, reply) = later();
            late.watch(name("a"), reply);
            first.send(Ok(state(1))).unwrap();
            // It has come already, and waits to be taken.
            tokio::task::yield_now().await;
            late.forget(&name("a"));
            late.watch(name("a"), Reply::Now(Ok(state(2))));
            assert_eq!(watched(&late).await, (name("a"), 2));
        });
    }

    #[test]
    fn of_a_channel_one_page_is_under_way() {
        run(async {
            let late = Late::default();
            let mut closed = Vec::new();
            for _ in 0..3 {
                let (sender, reply) = later();
                late.read(name("a"), ReadId::default(), reply);
                closed.push(sender);
            }
            let last = closed.pop().unwrap();
            assert!(late.is_reading());
            for mut sender in closed {
                // Its receiver is dropped with the task.
                sender.closed().await;
            }
            let (state, gap, entries) = (state(3), None, Vec::new());
            let page = Page { gap, entries, next: state.now(), is_last: true, state };
            last.send(Ok(page.clone())).unwrap();
            let Answer::Page(channel, _, answer) = poll_fn(|cx| late.poll(cx)).await else {
                panic!("it is a page that was asked for")
            };
            assert_eq!((channel, answer), (name("a"), Ok(page)));
            assert!(!late.is_reading());
        });
    }

    #[test]
    fn what_is_under_way_ends_with_the_worker() {
        run(async {
            let late = Late::default();
            let (mut sender, reply) = later();
            late.watch(name("a"), reply);
            late.read(name("a"), ReadId::default(), Reply::Later(Box::pin(pending())));
            late.end().await;
            sender.closed().await;
            assert!(!late.is_reading());
        });
    }
}
