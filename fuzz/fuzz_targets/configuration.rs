//! The configuration file and the environment: whatever is in them, it is taken or told, each mistake
//! in one line and with its place, and the same each time.
#![no_main]

use std::ffi::OsString;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tidegate::config::{Place, Sources};

const VARIABLES: [&str; 6] = [
    "TIDEGATE_LISTEN",
    "TIDEGATE_WORKERS",
    "TIDEGATE_DRAIN",
    "TIDEGATE_HTTP__MAX_BODY",
    "TIDEGATE_HTTP__ORIGINS",
    "TIDEGATE_LOG__FORMAT",
];

const SECTIONS: [&str; 8] = [
    "",
    "listen = ",
    "drain = ",
    "log = ",
    "[http]\nmax_body = ",
    "[http]\norigins = ",
    "[[channel]]\nmatch = ",
    "[[channel]]\nmatch = \"a\"\nlog = ",
];

fuzz_target!(|input: (u8, &str, Vec<(u8, &str)>)| {
    let (section, file, variables) = input;
    // Text seldom comes to be a key by itself.
    let file = format!("{}{file}", SECTIONS[usize::from(section % 8)]);
    let variables = variables
        .iter()
        .map(|(name, value)| {
            let name = match VARIABLES.get(usize::from(name % 7)) {
                Some(name) => OsString::from(name),
                None => OsString::from(format!("TIDEGATE_{value}")),
            };
            (name, OsString::from(value))
        })
        .collect();
    let sources = Sources { variables, ..Sources::default() };
    let path = Path::new("tidegate.toml");
    let loaded = sources.load_from(path, file.as_bytes());
    assert_eq!(loaded, sources.load_from(path, file.as_bytes()));
    match loaded {
        Ok(config) => {
            assert!(!config.listen.is_empty());
            assert!(config.channel("a.b").log.bytes > 0 || config.channel("a.b").keeps_none());
            let _ = config.warnings();
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            let lines = file.lines().count().max(1);
            for problem in &problems.0 {
                let told = problem.to_string();
                assert!(!told.contains('\n'), "{told}");
                assert!(told.len() < file.len() * 6 + 2000, "{} bytes: {told}", told.len());
                if let Place::Line(_, line) = problem.place {
                    assert!((1..=lines + 1).contains(&line), "line {line} of {lines}");
                }
            }
        }
    }
});
