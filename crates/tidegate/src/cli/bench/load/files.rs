//! How many connections this process may have open: a descriptor each.

use std::io;

/// Descriptors for all else: standard streams, the runtime, publishers.
const SPARE: u64 = 64;

/// Makes room for so many connections, as far as the system allows: the soft limit is raised to the
/// hard one.
///
/// # Errors
///
/// More are asked for than the hard limit has room for. The words say what to do.
pub(super) fn allow(connections: u64) -> Result<(), io::Error> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let needed = connections + SPARE;
        if current.is_none_or(|it| it >= needed) {
            return Ok(());
        }
        if let Some(maximum) = maximum
            && maximum < needed
        {
            let room = maximum.saturating_sub(SPARE);
            return Err(io::Error::other(format!(
                "{connections} connections need {needed} open files, and this process may have \
                 {maximum}; ask for at most {room}, or raise the limit ('ulimit -Hn {needed}' as \
                 root)"
            )));
        }
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    #[cfg(not(unix))]
    let _ = (connections, SPARE);
    Ok(())
}
