//! The command as it is typed: what it prints, where, and what it exits with.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test's helper fails as a test does"
)]

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn tidegate(args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A file of this test's own.
fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, content).unwrap();
    path
}

#[track_caller]
fn check(args: &[&str], variables: &[(&str, &str)], code: i32, stdout: &str, stderr: &str) {
    let expect = Outcome { code: Some(code), stdout: stdout.to_owned(), stderr: stderr.to_owned() };
    assert_eq!(tidegate(args, variables), expect, "{args:?}");
}

#[test]
fn check_takes_the_example() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tidegate.example.toml");
    check(&["check", example], &[], 0, &format!("{example}: ok\n"), "");
}

#[test]
fn check_tells_every_mistake_and_exits_with_78() {
    let path = file("wrong.toml", "wrokers = 1\n[http]\nmax_body = true\n[tls]\n");
    let name = path.display();
    let stderr = format!(
        "{name}:1: wrokers: there is no such key; the nearest is workers\n\
         {name}:3: http.max_body: true is no size; allowed is a whole number of bytes, alone or \
         with KiB, MiB or GiB: 4096, \"1MiB\"\n\
         {name}:4: tls: is not yet in this version; leave it out\n"
    );
    check(&["check", &name.to_string()], &[], 78, "", &stderr);
    // And serve says the same.
    check(&["serve", "--config", &name.to_string()], &[], 78, "", &stderr);
}

#[test]
fn check_reads_the_file_alone() {
    let path = file("alone.toml", "workers = 1\n");
    let name = path.display().to_string();
    check(&["check", &name], &[("TIDEGATE_WORKERS", "0")], 0, &format!("{name}: ok\n"), "");
}

#[test]
fn check_of_no_file_exits_with_78() {
    let outcome = tidegate(&["check", "no/such/file.toml"], &[]);
    assert_eq!(outcome.code, Some(78));
    assert!(outcome.stderr.starts_with("no/such/file.toml: can't be read: "), "{outcome:?}");
}

#[test]
fn serve_refuses_to_listen_publicly() {
    let stderr = "--listen: 0.0.0.0:0 can be reached from elsewhere, and without keys only \
                  loopback is served; allowed is a loopback address (127.0.0.1, [::1]), as keys \
                  are not yet in this version, or any with --dev --insecure\n";
    check(&["serve", "--listen", "0.0.0.0:0"], &[], 78, "", stderr);
    let stderr = "TIDEGATE_LISTEN: [::]:0 can be reached from elsewhere, and with --dev everyone \
                  who reaches it may do everything; allowed is a loopback address (127.0.0.1, \
                  [::1]), or any with --dev --insecure\n";
    check(&["serve", "--dev"], &[("TIDEGATE_LISTEN", "[::]:0")], 78, "", stderr);
}

#[test]
fn serve_refuses_a_wrong_variable() {
    let stderr = "TIDEGATE_HTTP__MAX_BODDY: there is no such variable; the nearest is \
                  TIDEGATE_HTTP__MAX_BODY\n\
                  TIDEGATE_WORKERS: \"many\" is no such number; allowed is a whole number from 1 \
                  to 1024\n";
    let variables = [("TIDEGATE_WORKERS", "many"), ("TIDEGATE_HTTP__MAX_BODDY", "1")];
    check(&["serve"], &variables, 78, "", stderr);
}

