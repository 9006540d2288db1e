//! The publications that are on their way, and who has them.

use std::time::Instant;

use tidegate_client::Failure;

use super::meter::{Counts, State};
use super::payload::Template;

/// Publications that are not with every subscriber yet, at most; a power of two.
pub(super) const FLIGHT_MAX: u64 = 16_384;

/// The bytes of a longer message are not kept: parsing it costs little beside receiving it.
const UNIT_BYTES_MAX: usize = 16 << 10;

/// The publications that are on their way, by number. The first is 1.
#[derive(Debug)]
pub(super) struct Flight {
    /// By the number's low digits.
    slots: Vec<Slot>,
    template: Template,
    subscribers: u64,
    /// The newest that was made.
    newest: u64,
    /// How many are settled: each subscriber has it, or will never get it.
    settled: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    /// Since when it is late.
    sent: Instant,
    /// Subscribers for whom it is settled.
    seen: u64,
    /// Its bytes on the subscribers' wire, once one of them has had it.
    unit: Vec<u8>,
}

impl Flight {
    /// Nothing is on its way yet.
    pub(super) fn new(size: usize, subscribers: u64) -> Self {
        let template = Template::new(size);
        Self { slots: Vec::new(), template, subscribers, newest: 0, settled: 0 }
    }

    /// Publications that are on their way.
    pub(super) fn len(&self) -> u64 {
        self.newest - self.settled
    }

    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Makes the next publication: its payload. The caller has seen to it that there is room.
    pub(super) fn open(&mut self, sent: Instant) -> String {
        self.newest += 1;
        match slot_mut(&mut self.slots, self.newest) {
            Some(slot) => {
                (slot.sent, slot.seen) = (sent, 0);
                slot.unit.clear();
            }
            // Number 0, which is none, has a place too; and places are made in order.
            None => self.slots.resize(
                usize::try_from(self.newest + 1).unwrap_or_default(),
                Slot { sent, seen: 0, unit: Vec::new() },
            ),
        }
        String::from_utf8_lossy(self.template.payload(self.newest)).into_owned()
    }

    /// The bytes of number `number` at a subscriber, if they are known.
    pub(super) fn unit(&self, number: u64) -> &[u8] {
        self.slots.get(place(number)).map_or(&[], |slot| &slot.unit)
    }

    /// A message has come to a subscriber that waits for number `next`.
    ///
    /// # Errors
    ///
    /// [`Failure::Protocol`]: it is none of ours, or was changed.
    pub(super) fn handle_message(
        &mut self,
        next: &mut u64,
        payload: &[u8],
        unit: &[u8],
        received: Instant,
        state: &mut State,
    ) -> Result<(), Failure> {
        let number = self.template.number(payload).filter(|it| (1..=self.newest).contains(it));
        let number = number.ok_or_else(|| {
            let begin = payload.get(..payload.len().min(40)).unwrap_or_default();
            let begin = String::from_utf8_lossy(begin).into_owned();
            Failure::Protocol(format!("a message came that was not published: {begin:?}"))
        })?;
        if number < *next {
            state.counts.duplicates += 1;
            return Ok(());
        }
        for lost in *next..number {
            state.counts.lost += 1;
            self.settle(lost);
        }
        if let Some(slot) = slot_mut(&mut self.slots, number)
            && slot.unit.is_empty()
            && unit.len() <= UNIT_BYTES_MAX
        {
            slot.unit.extend_from_slice(unit);
        }
        self.handle_number(number, received, state);
        *next = number + 1;
        Ok(())
    }

    /// Number `number` has come to a subscriber.
    #[inline]
    pub(super) fn handle_number(&mut self, number: u64, received: Instant, state: &mut State) {
        state.counts.messages += 1;
        if let Some(slot) = self.slots.get(place(number)) {
            state.record(received.saturating_duration_since(slot.sent));
        }
        self.settle(number);
    }

    #[inline]
    fn settle(&mut self, number: u64) {
        if let Some(slot) = slot_mut(&mut self.slots, number) {
            slot.seen += 1;
            if slot.seen == self.subscribers {
                self.settled += 1;
            }
        }
    }

    /// What of all that was published has not come to somebody: to be asked at the end.
    pub(super) fn missing(&self, counts: &Counts) -> u64 {
        (self.newest * self.subscribers).saturating_sub(counts.messages)
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % FLIGHT_MAX).unwrap_or_default()
}

fn slot_mut(slots: &mut [Slot], number: u64) -> Option<&mut Slot> {
    slots.get_mut(place(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::meter::Meter;

    /// Publishes `count`, and lets one of two subscribers have `received` in this order.
    #[track_caller]
    fn check(count: u64, received: &[u64], lost: u64, duplicates: u64, missing: u64) {
        let (meter, now) = (Meter::new(), Instant::now());
        let mut flight = Flight::new(100, 2);
        let payloads: Vec<_> = (0..count).map(|_| flight.open(now)).collect();
        let mut all = 1;
        for payload in &payloads {
            let payload = payload.as_bytes();
            flight.handle_message(&mut all, payload, &[], now, &mut meter.borrow()).unwrap();
        }
        assert_eq!(flight.settled(), 0);
        let mut next = 1;
        for number in received {
            let payload = flight.template.payload(*number).to_vec();
            let mut state = meter.borrow();
            flight.handle_message(&mut next, &payload, &[], now, &mut state).unwrap();
        }
        let counts = meter.borrow().counts;
        assert_eq!((counts.lost, counts.duplicates), (lost, duplicates));
        assert_eq!(flight.missing(&counts), missing);
    }

    #[test]
    fn what_is_missing_and_what_came_twice_is_counted() {
        check(3, &[1, 2, 3], 0, 0, 0);
        check(3, &[1, 3], 1, 0, 1);
        check(3, &[1, 2], 0, 0, 1);
        check(3, &[1, 2, 2, 1, 3], 0, 2, 0);
        check(FLIGHT_MAX, &[FLIGHT_MAX], FLIGHT_MAX - 1, 0, FLIGHT_MAX - 1);
    }

    #[test]
    fn what_was_not_published_is_an_error() {
        let (meter, now) = (Meter::new(), Instant::now());
        let mut flight = Flight::new(20, 1);
        let payload = flight.open(now);
        let other = flight.template.payload(2).to_vec();
        let changed = payload.replace('a', "b");
        for wrong in [&b""[..], b"hello", &other, changed.as_bytes()] {
            let mut state = meter.borrow();
            let got = flight.handle_message(&mut 1, wrong, &[], now, &mut state);
            assert!(matches!(got, Err(Failure::Protocol(_))), "{wrong:?}");
        }
        assert_eq!(flight.len(), 1);
    }

    #[test]
    fn places_are_used_again_once_all_have_what_was_there() {
        let (meter, now) = (Meter::new(), Instant::now());
        let mut flight = Flight::new(20, 1);
        let mut next = 1;
        for _ in 0..3 * FLIGHT_MAX {
            let payload = flight.open(now);
            let unit = payload.clone();
            assert!(flight.unit(next).is_empty());
            let mut state = meter.borrow();
            let (payload, unit) = (payload.as_bytes(), unit.as_bytes());
            flight.handle_message(&mut next, payload, unit, now, &mut state).unwrap();
            assert_eq!(flight.unit(next - 1), unit);
        }
        assert_eq!((flight.len(), flight.settled()), (0, 3 * FLIGHT_MAX));
    }
}
