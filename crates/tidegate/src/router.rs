//! A request's head → a stream, a poll, the API (CONTRACT 2, 4, 7, 11).
//!
//! Here is what holds for every request: sizes, `Host`, `Origin`, methods, and problems as answers.

use std::borrow::Cow;
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use tidegate_core::channel::CHANNELS_MAX;
use tidegate_core::{ChannelName, SessionId};

use crate::api;
use crate::api::body::RequestBody;
use crate::config::Admin;
use crate::connection::http1::Connection;
use crate::driver::client::Stream;
use crate::origin::{self, Verdict};
use crate::problem::Problem;
use crate::refusals::Refusals;
use crate::transport::poll::Asked;
use crate::transport::request::{SubscribeRequest, upgrades};
use crate::transport::{self, Wire};
use crate::worker::Worker;

/// Bodies of answers.
/// They stay on their worker's thread: a streamed answer publishes as it goes.
pub type Body = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Infallible>>>;

/// Requests as they are answered.
pub type Request = http::Request<RequestBody>;

/// Answers as hyper takes them.
pub type Response = http::Response<Body>;

/// What a request comes to.
pub enum Answer {
    /// A response, which hyper writes.
    Response(Response),
    /// A stream, which takes the socket over.
    Stream(Box<Stream>),
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Box::pin(Full::new(bytes.into()))
}

