//! L1's ordinary MSRs, by an allow-list: those neither of the local APIC, nor
//! of VMX, nor of the Hv#1 interface.
//!
//! An MSR is passed through if its value is L1's own (switched with the
//! VMCS, or unused by L0) and no value of it harms L0; it is emulated if L1's
//! kernel expects it but its effect is L0's; else it does not exist.

use crate::GeneralProtection;
use crate::cpuid::{CpuidPolicy, features};
use serde::{Deserialize, Serialize};

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const FEATURE_CONTROL: u32 = 0x3A;
const TSC_ADJUST: u32 = 0x3B;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const BIOS_SIGN_ID: u32 = 0x8B;
const MTRR_CAP: u32 = 0xFE;
const ARCH_CAPABILITIES: u32 = 0x10A;
const FLUSH_CMD: u32 = 0x10B;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17A;
const MISC_ENABLE: u32 = 0x1A0;
const DEBUGCTL: u32 = 0x1D9;
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2FF;
const XSS: u32 = 0xDA0;
const EFER: u32 = 0xC000_0080;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const CSTAR: u32 = 0xC000_0083;
const FMASK: u32 = 0xC000_0084;
const FS_BASE: u32 = 0xC000_0100;
const GS_BASE: u32 = 0xC000_0101;
const KERNEL_GS_BASE: u32 = 0xC000_0102;
const TSC_AUX: u32 = 0xC000_0103;

/// Bits of IA32_ARCH_CAPABILITIES that say what the processor is immune to or how it
/// behaves, which holds for a guest too. Those that announce MSRs L1 does not have
/// (TSX_CTRL, MCU_CONTROL, ...) are left out.
const ARCH_CAPABILITIES_SHOWN: u64 = {
    const RDCL_NO: u64 = 1 << 0;
    const IBRS_ALL: u64 = 1 << 1;
    const RSBA: u64 = 1 << 2;
    const SSB_NO: u64 = 1 << 4;
    const MDS_NO: u64 = 1 << 5;
    const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    const TAA_NO: u64 = 1 << 8;
    const SBDR_SSDP_NO: u64 = 1 << 13;
    const FBSDP_NO: u64 = 1 << 14;
    const PSDP_NO: u64 = 1 << 15;
    const FB_CLEAR: u64 = 1 << 17;
    const RRSBA: u64 = 1 << 19;
    const BHI_NO: u64 = 1 << 20;
    const PBRSB_NO: u64 = 1 << 24;
    const GDS_NO: u64 = 1 << 26;
    const RFDS_NO: u64 = 1 << 27;
    const RFDS_CLEAR: u64 = 1 << 28;
    RDCL_NO
        | IBRS_ALL
        | RSBA
        | SSB_NO
        | MDS_NO
        | IF_PSCHANGE_MC_NO
        | TAA_NO
        | SBDR_SSDP_NO
        | FBSDP_NO
        | PSDP_NO
        | FB_CLEAR
        | RRSBA
        | BHI_NO
        | PBRSB_NO
        | GDS_NO
        | RFDS_NO
        | RFDS_CLEAR
};

/// Of these the ones that tell of a weakness: RSBA and RRSBA.
const ARCH_CAPABILITIES_WEAK: u64 = 1 << 2 | 1 << 19;

/// IA32_MTRRCAP: neither variable (bits 7:0) nor fixed ranges (bit 8); write
/// combining exists (bit 10). All of L1's memory has the default type; EPT has
/// the last word on it.
const MTRR_CAP_VALUE: u64 = 1 << 10;
/// MTRRs enabled, default type write-back.
const MTRR_DEF_TYPE_RESET: u64 = 1 << 11 | 6;
/// Branch trace and precise sampling unavailable.
const MISC_ENABLE_RESET: u64 = 1 << 11 | 1 << 12;
/// The one bit that is the hardware's, and that L1 may change: fast strings. A kernel that finds it
/// clear copies by loops; where the hardware says so (an emulator does), it is right to.
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
/// The one bit of IA32_DEBUGCTL that L1 may set: single-step on branches. The others
/// drive last-branch records and trace stores, which L1 does not have.
const DEBUGCTL_WRITABLE: u64 = 1 << 1;

/// An MSR that L1 accesses without an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passthrough {
    /// Its number.
    pub msr: u32,
    /// RDMSR does not exit.
    pub read: bool,
    /// WRMSR does not exit.
    pub write: bool,
}

