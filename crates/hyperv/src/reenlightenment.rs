//! A change of the machine's TSC rate, and how L1 learns of it (TLFS,
//! "Reenlightenment").
//!
//! Where hardware can scale the machine's TSC to the rate that L1 knows, the
//! change is hidden from any L1: its TSC, its reference TSC page and the rates
//! that it reads stay as they are, and nothing is emulated.
//!
//! Elsewhere an L1 that has asked for it (TSC_EMULATION_CONTROL) keeps a TSC of
//! the rate it knows by emulation, and with it the page as it is, until it has
//! taken note. For any other the TSC is the machine's at once and the page is a
//! new one.
//!
//! The interrupt comes in any case, to who wants it: TLFS has L1 look at
//! TSC_EMULATION_STATUS then, which says whether there is anything to do.

use crate::clock::{Timeline, TooSlow, TscSource};
use crate::memory::L1Memory;
use crate::partition::Partition;
use core::sync::atomic::Ordering;
use tlfs::msr::{ReenlightenmentControl, TscEmulation};

/// The interrupt that tells L1 of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The index of the VP that takes it.
    pub vp: u32,
    /// Its vector, at least 16.
    pub vector: u8,
}

/// The vectors below are the processor's own.
const FIRST_VECTOR: u8 = 16;

impl Partition {
    /// Whether TSC reads are to be emulated: what TSC_EMULATION_STATUS says.
    #[inline]
    pub fn is_tsc_emulated(&self) -> bool {
        TscEmulation::from_bits(self.tsc_emulation_status.load(Ordering::Relaxed)).active()
    }

    /// The machine's TSC, which reads `machine`, has another rate from now on;
    /// `can_scale` says whether hardware scales it for guests.
    /// All VPs are stopped. `source` is what the partition's TSC comes from;
    /// VPs are to take what has become of it before they run, and then
    /// [`Partition::reenlightenment_notice`] is due.
    ///
    /// # Errors
    ///
    /// [`TooSlow`] up to 10 MHz; nothing has changed then.
    pub fn change_tsc_rate(
        &self,
        source: &mut TscSource,
        machine: u64,
        machine_hz: u64,
        can_scale: bool,
        memory: &impl L1Memory,
    ) -> Result<(), TooSlow> {
        if can_scale && source.scale(machine, machine_hz)? {
            // With the emulation of an earlier change, if L1 has not taken note of it.
            self.tsc_emulation_status
                .store(TscEmulation::new().into_bits(), Ordering::Relaxed);
            return Ok(());
        }
        source.emulate(machine, machine_hz)?;
        let wanted = TscEmulation::from_bits(self.tsc_emulation_control.load(Ordering::Relaxed));
        if wanted.active() {
            let active = TscEmulation::new().with_active(true);
            self.tsc_emulation_status
                .store(active.into_bits(), Ordering::Relaxed);
        } else {
            self.end_tsc_emulation(source, machine, memory);
        }
        Ok(())
    }

    /// TSC reads are emulated no longer: the partition's TSC is the machine's,
    /// which reads `machine`, and the clock follows it, from the value that both
    /// had. All VPs are stopped, as for [`Partition::change_tsc_rate`].
    pub fn end_tsc_emulation(&self, source: &mut TscSource, machine: u64, memory: &impl L1Memory) {
        let tsc = source.tsc(machine);
        let reference = self.clock.reference(tsc);
        source.follow_machine(machine);
        let hz = source.guest_hz();
        // A source has no rate that is too slow for a line.
        if let Ok(line) = Timeline::through(tsc, reference, hz) {
            self.clock.replace(&line);
            self.tsc_page.lock().publish(&line, memory);
        }
        self.tsc_hz.store(hz, Ordering::Relaxed);
        self.tsc_emulation_status
            .store(TscEmulation::new().into_bits(), Ordering::Relaxed);
    }

