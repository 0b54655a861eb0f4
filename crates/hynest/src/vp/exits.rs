//! The exits of a VP, and what is done before each entry.

use addr::Gpa2;
use nested::reflect::{ALWAYS_L1, INSTRUCTIONS, is_among};
use nested::{Asked, Resume};
use platform::counters::Counter;
use vmx::{BasicExitReason, CrAccess, ExitReason, Field, IoAccess, VmInstructionError};

use super::entry::Retry;
use super::nested::violation_address;
use super::shootdown::{l1_flush_is_asked, l2_flush_is_asked, publish_entry, publish_exit};
use super::vmcs::{read, write};
use super::{Activity, Registers, Vp};
use crate::cpu::{register, tsc};
use crate::{fatal, log};

/// Where the entry code comes after an exit of VMCS 01, with L1's registers stored.
///
/// This and what it continues in are leaves: what a round trip always does needs no call, and what
/// it does seldom is a tail call, so that no register is saved for it.
pub extern "C" fn l1_exited(vp: &mut Vp) {
    publish_exit(vp.cell);
    vp.count(Counter::L1Exits);
    let reason = ExitReason::from_raw(read(Field::EXIT_REASON) as u32);
    if reason != ExitReason::new(BasicExitReason::Vmresume) {
        return l1_exited_otherwise(vp, reason);
    }
    match vp.resume_clean() {
        Resume::Entered => vp.turn_to_l2(),
        Resume::Dirty(asked) => resume_lightly(vp, asked),
        Resume::InFull => other_l1_exit(vp, reason),
    }
}

/// An exit of L1 that asks for no entry: a function of its own, or the compiler would look for the
/// others first.
#[inline(never)]
extern "C" fn l1_exited_otherwise(vp: &mut Vp, reason: ExitReason) {
    if reason == ExitReason::new(BasicExitReason::Wrmsr) {
        return l1_wrmsr(vp);
    } else if reason == ExitReason::new(BasicExitReason::Cpuid) {
        return l1_cpuid(vp);
    } else if reason == ExitReason::new(BasicExitReason::Invvpid) {
        return l1_invvpid(vp, reason);
    }
    other_l1_exit(vp, reason)
}

/// WRMSR of L1: timers, ends of interrupts and IPIs are most of its exits beside VMRESUME.
#[inline(never)]
extern "C" fn l1_wrmsr(vp: &mut Vp) {
    vp.wrmsr_exit();
    vp.prepare_l1_entry()
}

/// INVVPID of L1: how KVM flushes L2's TLB on L2's request.
#[inline(never)]
extern "C" fn l1_invvpid(vp: &mut Vp, reason: ExitReason) {
    if vp.invvpid_shortly() {
        return vp.prepare_l1_entry();
    }
    other_l1_exit(vp, reason)
}

/// CPUID of L1.
#[inline(never)]
extern "C" fn l1_cpuid(vp: &mut Vp) {
    vp.cpuid_exit();
    vp.prepare_l1_entry()
}

/// VMRESUME of L1 with groups that are not clean, or after an EPT violation that it was told of.
#[inline(never)]
extern "C" fn resume_lightly(vp: &mut Vp, asked: Asked) {
    match vp.resume_lightly(asked) {
        Resume::Entered => vp.turn_to_l2(),
        Resume::Dirty(asked) => resume_with_event(vp, asked),
        Resume::InFull => other_l1_exit(vp, ExitReason::new(BasicExitReason::Vmresume)),
    }
}

/// The same with an exception or the like to inject, or a page to be given to L2.
#[inline(never)]
extern "C" fn resume_with_event(vp: &mut Vp, asked: Asked) {
    if vp.resume_with_event(asked) {
        return vp.turn_to_l2();
    }
    other_l1_exit(vp, ExitReason::new(BasicExitReason::Vmresume))
}

