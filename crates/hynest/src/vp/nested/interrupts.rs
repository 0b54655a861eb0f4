//! L1's interrupts and NMIs that come while L2 runs or sleeps.

use nested::ExitInfo;
use nested::events;
use platform::counters::Counter;
use vmx::{
    BasicExitReason, ExitControls, ExitReason, Field, Interruptibility, InterruptionInfo,
    PinControls, PrimaryControls,
};

use super::super::events::exception;
use super::super::vmcs::{modify, read};
use super::super::{Activity, Vp};
use super::pages::CurrentVmcs;

/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;

impl Vp {
    /// L1's pin-based controls for L2.
    fn l1_pin(&self) -> PinControls {
        self.nested.logic.pin_controls()
    }

    /// Gives L1 what waits for it, with L2's VMCS current. May leave L2.
    pub fn interrupt_l2(&mut self) {
        if self.activity == Activity::WaitForStartup {
            return;
        }
        if self.nested.logic.l2_halted() {
            if let Some(window) = self.open_l1_window() {
                return self.leave_l2(ExitInfo::new(ExitReason::new(window)), false);
            }
            if read(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) != 0 {
                self.nested.logic.wake_l2();
            } else {
                self.activity = Activity::Halted;
                self.sleep_while_idle();
            }
        }
        let waits = self.nmi_pending || self.init_pending || self.apic.pending().is_some();
        if !waits {
            return self.set_l0_windows(PrimaryControls::empty());
        }
        // What is on its way to L2, from L1 or put back by L0, reaches it first: hardware takes no
        // interrupt in the middle of a delivery, and KVM takes such an exit for an error.
        let queued = read(Field::ENTRY_INTERRUPTION_INFO) >> 31 & 1 != 0;
        if queued {
            self.nested.leave_at_once = true;
            self.attention = true;
            return;
        }
        if self.init_pending {
            self.init_pending = false;
            return self.leave_l2(ExitInfo::new(ExitReason::new(BasicExitReason::Init)), false);
        }
        if self.nmi_pending && self.l1_pin().contains(PinControls::NMI_EXITING) {
            self.nmi_pending = false;
            let mut info = ExitInfo::new(ExitReason::new(BasicExitReason::ExceptionOrNmi));
            info.interruption = InterruptionInfo::nmi();
            return self.leave_l2(info, true);
        }
        if self.apic.pending().is_some()
            && self
                .l1_pin()
                .contains(PinControls::EXTERNAL_INTERRUPT_EXITING)
        {
            let mut info = ExitInfo::new(ExitReason::new(BasicExitReason::ExternalInterrupt));
            if self
                .nested
                .logic
                .exit_controls()
                .contains(ExitControls::ACK_INTERRUPT)
                && let Some(vector) = self.acknowledge_for_l1()
            {
                info.interruption = InterruptionInfo::external_interrupt(vector);
            }
            return self.leave_l2(info, false);
        }
        self.interrupt_l2_itself();
    }

