//! `tidegate pub`: publishes what is typed, or a line each of standard input.

use std::io::{self, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use tidegate_client::{ChannelUrl, Client, Payload, Publish, Published};

use super::{Token, read_line, tell_warning, usage};

const LONG_ABOUT: &str = "\
Publish to a channel.

DATA is taken as 'curl -d' takes it: JSON if it is one whole JSON object or array, else text. With - \
each line of standard input is a publication, in order, and the next is sent when the one before is \
accepted. Without DATA, --end ends the channel.

The cursor of each publication is a line of standard output. What fails in a way that may pass is \
tried again for a minute, under the same idempotency key, so that it can't be published twice.

Exit codes: 0 when all is published, 1 when something was not, 2 usage.";

const EXAMPLES: &str = "\
Examples:
  tidegate pub http://127.0.0.1:8080/channels/prices '{\"btc\": 97000}'
      Publish JSON.
  tail -f app.log | tidegate pub http://127.0.0.1:8080/channels/logs -
      Publish each line.
  tidegate pub http://127.0.0.1:8080/channels/match.7 'full time' --event score --end
      Publish, and end the channel.";

/// Publish to a channel
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct PubArgs {
    /// A channel's URL
    #[arg(value_name = "URL")]
    url: ChannelUrl,
    /// What to publish, or - for a publication per line of standard input
    #[arg(value_name = "DATA|-", required_unless_present = "end", allow_hyphen_values = true)]
    data: Option<String>,
    /// The name of the event
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// The idempotency key: who repeats it publishes nothing [default: one of its own]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// End the channel, after the publication if there is one
    #[arg(long)]
    end: bool,
    /// How to reach the gateway. In this version there is one way
    #[arg(long, value_name = "WIRE", default_value = "http", hide = true)]
    wire: Wire,
    #[command(flatten)]
    token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wire {
    /// A POST for each
    Http,
    /// Not yet in this version
    #[value(hide = true)]
    Grpc,
}

pub(super) fn run(args: PubArgs) -> ExitCode {
    super::run_client(publish(args))
}

async fn publish(args: PubArgs) -> anyhow::Result<ExitCode> {
    args.token.refuse()?;
    if args.wire == Wire::Grpc {
        return Err(usage("--wire grpc is not yet in this version; leave it out"));
    }
    let [channel] = args.url.channels.as_slice() else {
        return Err(usage("the URL names several channels; publish to one at a time"));
    };
    if args.url.since.is_some() {
        return Err(usage("where to begin means nothing to a publication; leave the query out"));
    }
    if args.data.is_none() && args.event.is_some() {
        return Err(usage("--event names a publication, and an end alone is none; leave it out"));
    }
    let client = Client::builder(args.url.gateway.clone()).build();
    if args.data.as_deref() != Some("-") {
        let mut publish = match &args.data {
            Some(data) => client.publish(channel.as_str(), payload(data)),
            None => client.end(channel.as_str()),
        };
        if args.end {
            publish = publish.end();
        }
        if let Some(key) = &args.key {
            publish = publish.key(key);
        }
        print(&patiently(with_event(publish, &args).send()).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.key.is_some() {
        return Err(usage("--key is for one publication, and - is for many; leave one out"));
    }
    let mut lines = io::stdin().lock();
    let mut number = 0_u64;
    while let Some(line) = read_line(&mut lines)? {
        let line = String::from_utf8(line);
        let line = line.context("a line is no UTF-8; publish bytes with curl --data-binary")?;
        number += 1;
        let publish = with_event(client.publish(channel.as_str(), payload(&line)), &args);
        let published = patiently(publish.send()).await;
        print(&published.with_context(|| format!("line {number} was not published"))?)?;
    }
    if args.end {
        let ended = patiently(client.end(channel.as_str()).send()).await;
        print(&ended.context("the channel was not ended")?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits, and says so where it takes longer than it should.
async fn patiently<T>(published: impl Future<Output = T>) -> T {
    let mut published = pin!(published);
    tokio::select! {
        published = &mut published => return published,
        () = tokio::time::sleep(NOTICE_AFTER) => {}
    }
    tell_warning(&"the gateway has not accepted it yet; it is tried again, for a minute at most");
    published.await
}

/// After so long somebody may wonder.
const NOTICE_AFTER: Duration = Duration::from_secs(2);

fn with_event(publish: Publish, args: &PubArgs) -> Publish {
    match &args.event {
        Some(event) => publish.event(event),
        None => publish,
    }
}

/// Takes text as the gateway takes it without a content type.
fn payload(text: &str) -> Payload {
    tidegate_core::Payload::from_websocket_text(Bytes::copy_from_slice(text.as_bytes())).into()
}

fn print(published: &Published) -> io::Result<()> {
    let duplicate = if published.is_duplicate { " duplicate" } else { "" };
    writeln!(io::stdout(), "{}{duplicate}", published.cursor)
}
