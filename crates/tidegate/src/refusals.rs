//! Problems in the log: each under the instance that its body names, but no flood of them (CONTRACT 7).
//!
//! Who is refused decides how often that is, and would fill a disk with it. So of each code only the
//! first [`LINES_MAX`] of a window are logged, and how many more there were is told when it is over: a
//! flood of one code does not hide another's. Whoever owns it turns the window, once a second.

use std::cell::Cell;

use crate::problem::{Code, Problem, urn};

/// Lines of one code in one window: enough to see what is wrong, and at 300 bytes and a second
/// each 260 MB a day of somebody who is refused all the time.
pub const LINES_MAX: u32 = 10;

/// Bytes of a detail that are logged; it may have words of the peer's, as long as a URL.
const DETAIL_BYTES_MAX: usize = 400;

/// The problems of one worker, or of the admin listener; each thread logs its own.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Problems of this window, by code in [`Code::ALL`]'s order.
    counts: [Cell<u32>; Code::ALL.len()],
}

impl Refusals {
    /// Logs a problem under a new instance, which its body then names: our faults as errors, others
    /// as information.
    #[must_use]
    pub fn log(&self, problem: &Problem) -> u128 {
        let instance = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
        if !self.has_room(problem.code) {
            return instance;
        }
        let (status, code) = (problem.status.as_u16(), problem.code.as_str());
        let detail = shortened(&problem.detail);
        if problem.code == Code::Internal {
            tracing::error!(instance = urn(instance), status, code, detail, "failed");
        } else {
            tracing::info!(instance = urn(instance), status, code, detail, "refused");
        }
        instance
    }

    /// Counts another line of a code; whether it is to be written.
    pub fn has_room(&self, code: Code) -> bool {
        let mut counts = Code::ALL.iter().zip(&self.counts);
        let Some((_, count)) = counts.find(|(it, _)| **it == code) else { return false };
        count.set(count.get().saturating_add(1));
        count.get() <= LINES_MAX
    }

    /// Begins another window, and tells what the last one left out.
    pub fn turn(&self) {
        for (code, count) in Code::ALL.iter().zip(&self.counts) {
            let left_out = count.take().saturating_sub(LINES_MAX);
            if left_out > 0 {
                tracing::info!(code = code.as_str(), left_out, "refused more than is logged");
            }
        }
    }
}

/// As much of a text as is logged of it.
fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(DETAIL_BYTES_MAX)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged meanwhile.
    fn logged(run: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let to = lines.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true);
        let log = log.with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(log, run);
        let bytes = lines.0.lock().unwrap();
        std::str::from_utf8(&bytes)
            .unwrap()
            .lines()
            .map(|it| serde_json::from_str(it).unwrap())
            .collect()
    }

    /// Logs so many; their instances.
    fn refuse(refusals: &Refusals, problem: &Problem, times: u32) -> Vec<String> {
        (0..times).map(|_| urn(refusals.log(problem))).collect()
    }

    #[test]
    fn a_problem_is_logged_with_its_instance() {
        let refusals = Refusals::default();
        let mut instances = Vec::new();
        let lines = logged(|| {
            instances.extend(refuse(&refusals, &Problem::denied("not for you"), LINES_MAX));
            instances.extend(refuse(&refusals, &Problem::internal(), 1));
            refusals.turn();
        });
        let found: Vec<_> = lines.iter().map(|it| it["instance"].as_str().unwrap()).collect();
        assert_eq!(found, instances);
        let [first, .., last] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((&first["level"], &first["message"]), (&"INFO".into(), &"refused".into()));
        assert_eq!(
            (&first["status"], &first["code"], &first["detail"]),
            (&403.into(), &"permission_denied".into(), &"not for you".into())
        );
        assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"failed".into()));
    }

    #[test]
    fn a_flood_is_cut_and_counted_and_hides_no_other_code() {
        let refusals = Refusals::default();
        let lines = logged(|| {
            refuse(&refusals, &Problem::invalid("x"), 5000);
            refuse(&refusals, &Problem::denied("not for you"), 1);
            refusals.turn();
        });
        let of = |code: &str| lines.iter().filter(|it| it["code"] == code).collect::<Vec<_>>();
        assert_eq!(of("permission_denied").len(), 1);
        let [refused @ .., sum] = &of("invalid_argument")[..] else { panic!("{lines:?}") };
        assert_eq!(refused.len(), LINES_MAX as usize);
        assert!(refused.iter().all(|it| it["message"] == "refused"), "{refused:?}");
        assert_eq!(sum["left_out"], 5000 - LINES_MAX);
    }

    #[test]
    fn the_next_window_has_room_again_and_nothing_to_tell() {
        let refusals = Refusals::default();
        let _ = logged(|| {
            refuse(&refusals, &Problem::invalid("x"), LINES_MAX + 1);
            refusals.turn();
        });
        let lines = logged(|| {
            refuse(&refusals, &Problem::invalid("x"), LINES_MAX);
            refusals.turn();
        });
        assert_eq!(lines.len(), LINES_MAX as usize);
        assert_eq!(logged(|| refusals.turn()), [Value::Null; 0]);
    }

    #[test]
    fn a_detail_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(DETAIL_BYTES_MAX);
        for text in [long.clone(), format!("x{long}")] {
            let cut = shortened(&text);
            assert!(text.starts_with(cut));
            assert!((DETAIL_BYTES_MAX - 1..=DETAIL_BYTES_MAX).contains(&cut.len()));
        }
    }
}
