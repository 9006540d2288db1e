//! WebSocket on HTTP/1.1: the handshake, its refusals, and the stream it becomes (CONTRACT 4, 7, 8).

use std::rc::Rc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{StatusCode, Version};
use tidegate_core::envelope::ServerBody;
use tidegate_core::{Policy, SessionId};
use tidegate_wire::websocket::DeflatePolicy;
use tidegate_wire::websocket::handshake::{self, Accepted, Headers, Refusal};

use super::Wire;
use super::begin::{Begun, begin, check_open};
use super::request::SubscribeRequest;
use crate::config::Class;
use crate::driver::client::session::PUSH_SECONDS;
use crate::driver::client::{Stream, WebSocketStart};
use crate::driver::forms::{Form, Format, Framing};
use crate::origin::Verdict;
use crate::problem::Problem;
use crate::router::{Answer, Request, no_body};
use crate::worker::Worker;

/// The subprotocol that asks for no envelope, beside a token.
const BARE: &str = "tidegate.v1.bare";

/// The subprotocol of envelopes in JSON.
const JSON: &str = "tidegate.v1.json";

/// The one in protobuf, which a later version has.
const PROTO: &str = "tidegate.v1.proto";

/// What messages to clients are compressed with: made once for many subscribers, so each stands
/// alone (DESIGN 3). What clients send may use their context.
const DEFLATE: DeflatePolicy =
    DeflatePolicy { send_takeover: false, receive_takeover: true, receive_window_bits_max: 15 };

/// Opens a WebSocket; with no channel, an enveloped one that is subscribed to nothing yet.
///
/// # Errors
///
/// Whatever refuses it, unless a browser could not read that: then it is a stream that is closed.
pub async fn open(
    worker: &Rc<Worker>,
    request: &Request,
    wanted: SubscribeRequest,
    verdict: &Verdict<'_>,
) -> Result<Answer, Problem> {
    no_body(request)?;
    let fields = Fields(request.headers());
    let upgrade = handshake::Request {
        method: request.method().as_str(),
        is_http_1_1: request.version() == Version::HTTP_11,
        headers: &fields,
    };
    let policy = worker.config.websocket.deflate.then_some(&DEFLATE);
    let accepted = handshake::check(&upgrade, policy).map_err(refused)?;
    let protocol = accepted.select(&[BARE, JSON]);
    check_protocol(&wanted, &accepted, protocol)?;
    let begun = match begin_websocket(worker, &wanted).await {
        Ok(begun) => begun,
        Err(problem) if is_told_by_close(problem.status, verdict) => {
            return Ok(Answer::Stream(Box::new(refusal(worker, &accepted, protocol, &problem))));
        }
        Err(problem) => return Err(problem),
    };
    Ok(Answer::Stream(Box::new(stream(worker, wanted, begun, &accepted, protocol))))
}

/// Whether what is asked for goes with the subprotocol that both know.
fn check_protocol(
    wanted: &SubscribeRequest,
    accepted: &Accepted<'_>,
    protocol: Option<&str>,
) -> Result<(), Problem> {
    let refuse = |detail| Err(Problem::invalid(detail));
    let channels = wanted.channels.len();
    match protocol {
        None if accepted.select(&[PROTO]).is_some() => refuse(
            "Sec-WebSocket-Protocol: tidegate.v1.proto is not in this version yet; offer \
             tidegate.v1.json, or leave the header out for a bare WebSocket",
        ),
        Some(JSON) if wanted.envelope => {
            refuse("envelope=1 goes with no subprotocol; tidegate.v1.json has envelopes of its own")
        }
        Some(JSON) if !wanted.subscribe => {
            refuse("subscribe=0 goes with a bare WebSocket; use /connect with tidegate.v1.json")
        }
        Some(JSON) => Ok(()),
        _ if channels == 0 => {
            refuse("Sec-WebSocket-Protocol: /connect is for envelopes; offer tidegate.v1.json")
        }
        _ if channels > 1 && !wanted.envelope => refuse(
            "a bare WebSocket has one channel; add envelope=1, or offer the subprotocol \
             tidegate.v1.json, for several",
        ),
        _ => Ok(()),
    }
}

async fn begin_websocket(worker: &Rc<Worker>, wanted: &SubscribeRequest) -> Result<Begun, Problem> {
    if wanted.subscribe {
        return begin(worker, wanted).await;
    }
    check_open(worker, wanted)?;
    for channel in &wanted.channels {
        worker.may_publish(channel)?;
    }
    Ok(Begun { starts: Vec::new(), is_over: false, cursor: String::new() })
}

