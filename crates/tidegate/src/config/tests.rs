//! What is written, beside what it means or why it is refused: texts to the letter.

use std::path::Path;

use super::raw::{SECTIONS, Table, dotted, variables};
use super::*;

const EXAMPLE: &str = include_str!("../../../../tidegate.example.toml");

/// Loads `file`, as if it were `t.toml`, with `variables` and `flags`.
fn load(file: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, text)| (name.into(), text.into())).collect();
    let sources = Sources { file: None, variables, flags: flags.clone() };
    let table = Table::parse(Path::new("t.toml"), file.as_bytes());
    sources.resolve(table).map_err(|problems| problems.to_string())
}

/// What a file alone means.
#[track_caller]
fn check(file: &str, expect: impl FnOnce(&mut Config)) {
    check_all(file, &[], &Flags::default(), expect);
}

/// What all sources mean together: the defaults, changed by `expect`.
#[track_caller]
fn check_all(
    file: &str,
    variables: &[(&str, &str)],
    flags: &Flags,
    expect: impl FnOnce(&mut Config),
) {
    let mut config = if flags.dev { Config::dev() } else { Config::default() };
    expect(&mut config);
    assert_eq!(load(file, variables, flags), Ok(config));
}

/// Why a file alone is refused.
#[track_caller]
fn refuse(file: &str, expect: &[&str]) {
    refuse_all(file, &[], &Flags::default(), expect);
}

#[track_caller]
fn refuse_all(file: &str, variables: &[(&str, &str)], flags: &Flags, expect: &[&str]) {
    assert_eq!(load(file, variables, flags), Err(expect.join("\n")));
}

fn dev() -> Flags {
    Flags { dev: true, ..Flags::default() }
}

fn rule(pattern: &str) -> ChannelRule {
    ChannelRule::new(pattern.parse().unwrap())
}

#[test]
fn nothing_means_the_defaults() {
    check("", |_| {});
    check("[http]\n[websocket]\n[broker]\n[grpc]\n[log]\n", |_| {});
}

#[test]
fn the_example_means_the_defaults() {
    check(EXAMPLE, |it| it.channels = vec![rule("prices.>")]);
}

#[test]
fn the_example_names_every_key() {
    let has =
        |start: &str| EXAMPLE.lines().any(|it| it.trim_start_matches("# ").starts_with(start));
    for (section, keys) in SECTIONS {
        for key in *keys {
            let inline = dotted(section, key);
            let is_inline = section.contains("log") || *section == "channel.outbox";
            let found = if is_inline {
                EXAMPLE.contains(&format!("{key} = "))
            } else {
                has(&format!("{key} =")) || has(&format!("[{key}]")) || has(&format!("[[{key}]]"))
            };
            assert!(found, "{inline} is not in the example");
        }
    }
}

#[test]
fn every_key_is_read() {
    for (section, keys) in SECTIONS {
        for key in *keys {
            // A date is nothing that any key takes.
            let (file, line) = match *section {
                "" => (format!("{key} = 2026-11-22"), 1),
                "channel" if *key == "match" => ("[[channel]]\nmatch = 2026-11-22".to_owned(), 2),
                _ if section.starts_with("channel") => {
                    let path = dotted(section.strip_prefix("channel").unwrap_or_default(), key);
                    let path = path.trim_start_matches('.');
                    (format!("[[channel]]\nmatch = \"a\"\n{path} = 2026-11-22"), 3)
                }
                _ => (format!("[{section}]\n{key} = 2026-11-22"), 2),
            };
            let told = match *section {
                "tls" | "auth" => format!("t.toml:1: {section}: is not yet"),
                _ => format!("t.toml:{line}: {}: ", dotted(section, key)),
            };
            let error = load(&file, &[], &Flags::default()).unwrap_err();
            assert!(error.starts_with(&told) && error.lines().count() == 1, "{file}\n{error}");
        }
    }
}

