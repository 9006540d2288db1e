//! URLs as they are typed for the client: what is taken reads back as the same, what is refused is
//! told in short.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_client::{ChannelUrl, Url};

fuzz_target!(|input: (u8, &str)| {
    let (start, rest) = input;
    let starts = ["", "http://", "ws://a:", "http://a/channels/", "http://[::1]/p/channels/a?"];
    let text = format!("{}{rest}", starts[usize::from(start % 5)]);
    match Url::parse(&text) {
        Ok(url) => {
            assert!(!url.host().is_empty());
            assert_eq!(Url::parse(&url.to_string()), Ok(url));
        }
        Err(error) => assert!(error.to_string().len() < text.len() * 8 + 200),
    }
    match ChannelUrl::parse(&text) {
        Ok(url) => {
            assert!((1..=100).contains(&url.channels.len()));
            let names: Vec<_> = url.channels.iter().map(|it| it.as_str()).collect();
            let again = format!("{}/channels/{}", url.gateway, names.join(","));
            let again = ChannelUrl::parse(&again).unwrap();
            assert_eq!((again.gateway, again.channels), (url.gateway, url.channels));
        }
        Err(error) => assert!(error.to_string().len() < text.len() * 8 + 200),
    }
});
