//! Subscribes to channels and prints what comes, for ever:
//! `cargo run -p tidegate-client --example subscribe -- http://127.0.0.1:8080/channels/prices`.
//!
//! Stop the gateway meanwhile, or pull the plug: it goes on from where it was.

use tidegate_client::{ChannelName, ChannelUrl, Client, Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "http://127.0.0.1:8080/channels/prices".into());
    let url = ChannelUrl::parse(&url)?;
    let client = Client::builder(url.gateway).build();
    let names = url.channels.iter().map(ChannelName::as_str);
    let mut subscription = client.subscribe(names).since(url.since.unwrap_or_default()).open()?;
    while let Some(event) = subscription.next().await {
        match event? {
            Event::Publication(it) => {
                let payload = String::from_utf8_lossy(it.payload.bytes());
                println!("{}: {payload}", it.channel);
            }
            Event::Gap(gap) => println!("{}: something is missing: {:?}", gap.channel, gap.reason),
            Event::End(end) => println!("{}: the end", end.channel),
            Event::Open(open) => eprintln!("connected by {}", open.wire),
            Event::Retry(retry) => {
                eprintln!("{}; again in {} ms", retry.failure, retry.delay.as_millis());
            }
        }
    }
    Ok(())
}
