//! `tidegate accept`: the handshake's answer to a key (RFC 6455 §4.2.2).

use std::io::{self, Write as _};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use tidegate_wire::websocket::handshake::accept_key;

const LONG_ABOUT: &str = "\
Compute the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455, section 4.2.2).

Prints the value alone, on standard output. A key is 16 random bytes in base64; whatever is none is \
refused, as a server should.";

const EXAMPLES: &str = "\
Example:
  tidegate accept dGhlIHNhbXBsZSBub25jZQ==
      The key of RFC 6455, which is answered with s3pPLMBiTxaQ9kYGzzhZRbK+xOo=.";

/// Compute a WebSocket handshake's answer
#[derive(Args, Debug)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub(super) struct AcceptArgs {
    /// The value of Sec-WebSocket-Key
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,
}

pub(super) fn run(args: &AcceptArgs) -> ExitCode {
    let accept = accept_key(&args.key);
    match writeln!(io::stdout(), "{}", String::from_utf8_lossy(&accept)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(super::FAILURE),
    }
}

fn key(text: &str) -> Result<String, String> {
    let what = "a key is 16 bytes in base64, such as dGhlIHNhbXBsZSBub25jZQ==";
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() == 16 => Ok(text.to_owned()),
        Ok(bytes) => Err(format!("it has {} bytes; {what}", bytes.len())),
        Err(error) => Err(format!("{error}; {what}")),
    }
}
