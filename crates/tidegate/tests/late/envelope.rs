//! Enveloped connections: commands whose answers come later, or never.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::broker::Plan;
use super::peer::{Answer, publish, upgrade};
use super::{Gateway, sound};

/// An enveloped connection; its welcome was taken.
async fn connect(gateway: &Gateway) -> Answer {
    let offer = "Sec-WebSocket-Protocol: tidegate.v1.json\r\n";
    let mut it = upgrade(gateway.address(), "/connect", offer).await;
    assert_eq!(it.status, 101);
    assert!(it.message().await["welcome"].is_object());
    it
}

/// One command as it is sent.
fn command(id: usize, name: &str, members: &Value) -> String {
    json!({"id": id, name: members}).to_string()
}

#[test]
fn replies_keep_the_order_of_their_commands() {
    let gateway = Gateway::start(sound(21), 1, Duration::from_secs(10));
    gateway.runtime.block_on(async {
        let mut it = connect(&gateway).await;
        let mut commands = Vec::new();
        for round in 0..10 {
            let channel = ["a", "b"][round % 2];
            let mut add = |name: &str, members: Value| {
                commands.push(command(commands.len() + 1, name, &members));
            };
            add("subscribe", json!({"channel": channel, "since": "start"}));
            for n in 0..5 {
                add("publish", json!({"channel": channel, "text": format!("{round} {n}")}));
            }
            add("subscribe", json!({"channel": channel}));
            add("history", json!({"channel": "c"}));
            add("unsubscribe", json!({"channel": channel}));
        }
        it.send(&commands).await;
        // A publication may come before its publisher has the answer, so what comes is known before.
        let parse = |command: &String| serde_json::from_str::<Value>(command).unwrap();
        let texts = |channel: &Value| -> Vec<Value> {
            let of_channel = |it: &Value| it["publish"]["channel"] == *channel;
            let sent = commands.iter().map(parse).filter(of_channel);
            sent.map(|it| it["publish"]["text"].clone()).collect()
        };
        let (texts, mut published) = ([texts(&json!("a")), texts(&json!("b"))], 0);
        let mut due = None;
        for (index, command) in commands.iter().enumerate() {
            loop {
                let message = it.message().await;
                if let Some(push) = message.get("message") {
                    // All of the channel's log, from its start on.
                    let (texts, at): &mut (&Vec<Value>, usize) = due.as_mut().unwrap();
                    assert_eq!(push["text"], texts[*at]);
                    *at += 1;
                    continue;
                }
                assert_eq!(message["id"], index + 1, "{message}");
                if message.get("published").is_some() {
                    published += 1;
                } else if message.get("error").is_some() {
                    assert!(parse(command)["subscribe"].is_object() && due.is_some(), "{message}");
                } else if let Some(subscribed) = message.get("subscribed") {
                    due = Some((&texts[usize::from(subscribed["channel"] == "b")], 0));
                } else if message.get("unsubscribed").is_some() {
                    due = None;
                }
                break;
            }
        }
        assert_eq!(published, 50);
    });
    gateway.end();
}

#[test]
fn a_log_that_can_not_be_read_takes_off_its_channel_alone() {
    let plan = Plan { read_fails: 1, ..sound(22) };
    let gateway = Gateway::start(plan, 1, Duration::from_secs(10));
    let address = gateway.address();
    gateway.runtime.block_on(async {
        let mut it = connect(&gateway).await;
        publish(address, "a", "1").await;
        it.send(&[command(1, "subscribe", &json!({"channel": "b"}))]).await;
        assert_eq!(it.message().await["id"], 1);
        it.send(&[command(2, "subscribe", &json!({"channel": "a", "since": "start"}))]).await;
        assert_eq!(it.message().await["id"], 2);
        let push = json!({"unsubscribed": {"channel": "a", "reason": "unavailable"}});
        assert_eq!(it.message().await, push);
        it.send(&[command(3, "history", &json!({"channel": "a"}))]).await;
        let reply = it.message().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(3), &json!("unavailable")));
        publish(address, "b", "2").await;
        assert_eq!(it.message().await["message"]["text"], "2");
    });
    gateway.end();
}

#[test]
fn a_subscription_that_is_not_answered_is_refused_and_the_rest_goes_on() {
    let gateway = Gateway::start(sound(23), 1, Duration::from_secs(10));
    gateway.runtime.block_on(async {
        let mut it = connect(&gateway).await;
        gateway.broker.is_watch_silent.store(true, Ordering::Relaxed);
        let subscribe = command(1, "subscribe", &json!({"channel": "a"}));
        it.send(&[subscribe.clone(), command(2, "ping", &json!({}))]).await;
        let reply = it.message().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(1), &json!("unavailable")));
        assert_eq!(it.message().await, json!({"id": 2, "pong": {}}));
        gateway.broker.is_watch_silent.store(false, Ordering::Relaxed);
        it.send(&[subscribe]).await;
        assert!(it.message().await["subscribed"].is_object());
    });
    gateway.end();
}

#[test]
fn a_drain_answers_the_command_that_waits_and_closes() {
    let gateway = Gateway::start(sound(24), 1, Duration::from_secs(10));
    let mut it = gateway.runtime.block_on(async {
        let mut it = connect(&gateway).await;
        gateway.broker.is_watch_silent.store(true, Ordering::Relaxed);
        it.send(&[command(1, "subscribe", &json!({"channel": "a"}))]).await;
        while gateway.broker.silent_watches.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        it
    });
    let told = gateway.runtime.spawn(async move {
        let reply = it.message().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(1), &json!("unavailable")));
        assert_eq!(it.message().await["error"]["code"], "unavailable");
        let (first, payload) = it.frame().await.unwrap();
        assert_eq!((first, &payload[..2]), (0x88, &1012_u16.to_be_bytes()[..]));
    });
    let began = Instant::now();
    gateway.runtime.block_on(async {
        gateway.server.drain().await;
        told.await.unwrap();
    });
    gateway.server.join();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}
