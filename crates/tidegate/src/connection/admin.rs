//! The admin listener: `/metrics`, `/healthz`, `/readyz`, on the control runtime (CONTRACT 12).

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::health;
use crate::gateway::Gateway;
use crate::problem::Problem;
use crate::refusals::Refusals;
use crate::router::{Response, problem_response};

/// Connections at a time; scrapers and probes need few.
const CONNECTIONS_MAX: usize = 64;

/// Serves until it is dropped.
pub async fn serve(gateway: Arc<Gateway>, refusals: Rc<Refusals>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (gateway, refusals) = (Arc::clone(&gateway), Rc::clone(&refusals));
        connections.spawn_local(async move {
            let service = service_fn(move |request| {
                let (gateway, refusals) = (Arc::clone(&gateway), Rc::clone(&refusals));
                async move { Ok::<_, Infallible>(answer(&gateway, &refusals, &request)) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin connection");
            }
            drop(permit);
        });
    }
}

fn answer(gateway: &Gateway, refusals: &Refusals, request: &http::Request<Incoming>) -> Response {
    let answered = match (request.method(), request.uri().path()) {
        (&(Method::GET | Method::HEAD), "/healthz") => health::live(),
        (&(Method::GET | Method::HEAD), "/readyz") => health::ready(gateway),
        (&(Method::GET | Method::HEAD), "/metrics") => health::metrics(gateway, request.headers()),
        (method, "/healthz" | "/readyz" | "/metrics") => {
            Err(Problem::method_not_allowed(method.as_str(), "GET, HEAD"))
        }
        _ => Err(Problem::not_found("the admin listener has /metrics, /healthz and /readyz")),
    };
    answered.unwrap_or_else(|problem| problem_response(refusals, &problem, request.version()))
}
