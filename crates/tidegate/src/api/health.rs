//! What machines watch (CONTRACT 12): is it alive, is it ready, what does it count.
//!
//! Asked without a right, and on the admin's listener too, which is not on a worker.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, VARY};

use super::answer;
use crate::gateway::Gateway;
use crate::metrics::{self, Format};
use crate::negotiate::negotiate;
use crate::problem::Problem;
use crate::router::Response;

/// `GET /healthz`: the process answers, so it is alive.
///
/// # Errors
///
/// None; it has the form of what is asked beside it.
pub fn live() -> Result<Response, Problem> {
    Ok(text("text/plain; charset=utf-8", "ok"))
}

/// `GET /readyz`: whether clients should come here.
///
/// # Errors
///
/// 503 while draining, or while the broker is away.
pub fn ready(gateway: &Gateway) -> Result<Response, Problem> {
    if gateway.is_draining() {
        return Err(Problem::draining());
    }
    if !gateway.broker.is_ready() {
        return Err(Problem::unavailable("the broker is away; clients are kept until it is back"));
    }
    live()
}

/// `GET /metrics`: what is counted, as `OpenMetrics` where that is accepted by its name, else in the
/// older format of Prometheus.
///
/// # Errors
///
/// None, likewise.
pub fn metrics(gateway: &Gateway, headers: &HeaderMap) -> Result<Response, Problem> {
    const OFFERED: [(&str, &str, Format); 2] = [
        ("text", "plain", Format::Prometheus),
        ("application", "openmetrics-text", Format::OpenMetrics),
    ];
    let format = negotiate(headers, &OFFERED).unwrap_or(Format::Prometheus);
    let mut response = text(format.content_type(), metrics::render(gateway, format));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// What was true at this moment.
fn text(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = answer(content_type, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn it_is_ready_until_it_drains_or_the_broker_is_away() {
        let gateway = crate::gateway::tests::gateway();
        assert_eq!(ready(&gateway).unwrap().status(), 200);
        gateway.draining.store(true, Ordering::Relaxed);
        let problem = ready(&gateway).err().unwrap();
        assert_eq!((problem.status.as_u16(), problem.is_draining), (503, true));
        gateway.draining.store(false, Ordering::Relaxed);
        assert!(matches!(gateway.broker.seal(), tidegate_broker::Reply::Now(Ok(()))));
        let problem = ready(&gateway).err().unwrap();
        assert_eq!((problem.status.as_u16(), problem.is_draining), (503, false));
        // It lives all the while.
        assert_eq!(live().unwrap().status(), 200);
    }
}