/// An exit of L1 that is not a step of an L2 round trip.
#[inline(never)]
extern "C" fn other_l1_exit(vp: &mut Vp, reason: ExitReason) {
    if reason == ExitReason::new(BasicExitReason::Vmread)
        || reason == ExitReason::new(BasicExitReason::Vmwrite)
    {
        return l1_field_access(vp, reason);
    }
    l1_exit_in_full(vp, reason)
}

/// VMREAD or VMWRITE of L1: nearly all of the exits of one with a plain VMCS that hardware does not
/// shadow.
#[inline(never)]
extern "C" fn l1_field_access(vp: &mut Vp, reason: ExitReason) {
    if vp.access_field(reason) {
        return vp.prepare_l1_entry();
    }
    l1_exit_in_full(vp, reason)
}

#[inline(never)]
extern "C" fn l1_exit_in_full(vp: &mut Vp, reason: ExitReason) {
    vp.l1_exit(reason);
    vp.prepare_entry()
}

/// Where the entry code comes after an exit of VMCS 02, with L2's registers stored.
pub extern "C" fn l2_exited(vp: &mut Vp) {
    publish_exit(vp.cell);
    vp.count(Counter::L2Exits);
    let reason = ExitReason::from_raw(read(Field::EXIT_REASON) as u32);
    if is_among(ALWAYS_L1 & INSTRUCTIONS, reason) {
        return reflect_instruction(vp, reason);
    }
    if reason == ExitReason::new(BasicExitReason::Vmcall) {
        return l2_vmcall(vp, reason);
    }
    if reason == ExitReason::new(BasicExitReason::EptViolation) {
        return l2_ept_violation(vp);
    }
    other_l2_exit(vp, reason)
}

/// VMCALL of L2: L1's, or a direct flush.
#[inline(never)]
extern "C" fn l2_vmcall(vp: &mut Vp, reason: ExitReason) {
    if vp.answers_flushes() {
        return l2_call(vp);
    }
    vp.count(Counter::ReflectedVmcalls);
    reflect_instruction(vp, reason)
}

/// VMCALL of an L2 whose flushes are answered here, in the form that these have.
#[inline(never)]
extern "C" fn l2_call(vp: &mut Vp) {
    if vp.flush_shortly() {
        vp.count(Counter::DirectFlushes);
        return vp.prepare_l2_entry();
    }
    other_l2_call(vp)
}

/// Such a VMCALL in another form.
#[inline(never)]
extern "C" fn other_l2_call(vp: &mut Vp) {
    if vp.l2_vmcall() {
        return vp.prepare_entry();
    }
    reflect_instruction(vp, ExitReason::new(BasicExitReason::Vmcall))
}

/// An EPT violation of L2: at a device's page, as L1 marks them, or another.
#[inline(never)]
extern "C" fn l2_ept_violation(vp: &mut Vp) {
    let at = violation_address();
    if vp.is_at_misconfigured_page(at) {
        return reflect(vp, ExitReason::new(BasicExitReason::EptMisconfiguration));
    }
    other_l2_ept_violation(vp, at)
}

/// An EPT violation of L2: the shadow's, or L1's.
#[inline(never)]
extern "C" fn other_l2_ept_violation(vp: &mut Vp, at: Gpa2) {
    if let Some(reason) = vp.l2_ept_exit(BasicExitReason::EptViolation, at) {
        return reflect(vp, reason);
    }
    vp.prepare_entry()
}

/// An exit of L2 that it takes more than the reason to find the owner of.
#[inline(never)]
extern "C" fn other_l2_exit(vp: &mut Vp, reason: ExitReason) {
    if let Some(reason) = vp.l2_exit(reason) {
        if is_among(INSTRUCTIONS, reason) {
            return reflect_instruction(vp, reason);
        }
        return reflect(vp, reason);
    }
    vp.prepare_entry()
}

