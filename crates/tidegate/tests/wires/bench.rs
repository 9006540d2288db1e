//! `tidegate bench` against the real server: what it says, beside what the server has counted.

use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::command::tidegate;
use super::common::{SOON, Server};

/// Runs one for a short time: its JSON object, whose members are these.
#[track_caller]
fn bench(server: &Server, args: &[&str], members: &[&str]) -> Value {
    let url = format!("http://{}", server.address);
    let all = [&["bench"], args, &["--url", &url, "--json", "--duration", "300ms"]].concat();
    let (code, stdout, stderr) = tidegate(&all, "");
    assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}: {stdout}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let common = ["bench", "url", "ended", "took_seconds"];
    let cpu = if cfg!(unix) { &["generator_cpu_seconds"][..] } else { &[] };
    let mut expect = [&common, members, cpu].concat();
    let mut got: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    expect.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, expect);
    assert_eq!(report["ended"], "duration");
    assert_eq!(report["url"], url);
    let took = report["took_seconds"].as_f64().unwrap();
    assert!(took >= 0.3, "{took}");
    report
}

/// A counter or gauge of the server's.
#[track_caller]
fn metric(server: &Server, name: &str) -> u64 {
    let body = server.get("/metrics").body;
    let line = body.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {body}")).parse().unwrap()
}

#[track_caller]
fn number(report: &Value, member: &str) -> u64 {
    report[member].as_u64().unwrap_or_else(|| panic!("{member}: {report}"))
}

/// Checks percentiles.
#[track_caller]
fn check_times(report: &Value, name: &str) {
    let times = ["p50", "p90", "p99", "max"].map(|which| {
        let time = &report[format!("{name}_{which}_ms")];
        time.as_f64().unwrap_or_else(|| panic!("{name} {which}: {report}"))
    });
    assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");
}

const FANOUT: [&str; 17] = [
    "wire",
    "subscribers",
    "size_bytes",
    "publications",
    "publications_per_second",
    "deliveries",
    "deliveries_per_second",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "latency_max_ms",
    "lost",
    "duplicates",
    "gaps",
    "received_bytes",
    "received_bytes_per_delivery",
    "in_flight",
];

#[test]
fn a_fan_out_agrees_with_the_server_on_every_wire() {
    for wire in ["ws", "sse", "ndjson"] {
        let server = Server::dev();
        let args = ["fanout", "--subscribers", "20", "--in-flight", "4", "--wire", wire];
        let report = bench(&server, &args, &FANOUT);
        let publications = number(&report, "publications");
        assert!(publications >= 4, "{report}");
        assert_eq!(number(&report, "deliveries"), 20 * publications);
        assert_eq!(["lost", "duplicates", "gaps"].map(|it| number(&report, it)), [0, 0, 0]);
        assert!(report["received_bytes_per_delivery"].as_f64().unwrap() >= 100.0, "{report}");
        assert_eq!(report["wire"], wire);
        check_times(&report, "latency");
        // An end is published too, and nobody is left to get it.
        assert_eq!(metric(&server, "tidegate_publications_total"), publications + 1);
        assert_eq!(metric(&server, "tidegate_deliveries_total"), 20 * publications);
        let channels = server.get("/channels?prefix=bench.").json();
        let [channel] = channels["channels"].as_array().unwrap().as_slice() else {
            panic!("{channels}");
        };
        let name = channel["channel"].as_str().unwrap();
        let poll = server.get(&format!("/channels/{name}?since=now")).json();
        assert_eq!(poll["ended"][0], name, "it was ended");
    }
}