#[test]
fn every_top_level_key_has_its_meaning() {
    check("listen = [\"127.0.0.1:0\", \"[::1]:9000\", \"127.0.0.1:0\"]", |it| {
        it.listen =
            ["127.0.0.1:0", "[::1]:9000", "127.0.0.1:0"].map(|it| it.parse().unwrap()).into();
    });
    check("admin = \"off\"", |it| it.admin = Admin::Off);
    check("admin = \"127.0.0.2:1\"", |it| it.admin = Admin::On("127.0.0.2:1".parse().unwrap()));
    check("workers = 3", |it| it.workers = NonZeroUsize::new(3).unwrap());
    check("drain = 0.5", |it| it.drain = Duration::from_millis(500));
    check("drain = 0", |it| it.drain = Duration::ZERO);
    check("log = { format = \"json\", level = \"off\" }", |it| {
        it.log = LogConfig { format: LogFormat::Json, level: LevelFilter::OFF };
    });
    check("[log]\nformat = \"pretty\"", |it| it.log.format = LogFormat::Pretty);
    check("log.level = \"trace\"", |it| it.log.level = LevelFilter::TRACE);
}

#[test]
fn every_section_has_its_meaning() {
    check("[broker]\nurl = \"memory:\"\nmax_bytes = 0x1_000\nkey_window = \"1h\"", |it| {
        it.broker.max_bytes = 4096;
        it.broker.key_window = Duration::from_secs(3600);
    });
    let file = "[http]\nprefix = \"/a/b-c\"\nmax_body = 1\nmax_url = 256\nmax_head = \"8KiB\"\n\
                body_timeout = 1\nheader_timeout = 2\nidle_timeout = 3\nmax_connections = 4\n\
                max_outbox = 5\norigins = [\"https://A\", \"http://b:81\"]\ntrusted_proxies = []\n\
                proxy_protocol = \"off\"";
    check(file, |it| {
        it.http = Http {
            prefix: "/a/b-c".to_owned(),
            max_body: 1,
            max_url: 256,
            max_head: 8192,
            body_timeout: Duration::from_secs(1),
            header_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(3),
            max_connections: NonZeroUsize::new(4).unwrap(),
            max_outbox: 5,
            origins: Origins::Listed(vec!["https://a".to_owned(), "http://b:81".to_owned()]),
        };
    });
    check("http.origins = [\"https://a\", \"*\"]", |it| it.http.origins = Origins::Any);
    let file = "[websocket]\nmax_message = 1\nmax_fragments = 2\nping_interval = 3\n\
                ping_timeout = 4\ndeflate = false\n[grpc]\nmax_message = 1048576";
    check(file, |it| {
        it.websocket = WebSocket {
            max_message: 1,
            max_fragments: NonZeroUsize::new(2).unwrap(),
            ping_interval: Duration::from_secs(3),
            ping_timeout: Duration::from_secs(4),
            deflate: false,
        };
    });
}

#[test]
fn a_channel_rule_has_its_meaning() {
    let file = "[[channel]]\nmatch = \"a.>\"\nsubscribe = \"anyone\"\npublish = \"nobody\"\n\
                log = { messages = 0, bytes = 1, age = 2 }\n\
                outbox = { messages = 3, bytes = 4, policy = \"conflate\" }\npresence = true\n\
                class = \"static\"\n\
                [[channel]]\nmatch = \"b\"\n[channel.outbox]\npolicy = \"drop-oldest\"\n\
                [[channel]]\nmatch = \"c\"\noutbox.policy = \"disconnect\"\nsubscribe = \"anyone\"";
    check(file, |it| {
        let first = ChannelRule {
            pattern: "a.>".parse().unwrap(),
            subscribe: Access::Anyone,
            publish: Access::Nobody,
            log: LogBounds { messages: 0, bytes: 1, age: Duration::from_secs(2) },
            outbox: OutboxBounds { messages: 3, bytes: 4, policy: Policy::Conflate },
            presence: true,
            class: Class::Static,
        };
        let mut second = rule("b");
        second.outbox.policy = Policy::DropOldest;
        let mut third = rule("c");
        third.outbox.policy = Policy::Disconnect;
        third.subscribe = Access::Anyone;
        // What anyone may read is shared, unless the rule says otherwise.
        third.class = Class::Shared;
        it.channels = vec![first, second, third];
    });
}

