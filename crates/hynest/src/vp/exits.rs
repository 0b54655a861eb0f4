//! The exits of a VP, and what is done before each entry.

use platform::counters::Counter;
use vmx::{BasicExitReason, CrAccess, ExitReason, Field, IoAccess};

use super::entry::Entry;
use super::shootdown::{publish_entry, publish_exit};
use super::vmcs::{read, write};
use super::{Activity, Registers, Vp};
use crate::cpu::{register, tsc};
use crate::{fatal, log};

/// Where the entry code comes after every VM exit, with the VP's registers stored.
pub extern "C" fn exited(vp: &mut Vp) -> Entry {
    publish_exit(vp.index);
    vp.count(Counter::Exits);
    let reason = ExitReason::from_raw(read(Field::EXIT_REASON) as u32);
    if vp.nested.is_in_l2() {
        vp.count(Counter::L2Exits);
        vp.l2_exit(reason);
    } else {
        vp.count(Counter::L1Exits);
        vp.l1_exit(reason);
    }
    vp.prepare_entry()
}

/// Where the entry code comes instead of entering when another processor has kicked this one.
pub extern "C" fn kicked(vp: &mut Vp) -> Entry {
    let _ = crate::cpu::per_cpu::this().take_kick();
    publish_exit(vp.index);
    vp.withdraw_entry();
    vp.drain_inbox();
    vp.prepare_entry()
}

/// Where the entry code comes when VMLAUNCH or VMRESUME failed.
pub extern "C" fn entry_failed(vp: &mut Vp) -> Entry {
    publish_exit(vp.index);
    vp.withdraw_entry();
    let error = read(Field::INSTRUCTION_ERROR);
    if !vp.l2_entry_failed(error as u32) {
        panic!("VM entry of L1 failed with VM-instruction error {error}");
    }
    vp.prepare_entry()
}

impl Vp {
    /// What every entry, of L1 or L2, needs first.
    #[inline(always)]
    pub fn prepare_entry(&mut self) -> Entry {
        if self.attention {
            self.attend();
        }
        publish_entry(self.index);
        if self.nested.is_in_l2() {
            self.settle_shadow();
            self.settle_l2_translations();
        } else {
            self.settle_l1_translations();
        }
        // Late by what is left of this path: a timer may be late, never early.
        let mut left = self.deadline.saturating_sub(tsc::now());
        if self.nested.leaves_at_once() {
            left = 0;
        }
        write(
            Field::VMX_PREEMPTION_TIMER_VALUE,
            self.partition.preemption_value(left),
        );
        self.entry()
    }

    /// What the current VMCS needs to be entered.
    #[inline(always)]
    fn entry(&mut self) -> Entry {
        self.entry = if core::mem::replace(self.launched(), true) {
            Entry::Resume
        } else {
            Entry::Launch
        };
        self.entry
    }

    /// The guest was not entered after all: a first entry stays a first entry.
    fn withdraw_entry(&mut self) {
        if self.entry == Entry::Launch {
            *self.launched() = false;
        }
    }

    fn launched(&mut self) -> &mut bool {
        if self.nested.is_in_l2() {
            self.nested.launched()
        } else {
            &mut self.launched01
        }
    }

    /// Something may have changed: gives the guest what it is to be given.
    #[cold]
    fn attend(&mut self) {
        self.attention = false;
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
            panic!(
                "VM entry of L1 failed: exit reason {:#x}, qualification {:#x}",
                reason.raw(),
                read(Field::EXIT_QUALIFICATION)
            );
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
            fatal::halt();
        }
        let _ = crate::cpu::per_cpu::this().take_kick();
        self.drain_inbox();
    }

    fn xsetbv_exit(&mut self) {
        let index = self.registers.0[Registers::RCX] as u32;
        let value = self.registers.edx_eax();
        let cpl = super::nested::current_cpl();
        if index != 0 || cpl != 0 || self.partition.cpuid.check_xcr0(value).is_err() {
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