/// When an MSR is passed through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Always,
    TscAux,
    /// Leaf 7, EDX has one of these bits.
    Leaf7Edx(u32),
}

/// What may be passed through, and why that is safe.
const PASSTHROUGH: &[(u32, bool, bool, When)] = &[
    // Part of the guest state that the VMCS switches.
    (SYSENTER_CS, true, true, When::Always),
    (SYSENTER_ESP, true, true, When::Always),
    (SYSENTER_EIP, true, true, When::Always),
    (FS_BASE, true, true, When::Always),
    (GS_BASE, true, true, When::Always),
    // The same, by the controls that save and load them. In non-root operation the
    // hardware checks what is written.
    (PAT, true, true, When::Always),
    (EFER, true, true, When::Always),
    // Live in the processor while L0 runs, which executes neither SYSCALL, nor SWAPGS,
    // nor RDTSCP.
    (STAR, true, true, When::Always),
    (LSTAR, true, true, When::Always),
    (CSTAR, true, true, When::Always),
    (FMASK, true, true, When::Always),
    (KERNEL_GS_BASE, true, true, When::Always),
    (TSC_AUX, true, true, When::TscAux),
    // Read with the VMCS's offset and scale, as RDTSC is. A write is not: it exits.
    (TSC, true, false, When::Always),
    // VM entry and exit switch it, so a read sees L1's value; writes are checked.
    (DEBUGCTL, true, false, When::Always),
    // Speculation control: a CPU is its partition's alone.
    (
        SPEC_CTRL,
        true,
        true,
        When::Leaf7Edx(features::IBRS_IBPB | features::STIBP | features::SSBD),
    ),
    (PRED_CMD, false, true, When::Leaf7Edx(features::IBRS_IBPB)),
    (FLUSH_CMD, false, true, When::Leaf7Edx(features::L1D_FLUSH)),
];

/// What of the hardware's own MSRs L1 sees through emulated ones.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct HostMsrs {
    /// IA32_ARCH_CAPABILITIES, 0 if there is none.
    pub arch_capabilities: u64,
    /// IA32_BIOS_SIGN_ID: the microcode revision in bits 63:32.
    pub bios_sign_id: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
}

impl HostMsrs {
    /// Bits of IA32_ARCH_CAPABILITIES that L1 saw and `here` lacks, or that tell of a weakness that
    /// `here` has and L1 was not told of.
    pub(crate) const fn open_on(&self, here: &Self) -> u64 {
        let (saved, here) = (self.arch_capabilities, here.arch_capabilities);
        let lost = saved & !here & !ARCH_CAPABILITIES_WEAK;
        let new = here & !saved & ARCH_CAPABILITIES_WEAK;
        (lost | new) & ARCH_CAPABILITIES_SHOWN
    }
}

/// The emulated MSRs of one VP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MsrState {
    mtrr_def_type: u64,
    misc_enable: u64,
    tsc_adjust: u64,
}

impl MsrState {
    /// The values after power-up on this hardware.
    pub const fn new(host: &HostMsrs) -> Self {
        Self {
            mtrr_def_type: MTRR_DEF_TYPE_RESET,
            misc_enable: MISC_ENABLE_RESET | host.misc_enable & MISC_ENABLE_FAST_STRINGS,
            tsc_adjust: 0,
        }
    }

    /// The guest has moved its TSC by `step`, by writing it: IA32_TSC_ADJUST moves with it (SDM
    /// vol. 3, 18.17.3).
    pub const fn follow_tsc(&mut self, step: u64) {
        self.tsc_adjust = self.tsc_adjust.wrapping_add(step);
    }
}

/// What the caller has to do for a WRMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Put this value into the guest IA32_DEBUGCTL of VMCS 01.
    Debugctl(u64),
    /// Make the VP's TSC read this value now, and tell [`MsrState::follow_tsc`] how far that moved it.
    Tsc(u64),
    /// Move the VP's TSC by this.
    MoveTsc(u64),
}

/// Which MSRs a partition has.
#[derive(Clone, Debug)]
pub struct MsrPolicy {
    leaf_7_edx: u32,
    tsc_aux: bool,
    xss: bool,
    vmx: bool,
    host: HostMsrs,
}

