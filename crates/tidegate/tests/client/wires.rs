//! Each wire as it is without faults, and what resumes where.

use tidegate_client::websocket::{Frame, WebSocket, WebSocketOptions};
use tidegate_client::{
    Choice, Client, Code, Error, Event, Failure, GapReason, Message, Payload, Publication, Since,
    Subscription, Wire,
};
use tokio::time::timeout;

use crate::server::{SOON, Server};

/// The next event; that it takes for ever is a failure.
#[track_caller]
fn expect_event(event: Option<Option<Result<Event, Error>>>) -> Event {
    event.expect("it takes for ever").expect("there is nothing more").unwrap()
}

pub(crate) async fn next(subscription: &mut Subscription) -> Event {
    expect_event(timeout(SOON, subscription.next()).await.ok())
}

/// The next event that is neither a connection nor the loss of one.
pub(crate) async fn next_told(subscription: &mut Subscription) -> Event {
    loop {
        match next(subscription).await {
            Event::Open(_) | Event::Retry(_) => {}
            event => return event,
        }
    }
}

async fn publication(subscription: &mut Subscription) -> Publication {
    match next_told(subscription).await {
        Event::Publication(it) => it,
        event => panic!("{event:?}"),
    }
}

async fn open(client: &Client, channel: &str, wire: Wire, since: Since) -> Subscription {
    let mut it = client.subscribe([channel]).wire(wire).since(since).open().unwrap();
    let Event::Open(open) = next(&mut it).await else { panic!("it begins with its connection") };
    assert_eq!(open.wire, wire);
    it
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wire_brings_the_same() {
    let server = Server::start();
    let client = server.client();
    let payloads: [Payload; 4] = [
        Payload::json("{\"n\": [1, null]}"),
        "gr\u{fc}n\nzwei\r\ndrei".into(),
        vec![0_u8, 255, 1].into(),
        Payload::typed(vec![1_u8], "image/png"),
    ];
    for payload in &payloads {
        let publish = client.publish("all", payload.clone()).event("tick");
        publish.send().await.unwrap();
    }
    let last = client.end("all").send().await.unwrap();
    for wire in Wire::ALL {
        let mut it = client.subscribe(["all"]).wire(wire).since(Since::Start).open().unwrap();
        for payload in &payloads {
            let found = publication(&mut it).await;
            if wire == Wire::WsBare {
                assert_eq!(found.payload.bytes(), payload.bytes());
                continue;
            }
            assert_eq!((&found.payload, found.event.as_deref()), (payload, Some("tick")), "{wire}");
            assert!(found.cursor.is_some() && found.time.is_some());
        }
        let Event::End(_) = next_told(&mut it).await else { panic!("{wire}") };
        assert!(timeout(SOON, it.next()).await.unwrap().is_none(), "{wire}: all has ended");
        assert_eq!(it.cursor().unwrap().as_str(), last.cursor.as_str(), "{wire}");
        // Past the end there is nothing but that.
        let cursor = it.cursor().unwrap().clone();
        let mut again = client.subscribe(["all"]).wire(wire).since(cursor).open().unwrap();
        assert!(matches!(next_told(&mut again).await, Event::End(_)), "{wire}");
        assert!(timeout(SOON, again.next()).await.unwrap().is_none(), "{wire}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_later_arrives_live() {
    let server = Server::start();
    let client = server.client();
    for wire in Wire::ALL {
        let channel = format!("live.{wire}");
        let mut it = open(&client, &channel, wire, Since::Now).await;
        for n in 0..20 {
            client.publish(&channel, n.to_string()).send().await.unwrap();
            let found = publication(&mut it).await;
            assert_eq!(found.payload.bytes(), n.to_string().as_bytes(), "{wire}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_one_wire_resumes_on_every_other() {
    let server = Server::start();
    let client = server.client();
    let names = ["x", "y", "z"];
    let wires = [Wire::Ws, Wire::Sse, Wire::Ndjson, Wire::LongPoll, Wire::Poll];
    let mut cursor = None;
    for round in 0..25 {
        for name in names {
            client.publish(name, round.to_string()).send().await.unwrap();
        }
        let since = cursor.take().map_or(Since::Start, Since::After);
        let mut it = client.subscribe(names).wire(wires[round % 5]).since(since).open().unwrap();
        let mut found = Vec::new();
        for _ in names {
            let publication = publication(&mut it).await;
            assert_eq!(publication.payload.bytes(), round.to_string().as_bytes());
            found.push(publication.channel.as_str().to_owned());
        }
        found.sort();
        assert_eq!(found, names, "each once");
        // A page's cursor comes with its last event.
        cursor = it.cursor().cloned();
        assert!(cursor.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_come_first_where_they_are_asked_for() {
    let server = Server::start();
    let client = server.client();
    for n in 0..10 {
        client.publish("newest", n.to_string()).send().await.unwrap();
    }
    for wire in Wire::ALL {
        let mut it = client.subscribe(["newest"]).wire(wire).last(3).open().unwrap();
        for n in 7..10 {
            let found = publication(&mut it).await;
            assert_eq!(found.payload.bytes(), n.to_string().as_bytes(), "{wire}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_told_as_a_gap_on_every_wire() {
    let mut server = Server::start();
    let client = server.client();
    let mut open_all = Vec::new();
    for wire in Wire::ALL {
        let it = open(&client, "kept", wire, Since::Start).await;
        open_all.push((wire, it));
    }
    client.publish("kept", "before").send().await.unwrap();
    for (_, it) in &mut open_all {
        publication(it).await;
    }
    server.kill();
    let server = Server::start_at(&server.address.to_string());
    server.client().publish("kept", "after").send().await.unwrap();
    for (wire, it) in &mut open_all {
        let Event::Gap(gap) = next_told(it).await else { panic!("{wire}: a gap is due") };
        let reason = (*wire != Wire::WsBare).then_some(GapReason::Epoch);
        assert_eq!(gap.reason, reason, "{wire}");
        assert_eq!(publication(it).await.payload.bytes(), "after".as_bytes(), "{wire}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_refuses_is_told_in_its_words() {
    let server = Server::start();
    let client = server.client();
    let ended = client.publish("over", "x").end().send().await.unwrap();
    let error = client.publish("over", "y").send().await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, Code::Ended);
    assert!(!ended.is_duplicate);
    let error = client.publish("bad", Payload::json("{")).send().await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!(problem.code, Code::InvalidArgument);
    assert_eq!(problem.status, Some(400));
    assert!(problem.detail.contains("not JSON"), "{problem}");
    // A cursor of another channel: on every wire the same, and at once.
    for choice in Wire::ALL.map(Choice::from).into_iter().chain([Choice::Auto]) {
        let it = client.subscribe(["other"]).since(ended.cursor.clone()).wire(choice);
        let mut it = it.open().unwrap();
        let error = loop {
            match timeout(SOON, it.next()).await.unwrap().unwrap() {
                Ok(Event::Retry(_)) if choice == Choice::Auto => {}
                Ok(event) => panic!("{choice:?}: {event:?}"),
                Err(error) => break error,
            }
        };
        let problem = error.problem().unwrap_or_else(|| panic!("{choice:?}: {error}"));
        assert_eq!(problem.code, Code::InvalidArgument, "{choice:?}");
        assert!(timeout(SOON, it.next()).await.unwrap().is_none(), "once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_asked_for_is_told_before_it_is() {
    let server = Server::start();
    let client = server.client();
    let usage = |error: Error| assert!(matches!(error, Error::Usage(_)), "{error}");
    usage(client.subscribe(["a b"]).open().unwrap_err());
    usage(client.subscribe(["a", "a"]).open().unwrap_err());
    usage(client.subscribe::<&str>([]).open().unwrap_err());
    usage(client.subscribe(["a", "b"]).wire(Wire::WsBare).open().unwrap_err());
    usage(client.publish("a", "x").key("gr\u{fc}n").send().await.unwrap_err());
    usage(client.publish("a", "x").event("").send().await.unwrap_err());
    usage(client.publish("", "x").send().await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_publishes_once() {
    let server = Server::start();
    let client = server.client();
    let first = client.publish("once", "x").key("k1").send().await.unwrap();
    let again = client.publish("once", "x").key("k1").send().await.unwrap();
    assert_eq!((again.cursor, again.is_duplicate), (first.cursor.clone(), true));
    let own = client.publish("once", "x").send().await.unwrap();
    assert!(own.cursor != first.cursor && !own.is_duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_published_in_order_with_an_outcome_each() {
    let server = Server::start();
    let client = server.client();
    let (mut publisher, mut outcomes) = client.publisher();
    let channels = ["many.a", "many.b"];
    let send = async {
        for n in 0..2000_usize {
            let message = match n {
                700 => Message::new("over", "x").end(),
                701 => Message::new("over", "too late"),
                1999 => Message::new(channels[1], n.to_string()).end(),
                _ => Message::new(channels[n % 2], n.to_string()),
            };
            assert_eq!(publisher.send(message).await.unwrap(), n as u64);
        }
        publisher.finish().await.unwrap()
    };
    let read = async {
        let mut all = Vec::new();
        while let Some(outcome) = outcomes.next().await {
            all.push(outcome);
        }
        all
    };
    let (tally, outcomes) = timeout(SOON, async { tokio::join!(send, read) }).await.unwrap();
    assert_eq!((tally.published, tally.duplicates, tally.failed), (1999, 0, 1));
    assert!(outcomes.iter().enumerate().all(|(at, it)| it.index == at as u64));
    let failed: Vec<_> = outcomes.iter().filter(|it| it.result.is_err()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].result.as_ref().unwrap_err().code, Code::Ended);
    let mut it = client.subscribe([channels[1]]).since(Since::Start).open().unwrap();
    let mut expect = (0..2000).filter(|n| n % 2 == 1 && *n != 701);
    loop {
        match next_told(&mut it).await {
            Event::Publication(found) => {
                let n = expect.next().unwrap().to_string();
                assert_eq!(found.payload.bytes(), n.as_bytes());
            }
            Event::End(_) => break,
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(expect.next(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_finish_for_is_no_fault_of_the_publisher() {
    let server = Server::start();
    let client = server.client();
    let (publisher, outcomes) = client.publisher();
    drop(outcomes);
    assert_eq!(timeout(SOON, publisher.finish()).await.unwrap(), Ok(Default::default()));
    let (mut publisher, outcomes) = client.publisher();
    drop(outcomes);
    publisher.send(Message::new("lonely", "x")).await.unwrap();
    assert_eq!(timeout(SOON, publisher.finish()).await.unwrap().unwrap().published, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_what_it_is() {
    let server = Server::start();
    let url = format!("ws://{}/channels/raw", server.address);
    for deflate in [false, true] {
        let options = WebSocketOptions { deflate, ..WebSocketOptions::default() };
        let mut it = WebSocket::open(&url, &options).await.unwrap();
        assert!(it.cursor().is_some());
        let long = Frame::Text("tick ".repeat(5000));
        let sent = [
            Frame::Text("hi".into()),
            long,
            Frame::Binary(vec![7; 70_000].into()),
            Frame::Text(String::new()),
        ];
        for frame in &sent {
            it.push(frame);
        }
        it.push(&Frame::Ping("are you there".into()));
        it.flush().await.unwrap();
        let mut found = Vec::new();
        let mut is_ponged = false;
        while found.len() < sent.len() || !is_ponged {
            match timeout(SOON, it.next()).await.unwrap().unwrap().unwrap() {
                Frame::Pong(payload) => {
                    assert_eq!(payload, "are you there");
                    is_ponged = true;
                }
                frame => found.push(frame),
            }
        }
        assert!(found.iter().eq(&sent), "its own echo, byte for byte");
        it.send(&Frame::Close { code: Some(1000), reason: "bye".into() }).await.unwrap();
        let close = timeout(SOON, it.next()).await.unwrap().unwrap();
        assert!(matches!(close, Some(Frame::Close { code: Some(1000), .. })), "{close:?}");
        assert_eq!(it.next().await.unwrap(), None);
    }
    let (nowhere, options) =
        (format!("ws://{}/nowhere", server.address), WebSocketOptions::default());
    let error = WebSocket::open(&nowhere, &options).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_holds_back_the_gateway_and_loses_nothing() {
    let server = Server::start();
    let client = server.client();
    let channel = "slow";
    for wire in [Wire::Ws, Wire::Sse, Wire::Ndjson] {
        let channel = format!("{channel}.{wire}");
        let mut it = open(&client, &channel, wire, Since::Now).await;
        let (mut publisher, outcomes) = client.publisher();
        drop(outcomes);
        // More than all queues, buffers and outboxes together have, less than the log.
        for n in 0..900_u32 {
            let text = format!("{n} {}", "x".repeat(4000));
            publisher.send(Message::new(&channel, text)).await.unwrap();
        }
        publisher.finish().await.unwrap();
        for n in 0..900_u32 {
            let found = publication(&mut it).await;
            let text = found.payload.text().unwrap().into_owned();
            assert!(text.starts_with(&format!("{n} ")), "{wire}: {n}");
        }
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_told_and_given_up_where_that_was_asked_for() {
    // Bound and closed: nobody listens there now.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = crate::server::impatient(address).attempts_max(3).build();
    let mut it = client.subscribe(["a"]).open().unwrap();
    for attempts in 1..3 {
        let Event::Retry(retry) = next(&mut it).await else { panic!("it can't be there") };
        assert_eq!((retry.attempts, retry.wire), (attempts, Wire::Ws));
        assert!(matches!(retry.failure, Failure::Unreachable { .. }));
    }
    let error = it.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Exhausted { attempts: 3, .. }), "{error}");
    let error = client.publish("a", "x").send().await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { is_outcome_unknown: false, .. }), "{error}");
}