#[test]
fn a_rate_is_kept() {
    let server = Server::dev();
    let members: Vec<_> =
        FANOUT.iter().map(|it| if *it == "in_flight" { "rate_per_second" } else { it }).collect();
    let args = ["fanout", "--subscribers", "2", "--rate", "50/s", "--size", "1KiB"];
    let report = bench(&server, &args, &members);
    // The first is made at once, and then one every 20 ms.
    let publications = number(&report, "publications");
    let took = report["took_seconds"].as_f64().unwrap();
    assert!(publications >= 1 && publications as f64 <= took * 50.0 + 1.0, "{report}");
    assert_eq!(number(&report, "deliveries"), 2 * publications);
}

#[test]
fn an_echo_agrees_with_the_server() {
    let server = Server::dev();
    let members = [
        "connections",
        "in_flight",
        "size_bytes",
        "messages",
        "messages_per_second",
        "round_trip_p50_ms",
        "round_trip_p90_ms",
        "round_trip_p99_ms",
        "round_trip_max_ms",
        "lost",
        "duplicates",
        "gaps",
        "received_bytes",
    ];
    let args = ["echo", "--connections", "3", "--in-flight", "5", "--size", "200"];
    let report = bench(&server, &args, &members);
    let messages = number(&report, "messages");
    assert!(messages >= 15, "{report}");
    assert_eq!(["lost", "duplicates", "gaps"].map(|it| number(&report, it)), [0, 0, 0]);
    // A server's frame of 200 bytes has a header of 4.
    assert_eq!(number(&report, "received_bytes"), 204 * messages);
    check_times(&report, "round_trip");
    // Each connection's channel is ended by an entry of its own.
    assert_eq!(metric(&server, "tidegate_publications_total"), messages + 3);
    assert_eq!(metric(&server, "tidegate_deliveries_total"), messages);
}

#[test]
fn idle_connections_are_opened_and_held() {
    let server = Server::dev();
    let members = [
        "wire",
        "connections",
        "rate_per_second",
        "opened",
        "refused",
        "closed",
        "stayed",
        "connect_p50_ms",
        "connect_p90_ms",
        "connect_p99_ms",
        "connect_max_ms",
        "pings_answered",
    ];
    for wire in ["ws", "sse", "ndjson"] {
        let args = ["idle", "--connections", "30", "--rate", "1000", "--wire", wire];
        let report = bench(&server, &args, &members);
        let counts = ["opened", "refused", "closed", "stayed"].map(|it| number(&report, it));
        assert_eq!(counts, [30, 0, 0, 30], "{wire}");
        check_times(&report, "connect");
    }
    for wire in ["ws", "sse", "ndjson"] {
        // The server hears of it later that they have gone.
        let until = Instant::now() + SOON;
        loop {
            let gone = disconnects(&server, wire);
            assert!(gone <= 30 && Instant::now() < until, "{wire}: {gone} of 30 have gone");
            if gone == 30 {
                break;
            }
        }
    }
}

/// How many subscribers of a wire have gone, for any reason.
fn disconnects(server: &Server, wire: &str) -> u64 {
    let metrics = server.get("/metrics").body;
    let label = format!("wire=\"{wire}\"");
    let lines = metrics.lines().filter(|it| it.starts_with("tidegate_disconnects_total{"));
    let values = lines.filter(|it| it.contains(&label)).map(|it| it.rsplit_once(' ').unwrap().1);
    values.map(|it| it.parse::<u64>().unwrap()).sum()
}