#[test]
fn the_first_rule_that_matches_holds() {
    let file =
        "[[channel]]\nmatch = \"a.*\"\n[[channel]]\nmatch = \"a.>\"\n[[channel]]\nmatch = \"a.b\"";
    let config = load(file, &[], &Flags::default()).unwrap();
    let pattern = |name| config.channel(name).pattern.to_string();
    assert_eq!(pattern("a.b"), "a.*");
    assert_eq!(pattern("a.b.c"), "a.>");
    assert_eq!(pattern("a"), ">");
    assert_eq!(config.channel("a"), &config.channel_default);
    assert_eq!(config.channel("a").subscribe, Access::Token);
}

#[test]
fn what_is_of_the_wrong_type_says_what_is_allowed() {
    refuse(
        "listen = \"127.0.0.1:80\"",
        &["t.toml:1: listen: \"127.0.0.1:80\" is no list; allowed is [\"…\", \"…\"]"],
    );
    refuse("listen = []", &["t.toml:1: listen: is empty; allowed is one address or more"]);
    refuse(
        "listen = [\n  \"localhost:80\",\n  3,\n]",
        &[
            "t.toml:2: listen: \"localhost:80\" is no address; allowed is IP:PORT, like \
         \"127.0.0.1:8080\" or \"[::1]:8080\"",
            "t.toml:3: listen: 3 is no text; allowed is IP:PORT, like \"127.0.0.1:8080\" or \
         \"[::1]:8080\"",
        ],
    );
    refuse(
        "admin = \"on\"",
        &["t.toml:1: admin: \"on\" is no address; allowed is IP:PORT, like \"127.0.0.1:8080\" or \
         \"[::1]:8080\", or \"off\""],
    );
    for workers in ["0", "1025", "-1", "1.5", "\"8\"", "true"] {
        refuse(
            &format!("workers = {workers}"),
            &[&format!(
                "t.toml:1: workers: {workers} is no such number; allowed is a whole number from 1 to 1024"
            )],
        );
    }
    refuse(
        "drain = \"30 s\"",
        &[
            "t.toml:1: drain: \"30 s\" is no duration; allowed is a number of seconds, or one with ms, \
         s, m or h, to 8760h: 30, \"250ms\", \"10m\"",
        ],
    );
    refuse("log = 3", &["t.toml:1: log: 3 is no table; allowed is a table of format, level"]);
    refuse(
        "log.format = \"text\"",
        &["t.toml:1: log.format: \"text\" is unknown; allowed are \"auto\", \"pretty\", \"json\""],
    );
    refuse(
        "log.level = []",
        &["t.toml:1: log.level: a list is no text; allowed are \"off\", \"error\", \"warn\", \
         \"info\", \"debug\", \"trace\""],
    );
    refuse(
        "[broker]\nmax_bytes = \"1MB\"",
        &[
            "t.toml:2: broker.max_bytes: \"1MB\" is no size; allowed is a whole number of bytes, alone \
         or with KiB, MiB or GiB: 4096, \"1MiB\"",
        ],
    );
    refuse(
        "[broker]\nkey_window = 0",
        &["t.toml:2: broker.key_window: 0 is too short; allowed is more than 0"],
    );
    refuse(
        "[http]\nmax_body = 0",
        &["t.toml:2: http.max_body: 0 is out of range; allowed is 1B to 1024GiB"],
    );
    refuse(
        "[http]\nmax_head = \"4KiB\"",
        &["t.toml:2: http.max_head: \"4KiB\" is out of range; allowed is 8KiB to 1MiB"],
    );
    refuse(
        "[http]\nmax_url = \"64KiB\"",
        &["t.toml:2: http.max_url: \"64KiB\" is out of range; allowed is 256B to 65534B"],
    );
    refuse(
        "[http]\nmax_connections = 0",
        &["t.toml:2: http.max_connections: 0 is no such number; allowed is a whole number from 1"],
    );
    for prefix in ["a", "/", "/a/", "//a", "/a b", "/a/../b", "/%61"] {
        refuse(
            &format!("[http]\nprefix = \"{prefix}\""),
            &[&format!(
                "t.toml:2: http.prefix: \"{prefix}\" is no such path; allowed is \"\" or a path like \
             \"/realtime\": a slash in front, none at the end, and between them A-Z a-z 0-9 - . _ ~"
            )],
        );
    }
    refuse(
        "[http]\norigins = [\"app.example\"]",
        &["t.toml:2: http.origins: \"app.example\" is no origin; allowed is \"*\", or \
         scheme://host[:port] without a path, like \"https://app.example\""],
    );
    refuse(
        "[websocket]\ndeflate = \"yes\"",
        &[
            "t.toml:2: websocket.deflate: \"yes\" is neither true nor false; allowed are true, false",
        ],
    );
}

