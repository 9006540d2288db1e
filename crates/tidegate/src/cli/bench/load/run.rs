//! What every run has: connections that are opened some at a time, a measured time, a slow end.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tidegate_client::{Error, Failure};
use tidegate_wire::websocket::InflaterPool;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::meter::{Meter, cpu};
use super::{End, Outcome};

/// Connections that are opened at once, below the accept queue of any server.
const OPENING_MAX: usize = 64;

/// What is read at a time.
const SCRATCH_BYTES: usize = 256 << 10;

/// Nothing has come back for so long after the last was sent: what is missing never will.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that the tasks of a run share.
pub(super) struct Shared {
    pub(super) meter: Rc<Meter>,
    pub(super) scratch: RefCell<Scratch>,
    /// Something came back.
    pub(super) settled: Notify,
    /// What was sent and has not come back.
    pub(super) on_the_way: Cell<u64>,
    /// Nothing more is to be sent.
    pub(super) is_stopping: Cell<bool>,
}

/// What a task needs for a turn alone.
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    pub(super) pool: InflaterPool,
}

impl Shared {
    pub(super) fn new(meter: &Rc<Meter>) -> Self {
        Self {
            meter: Rc::clone(meter),
            scratch: RefCell::new(Scratch {
                bytes: vec![0; SCRATCH_BYTES],
                pool: InflaterPool::new(),
            }),
            settled: Notify::new(),
            on_the_way: Cell::new(0),
            is_stopping: Cell::new(false),
        }
    }

    /// Notes that so much came back.
    pub(super) fn settle(&self, count: u64) {
        if count > 0 {
            self.on_the_way.set(self.on_the_way.get().saturating_sub(count));
            self.settled.notify_one();
        }
    }

    /// Measures until the time is over or somebody has had enough, then sends nothing more and waits
    /// for what is on its way; or until a task or `work` fails.
    pub(super) async fn measure(
        &self,
        tasks: &mut JoinSet<Failure>,
        work: impl Future<Output = Failure>,
        duration: Duration,
        interrupted: impl Future<Output = ()>,
    ) -> Outcome {
        let (begun, cpu_before) = (self.meter.begin(), cpu());
        let mut end = tokio::select! {
            failure = work => End::Failed(failure),
            failure = failed(tasks) => End::Failed(failure),
            () = sleep(duration) => End::Duration,
            () = interrupted => End::Interrupted,
        };
        self.is_stopping.set(true);
        if !matches!(end, End::Failed(_)) {
            tokio::select! {
                failure = failed(tasks) => end = End::Failed(failure),
                () = self.drained() => {}
            }
        }
        let took = begun.elapsed();
        let cpu = cpu_before.zip(cpu()).map(|(before, after)| after.saturating_sub(before));
        let (counts, latency) = self.meter.total();
        Outcome { counts, latency, took, cpu, end, memory: None }
    }

    /// Waits until everything is back, or nothing more seems to come.
    async fn drained(&self) {
        while self.on_the_way.get() > 0 {
            let before = self.meter.borrow().counts;
            tokio::select! {
                () = self.settled.notified() => {}
                () = sleep(PATIENCE) => {
                    if self.meter.borrow().counts == before {
                        return;
                    }
                }
            }
        }
    }
}

/// Opens `count` connections, some at a time. They are told to `opened` as they come; its first error
/// ends it.
pub(super) async fn open_all<T, F>(
    count: u64,
    open: impl Fn(u64) -> F,
    mut opened: impl FnMut(Result<T, Failure>) -> anyhow::Result<()>,
) -> anyhow::Result<()>
where
    T: 'static,
    F: Future<Output = Result<T, Failure>> + 'static,
{
    let (mut opening, mut next) = (JoinSet::new(), 0);
    loop {
        while next < count && opening.len() < OPENING_MAX {
            opening.spawn_local(open(next));
            next += 1;
        }
        match opening.join_next().await {
            Some(result) => opened(result?)?,
            None => return Ok(()),
        }
    }
}

/// The same, where all of them have to get through; `who` is what an error calls one. Whether they did
/// before somebody had enough.
pub(super) async fn open_everyone<T, F>(
    who: &str,
    count: u64,
    meter: &Meter,
    interrupted: Pin<&mut impl Future<Output = ()>>,
    open: impl Fn(u64) -> F,
    mut opened: impl FnMut(T),
) -> anyhow::Result<bool>
where
    T: 'static,
    F: Future<Output = Result<T, Failure>> + 'static,
{
    let opened = |result: Result<T, Failure>| {
        let connection = result.map_err(Error::from).with_context(|| {
            let nth = meter.borrow().counts.opened + 1;
            format!("{who} {nth} of {count} did not get through")
        })?;
        meter.borrow().counts.opened += 1;
        opened(connection);
        Ok(())
    };
    tokio::select! {
        opened = open_all(count, open, opened) => opened.map(|()| true),
        () = interrupted => Ok(false),
    }
}

/// The first task that ends has failed.
pub(super) async fn failed(tasks: &mut JoinSet<Failure>) -> Failure {
    match tasks.join_next().await {
        Some(Ok(failure)) => failure,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Failure::Cut(error.to_string()),
        },
        None => std::future::pending().await,
    }
}

/// When thing `index`, from 0 on, is due of which there are `rate` a second.
pub(super) fn when(index: u64, rate: u64) -> Duration {
    let nanos = u128::from(index) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A masking key. That nobody can foresee it protects what is between browsers and servers (RFC 6455
/// §10.3), not a load generator.
pub(super) fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}
