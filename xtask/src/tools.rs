//! What the suites need beside cargo: interpreters' packages, a browser, a fuzzer. Each is put
//! under the target folder (npm's beside its manifest, where Node looks), once per set of versions.
//!
//! Debian's packages are the exception: they are installed for the whole machine, only where
//! missing, and only by root; anyone else is told what to install.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::{process, workspace};

/// Installs everything, so that no suite has to.
///
/// # Errors
///
/// Something can't be installed.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(args.is_empty(), "usage: cargo xtask tools");
    println!("wstest      {}", wstest()?.display());
    println!("python      {}", python()?.display());
    node_modules()?;
    println!("node        {}", node()?.display());
    println!("chromium    {}", chromium()?.display());
    println!("curl        {}", curl()?.display());
    println!("promtool    {}", promtool()?.display());
    println!("nginx       {}", nginx()?.display());
    println!("ip          {}", ip()?.display());
    println!("cargo-fuzz  {}", cargo_fuzz()?.display());
    Ok(())
}

/// Autobahn's `wstest`. It needs CPython 2.7, which no package registry has: pyenv's is taken.
///
/// # Errors
///
/// There is no CPython 2.7, or PyPI's packages can't be installed.
pub(crate) fn wstest() -> anyhow::Result<PathBuf> {
    let requirements = workspace::root().join("tests/autobahn/requirements.txt");
    let recipe = std::fs::read_to_string(&requirements)?;
    let folder = installed("autobahn", &recipe, |folder| {
        let python2 = python2().context(
            "Autobahn's test suite needs CPython 2.7: install it with `pyenv install 2.7.18`, or put `python2.7` on the PATH",
        )?;
        let maker = folder.join("virtualenv");
        virtual_environment(&maker)?;
        // The last releases that can make an environment for Python 2.
        pip(&maker, &["install", "--quiet", "virtualenv<20.22"])?;
        let environment = folder.join("environment");
        let mut make = Command::new(maker.join("bin/virtualenv"));
        process::run_quietly(make.args(["--quiet", "--python"]).arg(python2).arg(&environment))?;
        let requirements = requirements.to_string_lossy();
        pip(&environment, &["install", "--quiet", "--requirement", &requirements])
    })?;
    Ok(folder.join("environment/bin/wstest"))
}

/// A Python with the packages of `tests/clients/requirements.txt`.
///
/// # Errors
///
/// There is no Python 3, or PyPI's packages can't be installed.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    let requirements = workspace::root().join("tests/clients/requirements.txt");
    let recipe = std::fs::read_to_string(&requirements)?;
    let folder = installed("python", &recipe, |folder| {
        virtual_environment(folder)?;
        let requirements = requirements.to_string_lossy();
        pip(folder, &["install", "--quiet", "--requirement", &requirements])
    })?;
    Ok(folder.join("bin/python"))
}

/// Node.js.
///
/// # Errors
///
/// It is missing and can't be installed.
pub(crate) fn node() -> anyhow::Result<PathBuf> {
    program(&["node"], &["nodejs", "npm"])
}

