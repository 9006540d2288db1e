//! Starting programs: in the foreground, or with their output in a file and a deadline.
//!
//! Children stay in our process group, so that an interrupt at the terminal ends them all; a
//! deadline therefore ends the child and each of its descendants, one by one.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Runs `command` with our own output and no input.
///
/// # Errors
///
/// It can't be started, or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = describe(command);
    let status = command.stdin(Stdio::null()).status();
    check(&name, status.with_context(|| format!("starting `{name}`"))?)
}

/// Runs `command` silently; what it printed is shown only if it fails.
///
/// # Errors
///
/// It can't be started, or fails.
pub(crate) fn run_quietly(command: &mut Command) -> anyhow::Result<()> {
    let name = describe(command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("starting `{name}`"))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    check(&name, output.status)
}

/// Runs `command` with all that it prints in the file `log`, for at most `timeout`.
///
/// # Errors
///
/// It can't be started, fails, or has not ended in time.
pub(crate) fn run_logged(
    command: &mut Command,
    log: &Path,
    timeout: Duration,
) -> anyhow::Result<()> {
    let name = describe(command);
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
    let mut child = child.with_context(|| format!("starting `{name}`"))?;
    let Some(status) = wait(&mut child, timeout)? else {
        kill_tree(&mut child)?;
        anyhow::bail!("`{name}` had not ended after {} s", timeout.as_secs());
    };
    check(&name, status)
}

/// Waits for `child` to end; `None` if it is still there after `timeout`.
///
/// # Errors
///
/// The system's.
pub(crate) fn wait(child: &mut Child, timeout: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        // The standard library can't wait with a deadline; this only delays what follows.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends `child` and everything that it started, at once.
///
/// # Errors
///
/// The system's.
pub(crate) fn kill_tree(child: &mut Child) -> anyhow::Result<()> {
    let listing = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let listing = listing.context("starting ps")?;
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let pids: Vec<String> =
        descendants(&listing, child.id()).iter().map(ToString::to_string).collect();
    child.kill()?;
    if !pids.is_empty() {
        // Some may have ended by themselves meanwhile, so what `kill` answers says nothing.
        Command::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status()?;
    }
    child.wait()?;
    Ok(())
}

/// The command as one would type it, without its environment.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|it| it.to_string_lossy()));
    words.join(" ")
}

fn check(name: &str, status: ExitStatus) -> anyhow::Result<()> {
    anyhow::ensure!(status.success(), "`{name}` failed: {status}");
    Ok(())
}

/// The children of `root`, their children and so on, in `listing`: lines of "pid parent".
fn descendants(listing: &str, root: u32) -> Vec<u32> {
    let pairs: Vec<(u32, u32)> = listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::parse);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        })
        .collect();
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        let children = pairs.iter().filter(|pair| pair.1 == parent).map(|pair| pair.0);
        let children: Vec<u32> = children.collect();
        parents.extend(&children);
        found.extend(children);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_every_depth_and_nobody_else() {
        let listing = "  1  0\n 10  1\n 11 10\n 12 11\n 20  1\n 13 10\nnonsense\n";
        let mut found = descendants(listing, 10);
        found.sort_unstable();
        assert_eq!(found, [11, 12, 13]);
        assert!(descendants(listing, 12).is_empty());
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let log = std::env::temp_dir().join(format!("xtask-hang-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 600 & wait"]);
        let error = run_logged(&mut command, &log, Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("had not ended"), "{error}");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "begun\n");
        std::fs::remove_file(&log).unwrap();
    }
}
