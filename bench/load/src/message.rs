//! What is published: a sequence number, a time stamp, filler; and the record of what is in flight.
//!
//! A payload is `SSSSSSSSSSSS TTTTTTTTTTTTTTTT abcdef…`: twelve decimal digits, sixteen, then the
//! alphabet over and over. It is plain text, never JSON, so every server keeps it as it is.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::wire::Wire;

/// Bytes of the two numbers and the spaces after them; no payload is shorter.
pub(crate) const LEN_MIN: usize = 30;

/// Publications that may be in flight at once. A power of two.
pub(crate) const FLIGHT_MAX: usize = 1024;

/// Digits of the sequence number, which begins the payload.
pub(crate) const SEQ_LEN: usize = 12;

/// A payload of fixed length into which numbers are written in place.
#[derive(Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
}

impl Template {
    pub(crate) fn new(len: usize) -> Result<Self> {
        ensure!(len >= LEN_MIN, "a message has at least {LEN_MIN} bytes");
        let mut bytes = vec![b' '; LEN_MIN];
        bytes.extend((b'a'..=b'z').cycle().take(len - LEN_MIN));
        Ok(Self { bytes })
    }

    /// The payload with these numbers.
    pub(crate) fn write(&mut self, seq: u64, stamp: u64) -> &[u8] {
        digits(&mut self.bytes[..SEQ_LEN], seq);
        digits(&mut self.bytes[13..29], stamp);
        &self.bytes
    }

    /// The sequence number of a payload that is right in every byte, whoever published it when.
    pub(crate) fn check(&mut self, payload: &[u8]) -> Result<u64> {
        let (seq, stamp) = numbers(payload).context("a payload has no sequence number")?;
        ensure!(self.write(seq, stamp) == payload, "the payload of message {seq} was changed");
        Ok(seq)
    }
}

/// The sequence number and the stamp of a payload.
fn numbers(payload: &[u8]) -> Option<(u64, u64)> {
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
    Some((number(payload.get(..SEQ_LEN)?)?, number(payload.get(13..29)?)?))
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// One publication on its way.
pub(crate) struct Slot {
    seq: u64,
    payload: Vec<u8>,
    /// The bytes that carry it on each wire, once one subscriber's have been parsed and found right:
    /// everyone else's on that wire are compared with them whole. Empty until then.
    pub(crate) units: [Vec<u8>; Wire::COUNT],
    /// Subscribers that have it.
    pub(crate) seen: usize,
    pub(crate) sent: Instant,
}

/// The publications on their way, by sequence number.
pub(crate) struct Flight {
    slots: Vec<Slot>,
    template: Template,
    newest: u64,
    start: Instant,
}

impl Flight {
    pub(crate) fn new(len: usize) -> Result<Self> {
        let start = Instant::now();
        let slots = (0..FLIGHT_MAX)
            .map(|_| Slot {
                seq: 0,
                payload: Vec::new(),
                units: Default::default(),
                seen: 0,
                sent: start,
            })
            .collect();
        Ok(Self { slots, template: Template::new(len)?, newest: 0, start })
    }

    /// Changes the length of what is published from here on.
    pub(crate) fn resize(&mut self, len: usize) -> Result<()> {
        self.template = Template::new(len)?;
        Ok(())
    }

    /// The sequence number of the newest publication; the first is 1.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Makes the next publication and returns its payload.
    pub(crate) fn open(&mut self) -> &[u8] {
        self.newest += 1;
        let sent = Instant::now();
        let stamp = (sent - self.start).as_micros() as u64;
        let payload = self.template.write(self.newest, stamp);
        let slot = &mut self.slots[self.newest as usize % FLIGHT_MAX];
        slot.seq = self.newest;
        slot.sent = sent;
        slot.seen = 0;
        slot.units.iter_mut().for_each(Vec::clear);
        slot.payload.clear();
        slot.payload.extend_from_slice(payload);
        &slot.payload
    }

    /// The record of `seq`, unless it is not in flight (any more).
    pub(crate) fn slot(&mut self, seq: u64) -> Option<&mut Slot> {
        let slot = &mut self.slots[seq as usize % FLIGHT_MAX];
        (slot.seq == seq && seq != 0).then_some(slot)
    }

    /// The sequence number of `payload`, after every byte of it was compared.
    pub(crate) fn check(&mut self, payload: &[u8]) -> Result<u64> {
        let (seq, _) = numbers(payload).context("a payload has no sequence number")?;
        let Some(slot) = self.slot(seq) else { return self.template.check(payload) };
        ensure!(slot.payload == payload, "the payload of message {seq} was changed");
        Ok(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut flight = Flight::new(100).unwrap();
        let payload = flight.open().to_vec();
        assert_eq!(payload.len(), 100);
        assert_eq!(flight.check(&payload).unwrap(), 1);
        for place in 0..payload.len() {
            let mut changed = payload.clone();
            changed[place] ^= 1;
            assert_ne!(flight.check(&changed).ok(), Some(1), "byte {place}");
        }
    }
}