    /// The window that L1 waits for and that is open already: it wakes a halted L2.
    fn open_l1_window(&self) -> Option<BasicExitReason> {
        let l1 = self.nested.logic.primary_controls();
        let blocking =
            Interruptibility::from_bits_retain(read(Field::GUEST_INTERRUPTIBILITY) as u32);
        if l1.contains(PrimaryControls::NMI_WINDOW_EXITING)
            && !blocking.contains(Interruptibility::NMI)
        {
            return Some(BasicExitReason::NmiWindow);
        }
        let open = read(Field::GUEST_RFLAGS) & RFLAGS_IF != 0
            && !blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS);
        (l1.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING) && open)
            .then_some(BasicExitReason::InterruptWindow)
    }

    /// L1 lets its interrupts go to L2: they are delivered there as L2 can take them.
    fn interrupt_l2_itself(&mut self) {
        let mut queued = false;
        let blocking =
            Interruptibility::from_bits_retain(read(Field::GUEST_INTERRUPTIBILITY) as u32);
        let shadow = blocking.intersects(Interruptibility::STI | Interruptibility::MOV_SS);
        let mut windows = PrimaryControls::empty();
        if self.nmi_pending {
            if queued || shadow || blocking.contains(Interruptibility::NMI) {
                windows |= PrimaryControls::NMI_WINDOW_EXITING;
            } else {
                self.nmi_pending = false;
                queued = true;
                self.nested.logic.wake_l2();
                events::inject(&mut CurrentVmcs, InterruptionInfo::nmi(), 0, 0);
            }
        }
        if self.apic.pending().is_some()
            && !self
                .l1_pin()
                .contains(PinControls::EXTERNAL_INTERRUPT_EXITING)
        {
            let open = read(Field::GUEST_RFLAGS) & RFLAGS_IF != 0;
            if !queued
                && !shadow
                && open
                && let Some(vector) = self.apic.acknowledge()
            {
                self.count(Counter::Interrupts);
                self.nested.logic.wake_l2();
                let event = InterruptionInfo::external_interrupt(vector);
                events::inject(&mut CurrentVmcs, event, 0, 0);
            }
            if self.apic.pending().is_some() {
                windows |= PrimaryControls::INTERRUPT_WINDOW_EXITING;
            }
        }
        self.set_l0_windows(windows);
    }

    /// L0's windows after a merge, which may have written L1's alone.
    #[cold]
    pub fn reopen_windows(&mut self) {
        self.nested.windows = PrimaryControls::empty();
        self.attention = true;
    }

    /// The windows that L0 wants in VMCS 02 beside L1's.
    fn set_l0_windows(&mut self, windows: PrimaryControls) {
        if windows == self.nested.windows {
            return;
        }
        self.nested.windows = windows;
        let both = PrimaryControls::INTERRUPT_WINDOW_EXITING | PrimaryControls::NMI_WINDOW_EXITING;
        let l1 = self.nested.logic.primary_controls() & both;
        modify(
            Field::PRIMARY_CONTROLS,
            u64::from((windows | l1).bits()),
            u64::from((both & !(windows | l1)).bits()),
        );
    }

    /// Leaves L2 by an exit of L0's making.
    pub fn leave_l2(&mut self, mut info: ExitInfo, nmi: bool) {
        self.count(Counter::Reflected);
        events::take_interrupted(&mut CurrentVmcs, &mut info);
        self.set_l0_windows(PrimaryControls::empty());
        match super::entry::page_of(self.nested.page, self.nested.logic.current()) {
            Some(mut page) => {
                self.nested
                    .logic
                    .reflect_enlightened_as(&CurrentVmcs, &mut page, &info)
            }
            None => {
                self.nested.logic.reflect_plain_as(&CurrentVmcs, &info);
                return self.finish_plain_exit(nmi);
            }
        }
        self.finish_exit(nmi);
    }

    /// Whether L1 intercepts this exception of L2's.
    pub fn l1_wants_exception(&self, vector: u8, error_code: u32) -> bool {
        self.nested.logic.intercepts_exception(vector, error_code)
    }

    /// Makes L2 take an exception that L0's emulation raised, or L1 the exit for it.
    pub fn inject_into_l2(&mut self, vector: u8, error_code: Option<u32>) {
        if self.l1_wants_exception(vector, error_code.unwrap_or(0)) {
            return self.reflect_exception(vector, error_code, 0);
        }
        let (event, code) = exception(vector, error_code);
        events::inject(&mut CurrentVmcs, event, code, 0);
    }

    /// An exit to L1 for an exception of L2 that L0's emulation raised.
    pub fn reflect_exception(&mut self, vector: u8, error_code: Option<u32>, qualification: u64) {
        let (event, code) = exception(vector, error_code);
        let mut info = ExitInfo::new(ExitReason::new(BasicExitReason::ExceptionOrNmi));
        info.interruption = event;
        info.interruption_error_code = code;
        info.instruction_length = read(Field::EXIT_INSTRUCTION_LENGTH) as u32;
        info.qualification = qualification;
        self.leave_l2(info, false);
    }
}