#[test]
fn what_is_typed_wrongly_exits_with_2() {
    for (args, message) in [
        (&["serve", "--insecure"][..], "--dev"),
        (
            &["serve", "--listen", "localhost:80"],
            "\"localhost:80\" is no address; allowed is IP:PORT",
        ),
        (&["serve", "--admin", "on"], "\"[::1]:8080\", or \"off\""),
        (&["serve", "--workers", "0"], "allowed is a whole number from 1 to 1024"),
        (&["serve", "--port", "1"], "unexpected argument '--port'"),
        (&["serve", "file"], "unexpected argument 'file'"),
        (&["check"], "<FILE>"),
        (&["serv"], "unrecognized subcommand 'serv'"),
        (&[], "Usage: tidegate <COMMAND>"),
    ] {
        let outcome = tidegate(args, &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(outcome.stderr.contains(message), "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_handshake_is_answered() {
    // RFC 6455 section 1.3.
    let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n";
    check(&["accept", "dGhlIHNhbXBsZSBub25jZQ=="], &[], 0, accept, "");
    for key in ["", "dGhlIHNhbXBsZQ==", "dGhlIHNhbXBsZSBub25jZQ", "not base64"] {
        let outcome = tidegate(&["accept", key], &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{key}");
        assert!(outcome.stderr.contains("a key is 16 bytes in base64"), "{}", outcome.stderr);
    }
}

#[test]
fn a_frame_is_taken_apart() {
    // RFC 6455 section 5.7: a masked text frame.
    let stdout = "\
frame 1: text, masked as a client's, 5 bytes (11 in all)
     0  81                       1.......  FIN: the last frame of its message
                                 .000....  no RSV: no extension
                                 ....0001  opcode 0x1: text
     1  85                       1.......  MASK: a client's
                                 .0000101  length: 5 bytes of payload
     2  37 fa 21 3d                        masking key
     6  7f 9f 4d 51 58                     payload, masked
     6  48 65 6c 6c 6f                     Hello     payload, unmasked
";
    check(&["frame", "81 85 37 fa 21 3d 7f 9f 4d 51 58"], &[], 0, stdout, "");
    let outcome = tidegate(&["frame", "--from", "client", "88", "02", "03ed"], &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("\nwrong: a client must mask its frames (§5.1)\n"));
    assert!(outcome.stdout.ends_with("\nwrong: close code 1005 must not be sent (§7.4)\n"));
    let stderr = "error: 'x', character 3 of the input, is no hexadecimal digit; 0-9, a-f and A-F \
                  are allowed, and between them spaces, ':', ',' and \"0x\"\n";
    check(&["frame", "81x"], &[], 2, "", stderr);
}

#[test]
fn what_comes_later_says_so() {
    let stderr = "error: 'tidegate token' is not yet in this version\n\n\
                  See 'tidegate --help' for what there is.\n";
    check(&["token"], &[], 2, "", stderr);
    check(&["token", "--help"], &[], 2, "", stderr);
    check(&["token", "--sub", "me", "--key=env:KEY"], &[], 2, "", stderr);
    let stderr = "error: '--tls' is not yet in this version; leave it out\n";
    check(&["serve", "--dev", "--tls"], &[], 2, "", stderr);
}

#[test]
fn a_server_that_cannot_start_exits_with_1_and_insecure_is_said_before() {
    // Held, so that nobody else can listen there.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = tidegate(&["serve", "--dev", "--insecure", "--listen", &address], &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
    let (first, rest) = outcome.stderr.split_once('\n').unwrap();
    assert!(first.starts_with("warning: --insecure: whoever reaches this gateway"), "{first}");
    assert!(rest.lines().last().unwrap().starts_with("error: "), "{rest}");
}

/// What bash offers for the last of `words`.
fn completed(words: &[&str]) -> Vec<String> {
    let script = tidegate(&["completions", "bash"], &[]);
    assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""));
    let path = file("completions.bash", &script.stdout);
    let at = words.len() - 1;
    let (line, last, before) = (words.join(" "), words[at], words[at - 1]);
    let asked = format!(
        "set -u; source '{}'; COMP_WORDS=({line}); COMP_CWORD={at}; \
         COMP_LINE='{line}'; COMP_POINT={}; _tidegate tidegate '{last}' '{before}'; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        path.display(),
        line.len(),
    );
    let output = Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = String::from_utf8(output.stdout).unwrap();
    words.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_subcommands_options_and_values() {
    assert_eq!(completed(&["tidegate", "ser"]), ["serve"]);
    assert_eq!(completed(&["tidegate", "bench", "fan"]), ["fanout"]);
    assert_eq!(completed(&["tidegate", "bench", "echo", "--in"]), ["--in-flight"]);
    assert_eq!(completed(&["tidegate", "bench", "idle", "--wire", "n"]), ["ndjson"]);
    // What is not there yet is not offered.
    assert_eq!(completed(&["tidegate", "to"]), [""; 0]);
    assert_eq!(completed(&["tidegate", "serve", "--t"]), [""; 0]);
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = tidegate(&["completions", shell], &[]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(outcome.stdout.contains("fanout"), "{shell}");
    }
    let outcome = tidegate(&["completions", "tcsh"], &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    assert!(outcome.stderr.contains("[possible values: bash"), "{}", outcome.stderr);
}

#[test]
fn help_is_a_subcommand_too() {
    for args in [&["serve"][..], &["bench"], &["bench", "fanout"], &["completions"]] {
        let short: Vec<_> = args.iter().copied().chain(["--help"]).collect();
        let help = tidegate(&short, &[]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{args:?}");
        let same: Vec<_> = ["help"].into_iter().chain(args.iter().copied()).collect();
        assert_eq!(tidegate(&same, &[]), help);
        assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{}", help.stdout);
    }
}

#[test]
fn help_is_for_what_exists() {
    let outcome = tidegate(&["--help"], &[]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    for (name, what) in [
        ("serve", "Serve channels until told to stop"),
        ("check", "Say what is wrong with a configuration file"),
        ("frame", "Take WebSocket frames apart"),
        ("accept", "Compute a WebSocket handshake's answer"),
        ("bench", "Put load on a running gateway, and measure"),
        ("completions", "Print a script that completes commands in a shell"),
    ] {
        let is_it = |line: &str| {
            let rest = line.trim_start().strip_prefix(name);
            rest.is_some_and(|it| it.trim_start().starts_with(what))
        };
        assert!(outcome.stdout.lines().any(is_it), "{name}: {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains("token"));
    assert!(outcome.stdout.lines().all(|line| line.len() <= 100), "{}", outcome.stdout);
    let outcome = tidegate(&["serve", "--help"], &[]);
    assert_eq!(outcome.code, Some(0));
    for flag in ["--dev", "--insecure", "--config <FILE>", "--listen <ADDR>", "--workers <N>"] {
        assert!(outcome.stdout.contains(flag), "{flag}");
    }
    assert!(!outcome.stdout.contains("--tls"));
    let version = format!("tidegate {}\n", env!("CARGO_PKG_VERSION"));
    check(&["--version"], &[], 0, &version, "");
}

/// The build's setting is lost where `.cargo/config.toml` is not read: memory would stay for 10 s.
#[cfg(not(windows))]
#[test]
fn jemalloc_gives_memory_back_after_a_second() {
    let outcome = tidegate(&["--version"], &[("_RJEM_MALLOC_CONF", "stats_print:true")]);
    assert!(outcome.stderr.contains("opt.dirty_decay_ms: 1000 "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("opt.background_thread: true"), "{}", outcome.stderr);
}
