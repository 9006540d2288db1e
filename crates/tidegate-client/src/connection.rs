//! Enveloped connections: many channels and commands on one WebSocket (CONTRACT 5), made again
//! whenever it is lost.
//!
//! ```text
//!   Connection (a handle, many) ──commands──► task: link ──► socket
//!        ▲──────────replies──────────────────────┤
//!   Pushes (one) ◄──publications, gaps, ends─────┘
//! ```

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_wire::websocket::{Kind, close};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::error::{Error, Failure};
use crate::event::{Cursor, Since};
use crate::machine::link::{Action, Link, LinkConfig, PROTOCOL, Ticket};
use crate::message::{Command, History, Member, Message, Published, Push, Reply, name};
use crate::net::http::{Exchange, Upgrade, Upgraded, upgrade};
use crate::net::websocket::{Incoming, Socket};
use crate::net::{Shared, Task, seed};
use crate::payload::Payload;
use crate::queue::{self, queue};

/// Opens an enveloped connection, in a task that ends when all its handles are dropped.
pub(crate) fn open(gateway: Shared, command_timeout: Duration) -> (Connection, Pushes) {
    let config = LinkConfig {
        timing: gateway.timing,
        backoff: gateway.backoff,
        attempts_max: gateway.attempts_max,
        command_timeout,
        seed: seed(),
    };
    let link = Link::new(config, Instant::now());
    let (told, pushes) = queue(gateway.limits.queue_bytes_max);
    let (asked, commands) = mpsc::channel(COMMANDS_MAX);
    let driver = Driver {
        gateway,
        link,
        commands,
        waiters: HashMap::new(),
        told: Some(told),
        wire: Socketed::None,
    };
    let task = Arc::new(tokio::sync::Mutex::new(Task::spawn(Box::pin(driver.run()))));
    (Connection { asked, _task: Arc::clone(&task) }, Pushes { pushes, task })
}

/// Commands that wait for their turn; beyond them, whoever asks waits.
const COMMANDS_MAX: usize = 256;

/// Commands without a reply; beyond them no more are taken.
const UNANSWERED_MAX: usize = 1024;

/// A handle to an enveloped connection: its clones are the same connection.
///
/// Commands survive the loss of the WebSocket: they are sent again on the next one, publications with
/// the same key. Each ends with its reply or, after the connection's command timeout, with
/// [`Error::Exhausted`].
#[derive(Clone, Debug)]
pub struct Connection {
    asked: mpsc::Sender<Asked>,
    _task: Arc<tokio::sync::Mutex<Task>>,
}

#[derive(Debug)]
struct Asked {
    command: Command,
    reply: oneshot::Sender<Result<Reply, Error>>,
}

/// What a connection is told unasked.
///
/// While nobody reads, and [`Limits::queue_bytes_max`](crate::Limits) waits, nothing is read from the
/// socket either, replies too. Who wants none drops it.
#[derive(Debug)]
pub struct Pushes {
    pushes: queue::Receiver<Result<Push, Error>>,
    task: Arc<tokio::sync::Mutex<Task>>,
}

impl Pushes {
    /// The next push; `None` after an error. It goes on when the last [`Connection`] was dropped.
    ///
    /// Cancel safe: a push is taken when it is returned.
    ///
    /// # Errors
    ///
    /// [`Error`], once: there will be no further WebSocket.
    pub async fn next(&mut self) -> Option<Result<Push, Error>> {
        if let Some(push) = self.pushes.next().await {
            return Some(push);
        }
        self.task.lock().await.join().await;
        None
    }
}

impl Connection {
    /// Sends a command and has its reply.
    ///
    /// Not cancel safe: who drops it does not know whether the command was carried out.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with what the gateway says, [`Error::Exhausted`], [`Error::Closed`].
    pub async fn ask(&self, command: Command) -> Result<Reply, Error> {
        let (reply, replied) = oneshot::channel();
        self.asked.send(Asked { command, reply }).await.map_err(|_| Error::Closed)?;
        replied.await.unwrap_or(Err(Error::Closed))
    }

