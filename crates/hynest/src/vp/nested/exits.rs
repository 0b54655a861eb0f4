//! Exits of L2.

use addr::Gpa2;
use nested::reflect::Owner;
use nested::{ExitInfo, events};
use platform::counters::Counter;
use vmx::{BasicExitReason, EptViolation, ExitReason, Field, IoAccess};

use super::super::vmcs::read;
use super::super::{Registers, Vp, exits};
use super::entry::page_of;
use super::load;
use super::pages::CurrentVmcs;
use super::shadow::{Reflection, Violation};

/// Where L2, whose VMCS is current, met an EPT violation or misconfiguration.
#[inline(always)]
pub fn violation_address() -> Gpa2 {
    Gpa2::new(read(Field::GUEST_PHYSICAL_ADDRESS))
}

impl nested::reflect::Registers for Registers {
    #[inline]
    fn gpr(&self, number: u8) -> u64 {
        self.0[usize::from(number & 15)]
    }
}

impl Vp {
    /// An exit of L2, whose VMCS is current, but for VMCALL and EPT violations. Returns the reason
    /// by which it is to be reflected as it stands; it has been answered otherwise.
    #[inline]
    pub fn l2_exit(&mut self, reason: ExitReason) -> Option<ExitReason> {
        if reason.is_entry_failure() {
            self.failed_l2_entry();
            return None;
        }
        let owner = self.nested.logic.owner(
            &CurrentVmcs,
            reason,
            &self.partition.memory,
            &self.registers,
        );
        match (owner, reason.basic()) {
            (Owner::L1, _) => return Some(reason),
            (Owner::L0, Some(basic @ BasicExitReason::EptMisconfiguration)) => {
                return self.l2_ept_exit(basic, violation_address());
            }
            (Owner::L0, Some(basic)) => self.own_l2_exit(basic),
            (Owner::L0, None) => panic!("L2 exited for unknown reason {:#x}", reason.raw()),
        }
        None
    }

    /// VMCALL of L2. Returns whether L0 has answered it; it is L1's otherwise.
    #[inline]
    pub fn l2_vmcall(&mut self) -> bool {
        let answered = self.direct_flush();
        self.count(if answered {
            Counter::DirectFlushes
        } else {
            Counter::ReflectedVmcalls
        });
        answered
    }

    /// Turns the exit, as hardware reported it, into one of L1's, if nothing but what hardware
    /// switches is to be switched. Returns whether it did; the rest of the way is
    /// [`Vp::turn_to_l1`]. `IS_INSTRUCTION`: the reason is among
    /// [`INSTRUCTIONS`](nested::reflect::INSTRUCTIONS).
    #[inline(always)]
    pub fn reflect_shortly<const IS_INSTRUCTION: bool>(&mut self, reason: ExitReason) -> bool {
        let Some(mut page) = self.nested.page else {
            return false;
        };
        // VMCS 01's TSC offset is not stale: what makes it so ends the steady state.
        let vmcs01 = &self.vmcs01;
        if !self.nested.logic.reflect_steady::<IS_INSTRUCTION, _, _>(
            reason,
            &CurrentVmcs,
            &mut page,
            || load(vmcs01),
            &mut CurrentVmcs,
        ) {
            return false;
        }
        self.nested.is_02_current = false;
        self.count(Counter::Reflected);
        true
    }

    /// Turns the exit, as hardware reported it, into one of L1's.
    pub fn reflect(&mut self, reason: ExitReason) {
        self.count(Counter::Reflected);
        match page_of(self.nested.page, self.nested.logic.current()) {
            Some(mut page) => {
                self.nested
                    .logic
                    .reflect_enlightened(reason, &CurrentVmcs, &mut page)
            }
            None => {
                self.nested.logic.reflect_plain(reason, &CurrentVmcs);
                return self.finish_plain_exit(false);
            }
        }
        // NMIs are kicks: L1's come by `leave_l2`.
        self.finish_exit(false);
    }

    /// Hardware found L2's state wrong while it entered.
    #[cold]
    fn failed_l2_entry(&mut self) {
        let mut page = page_of(self.nested.page, self.nested.logic.current());
        let _ = self
            .nested
            .logic
            .reflect_failed_entry(&CurrentVmcs, page.as_mut());
        self.publish_exit();
        self.return_to_l1_host(false);
    }

