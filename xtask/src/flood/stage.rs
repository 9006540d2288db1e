//! What a flood is given, and what it gives back: where the server is, for how long, and counts of
//! what its peers were told.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::namespace::Namespaces;

/// How much longer than planned a flood may take to be told what it must.
const PATIENCE: Duration = Duration::from_secs(30);

/// One stretch of a flood.
pub(super) struct Stage {
    pub(super) address: SocketAddr,
    /// The server's process.
    pub(super) pid: u32,
    /// When it has to be over.
    pub(super) until: Instant,
    pub(super) is_quick: bool,
    /// Which stretch it is: the names of what it makes begin with it.
    pub(super) number: usize,
    /// Where peers are that can be cut without a word.
    pub(super) namespaces: Option<Namespaces>,
}

impl Stage {
    /// Whether it is over: its time is, and `told` has each of `must`. A machine under load gets more
    /// time for that.
    pub(super) fn is_over(&self, told: &Told, must: &[&str]) -> bool {
        let has_all = must.iter().all(|it| told.count(it) > 0);
        Instant::now() >= if has_all { self.until } else { self.until + PATIENCE }
    }

    /// How many: so many in full, a quarter of it in a quick run.
    pub(super) fn size(&self, full: usize) -> usize {
        if self.is_quick { full / 4 } else { full }
    }

    /// The server's open descriptors.
    pub(super) fn files(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// Waits a moment between two rounds over all peers, so that a paced flood is no busy loop.
    pub(super) fn pause(&self, time: Duration) {
        // Pacing is what this is: nothing is waited for.
        std::thread::sleep(time);
    }
}

/// What the peers of a flood were told, by its name, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told(BTreeMap<String, u64>);

impl Told {
    pub(super) fn add(&mut self, what: impl Into<String>) {
        self.add_many(what, 1);
    }

    pub(super) fn add_many(&mut self, what: impl Into<String>, several: u64) {
        *self.0.entry(what.into()).or_default() += several;
    }

    pub(super) fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub(super) fn merge(&mut self, other: &Told) {
        for (what, count) in &other.0 {
            self.add_many(what.clone(), *count);
        }
    }

    /// Fails unless each of `must` was told at least once, and nothing but those and `may`.
    pub(super) fn expect(&self, must: &[&str], may: &[&str]) -> anyhow::Result<()> {
        for what in must {
            anyhow::ensure!(
                self.count(what) > 0,
                "no peer was told {what}; they were told: {self}"
            );
        }
        for what in self.0.keys() {
            let is_known = must.iter().chain(may).any(|it| it == what);
            anyhow::ensure!(is_known, "peers were told {what}, which they should not be: {self}");
        }
        Ok(())
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> =
            self.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_expected_is_found() {
        let mut told = Told::default();
        told.add("408");
        told.add_many("held", 2);
        assert_eq!(told.to_string(), "408 1, held 2");
        assert!(told.expect(&["408"], &["held"]).is_ok());
        assert!(told.expect(&["408"], &[]).is_err());
        assert!(told.expect(&["408", "503"], &["held"]).is_err());
    }
}