    /// Subscribes; where it begins. The publications come as pushes.
    ///
    /// # Errors
    ///
    /// As [`Connection::ask`]; [`Error::Usage`] for a bad name.
    pub async fn subscribe(&self, channel: &str, since: impl Into<Since>) -> Result<Cursor, Error> {
        let command = Command::Subscribe { channel: name(channel)?, since: since.into() };
        match self.ask(command).await? {
            Reply::Subscribed { cursor, .. } => Ok(cursor),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a subscription.
    ///
    /// # Errors
    ///
    /// As [`Connection::subscribe`].
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), Error> {
        match self.ask(Command::Unsubscribe { channel: name(channel)? }).await? {
            Reply::Unsubscribed { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Publishes, with a key of its own.
    ///
    /// # Errors
    ///
    /// As [`Connection::subscribe`].
    pub async fn publish(
        &self,
        channel: &str,
        payload: impl Into<Payload>,
    ) -> Result<Published, Error> {
        self.send(Message::new(channel, payload)).await
    }

    /// Publishes what was made with more say.
    ///
    /// # Errors
    ///
    /// As [`Connection::subscribe`].
    pub async fn send(&self, message: Message) -> Result<Published, Error> {
        match self.ask(message.command()?).await? {
            Reply::Published(published) => Ok(published),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of a channel's log, from `since` on.
    ///
    /// # Errors
    ///
    /// As [`Connection::subscribe`].
    pub async fn history(
        &self,
        channel: &str,
        since: impl Into<Since>,
        limit: u32,
    ) -> Result<History, Error> {
        let (channel, since, limit) = (name(channel)?, Some(since.into()), Some(limit));
        match self.ask(Command::History { channel, since, before: None, limit }).await? {
            Reply::History(history) => Ok(history),
            other => Err(unexpected(&other)),
        }
    }

    /// Who is subscribed to a channel.
    ///
    /// # Errors
    ///
    /// As [`Connection::subscribe`].
    pub async fn presence(&self, channel: &str) -> Result<Vec<Member>, Error> {
        match self.ask(Command::Presence { channel: name(channel)? }).await? {
            Reply::Presence(presence) => Ok(presence.members),
            other => Err(unexpected(&other)),
        }
    }

    /// How long the gateway takes to answer.
    ///
    /// # Errors
    ///
    /// As [`Connection::ask`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let began = Instant::now();
        match self.ask(Command::Ping).await? {
            Reply::Pong => Ok(began.elapsed()),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Failed(Failure::Protocol(format!("the reply is to another command: {reply:?}")))
}

struct Driver {
    gateway: Shared,
    link: Link,
    commands: mpsc::Receiver<Asked>,
    waiters: HashMap<Ticket, oneshot::Sender<Result<Reply, Error>>>,
    /// `None` once nobody reads.
    told: Option<queue::Sender<Result<Push, Error>>>,
    wire: Socketed,
}

/// The link's WebSocket.
enum Socketed {
    None,
    Opening(Pin<Box<dyn Future<Output = Result<Upgraded, Failure>> + Send>>),
    Refused(Box<Exchange>),
    Open(Box<Socket>),
}

enum Came {
    Opened(Result<Upgraded, Failure>),
    Body(Result<Option<Bytes>, Failure>),
    Frames(Result<(), Failure>),
}

impl Socketed {
    /// Waits for what comes next; for ever where there is no connection.
    ///
    /// Cancel safe: each of its waits is, or is kept.
    async fn next(&mut self) -> Came {
        match self {
            Self::None => std::future::pending().await,
            Self::Opening(opening) => Came::Opened(opening.await),
            Self::Refused(exchange) => Came::Body(exchange.next().await),
            Self::Open(socket) => Came::Frames(socket.fill().await),
        }
    }
}

/// Bytes to send at which no further command is taken.
const SEND_BYTES_MAX: usize = 1 << 20;

/// Bytes of pushes at which decoding pauses.
const DECODED_BYTES_MAX: usize = 256 << 10;

impl Driver {
    async fn run(mut self) {
        let mut timer = Box::pin(sleep_until(Instant::now().into()));
        let mut is_asked = true;
        loop {
            while let Some(action) = self.link.poll_action() {
                self.act(action);
            }
            while let Some((ticket, reply)) = self.link.poll_reply() {
                if let Some(waiter) = self.waiters.remove(&ticket) {
                    // Who does not wait any more does not mind.
                    let _ = waiter.send(reply);
                }
            }
            self.tell().await;
            let Some(deadline) = self.link.poll_timeout() else { break };
            if deadline < timer.deadline().into_std() || timer.is_elapsed() {
                timer.as_mut().reset(deadline.into());
            }
            let waiting = match &self.wire {
                Socketed::Open(socket) => socket.waiting_bytes(),
                _ => 0,
            };
            let has_room = self.waiters.len() < UNANSWERED_MAX && waiting < SEND_BYTES_MAX;
            tokio::select! {
                // What has come is looked at before it is said that nothing has.
                biased;
                came = self.wire.next() => self.take(came),
                asked = self.commands.recv(), if is_asked && has_room => match asked {
                    Some(Asked { command, reply }) => {
                        let ticket = self.link.handle_command(command, Instant::now());
                        self.waiters.insert(ticket, reply);
                    }
                    None if self.told.is_none() => break,
                    None => is_asked = false,
                },
                () = closed(self.told.as_ref()) => {
                    self.told = None;
                    if !is_asked {
                        break;
                    }
                }
                () = &mut timer => self.link.handle_timeout(Instant::now()),
            }
        }
    }

    async fn tell(&mut self) {
        let mut pushes = VecDeque::new();
        let mut bytes = 0;
        while let Some(push) = self.link.poll_push() {
            bytes += push.as_ref().map_or(64, Push::weight);
            pushes.push_back(push);
        }
        if pushes.is_empty() {
            return;
        }
        if let Some(told) = &self.told
            && !told.put(pushes, bytes).await
        {
            self.told = None;
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect => {
                let gateway = Shared::clone(&self.gateway);
                self.wire = Socketed::Opening(Box::pin(async move {
                    let asked = Upgrade {
                        target: "/connect",
                        protocols: &[PROTOCOL],
                        headers: &[],
                        message_bytes_max: gateway.limits.message_bytes_max,
                    };
                    Box::pin(upgrade(&gateway, asked)).await
                }));
            }
            Action::Disconnect => {
                if let Socketed::Open(socket) = std::mem::replace(&mut self.wire, Socketed::None) {
                    socket.leave(close::NORMAL);
                }
            }
            Action::Ping => {
                if let Socketed::Open(socket) = &mut self.wire {
                    socket.push_ping(b"");
                }
            }
            Action::Send(text) => {
                if let Socketed::Open(socket) = &mut self.wire {
                    socket.push(Kind::Text, text.as_bytes());
                }
            }
        }
    }

    fn take(&mut self, came: Came) {
        let now = Instant::now();
        match came {
            Came::Opened(Ok(Upgraded::Socket(head, socket, protocol))) => {
                self.wire = Socketed::Open(socket);
                self.link.handle_head(head, protocol.as_deref(), now);
                self.decode(now);
            }
            Came::Opened(Ok(Upgraded::Refused(exchange))) => {
                self.link.handle_head(exchange.head.clone(), None, now);
                self.wire = Socketed::Refused(exchange);
            }
            Came::Body(Ok(data)) => {
                if data.is_none() {
                    self.wire = Socketed::None;
                }
                self.link.handle_data(data.as_deref(), now);
            }
            Came::Frames(Ok(())) => {
                self.link.handle_alive(now);
                self.decode(now);
            }
            Came::Opened(Err(failure)) | Came::Body(Err(failure)) | Came::Frames(Err(failure)) => {
                self.wire = Socketed::None;
                self.link.handle_failure(failure, now);
            }
        }
    }

    fn decode(&mut self, now: Instant) {
        let Self { wire, link, .. } = self;
        let Socketed::Open(socket) = wire else { return };
        let mut bytes = 0;
        let drained = socket.drain(|incoming| {
            match incoming {
                Incoming::Message { kind, data } => {
                    bytes += data.len();
                    link.handle_message(kind, data, now);
                }
                Incoming::Close { code, reason } => link.handle_close(code, reason, now),
            }
            if bytes < DECODED_BYTES_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if let Err(failure) = drained {
            if let Socketed::Open(socket) = std::mem::replace(wire, Socketed::None) {
                socket.refuse(&failure);
            }
            link.handle_failure(failure, now);
        }
    }
}

/// Whoever is not asked any more says goodbye, if that can be done without waiting.
impl Drop for Driver {
    fn drop(&mut self) {
        if let Socketed::Open(socket) = std::mem::replace(&mut self.wire, Socketed::None) {
            socket.leave(close::NORMAL);
        }
    }
}

/// Waits until nobody reads; for ever where that is known.
async fn closed(told: Option<&queue::Sender<Result<Push, Error>>>) {
    match told {
        Some(told) => told.closed().await,
        None => std::future::pending().await,
    }
}
