//! Idle: connections that are opened at a pace, and then wait.

use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_client::{Error, Failure};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::meter::{Meter, State, cpu};
use super::reader::Wire;
use super::run::{Shared, open_all, when};
use super::subscriber::{Messages, Subscriber};
use super::{End, Outcome, Target, files};

/// Idle connections, before they are opened.
#[derive(Clone, Debug)]
pub(in super::super) struct Idle {
    pub(in super::super) channel: String,
    pub(in super::super) wire: Wire,
    pub(in super::super) connections: u64,
    /// How many are opened a second.
    pub(in super::super) rate: u64,
    /// How long they are held once all are open.
    pub(in super::super) duration: Duration,
    /// Where the gateway has its metrics.
    pub(in super::super) metrics: Option<Target>,
}

/// Resident memory of the gateway, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Memory {
    /// Before the first connection.
    pub(in super::super) before: u64,
    /// With all of them.
    pub(in super::super) after: u64,
}

impl Idle {
    pub(super) async fn run(
        &self,
        target: &Target,
        meter: &Rc<Meter>,
        interrupted: impl Future<Output = ()>,
    ) -> anyhow::Result<Outcome> {
        files::allow(self.connections)?;
        let before = self.memory().await.context("can't read the metrics")?;
        let shared = Rc::new(Shared::new(meter));
        let (begun, cpu_before) = (meter.begin(), cpu());
        let mut tasks = JoinSet::new();
        // Why the first failed that did.
        let mut refused = None;
        let open = |index| {
            let (target, wire, channel) = (target.clone(), self.wire, self.channel.clone());
            let due = begun + when(index, self.rate);
            async move {
                sleep_until(due.into()).await;
                let asked = Instant::now();
                let opened = target.subscribe(wire, &channel).await?;
                Ok((opened, asked.elapsed()))
            }
        };
        let opened = |opened: Result<_, _>| {
            let mut state = meter.borrow();
            match opened {
                Ok((opened, took)) => {
                    state.counts.opened += 1;
                    state.record(took);
                    tasks.spawn_local(wait(Subscriber::new(opened), Rc::clone(&shared)));
                }
                Err(failure) if state.counts.opened == 0 => {
                    return Err(Error::from(failure).into());
                }
                Err(failure) => {
                    state.counts.refused += 1;
                    refused.get_or_insert(failure);
                }
            }
            Ok(())
        };
        let held = async {
            open_all(self.connections, open, opened).await?;
            let until = sleep(self.duration);
            let mut until = std::pin::pin!(until);
            loop {
                tokio::select! {
                    () = &mut until => return anyhow::Ok(()),
                    () = shared.settled.notified() => {
                        let counts = meter.borrow().counts;
                        if counts.closed == counts.opened {
                            return Ok(());
                        }
                    }
                }
            }
        };
        let mut end = tokio::select! {
            held = held => { held?; End::Duration }
            () = interrupted => End::Interrupted,
        };
        let after = if before.is_some() { self.memory().await.ok().flatten() } else { None };
        let took = begun.elapsed();
        let cpu = cpu_before.zip(cpu()).map(|(before, after)| after.saturating_sub(before));
        let (counts, latency) = meter.total();
        // Who was closed has ended, the others wait.
        let mut closed = None;
        while let Some(Ok(failure)) = tasks.try_join_next() {
            closed.get_or_insert(failure);
        }
        if let Some(failure) = refused.or(closed) {
            end = End::Failed(failure);
        }
        tasks.shutdown().await;
        let memory = before.zip(after).map(|(before, after)| Memory { before, after });
        Ok(Outcome { counts, latency, took, cpu, end, memory })
    }

    /// The gateway's memory, if that is asked for, and is told.
    async fn memory(&self) -> Result<Option<u64>, Error> {
        match &self.metrics {
            Some(metrics) => Ok(resident(&metrics.get().await?)),
            None => Ok(None),
        }
    }
}

/// The resident memory that metrics tell, by the name that all Prometheus clients use.
fn resident(metrics: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|it| it.strip_prefix("process_resident_memory_bytes "))?;
    let value: f64 = line.split(' ').next()?.parse().ok()?;
    // Written as a whole number or as 1.2e+07.
    format!("{value:.0}").parse().ok()
}

/// Answers pings until it is closed.
async fn wait(mut subscriber: Subscriber, shared: Rc<Shared>) -> Failure {
    loop {
        let turn = std::future::poll_fn(|cx| {
            let (_, read) = ready!(subscriber.poll_turn(cx, &shared, Nothing))?;
            Poll::Ready(read)
        });
        if let Err(failure) = turn.await {
            shared.meter.borrow().counts.closed += 1;
            shared.settled.notify_one();
            return failure;
        }
    }
}

/// Nothing is published.
struct Nothing;

impl Messages for Nothing {
    fn handle_message(
        &mut self,
        _: &[u8],
        _: &[u8],
        _: Instant,
        _: &mut State,
    ) -> Result<(), Failure> {
        Err(Failure::Protocol("a message came that was not published".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_among_metrics() {
        let metrics = "# TYPE process_resident_memory_bytes gauge\n\
                       process_resident_memory_bytes_total 1\nprocess_resident_memory_bytes ";
        for (value, expect) in [
            ("12345678", Some(12_345_678)),
            ("1.5e+07", Some(15_000_000)),
            ("NaN", None),
            ("", None),
        ] {
            assert_eq!(resident(&format!("{metrics}{value}\n")), expect, "{value}");
        }
        assert_eq!(resident("other 1\n"), None);
    }
}
