//! `tidegate sub`: what is published, a line each.

use std::future::Future as _;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_client::{
    ChannelName, ChannelUrl, Choice, Client, Cursor, End, Event, Gap, GapReason, Payload,
    Publication, Retry, Since,
};
use tidegate_core::envelope::json::write_one_line;

use super::{Token, usage, whole};

const LONG_ABOUT: &str = "\
Subscribe to a channel, or to several, and print what is published.

Each payload is a line of standard output, as it was published; bytes are base64 where they go to a \
terminal. What else happens is told on standard error: a gap (publications were or may have been \
missed), the end of a channel, a connection that was lost. With --json each line is the publication \
with its channel, cursor and time, or {\"gap\":…} or {\"end\":…}, as an NDJSON stream has it.

It connects again when a connection is lost and goes on where it was, with nothing lost and nothing \
twice. 'auto' tries a WebSocket first, then Server-Sent Events, then long-polls.

Exit codes: 0 when all channels have ended or --count is reached, 1 when it can't go on, 2 usage.";

const EXAMPLES: &str = "\
Examples:
  tidegate sub http://127.0.0.1:8080/channels/prices
      What is published from now on.
  tidegate sub http://127.0.0.1:8080/channels/chat.1,chat.2 --last 10 --json
      The newest ten of each and then the rest, with cursors.
  tidegate sub http://127.0.0.1:8080/channels/prices --since start --count 1
      The oldest that is kept.";

/// Subscribe to channels and print what is published
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct SubArgs {
    /// A channel's URL, or of several, joined by commas
    #[arg(value_name = "URL")]
    url: ChannelUrl,
    /// By which wire: auto, ws, ws-bare, sse, ndjson, long-poll or poll
    #[arg(long, value_name = "WIRE", default_value = "auto")]
    wire: Choice,
    /// Begin after this cursor, at the start (the oldest that is kept), or now [default: now]
    // A cursor may begin with a hyphen.
    #[arg(long, value_name = "CURSOR|start|now", conflicts_with = "last")]
    #[arg(allow_hyphen_values = true)]
    since: Option<Since>,
    /// Begin with the newest N of each channel
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    last: Option<u32>,
    /// End after N publications
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    count: Option<u64>,
    /// Print publications, gaps and ends in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: Token,
}

pub(super) fn run(args: SubArgs) -> ExitCode {
    super::run_client(subscribe(args))
}

async fn subscribe(args: SubArgs) -> anyhow::Result<ExitCode> {
    args.token.refuse()?;
    let since = match (args.since, args.last, args.url.since) {
        (None, None, url) => url.unwrap_or_default(),
        (_, _, Some(_)) => {
            return Err(usage("the URL says where to begin, and so does an option; keep one"));
        }
        (Some(since), _, _) => since,
        (None, Some(last), _) => Since::Last(last),
    };
    if args.count == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    let client = Client::builder(args.url.gateway).build();
    let mut subscription = client
        .subscribe(args.url.channels.iter().map(ChannelName::as_str))
        .since(since)
        .wire(args.wire)
        .open()?;
    let is_terminal = io::stdout().is_terminal();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = args.count;
    loop {
        let mut next = pin!(subscription.next());
        let mut flushed = Ok(());
        // Whatever is there at once goes out at once, and not before there is nothing left.
        let event = std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
            Poll::Pending => {
                flushed = out.flush();
                if flushed.is_ok() { Poll::Pending } else { Poll::Ready(None) }
            }
            ready => ready,
        })
        .await;
        flushed?;
        let Some(event) = event else { break };
        let event = event?;
        if args.json {
            write_json(&event, &mut out)?;
        } else if let Event::Publication(it) = &event {
            write_payload(&it.payload, is_terminal, &mut out)?;
        }
        tell(&event, args.json);
        if matches!(event, Event::Publication(_))
            && let Some(left) = &mut left
        {
            *left -= 1;
            if *left == 0 {
                break;
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn write_payload(payload: &Payload, is_terminal: bool, out: &mut impl Write) -> io::Result<()> {
    match payload {
        Payload::Binary { bytes, .. } if is_terminal => {
            out.write_all(STANDARD.encode(bytes).as_bytes())?;
        }
        payload => out.write_all(payload.bytes())?,
    }
    out.write_all(b"\n")
}

/// A publication's JSON form (CONTRACT 4).
#[derive(Serialize)]
struct Form<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

fn write_json(event: &Event, out: &mut impl Write) -> anyhow::Result<()> {
    let line = match event {
        Event::Publication(it) => form(it)?,
        Event::Gap(it) => {
            let cursor = |it: &Option<Cursor>| it.as_ref().map(|it| it.as_str().to_owned());
            serde_json::json!({ "gap": {
                "channel": it.channel.as_str(),
                "requested": cursor(&it.requested),
                "resumed": cursor(&it.resumed),
                "reason": it.reason.map(GapReason::as_str),
            }})
            .to_string()
        }
        Event::End(it) => {
            let cursor = it.cursor.as_ref().map(Cursor::as_str);
            serde_json::json!({ "end": { "channel": it.channel.as_str(), "cursor": cursor } })
                .to_string()
        }
        Event::Open(_) | Event::Retry(_) => return Ok(()),
    };
    writeln!(out, "{line}")?;
    Ok(())
}

fn form(it: &Publication) -> anyhow::Result<String> {
    let data = match &it.payload {
        Payload::Json(bytes) => {
            let mut line = Vec::with_capacity(bytes.len());
            write_one_line(bytes, &mut line);
            Some(RawValue::from_string(String::from_utf8(line)?)?)
        }
        _ => None,
    };
    let (content_type, base64) = match &it.payload {
        Payload::Binary { bytes, content_type } => {
            (content_type.as_deref(), Some(STANDARD.encode(bytes)))
        }
        _ => (None, None),
    };
    let text = match &it.payload {
        Payload::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    Ok(serde_json::to_string(&Form {
        channel: it.channel.as_str(),
        cursor: it.cursor.as_ref().map(Cursor::as_str),
        time: it.time.as_deref(),
        event: it.event.as_deref(),
        user: it.user.as_deref(),
        content_type,
        data: data.as_deref(),
        text,
        base64,
    })?)
}

/// Tells what is no publication; with --json what the lines don't have.
fn tell(event: &Event, is_json: bool) {
    match event {
        Event::Gap(Gap { channel, resumed, reason, .. }) if !is_json => {
            let reason = reason.map_or("unknown", |it| it.as_str());
            let from = resumed.as_ref().map_or_else(String::new, |it| format!(", on from {it}"));
            eprintln!("gap: {channel}: publications were or may have been missed ({reason}){from}");
        }
        Event::End(End { channel, .. }) if !is_json => eprintln!("end: {channel}"),
        Event::Retry(Retry { failure, delay, wire, .. }) => {
            eprintln!("lost: {failure}; again by {wire} in {:.1} s", delay.as_secs_f64());
        }
        _ => {}
    }
}
