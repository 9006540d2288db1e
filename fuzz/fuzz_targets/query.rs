//! What a GET asks for: every request that is taken is within the contract's bounds, every refusal is
//! short, and how a value is written in the URL makes no difference.
#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use tidegate::router::Query;
use tidegate::transport::Wire;
use tidegate::transport::request::SubscribeRequest;
use tidegate_core::ChannelName;

const NAMES: [&str; 9] =
    ["since", "last", "limit", "wait", "wire", "before", "envelope", "echo", "subscribe"];

fuzz_target!(|input: (u8, u8, Vec<(u8, String)>, [Vec<u8>; 3])| {
    let (count, method, pairs, headers) = input;
    // Values seldom find their names by themselves.
    let query: Vec<_> = pairs
        .iter()
        .map(|(name, value)| match NAMES.get(usize::from(name % 12)) {
            Some(name) => format!("{name}={value}"),
            None => value.clone(),
        })
        .collect();
    let query = query.join("&");
    let mut map = HeaderMap::new();
    for (name, value) in ["accept", "upgrade", "last-event-id"].into_iter().zip(headers) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            map.insert(name, value);
        }
    }
    let method = if method & 1 == 0 { Method::GET } else { Method::HEAD };
    let channels: Vec<_> =
        (0..1 + count % 3).map(|it| ChannelName::parse(&format!("c{it}")).unwrap()).collect();
    let parse =
        |query: &str| SubscribeRequest::of(&method, &map, channels.clone(), &Query::parse(query));
    let parsed = parse(&query);
    match &parsed {
        Ok(wanted) => {
            assert_eq!(wanted.begins.len(), channels.len());
            assert!((1..=1000).contains(&wanted.limit) && wanted.wait <= Duration::from_secs(60));
            assert!(wanted.wire == Wire::LongPoll || wanted.wait.is_zero());
            assert!(wanted.before.is_none() || wanted.wire == Wire::Poll && channels.len() == 1);
            assert!(method == Method::GET || wanted.wire == Wire::Poll);
        }
        Err(problem) => {
            assert!(matches!(problem.status.as_u16(), 400 | 406 | 426), "{problem:?}");
            assert!(!problem.detail.is_empty() && problem.detail.len() < 400, "{problem:?}");
        }
    }
    // Every byte but those that divide a query, written with a percent sign.
    let encoded: String = query
        .bytes()
        .map(|byte| match byte {
            b'&' | b'=' | b'%' => char::from(byte).to_string(),
            b'+' => "%20".to_owned(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    if !query.contains('%') {
        assert_eq!(parse(&encoded), parsed);
    }
});
