//! WRMSR.

use super::{GeneralProtection, Write};
use crate::clock::Tsc;
use crate::crash::CrashReport;
use crate::memory::L1Memory;
use crate::partition::{HYPERCALL_PAGE, Partition};
use crate::vp::Vp;
use core::sync::atomic::{AtomicU64, Ordering};
use tlfs::msr::{CrashControl, Msr, OverlayPage, ReenlightenmentControl, TscEmulation};
use tlfs::page::assist::APIC_ASSIST;

/// The register with those of its bits that mean something here; the others
/// are the guest's to preserve and read as zero.
fn overlay(value: u64) -> OverlayPage {
    let value = OverlayPage::from_bits(value);
    OverlayPage::new()
        .with_enabled(value.enabled())
        .with_frame(value.frame())
}

/// Stores a value whose reserved bits must be zero.
fn store(register: &AtomicU64, value: u64, reserved: u64) -> Result<Write, GeneralProtection> {
    if value & reserved != 0 {
        return Err(GeneralProtection);
    }
    register.store(value, Ordering::Relaxed);
    Ok(Write::Done)
}

impl Partition {
    /// WRMSR of a synthetic MSR by `vp`, at `now`.
    ///
    /// # Errors
    ///
    /// [`GeneralProtection`] if L1 is to get #GP(0); nothing has changed then.
    pub fn write_msr(
        &self,
        vp: &mut Vp,
        msr: Msr,
        value: u64,
        now: Tsc,
        memory: &impl L1Memory,
    ) -> Result<Write, GeneralProtection> {
        if !self.gates.may_write(msr) {
            return Err(GeneralProtection);
        }
        match msr {
            Msr::STIMER0_COUNT => return Ok(self.write_count(vp, 0, value, now)),
            Msr::STIMER1_COUNT => return Ok(self.write_count(vp, 1, value, now)),
            Msr::STIMER2_COUNT => return Ok(self.write_count(vp, 2, value, now)),
            Msr::STIMER3_COUNT => return Ok(self.write_count(vp, 3, value, now)),
            Msr::STIMER0_CONFIG => return self.write_config(vp, 0, value, now),
            Msr::STIMER1_CONFIG => return self.write_config(vp, 1, value, now),
            Msr::STIMER2_CONFIG => return self.write_config(vp, 2, value, now),
            Msr::STIMER3_CONFIG => return self.write_config(vp, 3, value, now),
            Msr::EOI => return Ok(Write::Eoi),
            Msr::ICR => return Ok(Write::Icr(value)),
            Msr::TPR => {
                return u8::try_from(value)
                    .map(Write::Tpr)
                    .or(Err(GeneralProtection));
            }
            Msr::VP_ASSIST_PAGE => return write_assist_page(vp, value, memory),
            Msr::GUEST_OS_ID => self.write_guest_os_id(value),
            Msr::HYPERCALL => self.write_hypercall(value, memory)?,
            Msr::REFERENCE_TSC => self.write_reference_tsc(value, memory),
            Msr::RESET if value & 1 != 0 => return Ok(Write::Reset),
            Msr::RESET => {}
            Msr::CRASH_P0 => self.crash[0].store(value, Ordering::Relaxed),
            Msr::CRASH_P1 => self.crash[1].store(value, Ordering::Relaxed),
            Msr::CRASH_P2 => self.crash[2].store(value, Ordering::Relaxed),
            Msr::CRASH_P3 => self.crash[3].store(value, Ordering::Relaxed),
            Msr::CRASH_P4 => self.crash[4].store(value, Ordering::Relaxed),
            Msr::CRASH_CTL => return Ok(self.write_crash_control(value)),
            Msr::REENLIGHTENMENT_CONTROL => {
                return store(
                    &self.reenlightenment,
                    value,
                    ReenlightenmentControl::RESERVED,
                );
            }
            Msr::TSC_EMULATION_CONTROL => {
                return self.write_tsc_emulation_control(value);
            }
            Msr::TSC_EMULATION_STATUS => return self.write_tsc_emulation_status(value),
            _ => return Err(GeneralProtection),
        }
        Ok(Write::Done)
    }