/// Answers one request of a connection.
pub async fn answer(
    worker: &Rc<Worker>,
    request: http::Request<Incoming>,
    connection: &Connection,
) -> Answer {
    let is_left = Rc::new(Cell::new(false));
    let request = request.map(|body| RequestBody::new(body, Rc::clone(&is_left)));
    let version = request.version();
    let is_head = request.method() == Method::HEAD;
    let headers = origin::effective(request.headers(), request.uri());
    let verdict = origin::judge(&worker.config, &headers);
    let answered = match guard(worker, &request, &headers, &verdict) {
        Ok(()) if request.method() == Method::OPTIONS => {
            drop(request);
            Ok(Answer::Response(origin::preflight(&verdict, &headers)))
        }
        Ok(()) => route(worker, request, &verdict, connection).await,
        Err(problem) => {
            drop(request);
            Err(problem)
        }
    };
    let mut response = match answered {
        Ok(Answer::Stream(stream)) => return Answer::Stream(stream),
        Ok(Answer::Response(response)) => response,
        Err(problem) => problem_response(&worker.refusals, &problem, version),
    };
    origin::apply(&verdict, response.headers_mut());
    if is_left.get() && version <= Version::HTTP_11 {
        response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_head {
        // What a GET would have (RFC 9110 §9.3.2).
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        *response.body_mut() = full(Bytes::new());
    }
    Answer::Response(response)
}

/// A problem as a response; its instance is in the log too.
#[must_use]
pub fn problem_response(refusals: &Refusals, problem: &Problem, version: Version) -> Response {
    let instance = refusals.log(problem);
    let mut response = http::Response::new(full(problem.to_json(instance)));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    problem.write_headers(version, headers);
    response
}

/// What every request has to pass.
fn guard(
    worker: &Worker,
    request: &Request,
    headers: &HeaderMap,
    verdict: &Verdict<'_>,
) -> Result<(), Problem> {
    let http = &worker.config.http;
    let target = target_len(request.uri());
    if target > http.max_url {
        return Err(Problem::url_too_long(http.max_url));
    }
    // "name: value CRLF" each, and the request line.
    let fields: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if fields + target + 16 > http.max_head {
        let detail = format!(
            "the request's head is over {} bytes; send fewer or shorter headers",
            http.max_head
        );
        return Err(
            Problem::too_large(detail).with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        );
    }
    origin::check_host(&worker.config, headers, request.version())?;
    check_form(request.method(), request.uri())?;
    check_codings(headers)?;
    match verdict {
        Verdict::Refused(problem) => Err(problem.clone()),
        _ => Ok(()),
    }
}

/// Bytes of a request's target as it was written, but for a fragment, which hyper cuts off.
fn target_len(uri: &Uri) -> usize {
    let scheme = uri.scheme().map_or(0, |it| it.as_str().len() + "://".len());
    let authority = uri.authority().map_or(0, |it| it.as_str().len());
    scheme + authority + uri.path_and_query().map_or(0, |it| it.as_str().len())
}

/// Checks that a target has a form that its method may have (RFC 9112 §3.2).
fn check_form(method: &Method, uri: &Uri) -> Result<(), Problem> {
    let is_authority = uri.authority().is_some() && uri.scheme().is_none();
    if *method == Method::CONNECT {
        return Err(Problem::method_not_allowed("CONNECT", "GET, HEAD, POST, DELETE, OPTIONS"));
    }
    if is_authority || (uri.path() == "*" && *method != Method::OPTIONS) {
        return Err(Problem::invalid(
            "the request's target is no path; channels are at /channels/",
        ));
    }
    Ok(())
}

/// Checks that a body is in chunks and nothing else: what else was done to it (RFC 9112 §7), nobody
/// here undoes, and its bytes would be published as they came.
fn check_codings(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if is_plain {
        return Ok(());
    }
    Err(Problem::invalid("Transfer-Encoding: only chunked is taken, once; send the body plain"))
}

/// Finds who answers.
async fn route(
    worker: &Rc<Worker>,
    request: Request,
    verdict: &Verdict<'_>,
    connection: &Connection,
) -> Result<Answer, Problem> {
    let uri = request.uri().clone();
    let query = Query::parse(uri.query().unwrap_or_default());
    let path = uri.path();
    let method = request.method().clone();
    match path {
        "/healthz" => return only_get(&method, api::health::live),
        "/readyz" => return only_get(&method, || api::health::ready(&worker.gateway)),
        "/metrics" if worker.config.admin == Admin::Main => {
            return only_get(&method, || api::health::metrics(&worker.gateway, request.headers()));
        }
        _ => {}
    }
    let Some(path) = path.strip_prefix(worker.config.http.prefix.as_str()) else {
        return Err(no_route(path));
    };
    let mut segments = path.split('/').skip(1);
    let route = [segments.next(), segments.next(), segments.next(), segments.next()];
    let refusal =
        connection.is_surplus.then(|| Problem::crowded(worker.config.http.max_connections));
    match (&method, route) {
        (&(Method::GET | Method::HEAD), [Some("channels"), Some(names), None, _]) => {
            let wanted = SubscribeRequest::parse(&request, channels(names)?, &query)?;
            let wanted = SubscribeRequest { refusal, ..wanted };
            return subscribe(worker, &request, wanted, verdict, connection.session).await;
        }
        (&Method::GET, [Some("connect"), None, ..]) => {
            let echo = query.switch("echo")?.unwrap_or(true);
            let wanted = SubscribeRequest::enveloped(Vec::new(), Vec::new());
            let wanted = SubscribeRequest { echo, refusal, ..wanted };
            return transport::websocket::open(worker, &request, wanted, verdict).await;
        }
        _ => refusal.map_or(Ok(()), Err)?,
    }
    let answered = match (&method, route) {
        (&(Method::GET | Method::HEAD), [Some("channels"), None, ..]) => {
            api::channels::list(worker, &query).await
        }
        (_, [Some("channels"), None, ..]) => {
            Err(Problem::method_not_allowed(method.as_str(), "GET, HEAD, OPTIONS"))
        }
        (_, [Some("channels"), Some(names), None, _]) => {
            let channels = channels(names)?;
            // A handshake that is none must not become a publication of nothing.
            if matches!(method, Method::POST | Method::DELETE) && upgrades(request.headers()) {
                return Err(Problem::invalid("a WebSocket is opened with GET"));
            }
            match method {
                Method::POST => {
                    let channel = only_one(channels, "publish to")?;
                    api::publish::publish(worker, request, channel, &query).await
                }
                Method::DELETE => {
                    let channel = only_one(channels, "drop")?;
                    api::channels::delete(worker, &channel).await
                }
                _ => Err(Problem::method_not_allowed(
                    method.as_str(),
                    "GET, HEAD, POST, DELETE, OPTIONS",
                )),
            }
        }
        (_, [Some("channels"), Some(names), Some("presence"), None]) => {
            let channel = only_one(channels(names)?, "ask the presence of")?;
            if !matches!(method, Method::GET | Method::HEAD) {
                return Err(Problem::method_not_allowed(method.as_str(), "GET, HEAD, OPTIONS"));
            }
            api::channels::presence(worker, &channel).await
        }
        (&Method::POST, [Some("publish"), None, ..]) => {
            api::publish::publish_many(worker, request, &query).await
        }
        (_, [Some("publish"), None, ..]) => {
            Err(Problem::method_not_allowed(method.as_str(), "POST, OPTIONS"))
        }
        (_, [Some("connect"), None, ..]) => {
            Err(Problem::method_not_allowed(method.as_str(), "GET, OPTIONS"))
        }
        _ => Err(no_route(path)),
    };
    answered.map(Answer::Response)
}

/// A subscription, by whatever wire was asked for.
async fn subscribe(
    worker: &Rc<Worker>,
    request: &Request,
    wanted: SubscribeRequest,
    verdict: &Verdict<'_>,
    session: SessionId,
) -> Result<Answer, Problem> {
    match wanted.wire {
        Wire::Ws => transport::websocket::open(worker, request, wanted, verdict).await,
        Wire::Sse | Wire::Ndjson => transport::stream::open(worker, request, wanted, verdict).await,
        Wire::Poll | Wire::LongPoll => {
            wanted.check_refusal()?;
            for channel in &wanted.channels {
                worker.may_subscribe(channel)?;
            }
            no_body(request)?;
            let target = request.uri().path_and_query().map_or("/", |it| it.as_str());
            let if_none_match = header(request.headers(), "if-none-match");
            let is_head = request.method() == Method::HEAD;
            let asked = Asked { target, if_none_match, is_head, session };
            transport::poll::answer(worker, &wanted, &asked).await.map(Answer::Response)
        }
    }
}

/// A request that has a body can't become a stream: its rest would be read as frames (DESIGN 4).
///
/// # Errors
///
/// 400 if it has one.
pub fn no_body(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let has_length = header(headers, "content-length").is_some_and(|it| it.trim() != "0");
    if has_length || headers.contains_key("transfer-encoding") {
        return Err(Problem::invalid("a GET has no body here; send the request without one"));
    }
    Ok(())
}

/// The value of a header that is there, as text.
#[must_use]
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Splits, decodes and checks the channels of a path's segment.
fn channels(segment: &str) -> Result<Vec<ChannelName>, Problem> {
    let decoded = percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| Problem::invalid("the channel in the path is not UTF-8"))?;
    let mut channels = Vec::new();
    for name in decoded.split(',') {
        let channel = ChannelName::parse(name).map_err(Problem::from)?;
        if channels.contains(&channel) {
            return Err(Problem::invalid(format!(
                "channel \"{channel}\" is named twice; name each channel once"
            )));
        }
        if channels.len() == CHANNELS_MAX {
            return Err(Problem::invalid("more than 100 channels are named; use several requests"));
        }
        channels.push(channel);
    }
    Ok(channels)
}