    /// The interrupt that L1 is to get after each change, if it wants one on a VP
    /// that exists.
    pub fn reenlightenment_notice(&self) -> Option<Notice> {
        let control =
            ReenlightenmentControl::from_bits(self.reenlightenment.load(Ordering::Relaxed));
        let is_possible = control.enabled()
            && control.vector() >= FIRST_VECTOR
            && control.target_vp() < self.config.vps;
        is_possible.then_some(Notice {
            vp: control.target_vp(),
            vector: control.vector(),
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::clock::{REFERENCE_HZ, Tsc};
    use crate::config::Config;
    use crate::enlightenments::{Enlightenment, Set};
    use crate::msr::{Read, Write};
    use crate::testing::{self, Ram};
    use crate::vp::Vp;
    use proptest::prelude::*;
    use std::vec::Vec;
    use tlfs::msr::Msr;

    const PAGE: u64 = 0x2000;

    const CONFIG: Config = Config {
        enlightenments: Set::ALL.with(Enlightenment::Reenlightenment),
        ..testing::CONFIG
    };

    /// A partition whose machine's TSC is `machine`.
    struct Machine {
        partition: Partition,
        source: TscSource,
        vp: Vp,
        ram: Ram,
        machine: u64,
        can_scale: bool,
    }

    impl Machine {
        fn new() -> Self {
            let machine = 5_000_000_000u64;
            let mut new = Self {
                partition: Partition::new(CONFIG, Tsc(0)).unwrap(),
                source: TscSource::new(machine.wrapping_neg(), CONFIG.tsc_hz).unwrap(),
                vp: Vp::new(0),
                ram: Ram::new(0x4000),
                machine,
                can_scale: false,
            };
            new.write(Msr::REFERENCE_TSC, PAGE | 1);
            new
        }

        fn write(&mut self, msr: Msr, value: u64) -> Write {
            let now = self.source.tsc(self.machine);
            self.partition
                .write_msr(&mut self.vp, msr, value, now, &self.ram)
                .unwrap()
        }

        fn read(&self, msr: Msr) -> u64 {
            let now = self.source.tsc(self.machine);
            match self.partition.read_msr(&self.vp, msr, now) {
                Ok(Read::Value(value)) => value,
                other => panic!("{msr:?}: {other:?}"),
            }
        }

        fn change(&mut self, hz: u64) {
            self.partition
                .change_tsc_rate(
                    &mut self.source,
                    self.machine,
                    hz,
                    self.can_scale,
                    &self.ram,
                )
                .unwrap();
        }

        /// Whether the reference time is this, or a unit less: scales are rounded down.
        fn is_time(&self, time: u64) -> bool {
            time.wrapping_sub(self.read(Msr::TIME_REF_COUNT)) <= 1
        }

        /// The reference time as a guest reads it, by the page.
        fn by_page(&self) -> u64 {
            let word =
                |at: u64| u64::from(self.ram.u32(at)) | u64::from(self.ram.u32(at + 4)) << 32;
            let tsc = self.source.tsc(self.machine).0;
            let scaled = (u128::from(tsc) * u128::from(word(PAGE + 8))) >> 64;
            (scaled as u64).wrapping_add(word(PAGE + 16))
        }
    }

    #[test]
    fn who_asked_keeps_rate_and_page_until_the_acknowledgement() {
        let mut m = Machine::new();
        m.write(Msr::TSC_EMULATION_CONTROL, 1);
        m.ram.writes();
        m.machine += 1_000_000;
        m.change(3_000_000_000);
        assert_eq!(m.read(Msr::TSC_EMULATION_STATUS), 1);
        assert_eq!(m.read(Msr::TSC_FREQUENCY), 2_000_000_000);
        m.machine += 3_000_000;
        assert_eq!(m.source.tsc(m.machine), Tsc(3_000_000));
        assert!(m.is_time(15_000));
        // A change in the middle of the emulation, and the time that it measures.
        m.change(1_000_000_000);
        m.machine += 1_000_000;
        assert!(m.is_time(25_000));
        assert!(m.ram.writes().is_empty(), "the page was touched");

        assert_eq!(
            m.write(Msr::TSC_EMULATION_STATUS, 0),
            Write::EndTscEmulation
        );
        m.partition
            .end_tsc_emulation(&mut m.source, m.machine, &m.ram);
        assert_eq!(m.source.conversion(), None);
        assert_eq!(m.source.tsc(m.machine), Tsc(5_000_000));
        assert_eq!(m.read(Msr::TSC_EMULATION_STATUS), 0);
        assert_eq!(m.read(Msr::TSC_FREQUENCY), 1_000_000_000);
        assert_eq!(
            m.ram.u32(PAGE),
            2,
            "the page is valid under the next number"
        );
        m.machine += 1_000_000;
        assert!(m.is_time(35_000));
        // Acknowledged twice, by two VPs at once: nothing more happens.
        assert_eq!(m.write(Msr::TSC_EMULATION_STATUS, 0), Write::Done);
    }

    #[test]
    fn who_did_not_ask_has_the_new_rate_at_once() {
        let mut m = Machine::new();
        m.machine += 2_000_000;
        m.change(1_000_000_000);
        assert_eq!(m.source.conversion(), None);
        assert_eq!(m.read(Msr::TSC_EMULATION_STATUS), 0);
        assert_eq!(m.read(Msr::TSC_FREQUENCY), 1_000_000_000);
        assert_eq!(m.ram.u32(PAGE), 2);
        assert!(m.is_time(10_000));
        m.machine += 1_000_000;
        assert!(m.is_time(20_000));
        assert_eq!(m.by_page(), m.read(Msr::TIME_REF_COUNT));
    }

    #[test]
    fn what_hardware_hides_is_hidden_whoever_asked() {
        for asks in [0, 1] {
            let mut m = Machine::new();
            m.can_scale = true;
            m.write(Msr::TSC_EMULATION_CONTROL, asks);
            m.write(Msr::REENLIGHTENMENT_CONTROL, 0x1_00EE);
            m.ram.writes();
            m.machine += 1_000_000;
            for (hz, ticks) in [
                (3_000_000_000, 3_000_000),
                (1_000_000_000, 1_000_000),
                (2_000_000_000, 2_000_000),
            ] {
                m.change(hz);
                let tsc = m.source.tsc(m.machine).0;
                let time = m.read(Msr::TIME_REF_COUNT);
                m.machine += ticks;
                assert!((m.source.tsc(m.machine).0 - tsc).abs_diff(2_000_000) <= 1);
                assert!(m.is_time(time + 10_000));
                assert_eq!(m.by_page(), m.read(Msr::TIME_REF_COUNT));
                assert_eq!(m.read(Msr::TSC_EMULATION_STATUS), 0);
                assert_eq!(m.read(Msr::TSC_FREQUENCY), 2_000_000_000);
                assert!(m.partition.reenlightenment_notice().is_some());
                assert_eq!(m.write(Msr::TSC_EMULATION_STATUS, 0), Write::Done);
            }
            assert!(m.ram.writes().is_empty(), "the page was touched");
            assert_eq!(m.source.conversion(), None, "it is the rate that L1 knows");
        }
    }

    /// One change cannot be hidden, the next can: the emulation is over, and what L1 knows has been
    /// right all the time.
    #[test]
    fn a_hidden_change_ends_an_emulation() {
        let mut m = Machine::new();
        m.can_scale = true;
        m.write(Msr::TSC_EMULATION_CONTROL, 1);
        m.ram.writes();
        m.change(u64::MAX);
        assert_eq!(m.read(Msr::TSC_EMULATION_STATUS), 1);
        m.machine += 1 << 40;
        let tsc = m.source.tsc(m.machine);
        m.change(3_000_000_000);
        assert_eq!(m.source.tsc(m.machine), tsc);
        assert_eq!(m.read(Msr::TSC_EMULATION_STATUS), 0);
        assert_eq!(m.read(Msr::TSC_FREQUENCY), 2_000_000_000);
        assert!(m.ram.writes().is_empty());
        // L1 acknowledges what it was told of before.
        assert_eq!(m.write(Msr::TSC_EMULATION_STATUS, 0), Write::Done);
    }

    #[test]
    fn the_notice_goes_where_it_can() {
        let mut m = Machine::new();
        assert_eq!(m.partition.reenlightenment_notice(), None);
        let mut notice = |value| {
            m.write(Msr::REENLIGHTENMENT_CONTROL, value);
            m.partition.reenlightenment_notice()
        };
        let vector = 0xEE;
        assert_eq!(notice(0x1_00EE), Some(Notice { vp: 0, vector }));
        assert_eq!(notice(0x1_0001_00EE), Some(Notice { vp: 1, vector }));
        for (impossible, why) in [
            (0xEE, "it is off"),
            (0x2_0001_00EE, "there is no such VP"),
            (0x1_000F, "the vector is an exception's"),
        ] {
            assert_eq!(notice(impossible), None, "{why}");
        }
    }

    proptest! {
        /// Page and MSR agree to the unit, no clock steps back, and time is the
        /// machine's, over changes and acknowledgements at any moment.
        #[test]
        fn time_goes_on(
            asks: bool, can_scale: bool,
            steps in prop::collection::vec(
                (0..1u64 << 36, 20_000_000..5_000_000_000u64, any::<bool>()), 1..24
            )
        ) {
            let mut m = Machine::new();
            m.can_scale = can_scale;
            m.write(Msr::TSC_EMULATION_CONTROL, asks.into());
            let mut hz = CONFIG.tsc_hz;
            let mut exact = 0u128;
            let mut last = (0, Tsc(0));
            let mut told = Vec::new();
            for (ticks, next, change) in steps {
                m.machine += ticks;
                exact += ((u128::from(ticks) * u128::from(REFERENCE_HZ)) << 32) / u128::from(hz);
                told.push(m.read(Msr::TIME_REF_COUNT));
                if change {
                    m.change(next);
                    hz = next;
                } else if m.write(Msr::TSC_EMULATION_STATUS, 0) == Write::EndTscEmulation {
                    m.partition.end_tsc_emulation(&mut m.source, m.machine, &m.ram);
                }
                let now = (m.read(Msr::TIME_REF_COUNT), m.source.tsc(m.machine));
                prop_assert_eq!(now.0, m.by_page());
                prop_assert_eq!(now.0, *told.last().unwrap(), "a step");
                prop_assert!(now.0 >= last.0 && now.1 >= last.1);
                last = now;
                let deviation = u128::from(now.0).abs_diff(exact >> 32);
                prop_assert!(deviation <= 2 * told.len() as u128 + 2, "{deviation}");
            }
        }
    }
}
