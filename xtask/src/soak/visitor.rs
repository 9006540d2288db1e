//! Brief visits: someone who publishes in a channel that nobody knew, reads it on any wire, leaves
//! with or without a word, in the middle of a head or of a body, and drops it or lets it age.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use fastrand::Rng;

use super::Soak;
use crate::http::{Connection, UPGRADE};

/// Comes and goes until the soak is over.
pub(super) fn run(soak: &Soak, visitor: usize, mut rng: Rng) -> anyhow::Result<()> {
    let mut number = 0;
    while !soak.is_over() {
        number += 1;
        // A modest rate, no wait for anything.
        std::thread::sleep(Duration::from_millis(rng.u64(..20)));
        let path = format!("/channels/visitor.{visitor}.{}", number / 4);
        let mut connection = Connection::open(&soak.address)?;
        match rng.u8(..8) {
            0 => expect(&connection.post(&path, &[], b"hello")?, 200)?,
            1 => expect(&connection.get(&path, &[])?, 200)?,
            2 => {
                let accept = [("Accept", "text/event-stream")];
                connection.request("GET", &format!("{path}?since=start"), &accept, b"")?;
            }
            3 => {
                let accept = [("Accept", "application/x-ndjson")];
                connection.request("GET", &format!("{path}?last=2"), &accept, b"")?;
            }
            4 => {
                connection.request("GET", &path, &UPGRADE, b"")?;
            }
            // A long-poll that nobody waits for.
            5 => send(
                soak,
                &format!("GET {path}?wait=20s HTTP/1.1\r\nHost: {}\r\n\r\n", soak.address),
            )?,
            6 => send(soak, "POST /channels/visitor HTTP/1.1\r\nContent-Le")?,
            _ => {
                let head = connection.request("DELETE", &path, &[], b"")?;
                anyhow::ensure!(head.status()? == 204, "dropping: {}", head.status()?);
            }
        }
    }
    Ok(())
}

fn expect(answer: &crate::http::Answer, status: u16) -> anyhow::Result<()> {
    anyhow::ensure!(answer.status == status, "a visitor was told {}", answer.describe());
    Ok(())
}

fn send(soak: &Soak, text: &str) -> anyhow::Result<()> {
    Ok(TcpStream::connect(&soak.address)?.write_all(text.as_bytes())?)
}
