//! Who is present, for all workers of a process (CONTRACT 5), and the task that agrees it with the
//! broker and has the workers tell their clients.
//!
//! Coming and going takes one lock for a moment, and only where presence is on; deliveries take none.
//! Rounds run on the control runtime, one after another, so that what this node says of a channel
//! never overtakes itself, and many who come at once are told together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_broker::Unavailable;
use tidegate_core::presence::{Member, Members, Parting, Round};
use tidegate_core::{ChannelName, SessionId};
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

use crate::gateway::{Command, Gateway};

/// How often it is looked who has been gone for long enough.
const TICK: Duration = Duration::from_secs(1);

/// Every so many ticks all channels are agreed with the broker again: how long members on other
/// nodes may be unknown here, and a third of the lease that a broker should give.
const REFRESH_TICKS: u32 = 5;

/// Rounds before it is looked what else there is to do: who comes and goes without end holds up
/// neither questions nor ticks.
const ROUNDS_MAX: usize = 256;

/// Questions about channels that nobody here is in, to be asked together; over it: try again.
const QUESTIONS_MAX: usize = 1000;

/// Who is present, as the threads of a process share it.
#[derive(Debug)]
pub struct Presence {
    /// Guards the table and the questions. A lock, not a task: who subscribes needs the number of its
    /// round within its turn. Held for an access of a map, or for a pass over one channel's members.
    state: Mutex<State>,
    /// Something is due.
    due: Notify,
    origin: Instant,
}

#[derive(Debug, Default)]
struct State {
    members: Members,
    questions: Vec<(ChannelName, oneshot::Sender<Answer>)>,
}

/// Who is in a channel, as far as the broker can be reached.
type Answer = Result<Vec<Arc<Member>>, Unavailable>;

impl Default for Presence {
    fn default() -> Self {
        Self { state: Mutex::default(), due: Notify::new(), origin: Instant::now() }
    }
}

impl Presence {
    /// A client is there; the first round that knows of it.
    pub fn join(&self, channel: &ChannelName, session: SessionId, member: Member) -> Round {
        let round = self.lock().members.join(channel, session, member);
        self.due.notify_one();
        round
    }

    /// A client has gone.
    pub fn leave(&self, channel: &ChannelName, session: SessionId, parting: Parting) {
        let now = self.origin.elapsed();
        self.lock().members.leave(channel, session, parting, now);
        self.due.notify_one();
    }

    /// What was told last of a channel.
    #[must_use]
    pub fn told(&self, channel: &ChannelName) -> Option<(Round, Arc<[Arc<Member>]>)> {
        self.lock().members.told(channel)
    }

    /// Who is there now.
    ///
    /// # Errors
    ///
    /// The broker is away, or has too much to answer.
    pub async fn now(&self, channel: &ChannelName) -> Answer {
        let answer = {
            let mut state = self.lock();
            if let Some(members) = state.members.now(channel) {
                return Ok(members);
            }
            if state.questions.len() >= QUESTIONS_MAX {
                return Err(Unavailable);
            }
            let (reply, answer) = oneshot::channel();
            state.questions.push((channel.clone(), reply));
            answer
        };
        self.due.notify_one();
        answer.await.unwrap_or(Err(Unavailable))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No call leaves the table half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the rounds, until the runtime is dropped.
pub async fn run(gateway: Arc<Gateway>) {
    let presence = &gateway.presence;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refresh_in = REFRESH_TICKS;
    loop {
        // Cancel safe: a notice and a tick are kept until they are received.
        tokio::select! {
            () = presence.due.notified() => {}
            _ = ticks.tick() => {
                let now = presence.origin.elapsed();
                let mut state = presence.lock();
                state.members.tick(now);
                refresh_in -= 1;
                if refresh_in == 0 {
                    refresh_in = REFRESH_TICKS;
                    state.members.refresh();
                }
            }
        }
        answer(&gateway).await;
        rounds(&gateway).await;
    }
}

/// Answers questions about channels that nobody here is in.
async fn answer(gateway: &Gateway) {
    let questions = std::mem::take(&mut gateway.presence.lock().questions);
    for (channel, reply) in questions {
        // Somebody may have come in the meantime, and is not to be taken off again.
        let members = gateway.presence.lock().members.now(&channel);
        let answer = match members {
            Some(members) => Ok(members),
            None => gateway.broker.presence(&channel, Vec::new()).await,
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }
}

/// Agrees channels that are due with the broker, and has the workers tell what is new.
async fn rounds(gateway: &Gateway) {
    let mut failed = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let begun = {
            let mut state = gateway.presence.lock();
            let due = state.members.due();
            due.map(|channel| (state.members.begin_round(&channel), channel))
        };
        let Some(((round, mine), channel)) = begun else { break };
        match gateway.broker.presence(&channel, mine.clone()).await {
            Ok(everyone) => {
                let told = {
                    let mut state = gateway.presence.lock();
                    state.members.end_round(&channel, round, mine, everyone)
                };
                let Some(told) = told.map(Arc::new) else { continue };
                for worker in &gateway.commands {
                    // A worker that has ended has nobody to tell.
                    let _ = worker.send(Command::Presence(Arc::clone(&told))).await;
                }
            }
            Err(Unavailable) => failed.push(channel),
        }
    }
    let mut state = gateway.presence.lock();
    // Those that failed: at the next tick, or with what is due before.
    if failed.is_empty() && state.members.due().is_some() {
        gateway.presence.due.notify_one();
    }
    failed.iter().for_each(|channel| state.members.fail_round(channel));
}
