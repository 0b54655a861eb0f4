//! The Hv#1 server's place in the exit handlers.

use addr::Gpa1;
use hyperv::clock::{ReferenceTime, Tsc};
use hyperv::crash::CrashReport;
use hyperv::memory::{ReadMemory, Unmapped, WriteMemory};
use hyperv::msr::{GeneralProtection, Read, Write};
use platform::apic::Mode;
use platform::counters::Counter;
use platform::interrupt::Trigger;
use tlfs::msr::Msr;

use super::memory::L1Memory;
use super::{Activity, Vp};
use crate::fatal::{self, End};
use crate::log;

/// The x2APIC's interrupt command register.
const X2APIC_ICR: u32 = 0x830;
/// The xAPIC's interrupt command register: what it does, and its destination.
const ICR_LOW: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;

impl ReadMemory<Gpa1> for L1Memory {
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unmapped> {
        if L1Memory::read(self, at, into) {
            Ok(())
        } else {
            Err(Unmapped)
        }
    }

    #[inline]
    fn read_words(&self, at: Gpa1, into: &mut [u64]) -> Result<(), Unmapped> {
        if L1Memory::read_words(self, at, into) {
            Ok(())
        } else {
            Err(Unmapped)
        }
    }
}

impl WriteMemory<Gpa1> for L1Memory {
    fn write(&self, at: Gpa1, from: &[u8]) -> Result<(), Unmapped> {
        if L1Memory::write(self, at, from) {
            Ok(())
        } else {
            Err(Unmapped)
        }
    }
}

impl Vp {
    /// The TSC that the partition's reference clock follows.
    #[inline]
    fn clock_now(&self) -> Tsc {
        Tsc(self.tsc_counter_now().wrapping_add(self.partition_offset))
    }

    /// The partition's reference time now.
    pub fn reference_now(&self) -> ReferenceTime {
        self.partition.hyperv.clock().reference(self.clock_now())
    }

    /// Seconds since the partition began, by its reference clock.
    pub fn reference_seconds(&self) -> u64 {
        const UNITS_PER_SECOND: u64 = 10_000_000;
        self.reference_now().0 / UNITS_PER_SECOND
    }

    /// RDMSR of a synthetic MSR.
    pub fn read_synthetic_msr(&mut self, msr: u32) -> Result<u64, GeneralProtection> {
        if Msr(msr) == Msr::TIME_REF_COUNT {
            self.count(Counter::ReferenceReads);
        }
        let now = self.clock_now();
        match self
            .partition
            .hyperv
            .read_msr(&self.hyperv, Msr(msr), now)?
        {
            Read::Value(value) => Ok(value),
            Read::Idle => {
                self.activity = Activity::Idle;
                self.attention = true;
                Ok(0)
            }
            Read::Icr => self.read_icr().map_err(|_| GeneralProtection),
            Read::Tpr => Ok(u64::from(self.apic.task_priority())),
        }
    }

    /// WRMSR of a synthetic MSR.
    pub fn write_synthetic_msr(&mut self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let now = self.clock_now();
        let partition = self.partition;
        let effect = partition.hyperv.write_msr(
            &mut self.hyperv,
            Msr(msr),
            value,
            now,
            &partition.memory,
        )?;
        match effect {
            Write::Done => {}
            Write::TimersChanged => self.update_deadline(),
            Write::AssistPageChanged => {
                self.withdraw_eoi_assist();
                self.nested
                    .set_assist_page(self.hyperv.assist_page(), partition);
            }
            Write::Reset => fatal::end(End::Reset, format_args!("L1 reset itself (Hv#1 RESET)")),
            Write::Crash(report) => self.crashed(&report),
            Write::Eoi => {
                self.withdraw_eoi_assist();
                let effect = self.apic.end_of_interrupt();
                self.apply_effect(effect);
            }
            Write::Icr(value) => {
                self.write_icr(value).map_err(|_| GeneralProtection)?;
            }
            Write::Tpr(priority) => {
                self.apic.set_task_priority(priority);
                self.attention = true;
            }
            Write::EndTscEmulation => self.end_tsc_emulation(),
        }
        Ok(())
    }

    /// ICR as one word, in whichever mode the APIC is.
    fn read_icr(&mut self) -> Result<u64, platform::GeneralProtection> {
        let now = self.tsc_now();
        if self.apic.mode() == Mode::X2Apic {
            return self.apic.read_msr(X2APIC_ICR, now);
        }
        let high = u64::from(self.apic.read_page(ICR_HIGH, 4, now));
        Ok(high << 32 | u64::from(self.apic.read_page(ICR_LOW, 4, now)))
    }

    fn write_icr(&mut self, value: u64) -> Result<(), platform::GeneralProtection> {
        let now = self.tsc_now();
        let effect = if self.apic.mode() == Mode::X2Apic {
            self.apic.write_msr(X2APIC_ICR, value, now)?
        } else {
            let _ = self.apic.write_page(ICR_HIGH, 4, (value >> 32) as u32, now);
            self.apic.write_page(ICR_LOW, 4, value as u32, now)
        };
        self.apply_effect(effect);
        Ok(())
    }

    /// L1 reports a crash. With its message it has said all that it will: the run ends.
    fn crashed(&mut self, report: &CrashReport) {
        let mut buffer = [0; CrashReport::MESSAGE_MAX];
        let text = match report.message(&self.partition.memory, &mut buffer) {
            Ok(bytes) => core::str::from_utf8(bytes).unwrap_or("(not text)"),
            Err(Unmapped) => "(the message lies outside of L1's memory)",
        };
        for line in text.lines() {
            log!("L1 crash: {line}");
        }
        // Linux reports first the registers, then, once its log is complete, the message.
        if report.message_range().is_some() {
            let last = text
                .lines()
                .find(|line| line.contains("Kernel panic"))
                .or(text.lines().last())
                .unwrap_or("");
            fatal::end(End::Panic, format_args!("{last}"))
        }
        if self.may_log() {
            log!("L1 crash parameters: {:x?}", report.parameters);
        }
    }

    /// When the next synthetic timer is due, in the partition's TSC, which L1's writes to a VP's do
    /// not change.
    pub fn hv_next_deadline(&self) -> Option<u64> {
        let deadline = self.hyperv.next_deadline(self.partition.hyperv.clock())?;
        Some(deadline.0)
    }

    /// Raises the interrupts of synthetic timers that are due.
    pub fn hv_expire_timers(&mut self) {
        let now = self.clock_now();
        let clock = self.partition.hyperv.clock();
        for vector in self.hyperv.expire_timers(clock, now) {
            self.apic.accept(vector, Trigger::Edge);
        }
    }

    /// What INIT does to the VP's synthetic registers.
    pub fn hv_reset(&mut self) {
        self.hyperv = ::hyperv::Vp::new(self.index as u32);
        self.eoi_assisted = false;
        self.nested.set_assist_page(None, self.partition);
        self.update_deadline();
    }
}
