//! The clock that all VPs of a partition read at once.

use super::{ReferenceTime, Timeline, Tsc};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

/// A [`Timeline`] that any VP reads without a lock while another replaces it.
///
/// There are two slots for it. Readers use the one that the version's lowest bit
/// selects; the writer fills the other, then advances the version. A reader
/// so never waits for a writer: it reads again only if the version moved
/// under it.
///
/// Replacing the line while VPs run keeps time continuous only for who reads
/// it after the replacement; see [`ReferenceClock::replace`].
pub struct ReferenceClock {
    version: AtomicU32,
    slots: [Slot; 2],
}

#[derive(Default)]
struct Slot {
    scale: AtomicU64,
    offset: AtomicI64,
    inverse_low: AtomicU64,
    inverse_high: AtomicU64,
}

impl Slot {
    fn store(&self, line: &Timeline) {
        self.scale.store(line.scale, Ordering::Relaxed);
        self.offset.store(line.offset, Ordering::Relaxed);
        self.inverse_low
            .store(line.inverse as u64, Ordering::Relaxed);
        self.inverse_high
            .store((line.inverse >> 64) as u64, Ordering::Relaxed);
    }

    /// Inlined into its users, of which each drops the loads it has no use for.
    #[inline(always)]
    fn load(&self) -> Timeline {
        let low = self.inverse_low.load(Ordering::Relaxed);
        let high = self.inverse_high.load(Ordering::Relaxed);
        Timeline {
            scale: self.scale.load(Ordering::Relaxed),
            offset: self.offset.load(Ordering::Relaxed),
            inverse: u128::from(high) << 64 | u128::from(low),
        }
    }
}

impl ReferenceClock {
    /// A clock that follows `line`.
    pub fn new(line: &Timeline) -> Self {
        let clock = Self {
            version: AtomicU32::new(0),
            slots: Default::default(),
        };
        clock.slots[0].store(line);
        clock
    }

    #[inline(always)]
    fn read<T>(&self, of: impl Fn(Timeline) -> T) -> T {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let result = of(self.slots[version as usize & 1].load());
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return result;
            }
        }
    }

    /// The line in force.
    pub fn timeline(&self) -> Timeline {
        self.read(|line| line)
    }

    /// The reference time at `tsc`.
    #[inline]
    pub fn reference(&self, tsc: Tsc) -> ReferenceTime {
        self.read(|line| line.reference(tsc))
    }

    /// The TSC value at which a timer for `time` may fire: never early, see
    /// [`Timeline::tsc_at`].
    #[inline]
    pub fn tsc_at(&self, time: ReferenceTime) -> Option<Tsc> {
        self.read(|line| line.tsc_at(time))
    }

    /// Makes the clock follow `line`.
    ///
    /// The caller sees to it that nobody else replaces it at the same time,
    /// and that no VP that still uses the old line can be told apart from one
    /// that uses the new: that VPs are stopped, or that the lines meet now and
    /// the TSC's rate does not change.
    pub fn replace(&self, line: &Timeline) {
        let version = self.version.load(Ordering::Relaxed);
        // Who still reads the slot to be overwritten took it under the
        // version before this one: if it sees any of the new words, it must
        // also see that the version has moved.
        fence(Ordering::Release);
        self.slots[version.wrapping_add(1) as usize & 1].store(line);
        self.version
            .store(version.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicBool;

    #[test]
    fn a_replaced_line_is_read() {
        let first = Timeline::through(Tsc(0), ReferenceTime(0), 1_000_000_000).unwrap();
        let clock = ReferenceClock::new(&first);
        assert_eq!(clock.reference(Tsc(1000)), first.reference(Tsc(1000)));
        for n in 1..5 {
            let next = Timeline::through(Tsc(n), ReferenceTime(n * 7), 1_000_000_000 + n).unwrap();
            clock.replace(&next);
            assert_eq!(clock.timeline(), next);
            assert_eq!(
                clock.tsc_at(ReferenceTime(1 << 30)),
                next.tsc_at(ReferenceTime(1 << 30))
            );
        }
    }

    #[test]
    fn readers_see_whole_lines_only() {
        // Every line of this family has its offset in its scale.
        let line = |n: u64| Timeline {
            scale: n,
            offset: n as i64,
            inverse: u128::from(n) << 64 | u128::from(n),
        };
        let clock = ReferenceClock::new(&line(1));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 2..200_000 {
                    clock.replace(&line(n));
                }
                done.store(true, Ordering::Release);
            });
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let seen = clock.timeline();
                assert_eq!(seen, line(seen.scale));
                assert!(seen.scale >= last, "an older line after a newer one");
                last = seen.scale;
            }
        });
    }
}
