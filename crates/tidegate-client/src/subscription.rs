//! Subscriptions: a session driven by a task, and the queue between it and who reads.
//!
//! ```text
//!   socket ──► task: session ──► queue, bounded in bytes ──► Subscription::next
//! ```
//! While the queue is full nothing is read from the socket; so the gateway's own bounds, and its
//! policy for slow subscribers, are what a reader that is too slow meets.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use tidegate_core::ChannelName;
use tidegate_wire::websocket::close;
use tokio::time::sleep_until;

use crate::error::{Error, Failure};
use crate::event::{Choice, Cursor, Event, Since};
use crate::machine::session::{Action, Connect, Delivery, Session, SessionConfig};
use crate::net::http::{Exchange, Idle, Upgrade, Upgraded, get, upgrade};
use crate::net::websocket::{Incoming, Socket};
use crate::net::{Shared, Task, seed};
use crate::queue::{self, queue};

/// A subscription before it is begun.
#[derive(Clone, Debug)]
#[must_use = "nothing is subscribed to before `open`"]
pub struct Subscribe {
    gateway: Shared,
    channels: Result<Vec<ChannelName>, Error>,
    since: Since,
    choice: Choice,
}

impl Subscribe {
    pub(crate) fn new(gateway: Shared, channels: Result<Vec<ChannelName>, Error>) -> Self {
        Self { gateway, channels, since: Since::default(), choice: Choice::default() }
    }

    /// Where to begin: a [`Cursor`], `Since::Start` or `Since::Now`. Default: now.
    pub fn since(mut self, since: impl Into<Since>) -> Self {
        self.since = since.into();
        self
    }

    /// Begins with the newest `count` publications of each channel.
    pub fn last(mut self, count: u32) -> Self {
        self.since = Since::Last(count);
        self
    }

    /// By which wire. Default: [`Choice::Auto`].
    pub fn wire(mut self, choice: impl Into<Choice>) -> Self {
        self.choice = choice.into();
        self
    }

    /// Begins. It connects at once, in a task that ends when the subscription is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`]: a channel's name, or how many there are.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(self) -> Result<Subscription, Error> {
        let gateway = self.gateway;
        let config = SessionConfig {
            channels: self.channels?,
            since: self.since,
            choice: self.choice,
            remembered: gateway.remembered(),
            limits: gateway.limits,
            timing: gateway.timing,
            backoff: gateway.backoff,
            attempts_max: gateway.attempts_max,
            seed: seed(),
        };
        let session = Session::new(config, Instant::now())?;
        let (queue, deliveries) = queue(gateway.limits.queue_bytes_max);
        let driver = Driver { gateway, session, queue, link: Link::None, idle: None };
        Ok(Subscription { deliveries, cursor: None, task: Task::spawn(Box::pin(driver.run())) })
    }
}

/// A subscription. It ends when all its channels have ended, with an error, or when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    deliveries: queue::Receiver<Delivery>,
    cursor: Option<Cursor>,
    task: Task,
}

impl Subscription {
    /// The next event; `None` after the ends of all channels, or after an error.
    ///
    /// Cancel safe: an event is taken when it is returned and not before.
    ///
    /// # Errors
    ///
    /// [`Error`], once: a failure that no further attempt can mend, or one too many.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        while let Some(Delivery { event, cursor }) = self.deliveries.next().await {
            if cursor.is_some() {
                self.cursor = cursor;
            }
            if event.is_some() {
                return event;
            }
        }
        self.task.join().await;
        None
    }

    /// Where to go on after what [`Subscription::next`] returned last, on this wire or another, now
    /// or in another life: give it to [`Subscribe::since`]. With polls of several channels it is
    /// the place before the page whose events are being returned. `None` before anything came.
    #[must_use]
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }
}

/// Bytes of events at which decoding pauses, so that a few bytes that inflate to many don't wait
/// here all at once.
const DECODED_BYTES_MAX: usize = 256 << 10;

struct Driver {
    gateway: Shared,
    session: Session,
    queue: queue::Sender<Delivery>,
    link: Link,
    /// A connection that a page has left alive.
    idle: Option<Idle>,
}

/// The session's connection.
enum Link {
    None,
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Failure>> + Send>>),
    Body(Box<Exchange>),
    Socket(Box<Socket>),
}

enum Opened {
    Body(Box<Exchange>),
    Socket(crate::machine::Head, Box<Socket>),
}

/// What a connection has brought.
enum Came {
    Opened(Result<Opened, Failure>),
    Body(Result<Option<Bytes>, Failure>),
    /// Something to decode.
    Frames(Result<(), Failure>),
}