#[test]
fn memory_is_told_where_the_metrics_have_it() {
    let server = Server::dev();
    let url = format!("http://{}", server.address);
    let metrics = format!("{url}/metrics");
    let has_it = server.get("/metrics").body.contains("\nprocess_resident_memory_bytes ");
    let args = ["bench", "idle", "--connections", "2", "--duration", "1ms", "--json"];
    let (code, stdout, stderr) =
        tidegate(&[&args[..], &["--url", &url, "--metrics", &metrics]].concat(), "");
    assert_eq!((code, stderr.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report.get("server_memory_bytes").is_some(), has_it, "{report}");
    let wrong = format!("{url}/nothing");
    let (code, stdout, stderr) =
        tidegate(&[&args[..], &["--url", &url, "--metrics", &wrong]].concat(), "");
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: can't read the metrics: not_found (404)"), "{stderr}");
}

#[test]
fn publishing_agrees_with_the_server() {
    let members = [
        "publishers",
        "stream",
        "size_bytes",
        "publications",
        "publications_per_second",
        "accepted_p50_ms",
        "accepted_p90_ms",
        "accepted_p99_ms",
        "accepted_max_ms",
        "lost",
    ];
    let server = Server::dev();
    let report = bench(&server, &["publish", "--publishers", "3"], &members);
    let posted = number(&report, "publications");
    assert!(posted >= 3 && report["stream"] == false, "{report}");
    check_times(&report, "accepted");
    assert_eq!(number(&report, "lost"), 0);
    assert_eq!(metric(&server, "tidegate_publications_total"), posted + 1);

    let server = Server::dev();
    let args = ["publish", "--publishers", "2", "--stream", "--in-flight", "10"];
    let report = bench(&server, &args, &[&members[..], &["in_flight"]].concat());
    let streamed = number(&report, "publications");
    assert!(streamed >= 20 && report["stream"] == true, "{report}");
    check_times(&report, "accepted");
    assert_eq!(number(&report, "lost"), 0);
    assert_eq!(metric(&server, "tidegate_publications_total"), streamed + 1);
}

#[test]
fn a_summary_is_all_that_is_printed_without_a_terminal() {
    let server = Server::dev();
    let url = format!("http://{}", server.address);
    let args = ["bench", "fanout", "--subscribers", "2", "--duration", "50ms", "--url", &url];
    let (code, stdout, stderr) = tidegate(&args, "");
    assert_eq!((code, stderr.as_str()), (0, ""));
    let names: Vec<_> =
        stdout.lines().filter_map(|it| it.split_once("  ")).map(|it| it.0).collect();
    let expect = ["gateway", "load", "took", "publications", "deliveries", "latency", "checked"];
    assert_eq!(names[..7], expect, "{stdout}");
    assert!(stdout.contains(" 0 lost, 0 came twice\n"), "{stdout}");
}

#[test]
fn a_refusal_is_told() {
    let server = Server::start("bench-closed", "", &[]);
    let url = format!("http://{}", server.address);
    for (kind, says) in [
        ("fanout", "error: subscriber 1 of 1000 did not get through: unauthenticated (401): "),
        ("echo", "error: connection 1 of 50 did not get through: unauthenticated (401): "),
        ("idle", "error: unauthenticated (401): "),
    ] {
        let (code, stdout, stderr) = tidegate(&["bench", kind, "--url", &url], "");
        assert_eq!((code, stdout.as_str()), (1, ""), "{kind}");
        assert!(stderr.starts_with(says), "{kind}: {stderr}");
    }
    // Whoever publishes has begun: there is a summary.
    for args in [&["publish"][..], &["publish", "--stream"]] {
        let (code, stdout, stderr) =
            tidegate(&[&["bench"], args, &["--url", &url, "--json"]].concat(), "");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, report["ended"].as_str()), (1, Some("failed")));
        assert_eq!(report["accepted_p50_ms"], Value::Null);
        let says = "error: it ended early: unauthenticated (401): ";
        assert!(stderr.starts_with(says), "{args:?}: {stderr}");
    }
}

#[cfg(unix)]
#[test]
fn a_run_ends_when_it_is_interrupted_and_when_the_gateway_goes() {
    use std::io::{BufRead as _, BufReader};

    for is_interrupted in [true, false] {
        let server = Server::dev();
        let url = format!("http://{}", server.address);
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["bench", "echo", "--duration", "1h", "--json", "--url", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It has begun once the server has delivered something.
        while metric(&server, "tidegate_deliveries_total") == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
        }
        if is_interrupted {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        } else {
            drop(server);
        }
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let report: Value = serde_json::from_str(&line).unwrap();
        let expect = if is_interrupted { ("interrupted", Some(0)) } else { ("failed", Some(1)) };
        assert_eq!((report["ended"].as_str().unwrap(), output.status.code()), expect, "{stderr}");
        assert_eq!(stderr.starts_with("error: it ended early: "), !is_interrupted, "{stderr}");
        assert!(number(&report, "messages") > 0, "{report}");
    }
}

