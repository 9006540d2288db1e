//! From a command of an enveloped connection to the broker (CONTRACT 5): rights, and what it comes to.
//! Subscriptions themselves and the bytes of replies are the driver's.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_broker::{PublishError, Published, Reply};
use tidegate_core::envelope::client::{ClientError, Fault};
use tidegate_core::envelope::{Command, PublishCommand};
use tidegate_core::presence::Member;
use tidegate_core::{Begin, ChannelName, SessionId};

use super::begin;
use super::poll::{self, Found};
use super::request::SubscribeRequest;
use crate::api;
use crate::driver::client::Start;
use crate::problem::Problem;
use crate::worker::Worker;

/// How far a command has come in one step.
pub enum Begun {
    /// It is done.
    Done(Done),
    /// It needs the broker.
    Waits(Outcome),
}

/// What a command will come to.
pub type Outcome = Pin<Box<dyn Future<Output = Result<Done, Problem>>>>;

/// What a command came to.
#[derive(Debug)]
pub enum Done {
    /// A page of a channel's log.
    History(ChannelName, Found),
    /// Who is present in a channel.
    Members(ChannelName, Vec<Arc<Member>>),
    /// A ping was answered.
    Pong,
    /// A publication was accepted.
    Published(ChannelName, Published),
    /// A subscription can begin.
    Subscribed(Start),
    /// It would only have had an answer, and has no number for one.
    Unasked,
    /// A subscription is over.
    Unsubscribed(ChannelName),
}

/// Begins what a connection asks for; `id` is the command's number. Whether it may have another
/// subscription was checked, and one that it does not want any more is gone already.
///
/// # Errors
///
/// The refusal.
pub fn begin(
    worker: &Rc<Worker>,
    session: SessionId,
    id: Option<NonZeroU64>,
    command: Command,
) -> Result<Begun, Problem> {
    let outcome: Outcome = match command {
        Command::Ping => return Ok(Begun::Done(Done::Pong)),
        Command::Unsubscribe(channel) => return Ok(Begun::Done(Done::Unsubscribed(channel))),
        Command::Refresh(_) => {
            return Err(Problem::invalid(
                "refresh: this version takes no tokens yet; what a connection may do does not change \
                 while it lasts",
            ));
        }
        Command::Publish(command) => {
            let channel = command.channel.clone();
            match publish(worker, session, command)? {
                Reply::Now(published) => {
                    return Ok(Begun::Done(Done::Published(channel, published?)));
                }
                Reply::Later(later) => {
                    Box::pin(async move { Ok(Done::Published(channel, later.await?)) })
                }
            }
        }
        Command::Subscribe { channel, begin } => {
            let worker = Rc::clone(worker);
            Box::pin(async move { subscribe(&worker, channel, begin).await })
        }
        Command::History(history) => {
            worker.may_subscribe(&history.channel)?;
            if id.is_none() {
                return Ok(Begun::Done(Done::Unasked));
            }
            let worker = Rc::clone(worker);
            Box::pin(async move {
                let channel = history.channel.clone();
                Ok(Done::History(channel, poll::history(&worker, history).await?))
            })
        }
        Command::Presence(channel) => {
            worker.has_presence(&channel)?;
            if id.is_none() {
                return Ok(Begun::Done(Done::Unasked));
            }
            let worker = Rc::clone(worker);
            Box::pin(async move {
                let members = worker.members(&channel).await?;
                Ok(Done::Members(channel, members))
            })
        }
    };
    Ok(Begun::Waits(outcome))
}

fn publish(
    worker: &Worker,
    session: SessionId,
    command: PublishCommand,
) -> Result<Reply<Result<Published, PublishError>>, Problem> {
    let bytes = command.payload.as_ref().map_or(0, |it| it.bytes.len());
    let bytes_max = worker.config.http.max_body;
    if bytes > bytes_max {
        return Err(Problem::too_large(format!(
            "publish: the payload has {bytes} bytes; {bytes_max} are allowed"
        )));
    }
    api::publish::accept(worker, command, Some(session))
}

/// Asks where a subscription begins.
async fn subscribe(
    worker: &Rc<Worker>,
    channel: ChannelName,
    from: Begin,
) -> Result<Done, Problem> {
    let wanted = SubscribeRequest::enveloped(vec![channel], vec![from]);
    let begun = begin::begin(worker, &wanted).await?;
    // It was asked for one.
    let start = begun.starts.into_iter().next().ok_or_else(Problem::internal)?;
    Ok(Done::Subscribed(start))
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match &error.fault {
            Fault::Publish(fault) => {
                Self::from(fault.clone()).of(error.command.unwrap_or_default())
            }
            _ => Self::invalid(error.to_string()),
        }
    }
}
