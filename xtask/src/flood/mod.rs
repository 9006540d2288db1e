//! `cargo xtask flood [NAME]… [--quick]`: what is done to the gateway beside 1,000 good clients, who
//! must not notice. One file per flood says what it does, what its peers must be told (CONTRACT 7),
//! and how much memory it may take at most, and why.
//!
//! Stretches of calm and of flood take turns, so that a machine that slows down slows both. The
//! server (one worker) has core 0; good clients and flood share core 1, the flood at the lowest
//! priority, so that what is measured is the server and not who gets the generator's core.
//!
//! What must hold, for each flood:
//! - p99 from publish to receive, the median of the floods' stretches: at most 2 × that of the calm
//!   ones (and no verdict below [`P99_FLOOR_MS`]);
//! - nothing lost, doubled, changed or out of order, nobody disconnected: `load crowd` sees to it;
//! - the most memory resident: at most the calm proportional set size and what the flood may take;
//! - afterwards memory within a tenth of its calm value and as many descriptors as before, within
//!   [`RECOVERY`].

pub(crate) mod crowd;
mod namespace;
mod peer;
mod report;
mod stage;

mod bombs;
mod channels;
mod fragments;
mod half_open;
mod pings;
mod slow_bodies;
mod slow_heads;
mod slow_readers;
mod storm;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::gateway::{self, Server};
use crate::{bench, workspace};
use crowd::{Crowd, Window};
use namespace::Namespaces;
use report::Row;
use stage::{Stage, Told};

/// A flood, as its file has it.
struct Flood {
    name: &'static str,
    /// What is done, in a few words.
    title: &'static str,
    /// Configuration beside what all have: shorter times, above all.
    config: &'static str,
    /// MiB that the server may have resident above its calm size.
    memory_mib: u64,
    place: Place,
    /// Does it once, until the stage is over, and checks what its peers were told.
    run: fn(&Stage) -> anyhow::Result<Told>,
}

/// Where the flood comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// This machine's loopback.
    Loopback,
    /// A network namespace of its own, which takes rights that not everyone has.
    Namespace,
}

const FLOODS: &[Flood] = &[
    slow_heads::FLOOD,
    slow_bodies::FLOOD,
    slow_readers::FLOOD,
    half_open::FLOOD,
    storm::FLOOD,
    pings::FLOOD,
    fragments::FLOOD,
    bombs::FLOOD,
    channels::FLOOD,
];

/// How it is measured.
struct Plan {
    /// Stretches of each kind.
    rounds: usize,
    calm: Duration,
    flood: Duration,
    /// A p99 below this is not judged.
    p99_floor_ms: f64,
    /// How far from a tenth the memory may be afterwards, in bytes.
    memory_slack: u64,
}

/// On two cores that everything shares, a p99 of a quiet server is 5 to 9 ms: the generator reads
/// 1,000 sockets one after another. Twice a calm value that happens to be lower is still nothing that
/// anybody would notice.
const P99_FLOOR_MS: f64 = 10.0;

const FULL: Plan = Plan {
    rounds: 3,
    calm: Duration::from_secs(6),
    flood: Duration::from_secs(8),
    p99_floor_ms: P99_FLOOR_MS,
    memory_slack: 0,
};

/// Not how well it does, but whether it does: a loop that stalls shows as seconds, memory that is
/// not bounded as hundreds of MiB. A machine under load is no reason to fail.
const QUICK: Plan = Plan {
    rounds: 1,
    calm: Duration::from_secs(3),
    flood: Duration::from_secs(5),
    p99_floor_ms: 2000.0,
    memory_slack: 8 << 20,
};

/// Memory and descriptors must be back within this: the allocator gives back after a second or two,
/// a peer that is cut is noticed after 40 s at most.
const RECOVERY: Duration = Duration::from_secs(60);

/// Between a flood and the next stretch of calm.
const SETTLE: Duration = Duration::from_secs(1);

const USAGE: &str = "usage: cargo xtask flood [NAME]… [--quick] [--server PATH]";

/// Runs the floods that `args` name, or all.
///
/// # Errors
///
/// What must hold did not.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let (mut floods, mut is_quick, mut program) = (Vec::new(), false, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => is_quick = true,
            "--server" => program = Some(PathBuf::from(args.next().context(USAGE)?)),
            name => floods.push(FLOODS.iter().find(|it| it.name == name).with_context(|| {
                let names: Vec<&str> = FLOODS.iter().map(|it| it.name).collect();
                format!("there is no flood `{name}`; there are: {}\n{USAGE}", names.join(", "))
            })?),
        }
    }
    if floods.is_empty() {
        floods.extend(FLOODS);
    }
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    let load = bench::load()?;
    let program = program.map_or_else(gateway::build, Ok)?;
    let folder = workspace::target().join("flood");
    std::fs::create_dir_all(&folder)?;
    let field =
        Field { load, program, folder, plan: if is_quick { QUICK } else { FULL }, is_quick };

    let mut failures = Vec::new();
    for flood in floods {
        match field.measure(flood) {
            Ok(Some(row)) => {
                failures.extend(row.missed(&field.plan));
                println!("{row}");
                if !is_quick {
                    report::write(&row)?;
                }
            }
            Ok(None) => {}
            Err(error) => failures.push(format!("{}: {error:#}", flood.name)),
        }
    }
    anyhow::ensure!(failures.is_empty(), "what must hold did not:\n  {}", failures.join("\n  "));
    Ok(())
}

/// What every flood is measured with.
struct Field {
    load: PathBuf,
    program: PathBuf,
    folder: PathBuf,
    plan: Plan,
    is_quick: bool,
}