#[test]
fn nothing_there_says_how_to_start_one() {
    // Nobody listens where somebody did.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    let (code, stdout, stderr) = tidegate(&["bench", "fanout", "--url", &url], "");
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with(&format!("error: can't connect to {address}: ")), "{stderr}");
    assert!(stderr.contains("'tidegate serve --dev' starts one"), "{stderr}");
}

#[test]
fn bounds_are_named() {
    let numbers = "allowed is a whole number from 1 to ";
    for (args, says) in [
        (&["fanout", "--subscribers", "0"][..], format!("{numbers}100000")),
        (&["fanout", "--subscribers", "many"], format!("{numbers}100000")),
        (&["fanout", "--in-flight", "1001"], format!("{numbers}1000")),
        (&["fanout", "--rate", "1000001/s"], format!("{numbers}1000000")),
        (&["fanout", "--rate", "10", "--in-flight", "2"], "cannot be used with".into()),
        (&["fanout", "--size", "15"], "allowed is 16 to 1MiB".into()),
        (&["fanout", "--size", "2MiB"], "allowed is 16 to 1MiB".into()),
        (&["fanout", "--in-flight", "1000", "--size", "1MiB"], "more than 256 MiB".into()),
        (&["fanout", "--wire", "poll"], "[possible values: ws, sse, ndjson]".into()),
        (&["fanout", "--duration", "0"], "to 24h".into()),
        (&["fanout", "--duration", "25h"], "to 24h".into()),
        (&["fanout", "--duration", "soon"], "to 24h".into()),
        (&["fanout", "--url", "127.0.0.1:8080"], "write http:// in front of it".into()),
        (&["fanout", "--url", "https://a.example"], "TLS (https, wss) is not".into()),
        (&["fanout", "--token", "t"], "--token is not yet in this version".into()),
        (&["echo", "--connections", "10001"], format!("{numbers}10000")),
        (&["echo", "--in-flight", "0"], format!("{numbers}1000")),
        (&["idle", "--connections", "1000001"], format!("{numbers}1000000")),
        (&["idle", "--rate", "0"], format!("{numbers}1000000")),
        (&["publish", "--publishers", "10001"], format!("{numbers}10000")),
        (&["publish", "--in-flight", "5"], "--stream".into()),
        (&["publish", "--stream", "--in-flight", "1001"], format!("{numbers}1000")),
        (&["wires"], "unrecognized subcommand 'wires'".into()),
        (&[], "Usage: tidegate bench <COMMAND>".into()),
    ] {
        let (code, stdout, stderr) = tidegate(&[&["bench"], args].concat(), "");
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(&says), "{args:?}: {stderr}");
    }
}

/// A process of this test has fewer files than a million, or no limit.
#[cfg(unix)]
#[test]
fn more_connections_than_files_are_refused_before_the_first() {
    use rustix::process::{Resource, getrlimit};

    let Some(limit) = getrlimit(Resource::Nofile).maximum.filter(|it| *it < 1_000_000) else {
        return;
    };
    let server = Server::dev();
    let url = format!("http://{}", server.address);
    let args = ["bench", "idle", "--connections", "1000000", "--url", &url];
    let (code, stdout, stderr) = tidegate(&args, "");
    assert_eq!((code, stdout.as_str()), (1, ""));
    let says = format!("this process may have {limit}; ask for at most {}", limit - 64);
    assert!(stderr.contains(&says), "{stderr}");
}
