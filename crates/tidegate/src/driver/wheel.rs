//! One timing wheel per worker, instead of a timer per client (DESIGN 5).
//!
//! A client sits in one slot; when that comes up, it says what is due and when to ask again. Activity
//! moves nothing: a stamp in the client is newer than the slot knew, and it is asked again later.

/// Ticks per second.
pub const TICKS_PER_SECOND: u32 = 4;

/// Length of a tick.
pub const TICK: std::time::Duration =
    std::time::Duration::from_millis(1000 / TICKS_PER_SECOND as u64);

/// Slots; what is due later than this many ticks is asked again at the last one.
const SLOTS: usize = 512;

/// Ticks of a duration, rounded up, at least one.
#[must_use]
pub fn ticks(duration: std::time::Duration) -> u32 {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    u32::try_from(ticks).unwrap_or(u32::MAX / 2).max(1)
}

/// Keys by the tick at which they are to be asked.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<u32>>,
    /// The last tick that was turned to.
    now: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { slots: vec![Vec::new(); SLOTS], now: 0 }
    }
}

impl Wheel {
    /// Puts `key` where it is asked at tick `at`, or before, if that is far away. Answers the tick.
    #[expect(clippy::cast_possible_truncation, reason = "SLOTS is small")]
    pub fn insert(&mut self, key: u32, at: u32) -> u32 {
        let distance = at.saturating_sub(self.now).clamp(1, SLOTS as u32 - 1);
        let at = self.now.saturating_add(distance);
        if let Some(slot) = self.slots.get_mut(at as usize % SLOTS) {
            slot.push(key);
        }
        at
    }

    /// Turns to `now` and takes the keys of every slot on the way into `due`, each with its tick.
    pub fn turn(&mut self, now: u32, due: &mut Vec<(u32, u32)>) {
        while self.now < now {
            self.now += 1;
            if let Some(slot) = self.slots.get_mut(self.now as usize % SLOTS) {
                due.extend(std::mem::take(slot).into_iter().map(|key| (key, self.now)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_up_at_their_tick_and_far_ones_are_asked_before() {
        let mut wheel = Wheel::default();
        let mut due = Vec::new();
        assert_eq!((wheel.insert(1, 3), wheel.insert(2, 5), wheel.insert(3, 9999)), (3, 5, 511));
        wheel.turn(4, &mut due);
        assert_eq!(due, [(1, 3)]);
        assert_eq!(wheel.insert(4, 2), 5, "what is late already comes up next");
        due.clear();
        wheel.turn(600, &mut due);
        assert_eq!(due, [(2, 5), (4, 5), (3, 511)]);
    }
}
