//! The listeners: one thread accepts, and hands each connection to the worker with the fewest
//! (DESIGN 1). Sockets are opened once and without `SO_REUSEPORT`.
//!
//! ```text
//! open connections   0 ─────────── max_connections ──────── + SURPLUS ────────
//!                      served        asked once, refused      bare 503
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::gateway::{Accepted, Command, Gateway};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Connections over `max_connections` that are still read, to be refused as their wire tells it: an
/// EventSource that gets a bare 503 gives up for ever (CONTRACT 4).
const SURPLUS: usize = 256;

/// After an error that is not the connection's own, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// How often such an error is logged, while it lasts.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Opens a listener on `address`.
///
/// # Errors
///
/// The system's, such as "address in use".
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last life's connections; it does not share a live port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts from every listener until `stop` says so; the listeners are closed then.
///
/// # Errors
///
/// If a runtime can't be made or a listener can't be registered.
pub fn run(
    gateway: &Arc<Gateway>,
    listeners: Vec<TcpListener>,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn_local(accept(Arc::clone(gateway), listener, stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}

async fn accept(
    gateway: Arc<Gateway>,
    listener: tokio::net::TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let mut warned_at: Option<Instant> = None;
    loop {
        // Cancel safe: a connection is taken or still in the backlog.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|it| *it) => return,
        };
        match accepted {
            Ok((stream, peer)) => dispatch(&gateway, stream, peer).await,
            Err(error) if is_the_connections_own(&error) => {}
            Err(error) => {
                // It lasts for as long as peers hold what is short.
                if warned_at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    tracing::warn!(%error, "accept failed");
                    warned_at = Some(Instant::now());
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Hands a connection to the worker with the fewest.
async fn dispatch(gateway: &Gateway, stream: tokio::net::TcpStream, peer: SocketAddr) {
    let open: usize = gateway.metrics.iter().map(|it| it.connections()).sum();
    let connections_max = gateway.config.http.max_connections.get();
    if open >= connections_max.saturating_add(SURPLUS) {
        refuse(&stream);
        return;
    }
    // Off this thread's runtime, to be registered with the worker's.
    let Ok(stream) = stream.into_std() else { return };
    let fewest = gateway
        .metrics
        .iter()
        .zip(&gateway.commands)
        .min_by_key(|(metrics, _)| metrics.connections());
    let Some((metrics, commands)) = fewest else { return };
    metrics.accepted();
    let accepted = Accepted { stream, peer, is_surplus: open >= connections_max };
    // Waits while that worker is busy: what it can't take yet stays in the backlog.
    if commands.send(Command::Accept(accepted)).await.is_err() {
        metrics.closed();
    }
}

/// Over that, too: a bare answer, as far as the socket takes it at once.
fn refuse(stream: &tokio::net::TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
                   content-length: 0\r\n\r\n";
    // Who can't even be told is cut.
    let _ = stream.try_write(answer);
}

fn is_the_connections_own(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
