//! Enveloped connections over real sockets, against a server of our own codec that does what it is
//! told: a small gateway with one log, which drops the connection whenever the test says so.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what goes wrong in a test fails the test"
)]

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_client::{
    BackoffConfig, Client, Code, Error, Event, Message, Push, Pushes, Since, Timing, Url,
};
use tidegate_wire::websocket::handshake::{Headers, Request, check};
use tidegate_wire::websocket::{
    Decoder, DeflatePolicy, Event as Frame, InflaterPool, Kind, Limits, Role, encode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// A gateway's one channel, and what it is to do wrong.
#[derive(Default)]
struct World {
    log: Mutex<Vec<Value>>,
    /// By key, the cursor that it got.
    keys: Mutex<HashMap<String, String>>,
    /// What happens to the next replies, first to last: `Some` is sent, `None` cuts instead.
    script: Mutex<VecDeque<Option<Value>>>,
    published: Notify,
    connections: Mutex<u32>,
}

/// A cursor after so many publications.
fn cursor(count: usize) -> String {
    format!("C{count:06}")
}

async fn start() -> (SocketAddr, Arc<World>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = Arc::new(World::default());
    let mut tasks = JoinSet::new();
    let accepting = Arc::clone(&world);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            *accepting.connections.lock().unwrap() += 1;
            let world = Arc::clone(&accepting);
            connections.spawn(async move {
                // `None`: the connection was dropped, by either end.
                let _ = serve(socket, &world).await;
            });
        }
    });
    (address, world, tasks)
}

/// The fields of a request's head.
struct Fields(Vec<(String, String)>);

impl Headers for Fields {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |it| it.0 == name).map(|it| it.1.as_bytes())
    }
}

async fn serve(mut socket: TcpStream, world: &World) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("GET /connect HTTP/1.1"));
    let fields = lines.filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    });
    let fields = Fields(fields.collect());
    let request = Request { method: "GET", is_http_1_1: true, headers: &fields };
    let accepted = check(&request, Some(&DeflatePolicy::default())).unwrap();
    assert_eq!(accepted.protocols, ["tidegate.v1.json"]);
    let deflate = accepted.deflate.as_ref().map(|it| it.0);
    let mut out = Vec::new();
    accepted.response(Some("tidegate.v1.json"), &[], &mut out);
    let say = |value: &Value, out: &mut Vec<u8>| {
        encode::message(Kind::Text, value.to_string().as_bytes(), out);
    };
    say(&json!({"welcome": {"session": "s", "node": "n", "version": "v", "ping": 25}}), &mut out);
    let mut decoder = Decoder::new(Role::Server, &Limits::default(), deflate);
    let (mut pool, mut position, mut buffer) = (InflaterPool::new(), None, vec![0; 4096]);
    loop {
        if let Some(at) = &mut position {
            let log = world.log.lock().unwrap();
            for message in log.iter().skip(*at) {
                say(&json!({ "message": message }), &mut out);
            }
            *at = log.len();
        }
        socket.write_all(&out).await.ok()?;
        out.clear();
        let read = tokio::select! {
            read = socket.read(&mut buffer) => read.ok().filter(|it| *it > 0)?,
            () = world.published.notified() => continue,
        };
        let mut input = buffer.get_mut(..read)?;
        while let Some(frame) = decoder.next(&mut input, &mut pool).unwrap() {
            match frame {
                Frame::Message { kind: Kind::Text, data } => {
                    let command: Value = serde_json::from_slice(data).unwrap();
                    let mut reply = answer(&command, world, &mut position);
                    // What was carried out stays so, whatever becomes of its reply.
                    if let Some(scripted) = world.script.lock().unwrap().pop_front() {
                        reply = scripted?;
                    }
                    reply["id"] = command["id"].clone();
                    say(&reply, &mut out);
                }
                Frame::Ping(payload) => encode::pong(payload, None, &mut out),
                Frame::Close { .. } => return None,
                _ => {}
            }
        }
    }
}

fn answer(command: &Value, world: &World, position: &mut Option<usize>) -> Value {
    let mut log = world.log.lock().unwrap();
    if let Some(subscribe) = command.get("subscribe") {
        let at = match subscribe["since"].as_str().unwrap() {
            "now" => log.len(),
            "start" => 0,
            cursor => cursor[1..].parse().unwrap(),
        };
        *position = Some(at);
        return json!({"subscribed": {"channel": "a", "cursor": cursor(at)}});
    }
    if command.get("unsubscribe").is_some() {
        *position = None;
        return json!({"unsubscribed": {"channel": "a"}});
    }
    if let Some(publish) = command.get("publish") {
        let key = publish["key"].as_str().unwrap().to_owned();
        let mut keys = world.keys.lock().unwrap();
        let is_duplicate = keys.contains_key(&key);
        let place = keys.entry(key).or_insert_with(|| {
            let place = cursor(log.len() + 1);
            log.push(
                json!({"channel": "a", "cursor": place, "time": "t", "text": publish["text"]}),
            );
            world.published.notify_waiters();
            place
        });
        return json!({"published": {"channel": "a", "cursor": place, "duplicate": is_duplicate}});
    }
    if command.get("history").is_some() {
        let page = json!({"messages": *log, "cursor": cursor(log.len()), "ended": false});
        return json!({ "history": page });
    }
    if command.get("presence").is_some() {
        return json!({"presence": {"channel": "a", "members": [{"id": "s", "joined": "t"}]}});
    }
    json!({"pong": {}})
}

