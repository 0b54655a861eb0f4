//! Which MSRs a partition may read and write.

use crate::enlightenments::{Enlightenment, Set};
use tlfs::msr::Msr;

/// Which way an MSR can be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Both,
}

/// Every MSR of the server, the switch that opens it and the accesses it has.
pub(crate) const TABLE: &[(Msr, Enlightenment, Access)] = {
    use Access::{Both, Read, Write};
    use Enlightenment::*;
    &[
        (Msr::GUEST_OS_ID, Base, Both),
        (Msr::HYPERCALL, Base, Both),
        (Msr::VP_INDEX, Base, Read),
        (Msr::RESET, Reset, Both),
        (Msr::TIME_REF_COUNT, RefCount, Read),
        (Msr::REFERENCE_TSC, TscPage, Both),
        (Msr::TSC_FREQUENCY, FrequencyMsrs, Read),
        (Msr::APIC_FREQUENCY, FrequencyMsrs, Read),
        (Msr::EOI, VpAssist, Write),
        (Msr::ICR, VpAssist, Both),
        (Msr::TPR, VpAssist, Both),
        (Msr::VP_ASSIST_PAGE, VpAssist, Both),
        (Msr::STIMER0_CONFIG, Stimer, Both),
        (Msr::STIMER0_COUNT, Stimer, Both),
        (Msr::STIMER1_CONFIG, Stimer, Both),
        (Msr::STIMER1_COUNT, Stimer, Both),
        (Msr::STIMER2_CONFIG, Stimer, Both),
        (Msr::STIMER2_COUNT, Stimer, Both),
        (Msr::STIMER3_CONFIG, Stimer, Both),
        (Msr::STIMER3_COUNT, Stimer, Both),
        (Msr::GUEST_IDLE, GuestIdle, Read),
        (Msr::CRASH_P0, Crash, Both),
        (Msr::CRASH_P1, Crash, Both),
        (Msr::CRASH_P2, Crash, Both),
        (Msr::CRASH_P3, Crash, Both),
        (Msr::CRASH_P4, Crash, Both),
        (Msr::CRASH_CTL, Crash, Both),
        (Msr::REENLIGHTENMENT_CONTROL, Reenlightenment, Both),
        (Msr::TSC_EMULATION_CONTROL, Reenlightenment, Both),
        (Msr::TSC_EMULATION_STATUS, Reenlightenment, Both),
    ]
};

/// A bit for each MSR of the block.
#[derive(Default)]
struct Bits([u64; ((Msr::LAST - Msr::FIRST + 1) / 64) as usize]);

impl Bits {
    fn set(&mut self, msr: Msr) {
        let index = (msr.0 - Msr::FIRST) as usize;
        self.0[index / 64] |= 1 << (index % 64);
    }

    #[inline]
    fn has(&self, msr: Msr) -> bool {
        let index = msr.0.wrapping_sub(Msr::FIRST) as usize;
        self.0
            .get(index / 64)
            .is_some_and(|word| word >> (index % 64) & 1 != 0)
    }
}

/// [`TABLE`] for one partition's switches, so that the check of an access is
/// the test of a bit.
pub(crate) struct Gates {
    readable: Bits,
    writable: Bits,
}

impl Gates {
    pub(crate) fn new(set: Set) -> Self {
        let mut gates = Self {
            readable: Bits::default(),
            writable: Bits::default(),
        };
        for (msr, _, access) in TABLE.iter().filter(|(_, switch, _)| set.has(*switch)) {
            if *access != Access::Write {
                gates.readable.set(*msr);
            }
            if *access != Access::Read {
                gates.writable.set(*msr);
            }
        }
        gates
    }

    #[inline]
    pub(crate) fn may_read(&self, msr: Msr) -> bool {
        self.readable.has(msr)
    }

    #[inline]
    pub(crate) fn may_write(&self, msr: Msr) -> bool {
        self.writable.has(msr)
    }
}
