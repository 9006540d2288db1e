//! Through a proxy that cuts, delays, truncates, silences and answers 429, 502 and 503: nothing is
//! lost, nothing comes twice, nothing out of order, on each wire and on `auto`.

use std::time::Duration;

use tidegate_client::{Choice, Event, Message, Since, Wire};
use tokio::time::timeout;

use crate::proxy::{Proxy, Rule};
use crate::server::{SOON, Server, impatient};
use crate::wires::next;

/// Publications of a run, over all channels.
const PUBLICATIONS: u32 = 800;

/// Reads `channels` by `choice` through a bad proxy while they are published to; what has come must
/// be what was published.
async fn run(choice: Choice, channels: &[&str], seed: u64) -> u32 {
    let server = Server::start();
    let proxy = Proxy::start(server.address, Rule::Seed(seed)).await;
    let client = impatient(proxy.address).build();
    let subscribe = client.subscribe(channels).wire(choice).since(Since::Start);
    let mut subscription = subscribe.open().unwrap();

    let publish = async {
        let (mut publisher, outcomes) = server.client().publisher();
        drop(outcomes);
        for n in 0..PUBLICATIONS {
            let channel = channels[n as usize % channels.len()];
            // Long enough that a run is many connections.
            let text = format!("{n} {}", "x".repeat(n as usize % 100));
            publisher.send(Message::new(channel, text)).await.unwrap();
            if n % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        for channel in channels {
            publisher.send(Message::lone_end(*channel)).await.unwrap();
        }
        publisher.finish().await.unwrap();
    };
    let read = async {
        let count = u32::try_from(channels.len()).unwrap();
        let mut expect: Vec<u32> = (0..count).collect();
        let (mut ends, mut losses) = (0, 0);
        while ends < channels.len() {
            match next(&mut subscription).await {
                Event::Open(_) => {}
                Event::Retry(_) => losses += 1,
                Event::Gap(gap) => panic!("{choice:?} {seed}: {gap:?}"),
                Event::End(_) => ends += 1,
                Event::Publication(it) => {
                    let at = channels.iter().position(|name| *name == it.channel.as_str()).unwrap();
                    let text = it.payload.text().unwrap().into_owned();
                    let n: u32 = text.split(' ').next().unwrap().parse().unwrap();
                    assert_eq!(n, expect[at], "{choice:?}, seed {seed}, after {losses} losses");
                    expect[at] += count;
                }
            }
        }
        assert!(expect.iter().all(|next| *next >= PUBLICATIONS), "{choice:?} {seed}: {expect:?}");
        assert!(timeout(SOON, subscription.next()).await.unwrap().is_none());
        losses
    };
    let ((), losses) = timeout(2 * SOON, async { tokio::join!(publish, read) }).await.unwrap();
    println!("{choice:?} {seed}: {losses} losses, {:?}", proxy.counts());
    losses
}

/// Some seeds beside each other, for most of their time is waiting.
async fn runs(choice: impl Into<Choice>, channels: &[&str]) {
    let choice = choice.into();
    let (first, second, third) =
        tokio::join!(run(choice, channels, 0), run(choice, channels, 1), run(choice, channels, 2));
    let losses = first + second + third;
    assert!(losses >= 15, "{choice:?}: runs without faults prove nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_loses_nothing() {
    runs(Wire::Ws, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_websocket_loses_nothing() {
    runs(Wire::WsBare, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_lose_nothing() {
    runs(Wire::Sse, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_loses_nothing() {
    runs(Wire::Ndjson, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polls_lose_nothing() {
    runs(Wire::LongPoll, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_lose_nothing() {
    runs(Wire::Poll, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_loses_nothing() {
    runs(Choice::Auto, &["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_through_it_is_published_once() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, Rule::Seed(11)).await;
    let client = impatient(proxy.address).build();
    let publish = async {
        for n in 0..150 {
            let published = client.publish("once", n.to_string()).send().await.unwrap();
            assert!(!published.is_duplicate, "the key was its own");
        }
    };
    timeout(2 * SOON, publish).await.unwrap();
    check(&server, "once", 150).await;
    let [refused, answered, cut, cut_request, ..] = proxy.counts();
    println!("{:?}", proxy.counts());
    assert!(refused > 0 && answered > 0 && cut > 0 && cut_request > 0, "{:?}", proxy.counts());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_are_published_through_it_are_published_once_and_in_order() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, Rule::Seed(12)).await;
    let client = impatient(proxy.address).build();
    let (mut publisher, mut outcomes) = client.publisher();
    let send = async {
        for n in 0..3000 {
            publisher.send(Message::new("many", n.to_string())).await.unwrap();
        }
        publisher.finish().await.unwrap()
    };
    let read = async {
        let mut next = 0;
        while let Some(outcome) = outcomes.next().await {
            assert_eq!(outcome.index, next);
            assert!(outcome.result.is_ok(), "{outcome:?}");
            next += 1;
        }
        next
    };
    let (tally, told) = timeout(2 * SOON, async { tokio::join!(send, read) }).await.unwrap();
    assert_eq!((tally.published, tally.duplicates, tally.failed, told), (3000, 0, 0, 3000));
    check(&server, "many", 3000).await;
    println!("{:?}", proxy.counts());
    assert!(proxy.counts()[2] > 3, "{:?}", proxy.counts());
}

/// Checks that a channel has exactly the numbers below `count`, in order.
async fn check(server: &Server, channel: &str, count: u32) {
    let client = server.client();
    client.end(channel).send().await.unwrap();
    let mut it = client.subscribe([channel]).since(Since::Start).open().unwrap();
    let mut expect = 0;
    loop {
        match next(&mut it).await {
            Event::Publication(found) => {
                assert_eq!(found.payload.bytes(), expect.to_string().as_bytes());
                expect += 1;
            }
            Event::End(_) => break,
            Event::Open(_) => {}
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(expect, count);
}
