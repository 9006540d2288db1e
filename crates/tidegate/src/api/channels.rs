//! Channels as an operator sees them: list, drop, who is there (CONTRACT 3).

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use tidegate_broker::{List, Listed, Listing};
use tidegate_core::ChannelName;
use tidegate_core::envelope::json::write_string;
use tidegate_core::envelope::server::write_presence_object;

use super::{administer, answer};
use crate::problem::Problem;
use crate::router::{Query, Response, full};
use crate::transport::Wire;
use crate::worker::Worker;

/// Channels in one answer, where nothing else was asked for, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// `GET /channels?prefix=&limit=&after=`: channels that have something in their log or subscribers,
/// in byte order of their names. `next`, where there are more, is the next call's `after`.
///
/// # Errors
///
/// 401 without the right, 400 of a wrong query, 503 while the broker is away.
pub async fn list(worker: &Rc<Worker>, query: &Query<'_>) -> Result<Response, Problem> {
    administer(&worker.config, "list channels")?;
    let text = |name| query.get(name).unwrap_or_default().to_owned();
    let list =
        List { prefix: text("prefix"), after: text("after"), limit: limit(query.get("limit"))? };
    let listing = Arc::clone(&worker.broker).list(list).await?;
    let names: Vec<_> = listing.channels.iter().map(|it| it.channel.clone()).collect();
    let counts = worker.gateway.count(&names).await;
    let mut out = Vec::new();
    write_listing(&listing, &counts, &mut out);
    Ok(answer("application/json", out))
}

/// `DELETE /channels/{channel}`: 204 once the log is dropped; its subscribers get a gap. A channel
/// that does not exist is as good as dropped.
///
/// # Errors
///
/// 401 without the right, 503 while the broker is away.
pub async fn delete(worker: &Rc<Worker>, channel: &ChannelName) -> Result<Response, Problem> {
    administer(&worker.config, &format!("drop channel \"{channel}\""))?;
    if worker.is_draining() {
        return Err(Problem::draining());
    }
    worker.broker.drop_log(channel).await?;
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// `GET /channels/{channel}/presence`: who is there, where presence is on.
///
/// # Errors
///
/// 401 or 403 without the right to subscribe, 404 where presence is off, 503 while the broker is away.
pub async fn presence(worker: &Rc<Worker>, channel: &ChannelName) -> Result<Response, Problem> {
    let members = worker.members(channel).await?;
    let mut out = Vec::new();
    write_presence_object(channel, &members, &mut out);
    Ok(answer("application/json", out))
}

fn limit(text: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(LIMIT_DEFAULT) };
    let number = text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.filter(|it| (1..=LIMIT_MAX).contains(it)).ok_or_else(|| {
        Problem::invalid(format!(
            "limit: {text:?} is not allowed; a whole number from 1 to {LIMIT_MAX} is"
        ))
    })
}

/// Writes `{"channels":[{"channel","subscribers":{wire: n},"messages","bytes"}],"next"?}`. Wires
/// that nobody is on are left out; `counts` are those of the channels, in their order.
fn write_listing(listing: &Listing, counts: &[[u32; Wire::ALL.len()]], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channels\":[");
    for (index, listed) in listing.channels.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let Listed { channel, messages, bytes } = listed;
        out.extend_from_slice(b"{\"channel\":");
        write_string(channel.as_str().as_bytes(), out);
        out.extend_from_slice(b",\"subscribers\":{");
        let counts = counts.get(index).into_iter().flatten();
        let present = Wire::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
        for (nth, (wire, count)) in present.enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            out.extend_from_slice(format!("{comma}\"{}\":{count}", wire.as_str()).as_bytes());
        }
        out.extend_from_slice(format!("}},\"messages\":{messages},\"bytes\":{bytes}}}").as_bytes());
    }
    out.push(b']');
    if let (true, Some(last)) = (listing.has_more, listing.channels.last()) {
        out.extend_from_slice(b",\"next\":");
        write_string(last.channel.as_str().as_bytes(), out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_up_to_1000() {
        assert_eq!(limit(None), Ok(100));
        assert_eq!(limit(Some("1")), Ok(1));
        assert_eq!(limit(Some("1000")), Ok(1000));
        for text in ["", "0", "1001", "+1", "-1", "ten", "1e2", "99999999999999999999999"] {
            assert!(limit(Some(text)).unwrap_err().detail.starts_with("limit: "), "{text}");
        }
    }

    #[track_caller]
    fn check(names: &[&str], has_more: bool, counts: &[[u32; 5]], expect: &str) {
        let listed = |name: &&str| Listed {
            channel: ChannelName::parse(name).unwrap(),
            messages: 2,
            bytes: 30,
        };
        let listing = Listing { channels: names.iter().map(listed).collect(), has_more };
        let mut out = Vec::new();
        write_listing(&listing, counts, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn a_listing_names_the_wires_that_are_in_use() {
        check(&[], false, &[], r#"{"channels":[]}"#);
        check(
            &["a", "b"],
            true,
            &[[1, 0, 0, 2, 0], [0; 5]],
            r#"{"channels":[{"channel":"a","subscribers":{"ws":1,"long-poll":2},"messages":2,"bytes":30},{"channel":"b","subscribers":{},"messages":2,"bytes":30}],"next":"b"}"#,
        );
    }
}
