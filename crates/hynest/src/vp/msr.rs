//! RDMSR and WRMSR of L1 that exit.

use platform::counters::Counter;
use platform::msr::Effect;
use tlfs::cpuid::{HYPERVISOR_RANGE_FIRST, HYPERVISOR_RANGE_LAST};
use vmx::Field;

use super::vmcs::write;
use super::{Registers, Vp};

/// IA32_TIME_STAMP_COUNTER.
const TSC: u32 = 0x10;
/// IA32_APIC_BASE.
const APIC_BASE: u32 = 0x1B;
/// IA32_TSC_DEADLINE.
const TSC_DEADLINE: u32 = 0x6E0;
/// The x2APIC's registers.
const X2APIC: core::ops::RangeInclusive<u32> = 0x800..=0x8FF;
/// The VMX capability MSRs.
const VMX: core::ops::RangeInclusive<u32> = 0x480..=0x491;

/// The access gives #GP(0).
pub struct Refused;

impl From<::hyperv::msr::GeneralProtection> for Refused {
    fn from(_: ::hyperv::msr::GeneralProtection) -> Self {
        Self
    }
}

impl From<platform::GeneralProtection> for Refused {
    fn from(_: platform::GeneralProtection) -> Self {
        Self
    }
}

impl Vp {
    /// A RDMSR of L1 that exits.
    #[inline]
    pub fn rdmsr_exit(&mut self) {
        self.count(Counter::L1Msrs);
        let msr = self.registers.0[Registers::RCX] as u32;
        match self.read_msr(msr) {
            Ok(value) => {
                self.registers.set_edx_eax(value);
                self.advance();
            }
            Err(Refused) => self.inject_gp(),
        }
    }

    /// A WRMSR of L1 that exits.
    #[inline]
    pub fn wrmsr_exit(&mut self) {
        self.count(Counter::L1Msrs);
        let msr = self.registers.0[Registers::RCX] as u32;
        match self.write_msr(msr, self.registers.edx_eax()) {
            Ok(()) => self.advance(),
            Err(Refused) => self.inject_gp(),
        }
    }

    /// Reads an MSR of L1 that L0 emulates.
    pub fn read_msr(&mut self, msr: u32) -> Result<u64, Refused> {
        Ok(match msr {
            HYPERVISOR_RANGE_FIRST..=HYPERVISOR_RANGE_LAST => self.read_synthetic_msr(msr)?,
            _ if X2APIC.contains(&msr) => {
                self.withdraw_eoi_assist();
                self.apic.read_msr(msr, self.tsc_now())?
            }
            // Open but for the time of an emulation.
            TSC => {
                self.count(Counter::EmulatedTscReads);
                self.guest_tsc_now()
            }
            TSC_DEADLINE => self.apic.tsc_deadline(),
            APIC_BASE => self.apic.base(),
            _ if VMX.contains(&msr) => self.partition.setup.vmx.msr(msr).ok_or(Refused)?,
            _ => self.partition.msrs.read(&self.msrs, msr)?,
        })
    }

    /// Writes an MSR of L1 that L0 emulates.
    pub fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Refused> {
        match msr {
            HYPERVISOR_RANGE_FIRST..=HYPERVISOR_RANGE_LAST => {
                self.write_synthetic_msr(msr, value)?;
            }
            _ if X2APIC.contains(&msr) => {
                self.withdraw_eoi_assist();
                let effect = self.apic.write_msr(msr, value, self.tsc_now())?;
                self.apply_effect(effect);
            }
            TSC_DEADLINE => {
                let effect = self.apic.set_tsc_deadline(value);
                self.apply_effect(effect);
            }
            APIC_BASE => {
                self.withdraw_eoi_assist();
                let effect = self.apic.set_base(value)?;
                self.apply_effect(effect);
            }
            _ if VMX.contains(&msr) => return Err(Refused),
            _ => match self.partition.msrs.write(&mut self.msrs, msr, value)? {
                Effect::None => {}
                Effect::Debugctl(value) => write(Field::GUEST_DEBUGCTL, value),
                Effect::Tsc(value) => {
                    let step = value.wrapping_sub(self.tsc_now());
                    self.msrs.follow_tsc(step);
                    self.move_tsc(step);
                }
                Effect::MoveTsc(step) => self.move_tsc(step),
            },
        }
        Ok(())
    }

    /// Moves L1's TSC on this VP, whether L1 does it, a list of L1's, or L2 where L1 lets it: what
    /// L1 makes of its TSC for L2 is on top of it.
    fn move_tsc(&mut self, step: u64) {
        let now = self.tsc_now();
        self.apic.follow_tsc(now, now.wrapping_add(step));
        self.tsc_offset = self.tsc_offset.wrapping_add(step);
        self.nested_follow_tsc();
        self.update_deadline();
    }
}
