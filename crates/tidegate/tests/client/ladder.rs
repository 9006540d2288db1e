//! `auto` behind proxies that break a wire, and how often anything is tried.

use std::time::Duration;

use tidegate_client::{Event, Failure, Since, Wire};

use crate::proxy::{Fate, Proxy, Rule};
use crate::server::{Server, impatient};
use crate::wires::{next, next_told};

fn is_upgrade(head: &str) -> bool {
    head.contains("upgrade: websocket") || head.contains("Upgrade: websocket")
}

fn is_sse(head: &str) -> bool {
    head.contains("text/event-stream")
}

/// The wire that `auto` ends on behind a proxy, after how many losses, and what a second
/// subscription of the same client begins with.
async fn ends_on(rule: fn(&str) -> Fate) -> (Wire, u32, Wire) {
    let server = Server::start();
    server.client().publish("a", "x").send().await.unwrap();
    let proxy = Proxy::start(server.address, Rule::Head(rule)).await;
    let client = impatient(proxy.address).build();
    let mut it = client.subscribe(["a"]).since(Since::Start).open().unwrap();
    let (mut wire, mut losses) = (None, 0);
    loop {
        match next(&mut it).await {
            Event::Open(open) => wire = Some(open.wire),
            Event::Retry(_) => losses += 1,
            Event::Publication(_) => break,
            event => panic!("{event:?}"),
        }
    }
    let mut second = client.subscribe(["a"]).since(Since::Start).open().unwrap();
    let Event::Open(open) = next(&mut second).await else { panic!("it remembers what works") };
    (wire.unwrap(), losses, open.wire)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broken_wire_it_is_a_websocket() {
    assert_eq!(ends_on(|_| Fate::Pass).await, (Wire::Ws, 0, Wire::Ws));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_upgrades_are_refused_it_is_an_event_stream() {
    let rule = |head: &str| if is_upgrade(head) { Fate::Answer(404, None) } else { Fate::Pass };
    assert_eq!(ends_on(rule).await, (Wire::Sse, 1, Wire::Sse));
    // A 502 may pass: it takes two of them.
    let rule = |head: &str| if is_upgrade(head) { Fate::Answer(502, None) } else { Fate::Pass };
    assert_eq!(ends_on(rule).await, (Wire::Sse, 2, Wire::Sse));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_upgrade_is_swallowed_it_is_an_event_stream() {
    // It is answered, and nothing passes after that; or not even its answer does.
    for rule in [
        (|head: &str| if is_upgrade(head) { Fate::Silence(180) } else { Fate::Pass })
            as fn(&str) -> _,
        |head: &str| if is_upgrade(head) { Fate::Silence(1) } else { Fate::Pass },
    ] {
        let (wire, losses, second) = ends_on(rule).await;
        assert_eq!((wire, second), (Wire::Sse, Wire::Sse));
        assert!((1..=2).contains(&losses), "{losses}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_streams_are_swallowed_too_it_is_a_long_poll() {
    let rule = |head: &str| match () {
        () if is_upgrade(head) => Fate::Answer(501, None),
        () if is_sse(head) => Fate::Silence(1),
        () => Fate::Pass,
    };
    assert_eq!(ends_on(rule).await, (Wire::LongPoll, 3, Wire::LongPoll));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_is_no_broken_wire() {
    let mut server = Server::start();
    let client = server.client();
    let mut it = client.subscribe(["a"]).open().unwrap();
    let Event::Open(_) = next(&mut it).await else { panic!("it is there") };
    server.kill();
    for _ in 0..20 {
        let Event::Retry(retry) = next(&mut it).await else { panic!("it is away") };
        assert_eq!(retry.wire, Wire::Ws, "{retry:?}");
    }
    let _server = Server::start_at(&server.address.to_string());
    loop {
        if let Event::Open(open) = next(&mut it).await {
            assert_eq!(open.wire, Wire::Ws);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_told_and_not_followed() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, Rule::Head(|_| Fate::Answer(302, None))).await;
    let client = impatient(proxy.address).build();
    let mut it = client.subscribe(["a"]).open().unwrap();
    let error = it.next().await.unwrap().unwrap_err();
    assert!(matches!(error.failure(), Some(Failure::Redirect { status: 302, .. })), "{error}");
    assert!(error.to_string().contains("not followed"), "{error}");
    assert_eq!(proxy.heads().len(), 1);
}

/// What asks to wait is not asked before, and never more than one attempt is made per step.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_the_back_off_is_one_attempt_and_none_comes_early() {
    let server = Server::start();
    let rule = Rule::Head(|_| Fate::Answer(429, Some(1)));
    let proxy = Proxy::start(server.address, rule).await;
    let client = {
        let backoff = tidegate_client::BackoffConfig {
            base: Duration::from_millis(50),
            max: Duration::from_millis(100),
            retry_after_max: Duration::from_secs(10),
        };
        impatient(proxy.address).backoff(backoff).build()
    };
    for wire in [Wire::Ws, Wire::Sse, Wire::LongPoll] {
        let before = proxy.arrivals().len();
        let mut it = client.subscribe(["a"]).wire(wire).open().unwrap();
        let mut delays = Vec::new();
        while delays.len() < 3 {
            let Event::Retry(retry) = next(&mut it).await else { panic!("{wire}: it is refused") };
            assert!(retry.delay >= Duration::from_secs(1), "{wire}: {retry:?}");
            delays.push(retry.delay);
        }
        drop(it);
        let arrivals = proxy.arrivals().split_off(before);
        assert_eq!(arrivals.len(), 3, "{wire}: one attempt for each step");
        for (pair, delay) in arrivals.windows(2).zip(delays) {
            assert!(pair[1] - pair[0] >= delay, "{wire}");
        }
    }
    proxy.heal();
    server.client().publish("a", "x").send().await.unwrap();
    let mut it = client.subscribe(["a"]).since(Since::Start).open().unwrap();
    assert!(matches!(next_told(&mut it).await, Event::Publication(_)));
}
