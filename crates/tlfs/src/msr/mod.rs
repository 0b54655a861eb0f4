//! The synthetic MSRs: their numbers, and the layouts of those that have one.

mod crash;
mod overlay;
mod reenlightenment;
mod stimer;

pub use crash::CrashControl;
pub use overlay::OverlayPage;
pub use reenlightenment::{ReenlightenmentControl, TscEmulation};
pub use stimer::{STIMER_COUNT, StimerConfig};

use core::fmt;

/// The number of a synthetic MSR, as in ECX of RDMSR and WRMSR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Msr(pub u32);

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl Msr {
            $($(#[$doc])* pub const $name: Msr = Msr($number);)*

            /// Every MSR that has a name here, by ascending number.
            pub const NAMED: &'static [(Msr, &'static str)] =
                &[$((Msr::$name, stringify!($name)),)*];
        }
    };
}

msrs! {
    /// Who the guest is; zero until it says so. Partition-wide.
    GUEST_OS_ID = 0x4000_0000,
    /// Where the hypercall page lies, see [`OverlayPage`]. Partition-wide.
    HYPERCALL = 0x4000_0001,
    /// The VP's index, read-only.
    VP_INDEX = 0x4000_0002,
    /// Writing 1 resets the partition.
    RESET = 0x4000_0003,
    /// Time the VP has run, in units of 100 ns, read-only.
    VP_RUNTIME = 0x4000_0010,
    /// Reference time, in units of 100 ns, read-only. Partition-wide.
    TIME_REF_COUNT = 0x4000_0020,
    /// Where the reference TSC page lies, see [`OverlayPage`]. Partition-wide.
    REFERENCE_TSC = 0x4000_0021,
    /// The TSC's frequency in Hz, read-only.
    TSC_FREQUENCY = 0x4000_0022,
    /// The frequency of the local APIC's timer in Hz, read-only.
    APIC_FREQUENCY = 0x4000_0023,
    /// Non-privileged instruction execution prevention.
    NPIEP_CONFIG = 0x4000_0040,
    /// The APIC's EOI register, write-only.
    EOI = 0x4000_0070,
    /// The APIC's interrupt command register, in xAPIC layout.
    ICR = 0x4000_0071,
    /// The APIC's task priority register.
    TPR = 0x4000_0072,
    /// Where the VP assist page lies, see [`OverlayPage`].
    VP_ASSIST_PAGE = 0x4000_0073,
    /// The SynIC's control register.
    SCONTROL = 0x4000_0080,
    /// The SynIC's version, read-only.
    SVERSION = 0x4000_0081,
    /// Where the event flags page lies.
    SIEFP = 0x4000_0082,
    /// Where the message page lies.
    SIMP = 0x4000_0083,
    /// End of message, write-only.
    EOM = 0x4000_0084,
    /// The first of sixteen synthetic interrupt sources.
    SINT0 = 0x4000_0090,
    /// Synthetic timer 0's configuration, see [`StimerConfig`].
    STIMER0_CONFIG = 0x4000_00B0,
    /// Synthetic timer 0's deadline or period, in units of 100 ns.
    STIMER0_COUNT = 0x4000_00B1,
    /// Synthetic timer 1's configuration.
    STIMER1_CONFIG = 0x4000_00B2,
    /// Synthetic timer 1's deadline or period.
    STIMER1_COUNT = 0x4000_00B3,
    /// Synthetic timer 2's configuration.
    STIMER2_CONFIG = 0x4000_00B4,
    /// Synthetic timer 2's deadline or period.
    STIMER2_COUNT = 0x4000_00B5,
    /// Synthetic timer 3's configuration.
    STIMER3_CONFIG = 0x4000_00B6,
    /// Synthetic timer 3's deadline or period.
    STIMER3_COUNT = 0x4000_00B7,
    /// Reading waits until an interrupt is pending.
    GUEST_IDLE = 0x4000_00F0,
    /// The crash's first parameter. Partition-wide, like all of them.
    CRASH_P0 = 0x4000_0100,
    /// The crash's second parameter.
    CRASH_P1 = 0x4000_0101,
    /// The crash's third parameter.
    CRASH_P2 = 0x4000_0102,
    /// The crash's fourth parameter: where the message lies, if there is one.
    CRASH_P3 = 0x4000_0103,
    /// The crash's fifth parameter: the message's length in bytes.
    CRASH_P4 = 0x4000_0104,
    /// Reports a crash, see [`CrashControl`].
    CRASH_CTL = 0x4000_0105,
    /// Who is told of a migration, see [`ReenlightenmentControl`].
    REENLIGHTENMENT_CONTROL = 0x4000_0106,
    /// Whether TSC reads are to be emulated after a migration.
    TSC_EMULATION_CONTROL = 0x4000_0107,
    /// Whether they are now.
    TSC_EMULATION_STATUS = 0x4000_0108,
    /// Synthetic time-unhalted timer: configuration.
    TIME_UNHALTED_CONFIG = 0x4000_0114,
    /// Synthetic time-unhalted timer: period.
    TIME_UNHALTED_COUNT = 0x4000_0115,
    /// Whether the guest sees an invariant TSC.
    TSC_INVARIANT_CONTROL = 0x4000_0118,
}

impl Msr {
    /// First number of the block in which the synthetic MSRs lie.
    pub const FIRST: u32 = 0x4000_0000;
    /// Last number of that block; a nested root's own MSRs (0x40001002 on)
    /// lie behind it.
    pub const LAST: u32 = 0x4000_01FF;

    /// The MSR's name in the TLFS without its prefix, if it has one here.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED
            .iter()
            .find(|(msr, _)| *msr == self)
            .map(|(_, name)| *name)
    }
}

impl fmt::Debug for Msr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Msr({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn named_msrs_ascend_within_the_block() {
        for pair in Msr::NAMED.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{pair:?}");
        }
        assert!(
            Msr::NAMED
                .iter()
                .all(|(msr, _)| (Msr::FIRST..=Msr::LAST).contains(&msr.0))
        );
    }

    #[test]
    fn names() {
        assert_eq!(format!("{:?}", Msr(0x4000_0073)), "VP_ASSIST_PAGE");
        assert_eq!(format!("{:?}", Msr(0x4000_0004)), "Msr(0x40000004)");
    }
}
