//! The server: builds the parts, owns the threads, and ends them with a deadline (CONTRACT 12).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_broker::memory::{MemoryBroker, MemoryConfig};
use tidegate_broker::{Broker, Inbox, LogBounds, SinkId};
use tidegate_core::ChannelName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::accept;
use crate::config::{Admin, Config};
use crate::connection;
use crate::gateway::{Command, Gateway};
use crate::metrics::WorkerMetrics;
use crate::presence::{self, Presence};
use crate::refusals::Refusals;
use crate::worker;

/// Entries and bytes that wait for one worker; beyond, it reads the log (DESIGN 8).
const INBOX_EVENTS: usize = 16_384;
const INBOX_BYTES: usize = 16 << 20;

/// Connections and questions that wait for one worker.
const COMMANDS: usize = 1024;

/// Idempotency keys of the whole process; over it publishes with a new key get 429.
const KEYS_MAX: usize = 1_000_000;

/// How often the log gives back what has expired; each time an eighth of it.
const SWEEP: Duration = Duration::from_secs(1);

/// Why the server ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener can't be opened.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread or a runtime can't be made.
    #[error("can't start: {0}")]
    Start(#[from] io::Error),
}

/// Serves from memory until SIGTERM or SIGINT, then drains.
///
/// # Errors
///
/// [`Error`], before anything was served.
pub fn run(config: &Arc<Config>) -> Result<(), Error> {
    let epoch_seed = getrandom::u64().map_err(io::Error::other)?;
    let memory = Arc::new(MemoryBroker::new(MemoryConfig {
        epoch_seed,
        bytes_max: config.broker.max_bytes,
        keys_max: KEYS_MAX,
        key_window: config.broker.key_window,
        bounds: bounds(config),
    }));
    let (server, admin) = Server::start(config, Arc::clone(&memory) as Arc<dyn Broker>)?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    control.block_on(control_loop(&server, &memory, admin))?;
    server.join();
    tracing::info!("stopped");
    Ok(())
}

/// The bounds that a configuration gives each channel's log.
#[must_use]
pub fn bounds(config: &Arc<Config>) -> Arc<dyn Fn(&ChannelName) -> LogBounds + Send + Sync> {
    let config = Arc::clone(config);
    Arc::new(move |channel| config.channel(channel.as_str()).log)
}

/// A gateway in front of any broker: its listeners and threads.
pub struct Server {
    gateway: Arc<Gateway>,
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    acceptor: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the listeners and starts the threads. The admin's listener is answered: it is served
    /// on no worker, so by whoever started this.
    ///
    /// # Errors
    ///
    /// [`Error`], before anything was served.
    pub fn start(
        config: &Arc<Config>,
        broker: Arc<dyn Broker>,
    ) -> Result<(Self, Option<std::net::TcpListener>), Error> {
        let listeners: Vec<_> =
            config.listen.iter().map(|it| open(*it)).collect::<Result<_, _>>()?;
        let addresses =
            listeners.iter().map(std::net::TcpListener::local_addr).collect::<Result<_, _>>()?;
        let admin = match config.admin {
            Admin::On(address) => Some(open(address)?),
            Admin::Off | Admin::Main => None,
        };
        let count = config.workers.get();
        let inboxes: Vec<_> =
            (0..count).map(|_| Arc::new(Inbox::new(INBOX_EVENTS, INBOX_BYTES))).collect();
        broker.tail(inboxes.clone());
        let (commands, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(COMMANDS)).unzip();
        let gateway = Arc::new(Gateway {
            config: Arc::clone(config),
            broker,
            draining: AtomicBool::new(false),
            commands,
            presence: Presence::default(),
            node: format!("{:016x}", getrandom::u64().map_err(io::Error::other)?),
            metrics: (0..count).map(|_| Arc::new(WorkerMetrics::default())).collect(),
            compressed: Arc::default(),
        });

        let mut workers = Vec::new();
        for (index, (inbox, receiver)) in inboxes.into_iter().zip(receivers).enumerate() {
            let gateway = Arc::clone(&gateway);
            let id = SinkId(u16::try_from(index).unwrap_or(u16::MAX));
            workers.push(spawn(format!("worker-{index}"), move || {
                worker::run(&gateway, id, inbox, receiver)
            })?);
        }
        let (stop, stopped) = watch::channel(false);
        let acceptor = {
            let gateway = Arc::clone(&gateway);
            spawn("accept".into(), move || accept::run(&gateway, listeners, &stopped))?
        };
        Ok((Self { gateway, addresses, stop, acceptor, workers }, admin))
    }