fn only_one(channels: Vec<ChannelName>, verb: &str) -> Result<ChannelName, Problem> {
    match <[ChannelName; 1]>::try_from(channels) {
        Ok([channel]) => Ok(channel),
        Err(channels) => Err(Problem::invalid(format!(
            "{} channels are named where there can be one to {verb}; use a request for each",
            channels.len()
        ))),
    }
}

fn only_get(
    method: &Method,
    answer: impl FnOnce() -> Result<Response, Problem>,
) -> Result<Answer, Problem> {
    match *method {
        Method::GET | Method::HEAD => answer().map(Answer::Response),
        _ => Err(Problem::method_not_allowed(method.as_str(), "GET, HEAD, OPTIONS")),
    }
}

fn no_route(path: &str) -> Problem {
    let path: String = path.chars().take(100).collect();
    Problem::not_found(format!(
        "there is nothing at {path:?}; channels are at /channels/{{channel}}, and \
         publications for many at /publish"
    ))
}

/// A query's names and values.
#[derive(Debug)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Splits and decodes a query. What is not UTF-8 is replaced: no value of ours has it.
    #[must_use]
    pub fn parse(query: &'a str) -> Self {
        let pairs = query.split('&').filter(|it| !it.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| &**value)
    }

    /// The value of a switch, `0` or `1`.
    ///
    /// # Errors
    ///
    /// 400 if it is something else.
    pub fn switch(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "true" | "") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(_) => Err(Problem::invalid(format!("{name}: 0 and 1 are allowed"))),
        }
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_encoding::percent_decode_str(&spaced)
            .decode_utf8_lossy()
            .into_owned()
            .into();
    }
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(segment: &str, expect: Result<&[&str], &str>) {
        let channels = channels(segment);
        match (&channels, expect) {
            (Ok(channels), Ok(names)) => {
                assert!(channels.iter().map(ChannelName::as_str).eq(names.iter().copied()));
            }
            (Err(problem), Err(part)) => assert!(problem.detail.contains(part), "{problem:?}"),
            _ => panic!("{channels:?}"),
        }
    }

    #[test]
    fn a_segment_is_decoded_then_split_then_checked() {
        check("prices", Ok(&["prices"]));
        check("a,b%2Cc", Ok(&["a", "b", "c"]));
        check("%70rices", Ok(&["prices"]));
        check("a%2Fb", Err("'/'"));
        check("a,,b", Err("empty"));
        check("", Err("empty"));
        check("a,a", Err("twice"));
        check("a.*", Err("pattern"));
        check("%FF", Err("UTF-8"));
        let many: Vec<_> = (0..101).map(|it| it.to_string()).collect();
        check(&many.join(","), Err("more than 100"));
    }

    #[test]
    fn only_chunks_are_taken() {
        for (codings, is_taken) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked", "chunked"], false),
            (&["chunked, chunked"], false),
        ] {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(coding));
            }
            assert_eq!(check_codings(&headers).is_ok(), is_taken, "{codings:?}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_the_first_value_counts() {
        let query = Query::parse("a=1&b=x%20y+z&a=2&flag&off=0&bad=2");
        assert_eq!((query.get("a"), query.get("b")), (Some("1"), Some("x y z")));
        assert_eq!(query.switch("flag").unwrap(), Some(true));
        assert_eq!(query.switch("off").unwrap(), Some(false));
        assert!(query.switch("bad").is_err());
        assert_eq!(query.get("none"), None);
    }
}