    /// An exit that L0 answers; L2 goes on, or L1 gets an exit of L0's making.
    fn own_l2_exit(&mut self, basic: BasicExitReason) {
        match basic {
            BasicExitReason::PreemptionTimer => self.expire_timers(),
            BasicExitReason::ExternalInterrupt => exits::take_interrupt(),
            BasicExitReason::ExceptionOrNmi => self.exception_exit(),
            BasicExitReason::InterruptWindow | BasicExitReason::NmiWindow => self.attention = true,
            BasicExitReason::Hlt => {
                self.advance();
                self.nested.logic.halt_l2(&CurrentVmcs);
                self.attention = true;
            }
            BasicExitReason::Rdmsr => self.rdmsr_exit(),
            BasicExitReason::Wrmsr => self.wrmsr_exit(),
            BasicExitReason::IoInstruction => {
                let access = IoAccess::from_qualification(read(Field::EXIT_QUALIFICATION));
                self.io_exit(access);
            }
            BasicExitReason::CrAccess => self.l2_control_register_exit(),
            // As for L1, whose CPUID shows neither: an L2 has no more than its L1.
            BasicExitReason::Mwait | BasicExitReason::Monitor => self.inject_ud(),
            BasicExitReason::Rdpmc => self.inject_gp(),
            // L1 lets L2 read the TSC, which L0 emulates.
            BasicExitReason::Rdtsc => self.rdtsc_exit(),
            BasicExitReason::Rdtscp => self.rdtscp_exit(),
            BasicExitReason::Init | BasicExitReason::StartUpIpi => {}
            BasicExitReason::IoSmi | BasicExitReason::OtherSmi => {}
            other => panic!("L0 asked for no exit of kind {other:?} from L2"),
        }
    }

    /// An EPT violation or misconfiguration of L2. Returns the reason by which L1 is to see it, where
    /// hardware has described it so; it has been answered otherwise.
    pub fn l2_ept_exit(&mut self, basic: BasicExitReason, at: Gpa2) -> Option<ExitReason> {
        if self.nested.view.attachment().is_none() {
            // L1 gives L2 no EPT: the violation is EPT 01's, at an address of L1's devices.
            self.mmio_exit();
            return None;
        }
        let qualification = EptViolation::from_qualification(read(Field::EXIT_QUALIFICATION));
        let is_violation = basic == BasicExitReason::EptViolation;
        match self.shadow_violation(qualification, at) {
            Violation::Handled => {
                let unblocked =
                    is_violation && qualification.raw() & EptViolation::NMI_UNBLOCKING != 0;
                events::requeue(&mut CurrentVmcs, unblocked);
                None
            }
            Violation::Device(address) => {
                self.device_access(address);
                None
            }
            // EPT 02 and EPT 12 agree, as where neither maps the page.
            Violation::Reflect(Reflection::Violation(answer))
                if is_violation && answer == qualification =>
            {
                Some(ExitReason::new(basic))
            }
            // EPT 02 lacks what EPT 12 has wrong. The address is the same, and a misconfiguration
            // leaves qualification and linear address undefined (SDM 28.2.1).
            Violation::Reflect(Reflection::Misconfiguration) => {
                Some(ExitReason::new(BasicExitReason::EptMisconfiguration))
            }
            Violation::Reflect(Reflection::Violation(answer)) => {
                let mut info = ExitInfo::from_hardware(&CurrentVmcs);
                info.reason = ExitReason::new(BasicExitReason::EptViolation);
                info.qualification = answer.raw();
                self.reflect_as(info);
                None
            }
        }
    }

    /// Reflects an exit with information that L0 has corrected.
    fn reflect_as(&mut self, info: ExitInfo) {
        self.count(Counter::Reflected);
        match page_of(self.nested.page, self.nested.logic.current()) {
            Some(mut page) => {
                self.nested
                    .logic
                    .reflect_enlightened_as(&CurrentVmcs, &mut page, &info)
            }
            None => {
                self.nested.logic.reflect_plain_as(&CurrentVmcs, &info);
                return self.finish_plain_exit(false);
            }
        }
        self.finish_exit(false);
    }
}
