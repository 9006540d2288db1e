//! What a GET on `/channels/{names}` asks for: the wire, where to begin, how much (CONTRACT 2, 4).

use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, UPGRADE};
use tidegate_core::ChannelName;
use tidegate_core::cursor::{Begin, Cursor, parse_joined};
use tidegate_core::envelope::client::{LIMIT_DEFAULT, LIMIT_MAX};

use super::Wire;
use crate::config::parse_duration;
use crate::negotiate::negotiate;
use crate::problem::Problem;
use crate::router::{Query, Request, header};

/// Longest wait of a long-poll.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Wait of a long-poll that names none.
const WAIT_DEFAULT: Duration = Duration::from_secs(25);

/// A subscription or a poll, as it was asked for; nothing of it is allowed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribeRequest {
    /// At least one.
    pub channels: Vec<ChannelName>,
    /// Where to begin, for each channel.
    pub begins: Vec<Begin>,
    /// By which wire.
    pub wire: Wire,
    /// How long a long-poll waits; 0 on other wires.
    pub wait: Duration,
    /// Messages of a poll.
    pub limit: u32,
    /// Page backwards from here; polls of one channel.
    pub before: Option<Cursor>,
    /// The JSON form in place of the payload.
    pub envelope: bool,
    /// Whether a WebSocket gets what it published itself.
    pub echo: bool,
    /// Whether a WebSocket gets anything.
    pub subscribe: bool,
    /// Why nothing can begin now, whatever it is; told as the wire tells it.
    pub refusal: Option<Problem>,
}

impl SubscribeRequest {
    /// Reads a request's head.
    ///
    /// # Errors
    ///
    /// 400, 406 or 426, which say what is wrong.
    pub fn parse(
        request: &Request,
        channels: Vec<ChannelName>,
        query: &Query<'_>,
    ) -> Result<Self, Problem> {
        Self::of(request.method(), request.headers(), channels, query)
    }

    /// What an enveloped connection begins with, or subscribes to later.
    #[must_use]
    pub fn enveloped(channels: Vec<ChannelName>, begins: Vec<Begin>) -> Self {
        Self {
            channels,
            begins,
            wire: Wire::Ws,
            wait: Duration::ZERO,
            limit: LIMIT_DEFAULT,
            before: None,
            envelope: false,
            echo: true,
            subscribe: true,
            refusal: None,
        }
    }

    /// # Errors
    ///
    /// [`refusal`](Self::refusal), if there is one.
    pub fn check_refusal(&self) -> Result<(), Problem> {
        self.refusal.clone().map_or(Ok(()), Err)
    }

    /// The same, of what of its head counts.
    ///
    /// # Errors
    ///
    /// As [`SubscribeRequest::parse`]'s.
    pub fn of(
        method: &Method,
        headers: &HeaderMap,
        channels: Vec<ChannelName>,
        query: &Query<'_>,
    ) -> Result<Self, Problem> {
        let wire = match wire(headers, query)? {
            // Whatever it is of, it has the headers of a poll (CONTRACT 4).
            _ if method == Method::HEAD => Wire::Poll,
            wire => wire,
        };
        let wait = match query.get("wait") {
            Some(text) if wire == Wire::LongPoll => wait(text)?,
            _ if wire == Wire::LongPoll => WAIT_DEFAULT,
            _ => Duration::ZERO,
        };
        let before = match query.get("before") {
            None => None,
            Some(_) if wire != Wire::Poll => {
                return Err(Problem::invalid("before: only a plain poll pages backwards"));
            }
            Some(_) if channels.len() != 1 => {
                return Err(Problem::invalid("before: only one channel can be paged backwards"));
            }
            Some(text) => parse_joined(text, &channels)
                .map_err(|it| Problem::from(it).of("before"))?[..]
                .first()
                .copied()
                .flatten(),
        };
        if before.is_some() && (query.get("since").is_some() || query.get("last").is_some()) {
            return Err(Problem::invalid("before goes with neither since nor last"));
        }
        let envelope = query.switch("envelope")?;
        if channels.len() > 1 && envelope == Some(false) {
            return Err(Problem::invalid(
                "envelope=0 goes with one channel; several need the JSON form",
            ));
        }
        // A WebSocket may have a subprotocol instead.
        let is_envelope = envelope.unwrap_or(channels.len() > 1 && wire != Wire::Ws);
        Ok(Self {
            begins: begins(headers, &channels, query, wire)?,
            wire,
            wait,
            limit: limit(query)?,
            before,
            envelope: is_envelope,
            echo: query.switch("echo")?.unwrap_or(true),
            subscribe: query.switch("subscribe")?.unwrap_or(true),
            refusal: None,
            channels,
        })
    }
}

/// `Upgrade`, then `wire`, then `wait`, then the best of `Accept`.
fn wire(headers: &HeaderMap, query: &Query<'_>) -> Result<Wire, Problem> {
    if upgrades(headers) {
        return Ok(Wire::Ws);
    }
    if let Some(name) = query.get("wire") {
        return match Wire::parse(name) {
            Some(Wire::Ws) => Err(Problem::upgrade_required(
                "wire=ws needs a WebSocket handshake: Upgrade: websocket",
            )),
            Some(wire) => Ok(wire),
            None => Err(Problem::invalid(
                "wire: ws, sse, ndjson, long-poll and poll are allowed in this version",
            )),
        };
    }
    if query.get("wait").is_some() {
        return Ok(Wire::LongPoll);
    }
    accepted(headers)
}

/// Whether a WebSocket is asked for.
#[must_use]
pub fn upgrades(headers: &HeaderMap) -> bool {
    let values = headers.get_all(UPGRADE).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).any(|it| it.trim().eq_ignore_ascii_case("websocket"))
}

