//! Enveloped connections to the gateway itself, with and without faults between.

use std::time::Duration;

use tidegate_client::{Code, Connection, Error, Event, Message, Push, Pushes, Since};
use tokio::time::timeout;

use crate::proxy::{Proxy, Rule};
use crate::server::{SOON, Server, impatient};

/// The next publication, gap or end of any channel, and nothing else.
async fn told(pushes: &mut Pushes) -> Event {
    loop {
        match timeout(SOON, pushes.next()).await.expect("it takes for ever").unwrap().unwrap() {
            Push::Event(Event::Open(_) | Event::Retry(_)) => {}
            Push::Event(event) => return event,
            Push::Open(_) => {}
            push => panic!("{push:?}"),
        }
    }
}

async fn check_text(pushes: &mut Pushes, expect: &str) {
    match told(pushes).await {
        Event::Publication(it) => assert_eq!(it.payload.bytes(), expect.as_bytes()),
        event => panic!("{event:?} where {expect} is due"),
    }
}

async fn join(client: &tidegate_client::Client) -> (Connection, Pushes) {
    let (connection, mut pushes) = client.connect();
    let push = timeout(SOON, pushes.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(push, Push::Open(_)), "{push:?}");
    (connection, pushes)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_is_understood_and_so_is_every_reply() {
    let server = Server::start();
    let (connection, mut pushes) = join(&server.client()).await;
    let now = connection.subscribe("a", Since::Now).await.unwrap();
    let first = connection.publish("a", "one").await.unwrap();
    assert!(!first.is_duplicate);
    check_text(&mut pushes, "one").await;
    let keyed = Message::new("a", serde_json::json!({"n": 2})).event("tick").key("k");
    let second = connection.send(keyed.clone()).await.unwrap();
    let again = connection.send(keyed).await.unwrap();
    assert_eq!((again.cursor, again.is_duplicate), (second.cursor.clone(), true));
    check_text(&mut pushes, "{\"n\":2}").await;
    connection.send(Message::new("a", vec![0_u8, 255])).await.unwrap();
    let Event::Publication(binary) = told(&mut pushes).await else { panic!("it is published") };
    assert_eq!(binary.payload, vec![0_u8, 255].into());

    let page = connection.history("a", Since::After(now), 2).await.unwrap();
    let cursors: Vec<_> = page.messages.iter().filter_map(|it| it.cursor.clone()).collect();
    assert_eq!(cursors, [first.cursor, second.cursor]);
    assert!(!page.is_ended && page.gap.is_none());
    connection.ping().await.unwrap();

    let twice = connection.subscribe("a", Since::Now).await.unwrap_err();
    assert_eq!(twice.problem().unwrap().code, Code::InvalidArgument);
    connection.publish("a", "still here").await.unwrap();
    check_text(&mut pushes, "still here").await;
    connection.unsubscribe("a").await.unwrap();
    connection.publish("a", "unheard").await.unwrap();
    connection.subscribe("b", Since::Start).await.unwrap();
    connection.send(Message::lone_end("b")).await.unwrap();
    assert!(matches!(told(&mut pushes).await, Event::End(end) if end.channel.as_str() == "b"));
    let ended = connection.publish("b", "late").await.unwrap_err();
    assert_eq!(ended.problem().unwrap().code, Code::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_present_is_told() {
    let server = Server::start_with("[[channel]]\nmatch = \"room\"\npresence = true\n");
    let (ann, mut pushes) = join(&server.client()).await;
    let next =
        async |pushes: &mut Pushes| timeout(SOON, pushes.next()).await.unwrap().unwrap().unwrap();
    ann.subscribe("room", Since::Now).await.unwrap();
    let Push::Presence(present) = next(&mut pushes).await else { panic!("the list is due") };
    assert_eq!(present.members.len(), 1);
    let (ben, _ben_hears) = join(&server.client()).await;
    ben.subscribe("room", Since::Now).await.unwrap();
    let Push::Join { member, .. } = next(&mut pushes).await else { panic!("Ben came") };
    let members = ann.presence("room").await.unwrap();
    assert!(members.len() == 2 && members.contains(&member), "{members:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_told_as_a_gap() {
    let mut server = Server::start();
    let (connection, mut pushes) = join(&server.client()).await;
    connection.subscribe("a", Since::Start).await.unwrap();
    connection.publish("a", "before").await.unwrap();
    check_text(&mut pushes, "before").await;
    server.kill();
    let _server = Server::start_at(&server.address.to_string());
    connection.publish("a", "after").await.unwrap();
    assert!(matches!(told(&mut pushes).await, Event::Gap(_)));
    check_text(&mut pushes, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_by_a_bad_connection() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, Rule::Seed(5)).await;
    let client = impatient(proxy.address).build();
    let (connection, mut pushes) = client.connect();
    let channels = ["a", "b"];
    const COUNT: u32 = 300;
    let publish = async {
        for name in channels {
            connection.subscribe(name, Since::Start).await.unwrap();
        }
        for n in 0..COUNT {
            let text = format!("{n} {}", "x".repeat(100));
            let published = connection.publish(channels[n as usize % 2], text).await.unwrap();
            assert!(!published.is_duplicate);
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    let read = async {
        let (mut expect, mut losses, mut found) = ([0, 1], 0, 0);
        while found < COUNT {
            match timeout(SOON, pushes.next()).await.unwrap().unwrap().unwrap() {
                Push::Event(Event::Publication(it)) => {
                    let at = channels.iter().position(|name| *name == it.channel.as_str()).unwrap();
                    let text = it.payload.text().unwrap().into_owned();
                    assert_eq!(text.split(' ').next().unwrap(), expect[at].to_string());
                    expect[at] += 2;
                    found += 1;
                }
                Push::Event(Event::Retry(_)) => losses += 1,
                Push::Open(_) => {}
                push => panic!("{push:?}"),
            }
        }
        losses
    };
    let ((), losses) = timeout(2 * SOON, async { tokio::join!(publish, read) }).await.unwrap();
    println!("{losses} losses, {:?}", proxy.counts());
    assert!(losses >= 10, "a run without faults proves nothing");
}

#[tokio::test]
async fn a_name_that_is_none_is_told_before_it_is_sent() {
    let server = Server::start();
    let (connection, _pushes) = server.client().connect();
    let usage = connection.subscribe("a b", Since::Now).await.unwrap_err();
    assert!(matches!(usage, Error::Usage(_)), "{usage}");
}
