//! A pseudo-terminal: commands that see a terminal, and what they write to it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// How long anything may take that should take no time.
const SOON: Duration = Duration::from_secs(60);

pub(crate) const COLUMNS: u16 = 100;
pub(crate) const LINES: u16 = 40;

/// A terminal with a command on it.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    /// Our end.
    master: Arc<OwnedFd>,
    /// How it was set before.
    modes: String,
    written: Arc<(Mutex<String>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts a command whose standard input, output and error are a terminal.
    pub(crate) fn start(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let size = Winsize { ws_row: LINES, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).unwrap();
        let modes = modes(&master);
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(args)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        drop(slave);
        let written = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (kept, mut input) = (Arc::clone(&written), File::from(master.try_clone().unwrap()));
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut bytes = Vec::new();
            loop {
                match input.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    // What Linux says when nobody has the other end any more.
                    Err(_) => return,
                }
                let (text, changed) = &*kept;
                *text.lock().unwrap() = String::from_utf8_lossy(&bytes).into_owned();
                changed.notify_all();
            }
        });
        let master = Arc::new(master);
        Self { child, master, modes, written, reader: Some(reader) }
    }

    /// Waits until this was written.
    #[track_caller]
    pub(crate) fn wait_for(&self, part: &str) {
        let (text, changed) = &*self.written;
        let (mut text, until) = (text.lock().unwrap(), Instant::now() + SOON);
        while !text.contains(part) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{part:?} never came: {text:?}");
            text = changed.wait_timeout(text, left).unwrap().0;
        }
    }

    /// Sends what Ctrl-C (`INT`) and the like send.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end: how it ended, and all that was written. The terminal is set as it was.
    #[track_caller]
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        assert_eq!(modes(&self.master), self.modes, "the terminal was left in another mode");
        let text = self.written.0.lock().unwrap().clone();
        (status, text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Only after a failure: `end` has waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modes(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}
