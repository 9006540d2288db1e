//! Where the machines meet sockets, clocks and randomness: HTTP/1.1 by hyper's client, WebSockets by
//! our own codec. What to do is the machines' business; here it is done.

pub(crate) mod http;
pub(crate) mod websocket;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::http::header::{HeaderName, HeaderValue};
use tidegate_wire::websocket::DeflateOffer;

use self::http::Idle;
use crate::event::Wire;
use crate::machine::backoff::BackoffConfig;
use crate::machine::{Limits, Timing};
use crate::url::Url;

/// A gateway as a client knows it, shared by all that the client does.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) deflate: Option<DeflateOffer>,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
    pub(crate) backoff: BackoffConfig,
    pub(crate) attempts_max: Option<u32>,
    /// The wire of `auto` that worked last, and when a better one was left. A lock, since it is
    /// read and written in passing by every subscription; held for a copy.
    memory: Mutex<Option<(Wire, Instant)>>,
    /// Connections that were left alive by answers. A lock, since any task takes and gives one; held
    /// for a push or a pop.
    idle: Mutex<Vec<(Idle, Instant)>>,
}

/// Connections that are kept for further requests.
const IDLE_MAX: usize = 8;

/// After so long without a request a gateway may be about to close a connection (75 s by default).
const IDLE_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(45);

impl Gateway {
    pub(crate) fn new(url: Url) -> Self {
        Self {
            url,
            headers: Vec::new(),
            deflate: Some(DeflateOffer::default()),
            limits: Limits::default(),
            timing: Timing::default(),
            backoff: BackoffConfig::default(),
            attempts_max: None,
            memory: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    pub(crate) fn remembered(&self) -> Option<(Wire, Instant)> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, wire: Option<(Wire, Instant)>) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = wire;
    }

    /// A connection that was left alive, the youngest first.
    pub(crate) fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (youngest, since) = idle.pop()?;
        if since.elapsed() < IDLE_AGE_MAX {
            return Some(youngest);
        }
        // All others are older.
        idle.clear();
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep_idle(&self, connection: Idle) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push((connection, Instant::now()));
    }
}

/// A task that ends with its handle: dropped, it is cancelled; joined, its panic is passed on.
#[derive(Debug)]
pub(crate) struct Task(Option<tokio::task::JoinHandle<()>>);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(future)))
    }

    /// Waits for its end. Cancel safe: it can be waited for again.
    pub(crate) async fn join(&mut self) {
        let Some(handle) = &mut self.0 else { return };
        let ended = handle.await;
        self.0 = None;
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

/// Random bytes from the system; for keys, masks and seeds.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        // A system without randomness: std's hasher has what little there is.
        use std::hash::{BuildHasher as _, RandomState};
        let state = RandomState::new();
        for (at, byte) in bytes.iter_mut().enumerate() {
            let [first, ..] = state.hash_one((at, Instant::now())).to_le_bytes();
            *byte = first;
        }
    }
    bytes
}

/// A seed for a machine.
pub(crate) fn seed() -> u64 {
    u64::from_le_bytes(random())
}

/// An idempotency key: 128 random bits, in hexadecimal.
pub(crate) fn key() -> String {
    let number = u128::from_le_bytes(random());
    format!("{number:032x}")
}

/// What of a gateway every task shares.
pub(crate) type Shared = Arc<Gateway>;