/// Turns an exit of L2 by one of the [`INSTRUCTIONS`], as hardware reported it, into one of L1's.
#[inline(never)]
extern "C" fn reflect_instruction(vp: &mut Vp, reason: ExitReason) {
    if vp.reflect_shortly::<true>(reason) {
        return vp.turn_to_l1();
    }
    reflect_in_full(vp, reason)
}

/// The same for any exit.
#[inline(never)]
extern "C" fn reflect(vp: &mut Vp, reason: ExitReason) {
    if vp.reflect_shortly::<false>(reason) {
        return vp.turn_to_l1();
    }
    reflect_in_full(vp, reason)
}

#[inline(never)]
extern "C" fn reflect_in_full(vp: &mut Vp, reason: ExitReason) {
    vp.reflect(reason);
    vp.prepare_entry()
}

/// Where the entry code comes instead of entering when another processor has kicked this one.
pub extern "C" fn kicked(vp: &mut Vp) {
    let _ = crate::cpu::per_cpu::this().take_kick();
    publish_exit(vp.cell);
    vp.drain_inbox();
    vp.prepare_entry();
    vp.audit_end();
}

/// Where the entry code comes when VMRESUME or VMLAUNCH failed.
pub extern "C" fn entry_failed(vp: &mut Vp) -> Retry {
    let error = read(Field::INSTRUCTION_ERROR) as u32;
    if error == VmInstructionError::VmresumeNotLaunched as u32 {
        return Retry::Launch;
    }
    publish_exit(vp.cell);
    if !vp.l2_entry_failed(error) {
        vp.l1_is_not_entered(format_args!("VM-instruction error {error}"));
    }
    vp.prepare_entry();
    vp.audit_end();
    Retry::Resume
}

/// [`Vp::prepare_entry`] where there may be something to attend to.
#[cold]
#[inline(never)]
fn attend_and_prepare(vp: &mut Vp) {
    vp.prepare_entry();
}

/// The same after an exit that makes L1 and L2 take turns.
#[cold]
#[inline(never)]
fn attend_to_turn(vp: &mut Vp) {
    vp.attend_if_needed();
    vp.prepare_entry();
}

#[cold]
#[inline(never)]
fn settle(vp: &mut Vp) {
    vp.settle();
}

impl Vp {
    /// What an entry needs: of L2 if the VP is there, else of L1.
    #[inline]
    pub fn prepare_entry(&mut self) {
        if self.attention {
            self.attend();
        }
        publish_entry(self.cell);
        self.settle();
    }

    /// What an entry of L1 needs, after an exit that has changed nothing of what it is to be given.
    #[inline(always)]
    pub fn prepare_l1_entry(&mut self) {
        if self.attention {
            return attend_and_prepare(self);
        }
        self.publish_l1_entry();
    }

    /// The same after an exit of L2.
    #[inline(always)]
    fn turn_to_l1(&mut self) {
        if self.has_attention_due() {
            return attend_to_turn(self);
        }
        self.publish_l1_entry();
    }

    #[inline(always)]
    fn publish_l1_entry(&mut self) {
        let cell = self.cell;
        publish_entry(cell);
        if l1_flush_is_asked(cell) {
            return settle(self);
        }
        self.arm_timer();
    }

    /// As [`Vp::prepare_l1_entry`], for an entry of L2.
    #[inline(always)]
    pub fn prepare_l2_entry(&mut self) {
        if self.attention {
            return attend_and_prepare(self);
        }
        self.publish_l2_entry();
    }

    /// The same after an exit of L1.
    #[inline(always)]
    fn turn_to_l2(&mut self) {
        if self.has_attention_due() {
            return attend_to_turn(self);
        }
        self.publish_l2_entry();
    }

    #[inline(always)]
    fn publish_l2_entry(&mut self) {
        let cell = self.cell;
        publish_entry(cell);
        if l2_flush_is_asked(cell) || self.nested.is_shadow_stale() {
            return settle(self);
        }
        self.arm_timer();
    }