fn client(address: SocketAddr) -> Client {
    let millis = Duration::from_millis;
    let backoff = BackoffConfig { base: millis(10), max: millis(50), ..BackoffConfig::default() };
    let timing = Timing { ping_interval: millis(200), ..Timing::default() };
    let url = Url::parse(&format!("http://{address}")).unwrap();
    Client::builder(url).backoff(backoff).timing(timing).build()
}

/// The next publication's text.
async fn text(pushes: &mut Pushes) -> String {
    loop {
        let push = timeout(SOON, pushes.next()).await.unwrap().unwrap().unwrap();
        if let Push::Event(Event::Publication(it)) = push {
            return it.payload.text().unwrap().into_owned();
        }
    }
}

#[tokio::test]
async fn every_command_has_its_reply() {
    let (address, _world, _tasks) = start().await;
    let (connection, mut pushes) = client(address).connect();
    let push = timeout(SOON, pushes.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(push, Push::Open(welcome) if welcome.session == "s"));
    let begins = connection.subscribe("a", Since::Start).await.unwrap();
    assert_eq!(begins.as_str(), cursor(0));
    let published = connection.publish("a", "hello").await.unwrap();
    assert_eq!(published.cursor.as_str(), cursor(1));
    assert_eq!(text(&mut pushes).await, "hello");
    let history = connection.history("a", Since::Start, 10).await.unwrap();
    assert_eq!((history.messages.len(), history.cursor.as_str()), (1, cursor(1).as_str()));
    assert_eq!(connection.presence("a").await.unwrap().len(), 1);
    connection.ping().await.unwrap();
    connection.unsubscribe("a").await.unwrap();
    let again = Message::new("a", "hello").key("k");
    assert!(!connection.send(again.clone()).await.unwrap().is_duplicate);
    assert!(connection.send(again).await.unwrap().is_duplicate);
    let usage = connection.publish("a b", "x").await.unwrap_err();
    assert!(matches!(usage, Error::Usage(_)), "{usage}");
    // Its handles gone, so is the connection; that is the end of the pushes' reader's wait too.
    drop(connection);
    drop(pushes);
}

#[tokio::test]
async fn commands_and_subscriptions_survive_their_connections() {
    let (address, world, _tasks) = start().await;
    let (connection, mut pushes) = client(address).connect();
    connection.subscribe("a", Since::Start).await.unwrap();
    for n in 0..60_usize {
        if n % 3 == 0 {
            // Carried out, and the reply is lost with the connection: twice, sometimes.
            let cuts = 1 + usize::from(n % 2 == 0);
            let mut script = world.script.lock().unwrap();
            script.extend(std::iter::repeat_n(None, cuts));
        }
        let published = connection.publish("a", n.to_string()).await.unwrap();
        assert_eq!(published.cursor.as_str(), cursor(n + 1), "once, and in order");
        assert!(!published.is_duplicate);
    }
    for n in 0..60 {
        assert_eq!(text(&mut pushes).await, n.to_string());
    }
    assert_eq!(world.log.lock().unwrap().len(), 60);
    assert!(*world.connections.lock().unwrap() > 20);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_may_not_is_told() {
    let (address, world, _tasks) = start().await;
    let (connection, pushes) = client(address).connect();
    drop(pushes);
    let error = |code: &str| Some(json!({"error": {"code": code, "message": "x"}}));
    let unavailable = json!({"error": {"code": "unavailable", "message": "x",
        "retry_after": 0.01, "outcome": "unknown"}});
    world.script.lock().unwrap().extend([Some(unavailable), error("rate_limited")]);
    let published = connection.publish("a", "x").await.unwrap();
    assert_eq!((published.cursor.as_str(), published.is_duplicate), (cursor(1).as_str(), false));
    assert_eq!(world.log.lock().unwrap().len(), 1);
    world.script.lock().unwrap().push_back(error("permission_denied"));
    let refused = connection.publish("a", "y").await.unwrap_err();
    assert_eq!(refused.problem().unwrap().code, Code::PermissionDenied);
}

#[tokio::test]
async fn many_commands_at_once_are_bounded_and_all_answered() {
    let (address, world, _tasks) = start().await;
    let (connection, pushes) = client(address).connect();
    drop(pushes);
    let mut tasks = JoinSet::new();
    for n in 0..3000 {
        let connection = connection.clone();
        tasks.spawn(async move { connection.publish("a", n.to_string()).await.unwrap() });
    }
    let all = timeout(SOON, tasks.join_all()).await.unwrap();
    let mut cursors: Vec<_> = all.iter().map(|it| it.cursor.as_str().to_owned()).collect();
    cursors.sort();
    cursors.dedup();
    assert_eq!(cursors.len(), 3000);
    assert_eq!(world.log.lock().unwrap().len(), 3000);
}

#[tokio::test]
async fn a_gateway_that_goes_away_is_told_to_who_waits() {
    let (address, _world, mut tasks) = start().await;
    let url = Url::parse(&format!("http://{address}")).unwrap();
    let backoff = BackoffConfig {
        base: Duration::from_millis(5),
        max: Duration::from_millis(10),
        ..BackoffConfig::default()
    };
    let client = Client::builder(url).backoff(backoff).attempts_max(3).build();
    let (connection, mut pushes) = client.connect();
    connection.ping().await.unwrap();
    tasks.shutdown().await;
    let error = connection.ping().await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. } | Error::Closed), "{error}");
    let mut last = None;
    while let Some(push) = timeout(SOON, pushes.next()).await.unwrap() {
        last = Some(push);
    }
    assert!(matches!(last, Some(Err(Error::Exhausted { .. }))), "{last:?}");
    assert_eq!(connection.ping().await, Err(Error::Closed));
}
