//! The room plan: which crate may depend on which. A crate earns its place by a boundary, and a
//! dependency that crosses it is refused here, where the reason can be said.

use super::Finding;
use crate::workspace::{Metadata, Package};

/// A crate of ours.
struct Room {
    name: &'static str,
    /// Our crates that it may depend on.
    ours: &'static [&'static str],
    /// Others' crates that it may depend on.
    others: Others,
}

enum Others {
    /// These alone: the crate is pure, and so is each of these.
    Only(&'static [&'static str]),
    /// Any but these, which belong to another room.
    AllBut(&'static [&'static str]),
}

use Others::{AllBut, Only};

/// Whatever listens, speaks HTTP or owns a terminal.
const SERVERS: &[&str] =
    &["axum", "clap", "crossterm", "h2", "hyper", "hyper-util", "quinn", "ratatui", "tonic"];

/// Clients of brokers: heavy, and at home in `tidegate-broker`.
const BROKER_CLIENTS: &[&str] =
    &["async-nats", "fred", "krafka", "lapin", "rdkafka", "redis", "rskafka"];

/// What a program that uses our client must not drag in: servers, terminals, clients of brokers.
const FOREIGN_TO_CLIENTS: &[&str] = &[
    "async-nats",
    "axum",
    "clap",
    "crossterm",
    "fred",
    "krafka",
    "lapin",
    "ratatui",
    "rdkafka",
    "redis",
    "rskafka",
    "tikv-jemallocator",
];

const PLAN: &[Room] = &[
    Room {
        name: "tidegate-wire",
        ours: &[],
        others: Only(&[
            "base64",
            "brotli",
            "bytes",
            "flate2",
            "libz-sys",
            "memchr",
            "sha1",
            "simdutf8",
            "thiserror",
            "zlib-rs",
            "zstd",
        ]),
    },
    Room {
        name: "tidegate-core",
        ours: &[],
        others: Only(&[
            "base64",
            "bytes",
            "itoa",
            "memchr",
            "prost",
            "rustc-hash",
            "serde",
            "serde_json",
            "simdutf8",
            "slab",
            "thiserror",
        ]),
    },
    Room { name: "tidegate-broker", ours: &["tidegate-core"], others: AllBut(SERVERS) },
    Room {
        name: "tidegate-client",
        ours: &["tidegate-core", "tidegate-wire"],
        others: AllBut(FOREIGN_TO_CLIENTS),
    },
    Room {
        name: "tidegate",
        ours: &["tidegate-broker", "tidegate-client", "tidegate-core", "tidegate-wire"],
        others: AllBut(BROKER_CLIENTS),
    },
    // Never shipped, so anything goes; and nothing may depend on it.
    Room {
        name: "xtask",
        ours: &["tidegate-broker", "tidegate-client", "tidegate-core", "tidegate-wire"],
        others: AllBut(&[]),
    },
];

/// Checks what the members of the workspace depend on. Tests may use anything of others', so that
/// only ordinary and build dependencies count there; our own crates always count.
pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let is_member = |package: &&Package| metadata.workspace_members.contains(&package.id);
    let members: Vec<&Package> = metadata.packages.iter().filter(is_member).collect();
    let mut findings = Vec::new();
    for package in &members {
        let place = format!("{}'s Cargo.toml", package.name);
        let Some(room) = PLAN.iter().find(|room| room.name == package.name) else {
            findings.push(Finding {
                place,
                what: "this crate is not in the room plan".into(),
                remedy: "put the code into one of its rooms, or earn a new one: xtask/src/tidy/rooms.rs and ARCHITECTURE.md".into(),
            });
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let is_ours = members.iter().any(|member| member.name == name);
            let is_for_tests = dependency.kind.as_deref() == Some("dev");
            let is_allowed = match &room.others {
                _ if is_ours => room.ours.contains(&name) || name == package.name,
                _ if is_for_tests => true,
                Only(names) => names.contains(&name),
                AllBut(names) => !names.contains(&name),
            };
            if is_allowed {
                continue;
            }
            let remedy = match &room.others {
                Only(_) if !is_ours => {
                    "the crate is pure: do it elsewhere, or, if that dependency is pure and earns its weight, add it to xtask/src/tidy/rooms.rs"
                }
                _ => {
                    "move the code to the room that may (ARCHITECTURE.md), or change the plan there and in xtask/src/tidy/rooms.rs"
                }
            };
            findings.push(Finding {
                place: place.clone(),
                what: format!("it may not depend on `{name}`"),
                remedy: remedy.into(),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    /// Checks a workspace of all rooms where `from` depends on `to`.
    #[track_caller]
    fn check_one(from: &str, to: &str, kind: Option<&str>, is_allowed: bool) {
        let package = |name: &str| Package {
            id: format!("path+{name}"),
            name: name.into(),
            version: "0.1.0".into(),
            license: None,
            dependencies: Vec::new(),
        };
        let mut packages: Vec<Package> = PLAN.iter().map(|room| package(room.name)).collect();
        if !packages.iter().any(|package| package.name == from) {
            packages.push(package(from));
        }
        let workspace_members = packages.iter().map(|package| package.id.clone()).collect();
        let it = packages.iter_mut().find(|package| package.name == from).unwrap();
        it.dependencies.push(Dependency { name: to.into(), kind: kind.map(str::to_owned) });
        let findings = check(&Metadata { packages, workspace_members });
        assert_eq!(findings.is_empty(), is_allowed, "{findings:?}");
    }

    #[test]
    fn pure_crates_take_what_the_plan_names_and_nothing_else() {
        check_one("tidegate-wire", "bytes", None, true);
        check_one("tidegate-wire", "tokio", None, false);
        check_one("tidegate-wire", "tokio", Some("build"), false);
        check_one("tidegate-wire", "fastrand", Some("dev"), true);
        check_one("tidegate-core", "fastrand", None, false);
    }

    #[test]
    fn rooms_open_in_one_direction_in_tests_too() {
        check_one("tidegate", "tidegate-core", None, true);
        check_one("tidegate-core", "tidegate-wire", None, false);
        check_one("tidegate-wire", "tidegate-core", Some("dev"), false);
        check_one("tidegate-broker", "tidegate", None, false);
        check_one("tidegate-client", "tidegate-broker", None, false);
        check_one("tidegate", "xtask", None, false);
    }

    #[test]
    fn heavy_clients_and_servers_stay_in_their_rooms() {
        check_one("tidegate-broker", "redis", None, true);
        check_one("tidegate", "redis", None, false);
        check_one("tidegate-broker", "hyper", None, false);
        check_one("tidegate-client", "hyper", None, true);
        check_one("tidegate-client", "clap", None, false);
        check_one("tidegate-client", "redis", None, false);
    }

    #[test]
    fn a_crate_that_is_not_in_the_plan_is_told() {
        check_one("tidegate-common", "bytes", None, false);
    }
}