/// The best of `Accept`, a poll before the streams where nothing is.
fn accepted(headers: &HeaderMap) -> Result<Wire, Problem> {
    const OURS: [(&str, &str, Wire); 3] = [
        ("application", "json", Wire::Poll),
        ("text", "event-stream", Wire::Sse),
        ("application", "x-ndjson", Wire::Ndjson),
    ];
    negotiate(headers, &OURS).ok_or_else(|| {
        Problem::not_acceptable(
            "Accept: application/json, text/event-stream and application/x-ndjson can be had",
        )
    })
}

fn wait(text: &str) -> Result<Duration, Problem> {
    match parse_duration(text) {
        Some(wait) if wait <= WAIT_MAX => Ok(wait),
        _ => Err(Problem::invalid("wait: a duration of at most 60s is allowed, such as 25s")),
    }
}

fn limit(query: &Query<'_>) -> Result<u32, Problem> {
    match query.get("limit").map(str::parse) {
        None => Ok(LIMIT_DEFAULT),
        Some(Ok(limit @ 1..=LIMIT_MAX)) => Ok(limit),
        Some(_) => Err(Problem::invalid("limit: 1 to 1000 are allowed")),
    }
}

fn begins(
    headers: &HeaderMap,
    channels: &[ChannelName],
    query: &Query<'_>,
    wire: Wire,
) -> Result<Vec<Begin>, Problem> {
    let default = if wire == Wire::Poll { Begin::Start } else { Begin::Now };
    let all = |begin| Ok(vec![begin; channels.len()]);
    let after = |text: &str, name: &str| {
        let cursors = parse_joined(text, channels).map_err(|it| Problem::from(it).of(name))?;
        Ok(cursors.into_iter().map(|it| it.map_or(default, Begin::After)).collect())
    };
    // A browser reconnects with the old URL, so its header is newer.
    if wire == Wire::Sse
        && let Some(id) = header(headers, "last-event-id").filter(|it| !it.is_empty())
    {
        return after(id, "Last-Event-ID");
    }
    match (query.get("since"), query.get("last")) {
        (Some(_), Some(_)) => Err(Problem::invalid("since and last exclude each other; give one")),
        (Some("start"), None) => all(Begin::Start),
        (Some("now"), None) => all(Begin::Now),
        (Some(text), None) => after(text, "since"),
        (None, Some(count)) => match count.parse() {
            Ok(0) => all(Begin::Now),
            Ok(count) => all(Begin::Last(count)),
            Err(_) => Err(Problem::invalid("last: a whole number is allowed")),
        },
        (None, None) => all(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, headers: &[(&'static str, &str)]) -> Result<SubscribeRequest, Problem> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let channels = vec![ChannelName::parse("a").unwrap()];
        SubscribeRequest::of(&Method::GET, &headers, channels, &Query::parse(query))
    }

    #[track_caller]
    fn check(query: &str, headers: &[(&'static str, &str)], expect: Result<Wire, u16>) {
        let wire = parse(query, headers).map(|it| it.wire);
        assert_eq!(wire.map_err(|it| it.status.as_u16()), expect, "{query} {headers:?}");
    }

    #[test]
    fn the_wire_is_picked_in_the_contracts_order() {
        let sse = ("accept", "text/event-stream");
        check("wire=sse", &[("upgrade", "websocket")], Ok(Wire::Ws));
        check("wire=ndjson&wait=3", &[sse], Ok(Wire::Ndjson));
        check("wait=3", &[sse], Ok(Wire::LongPoll));
        check("", &[sse], Ok(Wire::Sse));
        check("", &[], Ok(Wire::Poll));
        check("wire=ws", &[], Err(426));
        check("wire=grpc", &[], Err(400));
    }

    #[test]
    fn accept_is_weighed() {
        for (accept, expect) in [
            ("*/*", Ok(Wire::Poll)),
            ("application/json", Ok(Wire::Poll)),
            ("application/x-ndjson", Ok(Wire::Ndjson)),
            ("text/event-stream, */*", Ok(Wire::Sse)),
            ("text/event-stream;q=0.5, application/x-ndjson;q=0.9", Ok(Wire::Ndjson)),
            ("text/*", Ok(Wire::Sse)),
            ("application/*;q=0.1, text/event-stream;q=0", Ok(Wire::Poll)),
            ("Text/Event-Stream", Ok(Wire::Sse)),
            ("image/png", Err(406)),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Ok(Wire::Poll)),
        ] {
            check("", &[("accept", accept)], expect);
        }
    }

    #[test]
    fn bounds_are_told() {
        for query in
            ["wait=61", "wait=x", "limit=0", "limit=1001", "last=x", "since=x", "since=now&last=3"]
        {
            check(query, &[], Err(400));
        }
        assert_eq!(parse("wait=60s", &[]).unwrap().wait, Duration::from_secs(60));
        assert_eq!(parse("wait=250ms", &[]).unwrap().wait, Duration::from_millis(250));
        assert_eq!(parse("limit=1000", &[]).unwrap().limit, 1000);
    }

    #[test]
    fn each_wire_has_its_default_position() {
        let begin = |query: &str, headers: &[(&'static str, &str)]| {
            parse(query, headers).unwrap().begins.first().copied()
        };
        assert_eq!(begin("", &[]), Some(Begin::Start));
        assert_eq!(begin("wait=1", &[]), Some(Begin::Now));
        assert_eq!(begin("wire=sse", &[("last-event-id", "")]), Some(Begin::Now));
        assert_eq!(begin("last=5", &[]), Some(Begin::Last(5)));
    }
}