/// The packages of `tests/package-lock.json`, in `tests/node_modules`, where Node looks for them.
///
/// # Errors
///
/// npm's.
pub(crate) fn node_modules() -> anyhow::Result<()> {
    node()?;
    let tests = workspace::root().join("tests");
    let recipe = std::fs::read_to_string(tests.join("package-lock.json"))?;
    // Node finds packages beside the code, so the stamp alone is in the target folder; the modules
    // may have been removed since, or belong to another checkout that shares the folder.
    let is_there = tests.join("node_modules/.package-lock.json").exists();
    let recipe = format!("{}\n{recipe}", tests.display());
    let install = |_: &Path| {
        let npm = program(&["npm"], &["npm"])?;
        let mut install = Command::new(npm);
        install.current_dir(&tests).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        // Browsers come from Debian, not from a download of the package's own.
        process::run_quietly(install.env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1"))
    };
    if is_there {
        installed("node_modules", &recipe, install)?;
    } else {
        installed("node_modules", &format!("{recipe}\nabsent"), install)?;
        installed("node_modules", &recipe, |_| Ok(()))?;
    }
    Ok(())
}

/// Chromium.
///
/// # Errors
///
/// It is missing and can't be installed.
pub(crate) fn chromium() -> anyhow::Result<PathBuf> {
    program(&["chromium", "chromium-browser", "google-chrome"], &["chromium"])
}

/// curl.
///
/// # Errors
///
/// It is missing and can't be installed.
pub(crate) fn curl() -> anyhow::Result<PathBuf> {
    program(&["curl"], &["curl"])
}

/// Prometheus' checker of metrics. Debian's package is unpacked and not installed: that would bring
/// a service, its user, and what its pages need.
///
/// # Errors
///
/// It is missing, and can't be had from Debian.
pub(crate) fn promtool() -> anyhow::Result<PathBuf> {
    if let Ok(found) = which("promtool") {
        return Ok(found);
    }
    let folder = installed("promtool", "prometheus", |folder| {
        anyhow::ensure!(which("apt-get").is_ok(), "promtool is missing: put it on the PATH");
        let download =
            || process::run_quietly(apt().current_dir(folder).args(["download", "prometheus"]));
        // Lists that are old, or not there, name nothing that can be had.
        download().or_else(|_| {
            process::run_quietly(apt().arg("update"))?;
            download()
        })?;
        let package =
            std::fs::read_dir(folder)?.next().context("apt-get has written nothing")??;
        let mut unpack = Command::new("dpkg");
        process::run_quietly(unpack.arg("--extract").arg(package.path()).arg(folder))?;
        std::fs::remove_file(package.path())?;
        Ok(std::fs::remove_file(folder.join("usr/bin/prometheus"))?)
    })?;
    Ok(folder.join("usr/bin/promtool"))
}

/// nginx, which the pages about proxies are tried with.
///
/// # Errors
///
/// It is missing and can't be installed.
pub(crate) fn nginx() -> anyhow::Result<PathBuf> {
    program(&["nginx"], &["nginx-light"])
}

/// The program that makes network namespaces.
///
/// # Errors
///
/// It is missing and can't be installed.
pub(crate) fn ip() -> anyhow::Result<PathBuf> {
    program(&["ip"], &["iproute2"])
}

/// The cargo subcommand that builds and runs fuzz targets.
///
/// # Errors
///
/// It can't be built.
pub(crate) fn cargo_fuzz() -> anyhow::Result<PathBuf> {
    const VERSION: &str = "0.13.2";
    if let Ok(found) = which("cargo-fuzz") {
        return Ok(found);
    }
    let folder = installed("cargo-fuzz", VERSION, |folder| {
        let mut install = workspace::cargo(&["install", "--quiet", "--locked", "--root"]);
        install.arg(folder).args(["--version", VERSION, "cargo-fuzz"]);
        // A folder of its own, or it would wait for whatever is being built.
        let build = workspace::target().join("tools/cargo-fuzz-build");
        process::run_quietly(install.env("CARGO_TARGET_DIR", &build))?;
        Ok(std::fs::remove_dir_all(build)?)
    })?;
    Ok(folder.join("bin/cargo-fuzz"))
}

/// The first of `names` on the PATH; else Debian's `packages` are installed.
fn program(names: &[&str], packages: &[&str]) -> anyhow::Result<PathBuf> {
    let find = || names.iter().find_map(|name| which(name).ok());
    if let Some(found) = find() {
        return Ok(found);
    }
    let list = packages.join(" ");
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|it| it.stdout == b"0\n");
    anyhow::ensure!(
        is_root && which("apt-get").is_ok(),
        "{} is missing: install it (on Debian: apt-get install {list})",
        names.join(" or ")
    );
    process::run_quietly(apt().arg("update"))?;
    process::run_quietly(
        apt().args(["install", "--yes", "--no-install-recommends"]).args(packages),
    )?;
    find().with_context(|| format!("{list} is installed, but {} is missing", names.join(" or ")))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // No service is started for having been installed.
    command.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command
}

/// The program `name` of the PATH.
fn which(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").context("there is no PATH")?;
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|it| it.is_file());
    found.with_context(|| format!("{name} is not on the PATH"))
}

/// CPython 2.7: that on the PATH, else the newest of pyenv.
fn python2() -> anyhow::Result<PathBuf> {
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".pyenv"))
    });
    let versions = pyenv.and_then(|it| std::fs::read_dir(it.join("versions")).ok());
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/python2.7")))
        .filter(|it| it.is_file())
        .collect();
    found.sort();
    match found.pop() {
        Some(found) => Ok(found),
        // Last, for pyenv's own programs on the PATH run only versions that are switched on.
        None => which("python2.7"),
    }
}

fn virtual_environment(folder: &Path) -> anyhow::Result<()> {
    let python = program(&["python3"], &["python3", "python3-venv"])?;
    let make =
        |python: &Path| process::run_quietly(Command::new(python).args(["-m", "venv"]).arg(folder));
    make(&python).or_else(|_| {
        // Debian's Python has the module without what it needs, until that is installed.
        process::run_quietly(apt().args(["install", "--yes", "python3-venv"]))?;
        make(&python)
    })
}

fn pip(environment: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip"]).args(args).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    process::run_quietly(&mut pip)
}

/// The folder of the tool `name`, made by `install` unless it was made by the same `recipe`.
fn installed(
    name: &str,
    recipe: &str,
    install: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let tools = workspace::target().join("tools");
    std::fs::create_dir_all(&tools)?;
    // Suites that start together wait here for the first to have installed.
    let lock = File::create(tools.join(format!("{name}.lock")))?;
    lock.lock()?;
    let (folder, stamp) = (tools.join(name), tools.join(format!("{name}.stamp")));
    if std::fs::read_to_string(&stamp).is_ok_and(|it| it == recipe) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    install(&folder).with_context(|| format!("installing {name}"))?;
    std::fs::write(stamp, recipe)?;
    Ok(folder)
}