#[test]
fn a_wrong_channel_rule_says_what_is_allowed() {
    const PATTERN: &str = "allowed is a channel's name in which * is one segment and a last > is \
                           one or more: \"chat\", \"prices.*\", \"prices.>\"";
    refuse(
        "[channel]\nmatch = \"a\"",
        &["t.toml:1: channel: a table is no list of tables; allowed is [[channel]]"],
    );
    refuse("channel = [1]", &["t.toml:1: channel: 1 is no table; allowed is [[channel]]"]);
    refuse(
        "\n[[channel]]\n[[channel]]\nmatch = \"a\"",
        &[&format!("t.toml:2: channel.match: is missing; {PATTERN}")],
    );
    refuse(
        "[[channel]]\nmatch = \"a.>.b\"\nclass = \"open\"",
        &[
            &format!(
                "t.toml:2: channel.match: \"a.>.b\" is no pattern, \">\" is not the last segment; {PATTERN}"
            ),
            "t.toml:3: channel.class: \"open\" is unknown; allowed are \"static\", \"shared\", \"secret\"",
        ],
    );
    refuse(
        "[[channel]]\nmatch = \"a\"\nsubscribe = \"all\"\nlog.messages = -1\noutbox.messages = 0",
        &[
            "t.toml:3: channel.subscribe: \"all\" is unknown; allowed are \"anyone\", \"nobody\"",
            "t.toml:4: channel.log.messages: -1 is no such number; allowed is a whole number from 0",
            "t.toml:5: channel.outbox.messages: 0 is no such number; allowed is a whole number from 1",
        ],
    );
    refuse(
        "[[channel]]\nmatch = \"a\"\noutbox = { policy = \"drop\", byte = 3 }",
        &[
            "t.toml:3: channel.outbox.byte: there is no such key; the nearest is channel.outbox.bytes",
            "t.toml:3: channel.outbox.policy: \"drop\" is unknown; allowed are \"spill\", \
         \"drop-oldest\", \"conflate\", \"disconnect\"",
        ],
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    for section in ["[tls]", "[auth]", "[[limit]]", "[[route]]"] {
        let name = section.trim_matches(['[', ']']);
        refuse(
            &format!("\n{section}\nanything = 1\n"),
            &[&format!("t.toml:2: {name}: is not yet in this version; leave it out")],
        );
    }
    for scheme in ["file", "redis", "rediss", "nats", "kafka", "amqp"] {
        // And its password is not shown.
        refuse(
            &format!("broker.url = \"{scheme}://u:secret@host\""),
            &[&format!(
                "t.toml:1: broker.url: \"{scheme}:\" is not yet in this version; allowed is \"memory:\""
            )],
        );
    }
    refuse(
        "broker.url = \"mqtt://u:secret@host\"",
        &["t.toml:1: broker.url: \"mqtt:\" is no broker; allowed is \"memory:\""],
    );
    refuse(
        "broker.url = \"secret\"",
        &["t.toml:1: broker.url: is no broker's URL; allowed is \"memory:\""],
    );
    refuse(
        "broker.url = \"memory:x\"",
        &["t.toml:1: broker.url: has more than \"memory:\"; allowed is \"memory:\""],
    );
    refuse(
        "http.trusted_proxies = [\"10.0.0.0/8\"]\nhttp.proxy_protocol = \"required\"",
        &[
            "t.toml:1: http.trusted_proxies: is not yet in this version; allowed is []",
            "t.toml:2: http.proxy_protocol: \"required\" is not yet in this version; allowed is \"off\"",
        ],
    );
    refuse(
        "grpc.max_message = \"2MiB\"",
        &["t.toml:1: grpc.max_message: \"2MiB\" is not yet in this version; allowed is \"1MiB\""],
    );
    refuse(
        "[[channel]]\nmatch = \"a\"\nsubscribe = \"token\"\npublish = \"token\"",
        &[
            "t.toml:3: channel.subscribe: \"token\" is not yet in this version; allowed are \"anyone\", \
         \"nobody\"",
            "t.toml:4: channel.publish: \"token\" is not yet in this version; allowed are \"anyone\", \
         \"nobody\"",
        ],
    );
}

#[test]
fn an_unknown_key_names_the_nearest() {
    for (file, unknown, nearest) in [
        ("lisen = []", "1: lisen", "listen"),
        ("max_body = 1", "1: max_body", "http.max_body"),
        ("[websockets]\nx = 1", "1: websockets", "websocket"),
        ("[http]\nmax_boddy = 1", "2: http.max_boddy", "http.max_body"),
        ("[http]\nmax_mesage = 1", "2: http.max_mesage", "websocket.max_message"),
        ("[websocket]\nmax_mesage = 1", "2: websocket.max_mesage", "websocket.max_message"),
        ("[broker]\nmaxbytes = 1", "2: broker.maxbytes", "broker.max_bytes"),
        ("log = { lvl = 1 }", "1: log.lvl", "log.level"),
        ("[[channel]]\nmatch = \"a\"\nmessages = 1", "3: channel.messages", "channel.log.messages"),
        ("[[channels]]\nmatch = \"a\"", "1: channels", "channel"),
    ] {
        let expect = format!("t.toml:{unknown}: there is no such key; the nearest is {nearest}");
        refuse(file, &[&expect]);
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    refuse(
        "workers = 1\nworkers = 2\nx =\n",
        &[
            "t.toml:2: is no TOML: duplicate key",
            "t.toml:3: is no TOML: string values must be quoted, expected literal string",
        ],
    );
    let table = Table::parse(Path::new("t.toml"), b"# ok\n# \xFF");
    let problems = Sources::default().resolve(table).unwrap_err();
    assert_eq!(problems.to_string(), "t.toml:2: is no UTF-8; allowed is TOML in UTF-8");
}

#[test]
fn keys_that_contradict_each_other_are_told() {
    refuse(
        "[http]\nmax_url = \"20KiB\"",
        &["t.toml:2: http.max_url: 20KiB is more than http.max_head; allowed is at most 16KiB"],
    );
    refuse(
        "listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
        &["t.toml:1: listen: 127.0.0.1:1 is there twice; allowed is each address once"],
    );
    refuse(
        "admin = \"127.0.0.1:8080\"",
        &[
            "t.toml:1: admin: 127.0.0.1:8080 is the address of listen and of admin; allowed is one for \
         each, or admin = \"off\"",
        ],
    );
    refuse(
        "listen = [\"127.0.0.1:9180\"]",
        &[
            "t.toml:1: listen: 127.0.0.1:9180 is the address of listen and of admin; allowed is one \
         for each, or admin = \"off\"",
        ],
    );
    check("listen = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"", |it| {
        it.listen = vec!["127.0.0.1:0".parse().unwrap()];
        it.admin = Admin::On("127.0.0.1:0".parse().unwrap());
    });
}

#[test]
fn without_keys_only_loopback_is_listened_on() {
    const WHY: &str = "can be reached from elsewhere, and without keys only loopback is served; \
                       allowed is a loopback address (127.0.0.1, [::1]), as keys are not yet in \
                       this version, or any with --dev --insecure";
    refuse(
        "listen = [\"0.0.0.0:80\", \"[::1]:80\", \"[::]:80\"]\nadmin = \"10.0.0.1:1\"",
        &[
            &format!("t.toml:1: listen: 0.0.0.0:80 {WHY}"),
            &format!("t.toml:1: listen: [::]:80 {WHY}"),
            &format!("t.toml:2: admin: 10.0.0.1:1 {WHY}"),
        ],
    );
    let flags = Flags { listen: vec!["0.0.0.0:80".parse().unwrap()], ..Flags::default() };
    refuse_all("", &[], &flags, &[&format!("--listen: 0.0.0.0:80 {WHY}")]);
    refuse_all(
        "",
        &[("TIDEGATE_ADMIN", "0.0.0.0:80")],
        &Flags::default(),
        &[&format!("TIDEGATE_ADMIN: 0.0.0.0:80 {WHY}")],
    );
    let mapped = "listen = [\"127.8.8.8:80\", \"[::ffff:127.0.0.1]:80\"]";
    assert_eq!(load(mapped, &[], &Flags::default()).unwrap().listen.len(), 2);
}

#[test]
fn dev_allows_everything_but_on_loopback_alone() {
    check_all("", &[], &dev(), |it| assert_eq!(it.channel("a").publish, Access::Anyone));
    check_all("[[channel]]\nmatch = \"a\"\npublish = \"nobody\"", &[], &dev(), |it| {
        it.channels = vec![ChannelRule::open("a".parse().unwrap())];
    });
    let flags = Flags { listen: vec!["0.0.0.0:80".parse().unwrap()], ..dev() };
    refuse_all(
        "",
        &[],
        &flags,
        &["--listen: 0.0.0.0:80 can be reached from elsewhere, and with \
         --dev everyone who reaches it may do everything; allowed is a loopback address \
         (127.0.0.1, [::1]), or any with --dev --insecure"],
    );
    let flags = Flags { insecure: true, ..flags };
    check_all("", &[], &flags, |it| {
        it.insecure = true;
        it.listen = vec!["0.0.0.0:80".parse().unwrap()];
    });
    let flags = Flags { insecure: true, ..Flags::default() };
    refuse_all("", &[], &flags, &["--insecure: needs --dev; allowed is --dev --insecure"]);
}

#[test]
fn dev_has_admin_on_the_main_listener_unless_it_is_said_where() {
    let on = |it: &mut Config| it.admin = Admin::On("127.0.0.1:9180".parse().unwrap());
    check_all("", &[], &dev(), |it| assert_eq!(it.admin, Admin::Main));
    check_all("admin = \"127.0.0.1:9180\"", &[], &dev(), on);
    check_all("", &[("TIDEGATE_ADMIN", "127.0.0.1:9180")], &dev(), on);
    let flags = Flags { admin: Some(Admin::Off), ..dev() };
    check_all("admin = \"127.0.0.1:9180\"", &[], &flags, |it| it.admin = Admin::Off);
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = "workers = 1\ndrain = 1\nadmin = \"off\"\nlisten = [\"127.0.0.1:1\"]";
    let variables = [
        ("TIDEGATE_WORKERS", "2"),
        ("TIDEGATE_LISTEN", "127.0.0.1:2, [::1]:2"),
        ("TIDEGATE_DRAIN", "2s"),
    ];
    let workers = NonZeroUsize::new(3);
    let flags = Flags { workers, listen: vec!["127.0.0.1:3".parse().unwrap()], ..Flags::default() };
    check_all(file, &variables, &flags, |it| {
        it.workers = workers.unwrap();
        it.listen = vec!["127.0.0.1:3".parse().unwrap()];
        it.drain = Duration::from_secs(2);
        it.admin = Admin::Off;
    });
    check_all(file, &variables, &Flags::default(), |it| {
        it.workers = NonZeroUsize::new(2).unwrap();
        it.listen = vec!["127.0.0.1:2".parse().unwrap(), "[::1]:2".parse().unwrap()];
        it.drain = Duration::from_secs(2);
        it.admin = Admin::Off;
    });
}

/// A legal value of each key that has a variable, as a variable and as TOML, none the default.
const SET: &[(&str, &str, &str)] = &[
    ("TIDEGATE_LISTEN", "127.0.0.1:1,127.0.0.1:2", "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"),
    ("TIDEGATE_ADMIN", "off", "admin = \"off\""),
    ("TIDEGATE_WORKERS", "777", "workers = 777"),
    ("TIDEGATE_DRAIN", "5", "drain = 5"),
    ("TIDEGATE_LOG__FORMAT", "json", "log.format = \"json\""),
    ("TIDEGATE_LOG__LEVEL", "warn", "log.level = \"warn\""),
    ("TIDEGATE_BROKER__URL", "memory:", "broker.url = \"memory:\""),
    ("TIDEGATE_BROKER__MAX_BYTES", "2GiB", "broker.max_bytes = \"2GiB\""),
    ("TIDEGATE_BROKER__KEY_WINDOW", "3m", "broker.key_window = \"3m\""),
    ("TIDEGATE_HTTP__PREFIX", "/a", "http.prefix = \"/a\""),
    ("TIDEGATE_HTTP__MAX_BODY", "2MiB", "http.max_body = \"2MiB\""),
    ("TIDEGATE_HTTP__MAX_URL", "1000", "http.max_url = 1000"),
    ("TIDEGATE_HTTP__MAX_HEAD", "32KiB", "http.max_head = \"32KiB\""),
    ("TIDEGATE_HTTP__BODY_TIMEOUT", "1.5s", "http.body_timeout = \"1.5s\""),
    ("TIDEGATE_HTTP__HEADER_TIMEOUT", "250ms", "http.header_timeout = \"250ms\""),
    ("TIDEGATE_HTTP__IDLE_TIMEOUT", "1h", "http.idle_timeout = \"1h\""),
    ("TIDEGATE_HTTP__MAX_CONNECTIONS", "1_000", "http.max_connections = 1_000"),
    ("TIDEGATE_HTTP__MAX_OUTBOX", "1MiB", "http.max_outbox = \"1MiB\""),
    ("TIDEGATE_HTTP__ORIGINS", "http://a,http://b", "http.origins = [\"http://a\", \"http://b\"]"),
    ("TIDEGATE_HTTP__TRUSTED_PROXIES", "", "http.trusted_proxies = []"),
    ("TIDEGATE_HTTP__PROXY_PROTOCOL", "off", "http.proxy_protocol = \"off\""),
    ("TIDEGATE_WEBSOCKET__MAX_MESSAGE", "2MiB", "websocket.max_message = \"2MiB\""),
    ("TIDEGATE_WEBSOCKET__MAX_FRAGMENTS", "9", "websocket.max_fragments = 9"),
    ("TIDEGATE_WEBSOCKET__PING_INTERVAL", "7", "websocket.ping_interval = 7"),
    ("TIDEGATE_WEBSOCKET__PING_TIMEOUT", "7", "websocket.ping_timeout = 7"),
    ("TIDEGATE_WEBSOCKET__DEFLATE", "false", "websocket.deflate = false"),
    ("TIDEGATE_GRPC__MAX_MESSAGE", "1MiB", "grpc.max_message = \"1MiB\""),
];

#[test]
fn every_key_has_a_variable_that_means_the_same() {
    for (name, text, file) in SET {
        let expect = load(file, &[], &Flags::default()).unwrap();
        assert_eq!(load("", &[(name, text)], &Flags::default()), Ok(expect), "{name}");
    }
    let (later, now): (Vec<_>, Vec<_>) = variables()
        .map(|(name, _)| name)
        .partition(|it| it.starts_with("TIDEGATE_TLS__") || it.starts_with("TIDEGATE_AUTH__"));
    assert_eq!(now, SET.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
    for name in &later {
        refuse_all(
            "",
            &[(name, "x")],
            &Flags::default(),
            &[&format!("{name}: is not yet in this version; leave it out")],
        );
    }
    assert!(!later.iter().any(|it| it.ends_with("KEYS")), "{later:?}");
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    refuse_all(
        "workers = 0",
        &[("TIDEGATE_DRAIN", "soon"), ("TIDEGATE_LISTEN", "")],
        &Flags::default(),
        &[
            "t.toml:1: workers: 0 is no such number; allowed is a whole number from 1 to 1024",
            "TIDEGATE_DRAIN: \"soon\" is no duration; allowed is a number of seconds, or one with ms, \
         s, m or h, to 8760h: 30, \"250ms\", \"10m\"",
            "TIDEGATE_LISTEN: is empty; allowed is one address or more",
        ],
    );
    for (name, nearest) in [
        ("TIDEGATE_HTTP__MAX_BODDY", "TIDEGATE_HTTP__MAX_BODY"),
        ("TIDEGATE_HTTP_MAX_BODY", "TIDEGATE_HTTP__MAX_BODY"),
        ("TIDEGATE_WORKER", "TIDEGATE_WORKERS"),
        ("TIDEGATE_admin", "TIDEGATE_ADMIN"),
        // By a person, not by Kubernetes.
        ("TIDEGATE_PORT", "TIDEGATE_WORKERS"),
    ] {
        let expect = format!("{name}: there is no such variable; the nearest is {nearest}");
        refuse_all("", &[(name, "9000")], &Flags::default(), &[&expect]);
    }
}

#[test]
fn a_mistake_is_one_line_whatever_is_in_a_name() {
    let told =
        load("\"a\\nb\\u001b\" = 1", &[("TIDEGATE_\nX", "1")], &Flags::default()).unwrap_err();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].contains("a\\nb\\u{1b}") && lines[1].starts_with("TIDEGATE_\\nX: "), "{told}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_utf_8_is_told() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = || OsString::from_vec(vec![0xFF]);
    let variables = vec![(bytes(), bytes()), ("TIDEGATE_ADMIN".into(), bytes())];
    let problems = Sources { variables, ..Sources::default() }.load().unwrap_err();
    assert_eq!(problems.to_string(), "TIDEGATE_ADMIN: is no UTF-8; allowed is UTF-8");
}

#[test]
fn variables_that_are_nobodys_are_left_alone() {
    let variables = [
        ("PATH", "/bin"),
        ("TIDEGATE", "x"),
        // What Kubernetes sets for services called `tidegate` and `tidegate-admin`.
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_SERVICE_PORT", "8080"),
        ("TIDEGATE_SERVICE_PORT_HTTP", "8080"),
        ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_PORT_8080_TCP_PROTO", "tcp"),
        ("TIDEGATE_PORT_8080_TCP_PORT", "8080"),
        ("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TIDEGATE_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ];
    check_all("", &variables, &Flags::default(), |_| {});
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let file = Some("no/such/file.toml".into());
    let problems = Sources { file, ..Sources::default() }.load().unwrap_err();
    let text = problems.to_string();
    assert!(text.starts_with("no/such/file.toml: can't be read: "), "{text}");
}

#[test]
fn what_is_dangerous_is_warned_of() {
    assert!(Config::default().warnings().is_empty() && Config::dev().warnings().is_empty());
    let mut config = Config { insecure: true, ..Config::dev() };
    assert!(config.warnings()[0].starts_with("--insecure: "));
    config.http.origins = Origins::Any;
    assert!(config.warnings()[1].starts_with("http.origins is \"*\": "));
}

#[test]
fn origins_allow_what_is_listed() {
    let origins = Origins::Listed(vec!["https://app.example".to_owned()]);
    assert!(origins.allow("https://app.example") && origins.allow("https://APP.example"));
    for other in
        ["http://app.example", "https://app.example:8443", "https://app.example.evil", "null", ""]
    {
        assert!(!origins.allow(other), "{other}");
        assert!(Origins::Any.allow(other));
    }
}

#[test]
fn a_configuration_can_be_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Config>();
}
