//! What is counted, and the two ways in which it is told (CONTRACT 12).

use super::common::Server;

const LATENCY: &str = "tidegate_publish_to_write_seconds_count";

#[test]
fn the_format_is_the_one_that_is_accepted() {
    let server = Server::dev();
    let open = ("application/openmetrics-text; version=1.0.0; charset=utf-8", "# EOF\n");
    let plain = ("text/plain; version=0.0.4; charset=utf-8", "\n");
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, (content_type, end)) in [
        ("", plain),
        ("Accept: */*\r\n", plain),
        ("Accept: text/html\r\n", plain),
        ("Accept: application/openmetrics-text\r\n", open),
        (&format!("Accept: {prometheus}\r\n"), open),
    ] {
        let answer = server.request("GET", "/metrics", accept, "");
        assert_eq!(answer.field("content-type"), content_type, "{accept}");
        assert!(answer.body.ends_with(end) && answer.fields("vary").any(|it| it == "accept"));
        let counter =
            if end == "\n" { "# TYPE tidegate_gaps_total counter\n" } else { "gaps counter" };
        assert!(answer.body.contains(counter), "{}", answer.body);
    }
}

#[test]
fn what_was_written_is_timed_for_whoever_was_there() {
    let server = Server::dev();
    server.publish("a", "before");
    // One past its outbox, one of two channels through it, one that begins in the log.
    let mut at_once = server.ws("/channels/a");
    let mut queued = server.ndjson("/channels/a,b");
    let mut replayed = server.sse("/channels/a?since=start", "");
    assert_eq!(replayed.event().data, "before");
    assert_eq!(server.metric(LATENCY), 0, "that comes from before it was there");
    server.publish("a", "now");
    assert_eq!(at_once.text(), "now");
    assert_eq!(queued.next()["text"], "now");
    assert_eq!(replayed.event().data, "now");
    server.until(LATENCY, |it| it == 3);
    let mut waiting = server.connect();
    let now = server.now("b");
    waiting.send_request("GET", &format!("/channels/b?wait=60s&since={now}"), "", "");
    server.until("tidegate_connections{wire=\"long-poll\"}", |it| it == 1);
    server.publish("b", "awaited");
    assert_eq!(waiting.answer("GET").json()["messages"][0]["text"], "awaited");
    assert_eq!(queued.next()["text"], "awaited");
    server.until(LATENCY, |it| it == 5);
    server.get("/channels/a,b");
    assert_eq!(server.metric(LATENCY), 5, "a poll waits for nothing");
}

#[test]
fn a_task_is_counted_until_its_connection_has_gone() {
    let server = Server::dev();
    // The one that asks is there itself.
    server.until("tidegate_tasks", |it| it == 1);
    let streams = [server.ws("/channels/a"), server.ws("/channels/b")];
    let waiting = server.connect();
    server.until("tidegate_tasks", |it| it == 4);
    drop((streams, waiting));
    server.until("tidegate_tasks", |it| it == 1);
}