    /// Where it listens, with the real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes no connections any more, seals the broker, and ends every stream and connection within
    /// the configured time.
    pub async fn drain(&self) {
        let within = self.gateway.config.drain;
        tracing::info!(?within, "draining");
        self.gateway.draining.store(true, Ordering::Relaxed);
        // No new connections; those that wait in the backlog are reset, as by any server that stops.
        let _ = self.stop.send(true);
        if self.gateway.broker.seal().await.is_err() {
            tracing::warn!("the broker could not be sealed");
        }
        for worker in &self.gateway.commands {
            // A worker that has ended already has nothing to drain.
            let _ = worker.send(Command::Drain(within)).await;
        }
        let workers_done = async {
            for worker in &self.gateway.commands {
                worker.closed().await;
            }
        };
        let _ = tokio::time::timeout(within + Duration::from_secs(1), workers_done).await;
    }

    /// Waits for the threads, which end once they were drained.
    pub fn join(self) {
        join(self.acceptor);
        self.workers.into_iter().for_each(join);
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What lives on no worker: signals, the sweep of the log, who is present, the admin listener, and
/// the drain.
async fn control_loop(
    server: &Server,
    memory: &Arc<MemoryBroker>,
    admin: Option<std::net::TcpListener>,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Not before signals are ours: who waits for these lines may send one at once.
    for address in server.addresses() {
        eprintln!("listening on http://{address}");
    }
    if let Some(listener) = &admin {
        eprintln!("admin on http://{}", listener.local_addr()?);
    }
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tasks = tokio::task::JoinSet::new();
    let refusals = Rc::new(Refusals::default());
    if let Some(listener) = admin {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tasks.spawn_local(connection::admin::serve(
            Arc::clone(&server.gateway),
            Rc::clone(&refusals),
            listener,
        ));
    }
    if server.gateway.config.has_presence() {
        tasks.spawn_local(presence::run(Arc::clone(&server.gateway)));
    }
    loop {
        // Cancel safe: signals and ticks are kept until they are received.
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::warn!("SIGHUP: reloading is not in this version yet"),
            _ = sweep.tick() => {
                memory.sweep();
                refusals.turn();
            }
        }
    }
    // The admin listener goes on telling that we drain, until the workers are done.
    server.drain().await;
    tasks.shutdown().await;
    refusals.turn();
    Ok(())
}

fn open(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    accept::listen(address).map_err(|source| Error::Listen { address, source })
}

fn spawn(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name);
    thread.spawn(move || {
        let _guard = EndOnPanic;
        if let Err(error) = run() {
            tracing::error!(%error, "a thread could not start");
            // Half a gateway is worse than none.
            std::process::exit(1);
        }
    })
}

/// Ends the process when what holds it panics: a worker or a hub. Without one of them the gateway
/// would go on accepting clients that nobody serves; a supervisor can do better. A panic in a task of
/// one client ends that client alone.
pub(crate) struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a part that all clients need panicked; this is a bug: ending");
            std::process::exit(1);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread panicked");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Set in the process that is to end.
    const VARIABLE: &str = "PANIC_ON_PURPOSE";

    /// Checks that what panics ends the process: another one, which runs this `test` alone.
    #[track_caller]
    pub(crate) fn check_ends_the_process(test: &str, panics: impl FnOnce()) {
        if std::env::var_os(VARIABLE).is_some() {
            panics();
            // It does not come back from this where the process ends.
            std::process::exit(0);
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(VARIABLE, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.code(), Some(1), "{child:?}");
        assert!(String::from_utf8_lossy(&child.stderr).contains("on purpose"), "{child:?}");
    }

    #[test]
    fn a_panic_of_a_worker_ends_the_process() {
        check_ends_the_process("server::tests::a_panic_of_a_worker_ends_the_process", || {
            let thread = spawn("worker".into(), || panic!("on purpose")).unwrap();
            let _ = thread.join();
        });
    }
}