impl MsrPolicy {
    /// The MSRs that go with the features `cpuid` shows.
    pub fn new(cpuid: &CpuidPolicy, host: HostMsrs) -> Self {
        Self {
            leaf_7_edx: cpuid.leaf_7_0().edx,
            tsc_aux: cpuid.has_tsc_aux(),
            xss: cpuid.has_xsaves(),
            vmx: cpuid.leaf_1_ecx() & features::VMX != 0,
            host,
        }
    }

    /// A VP's emulated MSRs after power-up.
    pub const fn initial_state(&self) -> MsrState {
        MsrState::new(&self.host)
    }

    /// The MSRs whose accesses need no exit, for the MSR bitmap.
    pub fn passthrough(&self) -> impl Iterator<Item = Passthrough> + '_ {
        let applies = |when: When| match when {
            When::Always => true,
            When::TscAux => self.tsc_aux,
            When::Leaf7Edx(bits) => self.leaf_7_edx & bits != 0,
        };
        PASSTHROUGH
            .iter()
            .filter(move |(.., when)| applies(*when))
            .map(|&(msr, read, write, _)| Passthrough { msr, read, write })
    }

    /// The MSRs that L1 reads and writes without an exit and that no VMCS switches: a VP's values
    /// are in the processor.
    pub fn live(&self) -> impl Iterator<Item = u32> + '_ {
        let switched = [
            SYSENTER_CS,
            SYSENTER_ESP,
            SYSENTER_EIP,
            FS_BASE,
            GS_BASE,
            PAT,
            EFER,
        ];
        self.passthrough()
            .filter(move |rule| rule.read && rule.write && !switched.contains(&rule.msr))
            .map(|rule| rule.msr)
    }

    /// A RDMSR that exited.
    ///
    /// # Errors
    ///
    /// #GP if L1 has no such MSR to read.
    pub fn read(&self, state: &MsrState, msr: u32) -> Result<u64, GeneralProtection> {
        Ok(match msr {
            // Read at boot to tell microcode files apart; any platform does.
            PLATFORM_ID => 0,
            BIOS_SIGN_ID => self.host.bios_sign_id,
            // Locked, VMX outside SMX as CPUID says.
            FEATURE_CONTROL => 1 | u64::from(self.vmx) << 2,
            TSC_ADJUST => state.tsc_adjust,
            MTRR_CAP => MTRR_CAP_VALUE,
            MTRR_DEF_TYPE => state.mtrr_def_type,
            MISC_ENABLE => state.misc_enable,
            // Machine checks exist, without banks: they are L0's to handle.
            MCG_CAP | MCG_STATUS => 0,
            ARCH_CAPABILITIES if self.leaf_7_edx & features::ARCH_CAPABILITIES != 0 => {
                self.host.arch_capabilities & ARCH_CAPABILITIES_SHOWN
            }
            XSS if self.xss => 0,
            _ => return Err(GeneralProtection),
        })
    }

    /// A WRMSR that exited.
    ///
    /// # Errors
    ///
    /// #GP if L1 has no such MSR to write, or it does not take this value.
    pub fn write(
        &self,
        state: &mut MsrState,
        msr: u32,
        value: u64,
    ) -> Result<Effect, GeneralProtection> {
        match msr {
            TSC => return Ok(Effect::Tsc(value)),
            TSC_ADJUST => {
                let step = value.wrapping_sub(state.tsc_adjust);
                state.tsc_adjust = value;
                return Ok(Effect::MoveTsc(step));
            }
            DEBUGCTL if value & !DEBUGCTL_WRITABLE == 0 => return Ok(Effect::Debugctl(value)),
            // Written before CPUID to have the revision loaded; the value is not kept.
            BIOS_SIGN_ID => {}
            MTRR_DEF_TYPE if is_mtrr_def_type(value) => state.mtrr_def_type = value,
            MISC_ENABLE if (value ^ state.misc_enable) & !MISC_ENABLE_FAST_STRINGS == 0 => {
                state.misc_enable = value;
            }
            // Only clearing is possible (SDM vol. 3, 16.3.1.2), and no supervisor
            // component exists.
            MCG_STATUS if value == 0 => {}
            XSS if self.xss && value == 0 => {}
            _ => return Err(GeneralProtection),
        }
        Ok(Effect::None)
    }
}

/// Whether IA32_MTRR_DEF_TYPE takes this value: a memory type, FE, E.
fn is_mtrr_def_type(value: u64) -> bool {
    value & !0xCFF == 0 && matches!(value & 0xFF, 0 | 1 | 4 | 5 | 6)
}

#[cfg(test)]
mod tests;