    /// After [`publish_entry`]: forgets what others have taken away, attends a meeting if one has
    /// been called, and arms the timer.
    fn settle(&mut self) {
        let was_asked = if self.nested.is_in_l2() {
            self.settle_shadow();
            self.settle_l2_translations()
        } else {
            self.settle_l1_translations()
        };
        if was_asked && self.meet_instead_of_entering() {
            return self.prepare_entry();
        }
        if self.nested.take_leave_at_once() {
            write(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
        } else {
            self.arm_timer();
        }
    }

    /// Has the guest leave when the next timer is due.
    #[inline(always)]
    fn arm_timer(&self) {
        // Late by what is left of this path: a timer may be late, never early.
        let left = self
            .timer_target
            .saturating_sub(tsc::now() >> self.timer_shift);
        write(Field::VMX_PREEMPTION_TIMER_VALUE, left);
    }

    /// Something may have changed: gives the guest what it is to be given.
    #[cold]
    #[inline(never)]
    fn attend(&mut self) {
        self.give_what_waits();
        self.waiting = self.apic.pending().is_some()
            || self.nmi_pending
            || self.init_pending
            || !self.windows.is_empty();
    }

    fn give_what_waits(&mut self) {
        self.attention = false;
        self.settle_eoi_assist();
        if self.save_asked {
            self.save_if_asked();
        }
        if self.nested.is_in_l2() {
            self.interrupt_l2();
            if self.nested.is_in_l2() {
                return;
            }
        }
        if self.activity != Activity::Running {
            self.sleep_while_idle();
            self.attention = false;
        }
        self.deliver_to_l1();
    }

    #[inline]
    fn l1_exit(&mut self, reason: ExitReason) {
        let Some(basic) = reason.basic().filter(|_| !reason.is_entry_failure()) else {
            self.l1_is_not_entered(format_args!(
                "exit reason {:#x}, qualification {:#x}",
                reason.raw(),
                read(Field::EXIT_QUALIFICATION)
            ));
        };
        match basic {
            BasicExitReason::Cpuid => self.cpuid_exit(),
            BasicExitReason::Rdmsr => self.rdmsr_exit(),
            BasicExitReason::Wrmsr => self.wrmsr_exit(),
            BasicExitReason::Vmresume
            | BasicExitReason::Vmlaunch
            | BasicExitReason::Vmclear
            | BasicExitReason::Vmptrld
            | BasicExitReason::Vmptrst
            | BasicExitReason::Vmread
            | BasicExitReason::Vmwrite
            | BasicExitReason::Vmxoff
            | BasicExitReason::Vmxon
            | BasicExitReason::Invept
            | BasicExitReason::Invvpid => self.vmx_instruction_exit(basic),
            BasicExitReason::Vmcall => self.hypercall_exit(),
            BasicExitReason::IoInstruction => {
                let access = IoAccess::from_qualification(read(Field::EXIT_QUALIFICATION));
                self.io_exit(access);
            }
            BasicExitReason::CrAccess => {
                let access = CrAccess::from_qualification(read(Field::EXIT_QUALIFICATION));
                self.control_register_exit(access);
            }
            BasicExitReason::EptViolation => self.mmio_exit(),
            BasicExitReason::Hlt => {
                self.advance();
                self.activity = Activity::Halted;
                self.attention = true;
            }
            BasicExitReason::PreemptionTimer => self.expire_timers(),
            BasicExitReason::InterruptWindow | BasicExitReason::NmiWindow => self.attention = true,
            BasicExitReason::ExceptionOrNmi => self.exception_exit(),
            BasicExitReason::ExternalInterrupt => take_interrupt(),
            BasicExitReason::Xsetbv => self.xsetbv_exit(),
            // The partition's caches are the machine's, and no device of another reads them.
            BasicExitReason::Invd => {
                self.write_back_caches();
                self.advance();
            }
            BasicExitReason::TripleFault => {
                let rip = read(Field::GUEST_RIP);
                fatal::end(
                    fatal::End::TripleFault,
                    format_args!("VP {} met a triple fault at {rip:#x}", self.index),
                )
            }
            // Instructions that L1's CPUID does not show.
            BasicExitReason::Getsec
            | BasicExitReason::Rsm
            | BasicExitReason::Mwait
            | BasicExitReason::Monitor
            | BasicExitReason::Vmfunc
            | BasicExitReason::Encls
            | BasicExitReason::Enclv
            | BasicExitReason::Pconfig
            | BasicExitReason::Umwait
            | BasicExitReason::Tpause => self.inject_ud(),
            BasicExitReason::Rdtsc => self.rdtsc_exit(),
            BasicExitReason::Rdtscp => self.rdtscp_exit(),
            // There is no counter to read.
            BasicExitReason::Rdpmc => self.inject_gp(),
            // A hardware task switch has no 64-bit form and no user among the kernels this
            // platform is for: L1 sees a #GP in its place.
            BasicExitReason::TaskSwitch => self.inject_gp(),
            // INIT and SMI signals of the machine itself; nothing for L1.
            BasicExitReason::Init
            | BasicExitReason::StartUpIpi
            | BasicExitReason::IoSmi
            | BasicExitReason::OtherSmi => {}
            other => panic!("L0 asked for no exit of kind {other:?} from L1"),
        }
    }

    /// Handles a kick that arrived as an exit.
    pub fn take_nmi(&mut self) {
        unblock_nmis();
        if fatal::stopping() {
            fatal::stop();
        }
        let _ = crate::cpu::per_cpu::this().take_kick();
        self.drain_inbox();
    }

    fn xsetbv_exit(&mut self) {
        let index = self.registers.0[Registers::RCX] as u32;
        let value = self.registers.edx_eax();
        let cpl = super::nested::current_cpl();
        if index != 0 || cpl != 0 || self.partition.setup.cpuid.check_xcr0(value).is_err() {
            return self.inject_gp();
        }
        // SAFETY: CR4.OSXSAVE is set in L0 and the value is one that the policy, which is
        // narrower than the processor, accepts.
        unsafe { register::set_xcr0(value) };
        self.advance();
    }

    /// INVD as WBINVD: dropping dirty lines would drop others' data too.
    pub fn write_back_caches(&self) {
        // SAFETY: writing caches back changes no content.
        unsafe { core::arch::asm!("wbinvd", options(nostack, preserves_flags)) }
    }
}

/// Lets an interrupt that made a guest exit through to L0's handlers: the timer that was
/// armed for an idle sleep, or a spurious one.
pub fn take_interrupt() {
    // SAFETY: L0's handlers run on their own stacks and touch no VP.
    unsafe { core::arch::asm!("sti", "nop", "cli", options(nostack)) }
}

/// After an exit by an NMI, NMIs stay blocked until an IRET.
fn unblock_nmis() {
    // SAFETY: an IRET to the next instruction with the same segments, stack and flags.
    unsafe {
        core::arch::asm!(
            "mov {old}, rsp",
            "mov {ss:e}, ss",
            "push {ss}",
            "push {old}",
            "pushfq",
            "mov {ss:e}, cs",
            "push {ss}",
            "lea {ss}, [rip + 2f]",
            "push {ss}",
            "iretq",
            "2:",
            old = out(reg) _,
            ss = out(reg) _,
        );
    }
}

/// Logs an exit that a report needs to explain.
pub fn log_exit(vp: &Vp) {
    log!(
        "VP {}: {} at {:#x}, exit reason {:#x}, qualification {:#x}, VP {:?}",
        vp.index,
        if vp.nested.is_in_l2() { "L2" } else { "L1" },
        read(Field::GUEST_RIP),
        read(Field::EXIT_REASON),
        read(Field::EXIT_QUALIFICATION),
        vp.activity,
    );
}
