//! The state of a virtual processor.

use alloc::vec::Vec;

use platform::apic::{InboxState, LocalApic};
use platform::msr::MsrState;
use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::{Bad, Setup, Vmcs01};

/// What a VP does when it does not execute instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Activity {
    /// It executes them.
    Running,
    /// It has executed HLT.
    Halted,
    /// It has read HV_X64_MSR_GUEST_IDLE, which any interrupt ends, enabled or not.
    Idle,
    /// It waits for a start-up message, as all but the first do at first and after INIT.
    WaitForStartup,
}

/// Bytes of the largest area of extended state: all that processors have but AMX, which L1 has not.
const LARGEST_AREA: usize = 4096;
/// More MSRs than there are that L1 reaches without an exit.
const MOST_MSRS: usize = 64;

/// What stays in the physical processor while L0 runs: of L1, or of the L2 that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Processor {
    /// CR2.
    pub cr2: u64,
    /// DR0 to DR3.
    pub debug: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// XCR0; `None` where L1 has no XSAVE.
    pub xcr0: Option<u64>,
    /// An XSAVE area of the standard form with all components that L1 may have, or an FXSAVE area.
    #[serde(deserialize_with = "at_most::<_, _, LARGEST_AREA>")]
    pub extended: Vec<u8>,
    /// The MSRs that L1 reaches without an exit and that no VMCS switches: number and value.
    #[serde(deserialize_with = "at_most::<_, _, MOST_MSRS>")]
    pub msrs: Vec<(u32, u64)>,
}

/// A virtual processor.
#[derive(Debug, Serialize, Deserialize)]
pub struct Vp {
    /// The general registers, in the numbering of instruction encodings; RSP's place is unused.
    pub registers: [u64; 16],
    /// L1's registers in VMCS 01: as the last exit to L1 left them, while L2 runs.
    pub vmcs01: Vmcs01,
    /// The physical processor's.
    pub processor: Processor,
    /// Whether it runs.
    pub activity: Activity,
    /// An NMI waits for L1.
    pub nmi_pending: bool,
    /// INIT waits until L1 leaves VMX operation, or L2.
    pub init_pending: bool,
    /// L1 may end the interrupt of highest priority in service by its assist page.
    pub eoi_assisted: bool,
    /// What the VP's TSC is ahead of the partition's: L1 wrote it, or TSC_ADJUST.
    pub tsc_ahead: u64,
    /// What is left to read at the counter port.
    pub latched: u64,
    /// The local APIC.
    pub apic: LocalApic,
    /// What was sent to it and not taken in yet.
    pub inbox: InboxState,
    /// The Hv#1 server's state of the VP.
    pub hyperv: hyperv::Vp,
    /// Emulated MSRs.
    pub msrs: MsrState,
    /// Nested VMX.
    pub nested: nested::saved::Saved,
}

impl Vp {
    pub(crate) fn check(&mut self, index: usize, setup: &Setup) -> Result<(), Bad> {
        let bad = |what| Err(Bad::Vp(index, what));
        if !self.vmcs01.is_possible(setup) {
            return bad("registers");
        }
        if !self.apic.resume(index as u32, index == 0) {
            return bad("local APIC");
        }
        if self.hyperv.index != index as u32 || !self.hyperv.timers.are_possible() {
            return bad("synthetic timers");
        }
        let xcr0_is_possible = match self.processor.xcr0 {
            Some(xcr0) => setup.cpuid.check_xcr0(xcr0).is_ok(),
            None => setup.cpuid.xcr0_supported() == 0,
        };
        if !xcr0_is_possible || self.processor.extended.len() != setup.cpuid.extended_state_size() {
            return bad("extended state");
        }
        self.nested
            .check(setup.physical_address_bits.into())
            .map_err(|error| Bad::Nested(index, error))
    }
}
