//! What is wrong with a configuration: where it was written, which key, what, and what is allowed.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

/// All that was found wrong, in the order of the file, then the environment, then the flags.
/// Shown one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// Which key, dotted: `http.max_body`, `channel.log.age`. Shown only for a file; elsewhere the
    /// place says it.
    pub key: Option<String>,
    /// What is wrong; what is allowed.
    pub message: String,
}

/// Where something was written, or should have been. The order is that in which problems are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file as a whole: it can't be read.
    File(PathBuf),
    /// A line of a file, counted from 1.
    Line(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag, `--listen`.
    Flag(&'static str),
    /// Nowhere: a default.
    Default,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        match &self.place {
            Place::File(path) => write!(f, "{}: ", path.display())?,
            Place::Line(path, line) => write!(f, "{}:{line}: ", path.display())?,
            Place::Variable(name) => write!(f, "{name}: ")?,
            Place::Flag(name) => write!(f, "{name}: ")?,
            Place::Default => {}
        }
        match (&self.place, &self.key) {
            (Place::File(_) | Place::Line(..) | Place::Default, Some(key)) => {
                write!(f, "{key}: {}", self.message)
            }
            _ => f.write_str(&self.message),
        }
    }
}

/// Escapes what would break the line, or move a terminal's cursor: names and keys are anybody's.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|it| match it.is_control() {
            true => write!(self.0, "{}", it.escape_default()),
            false => self.0.write_char(it),
        })
    }
}
