//! The gateway as the suites start it: the release build, on loopback, on a port of the system's
//! choice.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;

use crate::{process, workspace};

/// Builds the command for release, if that is not done, and says where it is.
///
/// # Errors
///
/// Cargo's.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    process::run(&mut workspace::cargo(BUILD))?;
    Ok(workspace::target().join("release/tidegate"))
}

/// What cargo is asked for; the same everywhere, so that it is built once.
pub(crate) const BUILD: &[&str] =
    &["build", "--quiet", "--release", "--locked", "-p", "tidegate", "--bin", "tidegate"];

/// A running server, ended when this is dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it listens, as `HOST:PORT`.
    pub(crate) address: String,
}

impl Server {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts the gateway with `--dev`, on `listen` (port 0: any), with all that it logs in `log`.
    ///
    /// # Errors
    ///
    /// It ends, or does not say within 20 s where it listens.
    pub(crate) fn gateway(
        program: &Path,
        listen: &str,
        args: &[&str],
        log: &Path,
    ) -> anyhow::Result<Server> {
        let mut command = Command::new(program);
        command.args(["serve", "--dev", "--listen", listen]).args(args);
        Server::start(command, log)
    }

    /// Starts any server that says `listening on SCHEME://HOST:PORT` on standard error or output.
    ///
    /// # Errors
    ///
    /// As [`Server::gateway`].
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Server> {
        let name = process::describe(&command);
        let mut file = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting `{name}`"))?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let (sender, receiver) = mpsc::channel();
        // Ends with the server, whose end of the pipe closes then.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // A full disk loses the log, not the suite.
                let _ = writeln!(file, "{line}");
                if let Some(address) = listening(&line) {
                    let _ = sender.send(address.to_owned());
                }
            }
        });
        let mut server = Server { child, address: String::new() };
        server.address = receiver.recv_timeout(Duration::from_secs(20)).with_context(|| {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            format!("`{name}` did not say where it listens; it said:\n{log}")
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; nothing that could be done about any other failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in a line such as `listening on http://127.0.0.1:8080`.
fn listening(line: &str) -> Option<&str> {
    let (_, url) = line.split_once("listening on ")?;
    let (_, rest) = url.split_once("://")?;
    let end = rest.find(|it: char| it == '/' || it.is_whitespace()).unwrap_or(rest.len());
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_line_that_tells_it() {
        assert_eq!(listening("listening on http://127.0.0.1:8080"), Some("127.0.0.1:8080"));
        assert_eq!(listening("INFO listening on http://[::1]:1/ now"), Some("[::1]:1"));
        assert_eq!(listening("admin on http://127.0.0.1:9180"), None);
    }
}
