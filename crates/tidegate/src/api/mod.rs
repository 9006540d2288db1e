//! The HTTP API: what is neither a stream nor a poll (CONTRACT 3 and 12).
//!
//! Handlers get requests that the router has checked (host, origin, sizes, method) and answer with a
//! response or a [`Problem`]; headers that all answers have are the router's business. Rights are
//! those of whoever has no token, until there are tokens.

pub mod body;
pub mod channels;
pub mod health;
pub mod publish;

mod entries;
mod results;
mod terms;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};

use crate::config::Config;
use crate::problem::Problem;
use crate::router::{Response, full};

/// A whole answer of this type.
fn answer(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Whether whoever has no token may do what only an administrator may: `"list channels"`.
///
/// # Errors
///
/// 401.
fn administer(config: &Config, what: &str) -> Result<(), Problem> {
    if config.dev {
        return Ok(());
    }
    Err(Problem::unauthenticated(format!(
        "a token that allows it is needed to {what}, and this version takes none yet; start with \
         --dev"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn administration_is_for_dev() {
        assert_eq!(administer(&Config::dev(), "list channels"), Ok(()));
        let problem = administer(&Config::default(), "list channels").unwrap_err();
        assert_eq!(problem.code, Code::Unauthenticated);
        assert!(problem.detail.contains("to list channels"), "{}", problem.detail);
    }
}