impl Link {
    /// Waits for what comes next; for ever where there is no connection.
    ///
    /// Cancel safe: each of its waits is, or is kept.
    async fn next(&mut self) -> Came {
        match self {
            Self::None => std::future::pending().await,
            Self::Opening(opening) => Came::Opened(opening.await),
            Self::Body(exchange) => Came::Body(exchange.next().await),
            Self::Socket(socket) => Came::Frames(socket.fill().await),
        }
    }
}

impl Driver {
    async fn run(mut self) {
        let mut timer = Box::pin(sleep_until(Instant::now().into()));
        loop {
            while let Some(action) = self.session.poll_action() {
                self.act(action);
            }
            let bytes = self.session.queued_bytes();
            if bytes > 0 {
                let told = std::iter::from_fn(|| self.session.poll_delivery()).collect();
                if !self.queue.put(told, bytes).await {
                    return;
                }
            }
            let Some(deadline) = self.session.poll_timeout() else { return };
            // Most of what comes moves the deadline further away: then the timer is set anew only
            // once it has fired.
            if deadline < timer.deadline().into_std() || timer.is_elapsed() {
                timer.as_mut().reset(deadline.into());
            }
            tokio::select! {
                // What has come is looked at before it is said that nothing has.
                biased;
                () = self.queue.closed() => return,
                came = self.link.next() => self.take(came),
                () = &mut timer => self.session.handle_timeout(Instant::now()),
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect(connect) => {
                let gateway = Shared::clone(&self.gateway);
                let idle = self.idle.take();
                self.link = Link::Opening(Box::pin(open(gateway, idle, connect)));
            }
            Action::Disconnect => {
                if let Link::Socket(socket) = std::mem::replace(&mut self.link, Link::None) {
                    socket.leave(close::NORMAL);
                }
            }
            Action::Ping => {
                if let Link::Socket(socket) = &mut self.link {
                    socket.push_ping(b"");
                }
            }
            Action::Remember(wire) => self.gateway.remember(wire),
        }
    }

    fn take(&mut self, came: Came) {
        let now = Instant::now();
        match came {
            Came::Opened(Ok(Opened::Body(exchange))) => {
                self.session.handle_head(exchange.head.clone(), now);
                self.link = Link::Body(exchange);
            }
            Came::Opened(Ok(Opened::Socket(head, socket))) => {
                self.session.handle_head(head, now);
                self.link = Link::Socket(socket);
                self.decode(now);
            }
            Came::Body(Ok(Some(data))) => self.session.handle_data(&data, now),
            Came::Body(Ok(None)) => {
                if let Link::Body(exchange) = std::mem::replace(&mut self.link, Link::None) {
                    self.idle = exchange.into_idle();
                }
                self.session.handle_body_end(now);
            }
            Came::Frames(Ok(())) => {
                // Even a part of a message says that the peer lives.
                self.session.handle_alive(now);
                self.decode(now);
            }
            Came::Opened(Err(failure)) | Came::Body(Err(failure)) | Came::Frames(Err(failure)) => {
                self.link = Link::None;
                self.session.handle_failure(failure, now);
            }
        }
    }

    fn decode(&mut self, now: Instant) {
        let Self { link, session, .. } = self;
        let Link::Socket(socket) = link else { return };
        if session.queued_bytes() >= DECODED_BYTES_MAX {
            return;
        }
        let drained = socket.drain(|incoming| {
            match incoming {
                Incoming::Message { kind, data } => session.handle_message(kind, data, now),
                Incoming::Close { code, reason } => session.handle_close(code, reason, now),
            }
            if session.queued_bytes() < DECODED_BYTES_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if let Err(failure) = drained {
            if let Link::Socket(socket) = std::mem::replace(link, Link::None) {
                socket.refuse(&failure);
            }
            session.handle_failure(failure, now);
        }
    }
}

/// Whoever is not read any more says goodbye, if that can be done without waiting.
impl Drop for Driver {
    fn drop(&mut self) {
        if let Link::Socket(socket) = std::mem::replace(&mut self.link, Link::None) {
            socket.leave(close::NORMAL);
        }
    }
}

async fn open(gateway: Shared, idle: Option<Idle>, connect: Connect) -> Result<Opened, Failure> {
    let Connect { wire: _, target, accept } = connect;
    if let Some(accept) = accept {
        let exchange = Box::pin(get(&gateway, idle, &target, accept)).await?;
        return Ok(Opened::Body(Box::new(exchange)));
    }
    let message_bytes_max = gateway.limits.message_bytes_max;
    let asked = Upgrade { target: &target, message_bytes_max, ..Upgrade::default() };
    Ok(match Box::pin(upgrade(&gateway, asked)).await? {
        Upgraded::Socket(head, socket, _) => Opened::Socket(head, socket),
        Upgraded::Refused(exchange) => Opened::Body(exchange),
    })
}
