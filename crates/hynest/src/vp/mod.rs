//! A partition's virtual processors: one on each physical processor, for good.

mod accesses;
mod control_register;
mod cpuid;
mod create;
mod entry;
mod eoi_assist;
mod events;
mod exceptions;
mod exits;
mod files;
mod hardware;
mod hypercalls;
mod hyperv;
mod io;
mod loader;
mod meeting;
mod memory;
mod mmio;
mod msr;
mod nested;
mod paging;
mod partition;
mod report;
mod saving;
mod shootdown;
mod snapshots;
mod start;
mod string_io;
mod time;
mod vmcs;
mod vmcs01;

use core::sync::atomic::{AtomicU64, Ordering};

use ::hyperv::clock::Conversion;
use addr::Spa;
use platform::apic::LocalApic;
use platform::counters::Counter;
use state::Activity;
use vmx::{AccessRights, Field, PrimaryControls};

pub use hardware::check_processor;
pub use report::{log_vmcs, report_counters};
pub use start::{create_partition, run};

use partition::Partition;

/// The guest's general registers, in the numbering of instruction encodings.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Registers([u64; 16]);

impl Registers {
    const RAX: usize = 0;
    const RCX: usize = 1;
    const RDX: usize = 2;
    const RBX: usize = 3;
    /// RSP's number; its value is kept in the VMCS.
    const RSP: usize = 4;

    /// EDX:EAX.
    #[inline]
    pub fn edx_eax(&self) -> u64 {
        self.0[Self::RDX] << 32 | self.0[Self::RAX] & 0xFFFF_FFFF
    }

    /// Sets EDX:EAX, clearing the upper halves as 32-bit results do.
    #[inline]
    pub fn set_edx_eax(&mut self, value: u64) {
        self.0[Self::RAX] = value & 0xFFFF_FFFF;
        self.0[Self::RDX] = value >> 32;
    }

    /// Sets RBX: the PVH start info.
    pub fn set_rbx(&mut self, value: u64) {
        self.0[Self::RBX] = value;
    }

    /// Sets RDX: the processor's signature after INIT.
    pub fn set_rdx(&mut self, value: u64) {
        self.0[Self::RDX] = value;
    }
}

/// A virtual processor. Its physical processor owns it; others reach it by its inbox alone.
///
/// The registers come first: the entry code addresses them by fixed offsets.
#[repr(C)]
pub struct Vp {
    registers: Registers,
    /// VP index, and number of the physical processor.
    index: usize,
    /// What others may touch of this VP.
    cell: &'static shootdown::Cell,
    partition: &'static Partition,
    /// VMCS 01.
    vmcs01: Spa,
    /// Whether something may have changed what L1 is to be given before its next entry.
    attention: bool,
    /// Whether something was left for L1 when that was last looked at: it is looked at again when
    /// L1 and L2 take turns.
    waiting: bool,
    activity: Activity,
    nmi_pending: bool,
    /// INIT came while VMX operation blocks it.
    init_pending: bool,
    /// The partition is to be saved before the VP's next entry.
    save_asked: bool,
    /// The windows that VMCS 01 asks for.
    windows: PrimaryControls,
    /// L1 may end the interrupt of highest priority in service by its assist page.
    eoi_assisted: bool,
    /// When the next timer is due, in the processor's TSC; `u64::MAX` when none is.
    deadline: u64,
    /// The same as the VMX-preemption timer counts, not farther off than it reaches.
    timer_target: u64,
    /// The VMX-preemption timer counts once in 2^this TSC ticks.
    timer_shift: u32,
    /// L1's TSC less the processor's, or less what stands for it ([`Vp::tsc_counter`]).
    tsc_offset: u64,
    /// The same of a VP whose TSC L1 has not written: of the partition.
    partition_offset: u64,
    /// What makes what stands for the processor's TSC, while that is another one.
    conversion: Option<Conversion>,
    apic: LocalApic,
    hyperv: ::hyperv::Vp,
    msrs: platform::msr::MsrState,
    nested: nested::NestedVp,
    /// This processor alone writes them; the report of another reads them.
    counters: [AtomicU64; Counter::ALL.len()],
    /// The counter that L1 latched by the counter port, with which half comes next.
    latched: io::Latched,
}

impl Vp {
    /// Counts one.
    #[inline(always)]
    pub fn count(&mut self, counter: Counter) {
        self.count_more(counter, 1);
    }

    /// Counts several.
    #[inline(always)]
    pub fn count_more(&mut self, counter: Counter, more: u64) {
        let counter = &self.counters[counter as usize];
        // No locked addition: nobody else writes.
        let count = counter.load(Ordering::Relaxed).wrapping_add(more);
        counter.store(count, Ordering::Relaxed);
    }

    /// What a counter has come to.
    pub fn counter(&self, counter: Counter) -> u64 {
        let count = |counter: Counter| self.counters[counter as usize].load(Ordering::Relaxed);
        match counter {
            // Counted apart, and added up when somebody asks.
            Counter::Exits => count(Counter::L1Exits) + count(Counter::L2Exits),
            _ => count(counter),
        }
    }

    /// A general register of L1, whose VMCS is current.
    #[inline]
    pub fn gpr(&self, number: u8) -> u64 {
        let number = usize::from(number & 15);
        if number == Registers::RSP {
            vmcs::read(Field::GUEST_RSP)
        } else {
            self.registers.0[number]
        }
    }

    /// Sets a general register of the guest whose VMCS is current.
    #[inline]
    pub fn set_gpr(&mut self, number: u8, value: u64) {
        let number = usize::from(number & 15);
        if number == Registers::RSP {
            vmcs::write(Field::GUEST_RSP, value);
        } else {
            self.registers.0[number] = value;
        }
    }

    /// Moves the guest whose VMCS is current past the instruction that exited.
    #[inline]
    pub fn advance(&mut self) {
        self.advance_by(vmcs::read(Field::EXIT_INSTRUCTION_LENGTH));
    }

    /// Moves it on by `bytes`, where the exit does not tell the instruction's length.
    #[inline]
    pub fn advance_by(&mut self, bytes: u64) {
        let rip = vmcs::read(Field::GUEST_RIP);
        let mut next = rip.wrapping_add(bytes);
        // EIP wraps: VM entry refuses a RIP above 4 GiB outside 64-bit code.
        if (next ^ rip) >> 32 != 0 && !is_64_bit_code() {
            next &= 0xFFFF_FFFF;
        }
        vmcs::write(Field::GUEST_RIP, next);
        // STI and MOV SS block for one instruction, which has now been executed.
        let blocking = vmcs::read(Field::GUEST_INTERRUPTIBILITY);
        if blocking & 3 != 0 {
            vmcs::write(Field::GUEST_INTERRUPTIBILITY, blocking & !3);
        }
        if vmcs::read(Field::GUEST_RFLAGS) & RFLAGS_TF != 0 {
            end_single_step();
        }
    }
}

/// RFLAGS.TF.
const RFLAGS_TF: u64 = 1 << 8;

/// The guest steps: a #DB follows the instruction that L0 has executed for it.
#[cold]
fn end_single_step() {
    ::nested::exceptions::end_single_step(&mut nested::CurrentVmcs);
}

/// Whether the guest whose VMCS is current runs 64-bit code.
#[cold]
fn is_64_bit_code() -> bool {
    /// EFER.LMA.
    const EFER_LMA: u64 = 1 << 10;
    let code = AccessRights::from_raw(vmcs::read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
    code.is_long() && vmcs::read(Field::GUEST_EFER) & EFER_LMA != 0
}
