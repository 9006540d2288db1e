//! The gateway itself, as a process.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use tidegate_client::{BackoffConfig, Client, ClientBuilder, Timing, Url};

use super::process::listening;

/// How long anything may take that should take no time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A gateway of a test's own; ended when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    /// Starts one with this configuration.
    pub(crate) fn start_with(config: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("client.toml");
        fs::write(&path, config).unwrap();
        Self::spawn("127.0.0.1:0", &["--config", path.to_str().unwrap()])
    }

    /// Starts one at an address that another has had.
    pub(crate) fn start_at(listen: &str) -> Self {
        Self::spawn(listen, &[])
    }

    fn spawn(listen: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--dev", "--workers", "2", "--listen", listen]).args(args);
        let (child, address, lines) = listening(&mut command);
        // Read on, or the server would wait for somebody to.
        thread::spawn(move || {
            for line in lines {
                assert!(!line.contains("panicked"), "{line}");
            }
        });
        Self { child, address }
    }

    pub(crate) fn client(&self) -> Client {
        impatient(self.address).build()
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client for which milliseconds are what seconds are elsewhere.
pub(crate) fn impatient(address: SocketAddr) -> ClientBuilder {
    let millis = Duration::from_millis;
    let timing = Timing {
        open_timeout: millis(1500),
        ping_interval: millis(600),
        ping_timeout: millis(600),
        // Not shorter than the pauses of a busy machine; black holes are what it is for.
        silence_max: millis(1500),
        long_poll_wait: millis(1000),
        poll_interval: millis(20),
    };
    let backoff = BackoffConfig { base: millis(20), max: millis(100), retry_after_max: millis(50) };
    Client::builder(Url::parse(&format!("http://{address}")).unwrap())
        .timing(timing)
        .backoff(backoff)
}
