//! What all threads of the process share, and how they ask something of a worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_broker::Broker;
use tidegate_core::ChannelName;
use tidegate_core::presence::Told;
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::driver::compressed::Compressed;
use crate::metrics::WorkerMetrics;
use crate::presence::Presence;
use crate::transport::Wire;

/// What all threads of the process share.
pub struct Gateway {
    /// The configuration.
    pub config: Arc<Config>,
    /// The one log.
    pub broker: Arc<dyn Broker>,
    /// Whether the gateway is going away.
    pub draining: AtomicBool,
    /// A queue into each worker.
    pub commands: Vec<mpsc::Sender<Command>>,
    /// Who is where.
    pub presence: Presence,
    /// This process's random name.
    pub node: String,
    /// What each worker counts.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    /// What the workers have compressed.
    pub compressed: Arc<Compressed>,
}

impl Gateway {
    /// Live subscribers of each channel by wire, in [`Wire::ALL`]'s order, over all workers.
    pub async fn count(&self, channels: &[ChannelName]) -> Vec<[u32; Wire::ALL.len()]> {
        let channels: Arc<[ChannelName]> = channels.into();
        let mut counts = vec![[0; Wire::ALL.len()]; channels.len()];
        for worker in &self.commands {
            let (reply, answer) = oneshot::channel();
            let command = Command::Count { channels: Arc::clone(&channels), reply };
            if worker.send(command).await.is_err() {
                continue;
            }
            for (sum, part) in counts.iter_mut().zip(answer.await.unwrap_or_default()) {
                for (sum, part) in sum.iter_mut().zip(part) {
                    *sum += part;
                }
            }
        }
        counts
    }

    /// Whether the gateway is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// What other threads ask of a worker.
#[derive(Debug)]
pub enum Command {
    /// Serve a connection.
    Accept(Accepted),
    /// Count the subscribers of channels.
    Count {
        /// Which.
        channels: Arc<[ChannelName]>,
        /// Per channel and wire.
        reply: oneshot::Sender<Vec<[u32; Wire::ALL.len()]>>,
    },
    /// End every stream and connection within this time, then return.
    Drain(Duration),
    /// Tell the subscribers of a channel who is present.
    Presence(Arc<Told>),
}

/// A connection as the acceptor hands it over.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub stream: std::net::TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Whether it is one too many: its request is refused, and it is closed.
    pub is_surplus: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use tidegate_broker::{LogBounds, MemoryBroker, MemoryConfig};

    use super::*;

    /// A gateway with `--dev`, one worker's metrics, and nobody to send commands to.
    pub(crate) fn gateway() -> Gateway {
        let bounds = |_: &_| LogBounds { messages: 1, bytes: 1, age: Duration::from_secs(1) };
        Gateway {
            config: Arc::new(Config::dev()),
            broker: Arc::new(MemoryBroker::new(MemoryConfig {
                epoch_seed: 1,
                bytes_max: 1 << 20,
                keys_max: 1,
                key_window: Duration::from_secs(1),
                bounds: Arc::new(bounds),
            })),
            draining: AtomicBool::new(false),
            commands: Vec::new(),
            metrics: vec![Arc::default()],
            presence: Presence::default(),
            node: String::new(),
            compressed: Arc::default(),
        }
    }
}
