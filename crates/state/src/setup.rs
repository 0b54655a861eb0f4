//! What a partition was created with, and whether another machine can be it.

use core::fmt;

use hyperv::enlightenments::Set;
use platform::cpuid::{CpuidPolicy, Missing};
use platform::msr::HostMsrs;
use serde::{Deserialize, Serialize};
use vmx::{Capabilities, CapabilityMissing};

/// What a partition was created with and never changes: what L1 was told of its machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// How many VPs it has.
    pub vps: u32,
    /// Bytes of its memory.
    pub memory: u64,
    /// The enlightenments that it is offered.
    pub enlightenments: Set,
    /// The rate of its APIC timers, in Hz.
    pub apic_hz: u64,
    /// Its physical address bits.
    pub physical_address_bits: u8,
    /// CPUID.1.EAX, which INIT leaves in EDX.
    pub cpu_signature: u64,
    /// CR4 bits that exist for it.
    pub cr4_offered: u64,
    /// What it sees of CPUID.
    pub cpuid: CpuidPolicy,
    /// MSRs of the hardware that it was created on and sees.
    pub host_msrs: HostMsrs,
    /// The VMX that it is offered.
    pub vmx: Capabilities,
}

/// Why a machine cannot be a partition's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// Another number of processors.
    Vps {
        /// What the partition has.
        saved: u32,
        /// What there would be.
        here: u32,
    },
    /// L1 was told that its physical addresses have another number of bits.
    AddressBits {
        /// What L1 was told.
        saved: u8,
        /// The machine's.
        here: u8,
    },
    /// CPUID shows L1 something that the processor does not have.
    Cpuid(Missing),
    /// CR4 bits that L1 may set.
    Cr4(u64),
    /// IA32_ARCH_CAPABILITIES told L1 that it need not defend itself, which it has to here.
    Vulnerable(u64),
    /// VMX has something that L1 was offered and that L0 cannot offer here.
    Vmx(CapabilityMissing),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vps { saved, here } => {
                write!(
                    f,
                    "the partition has {saved} VPs, and {here} are to be had here"
                )
            }
            Self::AddressBits { saved, here } => write!(
                f,
                "the partition's physical addresses have {saved} bits, this processor's {here}"
            ),
            Self::Cpuid(missing) => missing.fmt(f),
            Self::Cr4(bits) => write!(
                f,
                "this processor lacks the CR4 bits {bits:#x} of the partition's"
            ),
            Self::Vulnerable(bits) => write!(
                f,
                "this processor is open to what the partition was told that it is not: bits {bits:#x} of IA32_ARCH_CAPABILITIES"
            ),
            Self::Vmx(missing) => missing.fmt(f),
        }
    }
}

impl core::error::Error for Unfit {}

impl Setup {
    /// Whether a machine that would offer `here` can be this partition's: it has at least what L1
    /// was told. L1 goes on seeing what it was told, and no more.
    ///
    /// # Errors
    ///
    /// The first thing that it lacks.
    pub fn fits(&self, here: &Setup) -> Result<(), Unfit> {
        if self.vps != here.vps {
            return Err(Unfit::Vps {
                saved: self.vps,
                here: here.vps,
            });
        }
        if self.physical_address_bits != here.physical_address_bits {
            return Err(Unfit::AddressBits {
                saved: self.physical_address_bits,
                here: here.physical_address_bits,
            });
        }
        self.cpuid.fits(&here.cpuid).map_err(Unfit::Cpuid)?;
        let missing = self.cr4_offered & !here.cr4_offered;
        if missing != 0 {
            return Err(Unfit::Cr4(missing));
        }
        let open = self.cpuid.open_here(&self.host_msrs, &here.host_msrs);
        if open != 0 {
            return Err(Unfit::Vulnerable(open));
        }
        self.vmx.fits(&here.vmx).map_err(Unfit::Vmx)
    }
}
