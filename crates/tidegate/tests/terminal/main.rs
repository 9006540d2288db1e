//! What the command looks like on a terminal: colours where they are wanted, the chart of `bench`.

#![cfg(unix)]
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test's helper fails as a test does"
)]

#[path = "../process/mod.rs"]
mod process;

mod pty;

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use pty::{COLUMNS, LINES, Terminal};

/// A terminal that has colours.
const XTERM: (&str, &str) = ("TERM", "xterm-256color");

/// What every escape sequence begins with.
const ESCAPE: char = '\x1b';

/// Checks that a command colours what it says `on_terminal`, and nowhere else.
#[track_caller]
fn check(args: &[&str], code: i32, says: &str) {
    let run = |variables: &[(&str, &str)]| {
        let (status, text) = Terminal::start(args, variables).end();
        assert_eq!(status.code(), Some(code), "{args:?}: {text}");
        text
    };
    let coloured = run(&[XTERM]);
    assert!(coloured.contains("\x1b["), "{args:?} has no colours: {coloured:?}");
    assert!(strip(&coloured).contains(says), "{args:?}: {coloured:?}");
    assert!(run(&[XTERM, ("NO_COLOR", "")]).contains(ESCAPE), "an empty NO_COLOR counts");
    for plain in [&[XTERM, ("NO_COLOR", "1")][..], &[XTERM, ("CLICOLOR", "0")], &[("TERM", "dumb")]]
    {
        let text = run(plain);
        assert!(!text.contains(ESCAPE), "{args:?} with {plain:?}: {text:?}");
        assert!(text.contains(says), "{args:?} with {plain:?}: {text:?}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(args)
        .env_clear()
        .envs([XTERM])
        .output()
        .unwrap();
    let piped = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!piped.contains(ESCAPE), "{args:?} in a pipe: {piped:?}");
    assert!(piped.contains(says), "{args:?} in a pipe: {piped:?}");
}

/// Text without its escape sequences.
fn strip(text: &str) -> String {
    let mut parts = text.split(ESCAPE);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += part.split_once(|it: char| it.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    plain
}

/// A file of this test's own.
fn file(name: &str, content: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn help_and_errors_are_coloured_where_that_is_wanted() {
    check(&["--help"], 0, "Usage: tidegate");
    check(&["bench", "fanout", "-h"], 0, "Usage: tidegate bench fanout");
    check(&["serve", "--port", "1"], 2, "error: unexpected argument '--port'");
    check(&["token"], 2, "error: 'tidegate token' is not yet");
    check(&["pub", "http://127.0.0.1:9/channels/a,b", "x"], 2, "error: the URL names several");
}

#[test]
fn a_frame_is_coloured_where_that_is_wanted() {
    check(&["frame", "8185"], 1, "frame 1: ");
    check(&["frame", "zz"], 2, "error: 'z', character 1");
}

#[test]
fn what_is_wrong_with_a_file_is_coloured_where_that_is_wanted() {
    let file = file("terminal-wrong.toml", "wrokers = 1\n");
    let says = format!("{file}:1: wrokers: there is no such key");
    check(&["check", &file], 78, &says);
    check(&["serve", "--config", &file], 78, &says);
}

/// What a gateway writes to a terminal until it is told to end.
fn log(variables: &[(&str, &str)]) -> String {
    let args = ["serve", "--dev", "--listen", "127.0.0.1:0", "--workers", "1"];
    let terminal = Terminal::start(&args, variables);
    terminal.wait_for("listening on http://");
    terminal.signal(Signal::TERM);
    let (status, text) = terminal.end();
    assert!(status.success(), "{text}");
    assert!(text.contains("INFO"), "nothing was logged: {text}");
    text
}

#[test]
fn the_log_is_coloured_where_that_is_wanted() {
    assert!(log(&[XTERM]).contains(ESCAPE));
    for plain in [&[XTERM, ("NO_COLOR", "1")][..], &[XTERM, ("CLICOLOR", "0")], &[("TERM", "dumb")]]
    {
        let text = log(plain);
        assert!(!text.contains(ESCAPE), "{plain:?}: {text:?}");
    }
    // Pretty, but in a pipe.
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let config = file("terminal-pretty.toml", "log = { format = \"pretty\" }\n");
    command.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--config", &config]);
    let (mut child, _, rest) = process::listening(&mut command);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let text: Vec<String> = rest.collect();
    assert!(child.wait().unwrap().success());
    assert!(text.iter().any(|it| it.contains("INFO")), "nothing was logged: {text:?}");
    assert!(!text.iter().any(|it| it.contains(ESCAPE)), "{text:?}");
}

/// A gateway for a chart, ended when it is dropped.
struct Gateway(std::process::Child, String);

impl Gateway {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--workers", "1"]);
        let (child, address, rest) = process::listening(&mut command);
        std::thread::spawn(move || rest.for_each(drop));
        Self(child, format!("http://{address}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a frame says once it is measured.
const MEASURING: &str = " s of 3600 s; Ctrl-C ends it";

/// What a terminal shows after all this was written.
fn screen(text: &str) -> vt100::Parser {
    let size = [LINES, COLUMNS].map(|it| NonZero::new(it).unwrap());
    let mut parser = vt100::Parser::new(size[0], size[1], 0);
    parser.process(text.as_bytes());
    parser
}

#[track_caller]
fn check_screen(text: &str, url: &str) -> String {
    let parser = screen(text);
    let screen = parser.screen();
    let shown = screen.contents();
    assert!(!screen.hide_cursor() && !screen.alternate_screen(), "{text:?}");
    assert_eq!((screen.fgcolor(), screen.bold()), (vt100::Color::Default, false), "{text:?}");
    // Each frame was drawn over the one before.
    assert!(text.matches("deliveries a second ").count() > 1, "one frame: {text:?}");
    assert_eq!(shown.matches(&format!("bench fanout on {url}")).count(), 1, "{shown}");
    assert_eq!(shown.matches("publish to receive").count(), 1, "{shown}");
    shown
}

#[test]
fn a_chart_is_drawn_in_place_and_stays() {
    let gateway = Gateway::start();
    let url = gateway.1.as_str();
    let args = ["bench", "fanout", "--url", url, "--subscribers", "5", "--duration", "700ms"];
    let (status, text) = Terminal::start(&args, &[XTERM]).end();
    assert!(status.success(), "{text}");
    assert!(text.contains("\x1b[36m"), "no colours: {text:?}");
    let shown = check_screen(&text, url);
    // The summary is below the chart.
    let (chart, summary) = shown.split_once("gateway  ").unwrap();
    assert!(chart.contains("deliveries ") && chart.contains(" s of 0.7 s;"), "{shown}");
    assert!(summary.contains("0 lost, 0 came twice"), "{shown}");

    let (status, text) = Terminal::start(&args, &[XTERM, ("NO_COLOR", "1")]).end();
    assert!(status.success(), "{text}");
    assert!(!text.contains("\x1b[3") && !text.contains("\x1b[1m"), "colours: {text:?}");
    check_screen(&text, url);
    let (status, text) = Terminal::start(&args, &[("TERM", "dumb")]).end();
    assert!(status.success() && text.starts_with("gateway"), "{text}");
    assert!(!text.contains(ESCAPE), "{text:?}");
}

#[test]
fn a_chart_stays_when_it_is_interrupted_and_when_the_gateway_goes() {
    let mut gateway = Gateway::start();
    let url = gateway.1.clone();
    let args = ["bench", "fanout", "--url", &url, "--subscribers", "5", "--duration", "1h"];
    let terminal = Terminal::start(&args, &[XTERM]);
    terminal.wait_for(MEASURING);
    terminal.signal(Signal::INT);
    let (status, text) = terminal.end();
    assert!(status.success(), "{text}");
    let shown = check_screen(&text, &url);
    assert!(shown.contains(" s, interrupted"), "{shown}");

    let terminal = Terminal::start(&args, &[XTERM]);
    terminal.wait_for(MEASURING);
    gateway.0.kill().unwrap();
    let (status, text) = terminal.end();
    assert_eq!(status.code(), Some(1), "{text}");
    let shown = check_screen(&text, &url);
    assert!(shown.contains(" s, failed") && shown.contains("error: it ended early"), "{shown}");
}