fn stream(
    worker: &Worker,
    wanted: SubscribeRequest,
    mut begun: Begun,
    accepted: &Accepted<'_>,
    protocol: Option<&str>,
) -> Stream {
    let deflate = accepted.deflate.as_ref().map(|(params, _)| *params);
    let classes = || wanted.channels.iter().map(|it| worker.config.channel(it.as_str()).class);
    // Of envelopes each subscription has its own.
    let is_enveloped = protocol == Some(JSON);
    let may_deflate = deflate.is_some_and(|it| it.can_share())
        && (is_enveloped || classes().all(|it| it != Class::Secret));
    let format = match (is_enveloped, wanted.envelope) {
        (true, _) => Format::Envelope,
        (false, true) => Format::WsJson,
        (false, false) => Format::Ws,
    };
    let framing = if may_deflate { Framing::Deflated } else { Framing::Plain };
    let form = Form { format, framing };
    if format == Format::Ws {
        // What was dropped can't be told there (CONTRACT 4).
        for start in &mut begun.starts {
            if start.bounds.policy == Policy::DropOldest {
                start.bounds.policy = Policy::Disconnect;
            }
        }
    }
    let mut head = Vec::with_capacity(256);
    if begun.cursor.is_empty() {
        accepted.response(protocol, &[], &mut head);
    } else {
        accepted.response(protocol, &[("tidegate-cursor", &begun.cursor)], &mut head);
    }
    let session = worker.session();
    if is_enveloped {
        welcome(worker, session, &begun, &mut head);
    }
    let publish_to = <[_; 1]>::try_from(wanted.channels).ok().map(|[channel]| channel);
    let publish_refused =
        publish_to.as_ref().and_then(|it| worker.may_publish(it).err()).map(|it| it.code);
    Stream {
        form,
        starts: begun.starts,
        session,
        echo: wanted.echo,
        wire: Wire::Ws,
        websocket: Some(WebSocketStart { deflate, publish_to, publish_refused, refusal: None }),
        opening: head.into(),
        early: Bytes::new(),
    }
}

/// What an enveloped connection is told first: who it is, and what it is subscribed to.
fn welcome(worker: &Worker, session: SessionId, begun: &Begun, out: &mut Vec<u8>) {
    let mut encoder = worker.encoder.borrow_mut();
    let node = &worker.gateway.node;
    let version = env!("CARGO_PKG_VERSION");
    let welcome = ServerBody::Welcome { session, node, version, ping: PUSH_SECONDS };
    out.extend_from_slice(&encoder.frame(None, welcome));
    for start in &begun.starts {
        let body = ServerBody::Subscribed { channel: &start.channel, position: start.resume() };
        out.extend_from_slice(&encoder.frame(None, body));
    }
}

/// A browser's page sees no refused upgrade, only that there was one: so these come as a close. Who
/// sends no `Origin` can read a status.
fn is_told_by_close(status: StatusCode, verdict: &Verdict<'_>) -> bool {
    matches!(verdict, Verdict::Allowed { .. }) && matches!(status.as_u16(), 401 | 403 | 429 | 503)
}

fn refusal(
    worker: &Worker,
    accepted: &Accepted<'_>,
    protocol: Option<&str>,
    problem: &Problem,
) -> Stream {
    let mut head = Vec::with_capacity(256);
    accepted.response(protocol, &[], &mut head);
    let deflate = accepted.deflate.as_ref().map(|(params, _)| *params);
    Stream {
        form: Form { format: Format::Ws, framing: Framing::Plain },
        starts: Vec::new(),
        session: worker.session(),
        echo: false,
        wire: Wire::Ws,
        websocket: Some(WebSocketStart {
            deflate,
            publish_to: None,
            publish_refused: None,
            refusal: Some((problem.code, problem.close_reason())),
        }),
        opening: head.into(),
        early: Bytes::new(),
    }
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Method => Problem::method_not_allowed("this method", "GET"),
        Refusal::Upgrade | Refusal::Version => Problem::upgrade_required(refusal.to_string()),
        Refusal::HttpVersion
        | Refusal::Host
        | Refusal::Connection
        | Refusal::Key
        | Refusal::Protocols => Problem::invalid(refusal.to_string()),
    }
}

/// Hyper's headers as the handshake reads them.
struct Fields<'a>(&'a HeaderMap);

impl Headers for Fields<'_> {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.get_all(name).iter().map(http::HeaderValue::as_bytes)
    }
}