    #[inline]
    fn write_count(&self, vp: &mut Vp, n: usize, count: u64, now: Tsc) -> Write {
        vp.timers
            .write_count(n, count, || self.clock.reference(now));
        Write::TimersChanged
    }

    fn write_config(
        &self,
        vp: &mut Vp,
        n: usize,
        value: u64,
        now: Tsc,
    ) -> Result<Write, GeneralProtection> {
        match vp
            .timers
            .write_config(n, value, || self.clock.reference(now))
        {
            Ok(()) => Ok(Write::TimersChanged),
            Err(_) => Err(GeneralProtection),
        }
    }

    /// A guest without an identity has no hypercall page (TLFS, "Establishing
    /// the Hypercall Interface").
    fn write_guest_os_id(&self, value: u64) {
        self.guest_os_id.store(value, Ordering::Relaxed);
        if value == 0 {
            let register = OverlayPage::from_bits(self.hypercall.load(Ordering::Relaxed));
            self.hypercall
                .store(register.with_enabled(false).into_bits(), Ordering::Relaxed);
        }
    }

    fn write_hypercall(&self, value: u64, memory: &impl L1Memory) -> Result<(), GeneralProtection> {
        let mut register = overlay(value);
        if self.guest_os_id.load(Ordering::Relaxed) == 0 {
            register.set_enabled(false);
        }
        if let Some(page) = register.page() {
            // The page is written into L1's own memory, which Linux and other
            // guests have there, rather than laid over it.
            memory
                .write(page, &HYPERCALL_PAGE)
                .or(Err(GeneralProtection))?;
        }
        self.hypercall
            .store(register.into_bits(), Ordering::Relaxed);
        Ok(())
    }

    fn write_reference_tsc(&self, value: u64, memory: &impl L1Memory) {
        let mut page = self.tsc_page.lock();
        page.register = overlay(value);
        page.publish(&self.clock.timeline(), memory);
    }

    fn write_crash_control(&self, value: u64) -> Write {
        let control = CrashControl::from_bits(value);
        if !control.notify() {
            return Write::Done;
        }
        let parameters = self.crash.each_ref().map(|p| p.load(Ordering::Relaxed));
        Write::Crash(CrashReport {
            control,
            parameters,
        })
    }

    fn write_tsc_emulation_status(&self, value: u64) -> Result<Write, GeneralProtection> {
        // L1 can end the emulation but not begin one.
        if value != 0 {
            return Err(GeneralProtection);
        }
        Ok(self.end_of_emulation())
    }

    fn write_tsc_emulation_control(&self, value: u64) -> Result<Write, GeneralProtection> {
        store(&self.tsc_emulation_control, value, TscEmulation::RESERVED)?;
        Ok(match TscEmulation::from_bits(value).active() {
            true => Write::Done,
            // Emulation that is not wanted any more ends.
            false => self.end_of_emulation(),
        })
    }

    /// The register goes on saying what is: it changes with the TSC.
    fn end_of_emulation(&self) -> Write {
        match self.is_tsc_emulated() {
            true => Write::EndTscEmulation,
            false => Write::Done,
        }
    }
}

/// The page is L1's own memory; L0 has nothing to say in it at first.
fn write_assist_page(
    vp: &mut Vp,
    value: u64,
    memory: &impl L1Memory,
) -> Result<Write, GeneralProtection> {
    let register = overlay(value);
    if let Some(page) = register.page() {
        let apic_assist = addr::Gpa1::new(page.raw() | APIC_ASSIST);
        memory
            .write(apic_assist, &0u32.to_le_bytes())
            .or(Err(GeneralProtection))?;
    }
    vp.assist = register;
    Ok(Write::AssistPageChanged)
}
