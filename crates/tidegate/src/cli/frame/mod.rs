//! `tidegate frame`: WebSocket frames, bit by bit (RFC 6455 §5.2).
//!
//! `dissect` takes bytes apart and judges them, here is what is typed and printed.

use std::io::{self, Read as _, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};

mod dissect;

use super::WRONG;
use dissect::{Context, Dissection, Finding, Line, Sender, dissect};

const LONG_ABOUT: &str = "\
Take WebSocket frames apart, bit by bit, and say what RFC 6455 finds wrong with them.

The bytes are given in hexadecimal, in either case; spaces, line breaks, ':', ',' and '0x' between \
them mean nothing. '-' reads such text from standard input, as in 'xxd -p frame.bin | tidegate frame -'. \
Frames that follow each other are taken as one end's, so that fragments are judged together.

Exit codes: 0 if all is well, 1 if a frame is wrong or not whole, 2 if the input is no hexadecimal.";

const EXAMPLES: &str = "\
Examples:
  tidegate frame '81 85 37 fa 21 3d 7f 9f 4d 51 58'
      A masked text frame, as a client sends it.
  tidegate frame --deflate c107f248cdc9c90700
      A message that permessage-deflate has compressed.";

/// The most that is read: frames of a conversation, not of a file transfer.
const INPUT_BYTES_MAX: usize = 16 << 20;

/// Take WebSocket frames apart, bit by bit
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct FrameArgs {
    /// The bytes in hexadecimal, or - for standard input
    #[arg(value_name = "HEX|-", required = true, num_args = 1.., allow_hyphen_values = true)]
    hex: Vec<String>,
    /// Whose frames they are; a client's must be masked, a server's must not
    #[arg(long, value_name = "END", default_value = "either")]
    from: From,
    /// permessage-deflate was agreed upon: RSV1 may be set
    #[arg(long)]
    deflate: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// A client
    Client,
    /// A server
    Server,
    /// Not known: the mask says
    Either,
}

pub(super) fn run(args: &FrameArgs) -> ExitCode {
    let text = match input(&args.hex) {
        Ok(text) => text,
        Err(error) => {
            super::tell_error(&format_args!("can't read standard input: {error}"));
            return ExitCode::from(super::FAILURE);
        }
    };
    let bytes = match hexadecimal(&text) {
        Ok(bytes) => bytes,
        Err(error) => {
            super::tell_error(&error);
            return ExitCode::from(super::USAGE);
        }
    };
    let sender = match args.from {
        From::Client => Some(Sender::Client),
        From::Server => Some(Sender::Server),
        From::Either => None,
    };
    let frames = dissect(&bytes, Context { sender, deflate: args.deflate });
    let is_well = frames.iter().all(|it| it.findings.is_empty());
    // It drops the colours where nobody sees them, or does not want to (NO_COLOR).
    match print(&frames, &mut anstream::stdout().lock()) {
        Ok(()) if is_well => ExitCode::SUCCESS,
        _ => ExitCode::from(super::FAILURE),
    }
}

fn input(hex: &[String]) -> io::Result<String> {
    match hex {
        [dash] if dash == "-" => {
            let mut text = String::new();
            // Two digits a byte, and as much between them.
            let bound = 4 * INPUT_BYTES_MAX as u64;
            io::stdin().lock().take(bound).read_to_string(&mut text)?;
            Ok(text)
        }
        parts => Ok(parts.join(" ")),
    }
}

/// Reads bytes, whatever stands between them.
fn hexadecimal(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut high: Option<u8> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, it)) = chars.next() {
        if it == '0' && high.is_none() && chars.next_if(|(_, x)| matches!(x, 'x' | 'X')).is_some() {
            continue;
        }
        let Some(digit) = it.to_digit(16).and_then(|it| u8::try_from(it).ok()) else {
            if it.is_whitespace() || matches!(it, ':' | ',') {
                continue;
            }
            return Err(format!(
                "{it:?}, character {} of the input, is no hexadecimal digit; 0-9, a-f and A-F are \
                 allowed, and between them spaces, ':', ',' and \"0x\"",
                text.get(..at).map_or(0, |it| it.chars().count()) + 1
            ));
        };
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
        if bytes.len() > INPUT_BYTES_MAX {
            return Err(format!("more than {} MiB; give fewer frames", INPUT_BYTES_MAX >> 20));
        }
    }
    match (high, bytes.is_empty()) {
        (Some(_), _) => Err("an odd number of digits; a byte has two".to_owned()),
        (None, true) => Err("no bytes; a frame has at least two, such as 8900".to_owned()),
        (None, false) => Ok(bytes),
    }
}

const HEADING: Style = Style::new().bold();
const BITS: Style = AnsiColor::Cyan.on_default();

fn print(frames: &[Dissection], out: &mut impl Write) -> io::Result<()> {
    for (nth, frame) in (1..).zip(frames) {
        if nth > 1 {
            writeln!(out)?;
        }
        writeln!(out, "{HEADING}frame {nth}: {}{HEADING:#}", frame.summary)?;
        for Line { offset, bytes, bits, meaning } in &frame.lines {
            let offset = offset.map_or_else(String::new, |it| it.to_string());
            writeln!(out, "{offset:>6}  {bytes:<23}  {BITS}{bits:<8}{BITS:#}  {meaning}")?;
        }
        for finding in &frame.findings {
            let Finding { kind, what } = finding;
            writeln!(out, "{WRONG}{kind}:{WRONG:#} {what}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_however_it_is_written() {
        let expect = [0x81, 0x05, 0xAB];
        for text in
            ["8105ab", "81 05 AB", "81:05:ab", "0x81, 0x05, 0xab", " 81\n05\tab\n", "8 105ab"]
        {
            assert_eq!(hexadecimal(text).unwrap(), expect, "{text:?}");
        }
        for (text, part) in [
            ("8105a", "odd number"),
            ("", "no bytes"),
            ("  ", "no bytes"),
            ("81 zz", "'z', character 4"),
            ("ü", "'ü', character 1"),
        ] {
            let error = hexadecimal(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
