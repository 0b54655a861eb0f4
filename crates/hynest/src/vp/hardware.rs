//! VT-x of the physical processor: switching it on, what it can do.

use addr::Spa;
use vmx::Capabilities;
use vmx::instructions;

use crate::cpu::{msr, register};
use crate::memory::{frames, pointer};

/// CR4.VMXE.
const CR4_VMXE: u64 = 1 << 13;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.OSFXSR: SSE instructions are legal, by which L0 reads a guest's registers.
const CR4_OSFXSR: u64 = 1 << 9;
/// CR0.EM and CR0.TS: SSE instructions fault.
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
/// IA32_FEATURE_CONTROL: locked.
const FEATURE_LOCKED: u64 = 1;
/// IA32_FEATURE_CONTROL: VMXON allowed outside SMX.
const FEATURE_VMXON: u64 = 1 << 2;

/// Why this processor cannot be L0's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// CPUID shows no VMX.
    NoVmx,
    /// The firmware has locked VMX off.
    LockedByFirmware,
    /// A CPU feature that L0 builds on is missing.
    Missing(&'static str),
}

impl core::fmt::Display for Unfit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoVmx => f.write_str(
                "the processor has no VT-x: run hynest in Bochs with an Intel CPU model, or on hardware with VT-x",
            ),
            Self::LockedByFirmware => {
                f.write_str("the firmware has locked VT-x off: enable it in the firmware's setup")
            }
            Self::Missing(what) => write!(f, "the processor lacks {what}, which hynest needs"),
        }
    }
}

/// Checks what L0's own code needs of a processor before any of it is used.
pub fn check_processor() -> Result<(), Unfit> {
    let [max, ..] = register::cpuid(0, 0);
    let [_, _, ecx, _] = register::cpuid(1, 0);
    let [_, ebx7, ..] = if max >= 7 {
        register::cpuid(7, 0)
    } else {
        [0; 4]
    };
    let needs = [
        (ecx >> 21 & 1, "x2APIC"),
        (ecx >> 24 & 1, "the TSC-deadline timer"),
        (ecx >> 26 & 1, "XSAVE"),
        (ebx7 & 1, "FSGSBASE"),
    ];
    if let Some((_, what)) = needs.iter().find(|(has, _)| *has == 0) {
        return Err(Unfit::Missing(what));
    }
    if ecx >> 5 & 1 == 0 {
        return Err(Unfit::NoVmx);
    }
    Ok(())
}

/// Reads the capability MSRs of this processor, which has VMX.
pub fn capabilities() -> Capabilities {
    // SAFETY: `Capabilities::read` asks only for MSRs that the ones before say exist.
    Capabilities::read(|index| unsafe { msr::read(index) })
}

/// Enters VMX root operation on this processor.
///
/// # Errors
/// The firmware forbids it.
pub fn enter_root_operation(capabilities: &Capabilities) -> Result<(), Unfit> {
    // SAFETY: the processor has VMX, so the MSR exists; an unlocked register may be written once.
    unsafe {
        let control = msr::read(msr::FEATURE_CONTROL);
        if control & FEATURE_LOCKED == 0 {
            msr::write(
                msr::FEATURE_CONTROL,
                control | FEATURE_LOCKED | FEATURE_VMXON,
            );
        } else if control & FEATURE_VMXON == 0 {
            return Err(Unfit::LockedByFirmware);
        }
        let cr0 = capabilities.adjust_cr0(register::cr0());
        register::set_cr0(cr0 & !(CR0_EM | CR0_TS));
        let cr4 = capabilities.adjust_cr4(register::cr4());
        register::set_cr4(cr4 | CR4_VMXE | CR4_OSXSAVE | CR4_OSFXSR);
    }
    let region = new_region(capabilities);
    // SAFETY: CR4.VMXE and FEATURE_CONTROL were just seen to; the frame is the processor's own
    // for good and carries the revision.
    unsafe { instructions::vmxon(region) }.map_err(|_| Unfit::NoVmx)?;
    // Translations of whoever used VMX before, under VPIDs and EPTPs that L0 uses too (SDM vol. 3,
    // 29.4.3.4). A processor without these instructions is refused later.
    // SAFETY: root operation has begun; dropping translations is sound.
    unsafe {
        let _ = instructions::invept(instructions::InveptScope::All);
        let _ = instructions::invvpid(instructions::InvvpidScope::All);
    }
    Ok(())
}

/// A frame with the VMCS revision identifier: a VMXON region or a VMCS.
pub fn new_region(capabilities: &Capabilities) -> Spa {
    let frame = frames::allocate_at_boot();
    // SAFETY: the frame is ours, zeroed, and mapped.
    unsafe { pointer::<u32>(frame).write(capabilities.revision()) };
    frame
}
