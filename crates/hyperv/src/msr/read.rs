//! RDMSR.

use super::{GeneralProtection, Read};
use crate::clock::Tsc;
use crate::partition::Partition;
use crate::vp::Vp;
use core::sync::atomic::Ordering;
use tlfs::msr::{CrashControl, Msr};

/// What CRASH_CTL says is supported.
const CRASH_CAPABILITIES: CrashControl = CrashControl::new().with_notify(true).with_message(true);

impl Partition {
    /// RDMSR of a synthetic MSR by `vp`, at `now`.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if L1 is to get #GP(0).
    pub fn read_msr(&self, vp: &Vp, msr: Msr, now: Tsc) -> Result<Read, GeneralProtection> {
        if !self.gates.may_read(msr) {
            return Err(GeneralProtection);
        }
        let value = match msr {
            Msr::TIME_REF_COUNT => self.clock.reference(now).0,
            Msr::VP_INDEX => vp.index.into(),
            Msr::STIMER0_CONFIG => vp.timers.config(0),
            Msr::STIMER0_COUNT => vp.timers.count(0),
            Msr::STIMER1_CONFIG => vp.timers.config(1),
            Msr::STIMER1_COUNT => vp.timers.count(1),
            Msr::STIMER2_CONFIG => vp.timers.config(2),
            Msr::STIMER2_COUNT => vp.timers.count(2),
            Msr::STIMER3_CONFIG => vp.timers.config(3),
            Msr::STIMER3_COUNT => vp.timers.count(3),
            Msr::GUEST_IDLE => return Ok(Read::Idle),
            Msr::ICR => return Ok(Read::Icr),
            Msr::TPR => return Ok(Read::Tpr),
            Msr::VP_ASSIST_PAGE => vp.assist.into_bits(),
            Msr::GUEST_OS_ID => self.guest_os_id.load(Ordering::Relaxed),
            Msr::HYPERCALL => self.hypercall.load(Ordering::Relaxed),
            Msr::RESET => 0,
            Msr::REFERENCE_TSC => self.tsc_page.lock().register.into_bits(),
            Msr::TSC_FREQUENCY => self.tsc_hz.load(Ordering::Relaxed),
            Msr::APIC_FREQUENCY => self.config.apic_hz,
            Msr::CRASH_P0 => self.crash[0].load(Ordering::Relaxed),
            Msr::CRASH_P1 => self.crash[1].load(Ordering::Relaxed),
            Msr::CRASH_P2 => self.crash[2].load(Ordering::Relaxed),
            Msr::CRASH_P3 => self.crash[3].load(Ordering::Relaxed),
            Msr::CRASH_P4 => self.crash[4].load(Ordering::Relaxed),
            Msr::CRASH_CTL => CRASH_CAPABILITIES.into_bits(),
            Msr::REENLIGHTENMENT_CONTROL => self.reenlightenment.load(Ordering::Relaxed),
            Msr::TSC_EMULATION_CONTROL => self.tsc_emulation_control.load(Ordering::Relaxed),
            Msr::TSC_EMULATION_STATUS => self.tsc_emulation_status.load(Ordering::Relaxed),
            _ => return Err(GeneralProtection),
        };
        Ok(Read::Value(value))
    }
}
