//! L2 in the HLT activity state.
//!
//! Hardware never halts on VMCS 02: the VP sleeps in L0 until something comes
//! for L1 or L2. What would end HLT at once (SDM 26.2, 27.7.2, 27.7.3) does so
//! by hardware's own doing when VMCS 02 is entered as active instead.

use vmx::{Field, Interruptibility, InterruptionInfo, PrimaryControls};

use crate::access::Vmcs;
use crate::state::Nested;
use crate::vmcs12::get;

/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;
/// Pending debug exceptions that are delivered: enabled breakpoint, BS.
const PENDING_ENABLED: u64 = 1 << 12 | 1 << 14;

impl Nested {
    /// Whether L2 is in the HLT activity state: the VP waits in L0.
    #[inline]
    pub fn l2_halted(&self) -> bool {
        self.l2_halted
    }

    /// An event woke L2.
    #[inline]
    pub fn wake_l2(&mut self) {
        self.l2_halted = false;
    }

    /// L2 executed a HLT that L1 does not intercept, and VMCS 02, current in
    /// `vmcs02`, is past it: L2 halts, unless a window that L1 asked for or a
    /// debug exception ends that already.
    pub fn halt_l2<V: Vmcs>(&mut self, vmcs02: &V) {
        let state = vmcs02.read(Field::GUEST_INTERRUPTIBILITY) as u32;
        let ends = Ends {
            windows: self.primary_controls(),
            rflags: vmcs02.read(Field::GUEST_RFLAGS),
            blocking: Interruptibility::from_bits_retain(state),
            debug: vmcs02.read(Field::GUEST_PENDING_DEBUG_EXCEPTIONS),
            // What was injected reached L2 before the HLT.
            event: InterruptionInfo::NONE,
        };
        self.l2_halted = !ends.at_once();
        self.steady = None;
    }

    /// Whether an entry into HLT, as VMCS 12 asks for it, leaves L2 there.
    #[cold]
    pub(crate) fn stays_halted(&self) -> bool {
        let ends = Ends {
            windows: self.primary_controls(),
            rflags: get!(self.vmcs12, GUEST_RFLAGS),
            blocking: self.interruptibility(),
            debug: get!(self.vmcs12, GUEST_PENDING_DEBUG_EXCEPTIONS),
            event: self.event(),
        };
        !ends.at_once()
    }
}

/// What may end HLT as soon as it begins.
struct Ends {
    windows: PrimaryControls,
    rflags: u64,
    blocking: Interruptibility,
    debug: u64,
    event: InterruptionInfo,
}

impl Ends {
    /// HLT has no blocking by STI or MOV SS: the entry checks see to it, and
    /// an executed HLT is the instruction that such blocking covers.
    fn at_once(&self) -> bool {
        let interrupt = self
            .windows
            .contains(PrimaryControls::INTERRUPT_WINDOW_EXITING)
            && self.rflags & RFLAGS_IF != 0;
        let nmi = self.windows.contains(PrimaryControls::NMI_WINDOW_EXITING)
            && !self.blocking.contains(Interruptibility::NMI);
        interrupt || nmi || self.debug & PENDING_ENABLED != 0 || self.event.is_valid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const PRIMARY: u64 = 0xb5a0_6dfa;
    const INTERRUPT_WINDOW: u64 = PRIMARY | 1 << 2;
    const NMI_WINDOW: u64 = PRIMARY | 1 << 22;

    /// Primary controls, RFLAGS, interruptibility, pending debug exceptions,
    /// and whether L2 sleeps with them.
    const CASES: &[(u64, u64, u64, u64, bool)] = &[
        (PRIMARY, 0x202, 0, 0, true),
        (INTERRUPT_WINDOW, 0x202, 0, 0, false),
        (INTERRUPT_WINDOW, 0x002, 0, 0, true),
        (NMI_WINDOW, 0x002, 0, 0, false),
        (NMI_WINDOW, 0x202, 8, 0, true),
        (PRIMARY, 0x102, 0, 0x4000, false),
        (PRIMARY, 0x002, 0, 0x1001, false),
        (PRIMARY, 0x002, 0, 0x0001, true),
    ];

    #[test]
    fn an_entry_into_hlt_sleeps_unless_something_ends_it() {
        for case in CASES {
            let (primary, rflags, blocking, debug, sleeps) = *case;
            let mut scene = Scene::reflected();
            for (field, value) in [
                (Field::PRIMARY_CONTROLS, primary),
                (Field::GUEST_RFLAGS, rflags),
                (Field::GUEST_INTERRUPTIBILITY, blocking),
                (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, debug),
                (Field::GUEST_ACTIVITY_STATE, 1),
            ] {
                scene.page.store(field, value);
            }
            assert_eq!(scene.prepare(&RESUME), Ok(()), "{case:x?}");
            assert_eq!(scene.merge().halt, sleeps, "{case:x?}");
            assert_eq!(scene.nested.l2_halted(), sleeps, "{case:x?}");
            // Hardware sees the active state in any case.
            assert_eq!(scene.vmcs02.peek(Field::GUEST_ACTIVITY_STATE), 0);
        }
    }

    #[test]
    fn so_does_a_hlt_of_l2() {
        for case in CASES {
            let (primary, rflags, blocking, debug, sleeps) = *case;
            let mut scene = Scene::reflected();
            scene.page.store(Field::PRIMARY_CONTROLS, primary);
            scene.prepare(&RESUME).unwrap();
            scene.merge();
            scene.vmcs02.set(Field::GUEST_RFLAGS, rflags);
            scene.vmcs02.set(Field::GUEST_INTERRUPTIBILITY, blocking);
            scene
                .vmcs02
                .set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, debug);
            scene.nested.halt_l2(&scene.vmcs02);
            assert_eq!(scene.nested.l2_halted(), sleeps, "{case:x?}");
        }
    }
}