impl Field {
    /// Measures one flood; `None` where that can't be done here, which has been said.
    fn measure(&self, flood: &Flood) -> anyhow::Result<Option<Row>> {
        eprintln!("\n{}: {}", flood.name, flood.title);
        let namespaces = match flood.place {
            Place::Loopback => None,
            Place::Namespace => match Namespaces::make() {
                Ok(namespaces) => Some(namespaces),
                Err(error) => {
                    println!(
                        "{}: SKIPPED, network namespaces can't be made: {error:#}",
                        flood.name
                    );
                    return Ok(None);
                }
            },
        };
        let server = self.server(flood, namespaces.as_ref())?;
        let generator = on_core(namespaces.as_ref(), "1", &self.load);
        let mut crowd = Crowd::start(generator, &server.address, server.pid(), &crowd::CLIENTS)?;
        std::thread::sleep(self.plan.calm);

        let address = match &namespaces {
            Some(namespaces) => namespaces.address()?,
            None => server.address.parse()?,
        };
        let (mut calm, mut flooded, mut told) = (Vec::new(), Vec::new(), Told::default());
        for number in 0..self.plan.rounds {
            // What a flood has left in the server's sockets is not calm yet.
            std::thread::sleep(SETTLE);
            crowd.window()?;
            std::thread::sleep(self.plan.calm);
            calm.push(say("calm", crowd.window()?));
            let stage = Stage {
                address,
                pid: server.pid(),
                until: Instant::now() + self.plan.flood,
                is_quick: self.is_quick,
                number,
                namespaces: namespaces.clone(),
            };
            let flooding = std::thread::spawn({
                let run = flood.run;
                move || {
                    step_back()?;
                    run(&stage)
                }
            });
            let result = flooding.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
            // First what the good clients say: they matter more.
            flooded.push(say("flood", crowd.window()?));
            told.merge(&result?);
        }
        let first = calm.first().context("there is a round")?;
        let (back, after) = recover(&mut crowd, first, &self.plan)?;
        crowd.end()?;
        self.read_log(flood)?;
        Ok(Some(Row::new(flood, &calm, &flooded, back, &after, &told)))
    }

    fn server(&self, flood: &Flood, namespaces: Option<&Namespaces>) -> anyhow::Result<Server> {
        let config = self.folder.join(format!("{}.toml", flood.name));
        let log = crowd::LOG;
        let text = format!(
            "{}\n[[channel]]\nmatch = \"bench\"\nlog = {{ messages = {log} }}\n",
            flood.config
        );
        std::fs::write(&config, text)?;
        let mut command = on_core(namespaces, "0", &self.program);
        command.args(["serve", "--dev", "--workers", "1", "--config"]).arg(config);
        match namespaces {
            None => command.args(["--listen", "127.0.0.1:0"]),
            // Alone in their namespace, ports can be fixed.
            Some(_) => {
                let near = "127.0.0.1:8080";
                command.args(["--insecure", "--listen", near, "--listen", namespace::ADDRESS])
            }
        };
        Server::start(command, &self.log(flood))
    }

    fn log(&self, flood: &Flood) -> PathBuf {
        self.folder.join(format!("{}.log", flood.name))
    }

    /// No flood is a reason for the server to say that it is at fault.
    fn read_log(&self, flood: &Flood) -> anyhow::Result<()> {
        let log = std::fs::read_to_string(self.log(flood))?;
        let bad = log.lines().find(|it| it.contains("ERROR") || it.contains("panicked"));
        anyhow::ensure!(bad.is_none(), "the server says: {}", bad.unwrap_or_default());
        Ok(())
    }
}

fn say(kind: &str, window: Window) -> Window {
    eprintln!(
        "  {kind:<5} p50 {:6.2} p99 {:6.2} max {:7.2} ms, memory {:6.2} MiB (peak {:6.2}), {} files, \
         server {:.2} cores, {} deliveries",
        window.p50_ms,
        window.p99_ms,
        window.max_ms,
        window.memory_mib(),
        window.peak_mib(),
        window.files,
        window.server_cores,
        window.deliveries,
    );
    window
}

/// Waits until memory and descriptors are as they were; how long it took.
fn recover(
    crowd: &mut Crowd,
    calm: &Window,
    plan: &Plan,
) -> anyhow::Result<(Option<Duration>, Window)> {
    let begun = Instant::now();
    loop {
        let window = crowd.window()?;
        let bound = calm.memory + calm.memory / 10 + plan.memory_slack;
        let is_back = window.memory <= bound && window.files == calm.files;
        if is_back || begun.elapsed() > RECOVERY {
            return Ok((is_back.then(|| begun.elapsed()), say("after", window)));
        }
        // The allocator says nothing when it gives back; this only delays what follows.
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// `program`, on a core of its own where there are several.
fn on_core(namespaces: Option<&Namespaces>, core: &str, program: &std::path::Path) -> Command {
    let has_two = std::thread::available_parallelism().is_ok_and(|it| it.get() > 1);
    let core = if has_two { core } else { "0" };
    let mut command = match namespaces {
        Some(namespaces) => namespaces.command("taskset"),
        None => Command::new("taskset"),
    };
    command.args(["-c", core]).arg(program);
    command
}

/// Gives this thread the lowest priority, on the good clients' core.
fn step_back() -> anyhow::Result<()> {
    if std::thread::available_parallelism().is_ok_and(|it| it.get() > 1) {
        let mut set = CpuSet::new();
        set.set(1);
        sched_setaffinity(None, &set)?;
    }
    // On Linux this is the thread's own.
    Ok(setpriority_process(None, 19)?)
}
