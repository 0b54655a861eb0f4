//! The state of a VP, taken from it and given to it.
//!
//! A VP is saved by its own processor, in a meeting of all ([`super::meeting`]): what hardware
//! keeps of it is nowhere else. It is in no guest then, and whatever it was about to enter is
//! prepared: an event that waits for the entry is in the VMCS and saved with it.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use nested::checks::Violation;
use platform::apic::InboxState;
use platform::counters::Counter;
use spin::Mutex;
use state::{Processor, Vmcs01};

use super::nested::CurrentVmcs;
use super::partition::{Beginning, Partition};
use super::{Registers, Vp};
use crate::cpu::per_cpu::MAX_CPUS;
use crate::cpu::{extended, msr, probe, register};
use crate::fatal;

/// What the VPs have left in a meeting for whoever called it.
static LEFT: [Mutex<Option<Box<state::Vp>>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];

/// Takes what the VPs of the partition have left, all of which are stopped.
pub fn take_left(partition: &Partition) -> Vec<state::Vp> {
    let vps = partition.inboxes.iter().zip(&LEFT);
    vps.filter_map(|(inbox, left)| {
        let state = left.lock().take()?;
        Some(state::Vp {
            // What VPs that were stopped later have sent is in there.
            inbox: inbox.save(),
            ..*state
        })
    })
    .collect()
}

/// What of a VP's saved state the processor does not accept.
#[derive(Clone, Copy, Debug)]
pub enum Unacceptable {
    /// The XSAVE area.
    ExtendedState,
    /// An MSR that L1 does not have, or a value that it cannot have there.
    Msr(u32),
    /// The enlightened VMCS that L2 runs on lies outside of L1's memory.
    EnlightenedVmcs,
    /// What L2 runs with is nothing that L1 could have entered.
    Nested(Violation),
}

impl fmt::Display for Unacceptable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExtendedState => f.write_str("the extended state is none that XRSTOR takes"),
            Self::Msr(number) => write!(f, "MSR {number:#x} cannot have the value saved"),
            Self::EnlightenedVmcs => {
                f.write_str("the enlightened VMCS of its L2 lies outside of the memory")
            }
            Self::Nested(Violation { field, rule }) => {
                write!(f, "its L2 could not have been entered: {field:?}, {rule:?}")
            }
        }
    }
}

impl Vp {
    /// Leaves the VP's state for who has called the meeting.
    pub fn leave_state(&mut self) {
        let state = Box::new(self.state());
        *LEFT[self.index].lock() = Some(state);
    }

    fn state(&mut self) -> state::Vp {
        let nested = self.nested_state();
        let mut registers = self.registers.0;
        registers[Registers::RSP] = 0;
        state::Vp {
            registers,
            vmcs01: self.with_vmcs01(|| Vmcs01::read(&CurrentVmcs)),
            processor: processor(self.partition),
            activity: self.activity,
            nmi_pending: self.nmi_pending,
            init_pending: self.init_pending,
            eoi_assisted: self.eoi_assisted,
            tsc_ahead: self.tsc_offset.wrapping_sub(self.partition_offset),
            latched: self.latched.value(),
            apic: self.apic.clone(),
            inbox: InboxState::default(),
            hyperv: self.hyperv,
            msrs: self.msrs,
            nested,
        }
    }

    /// L1 cannot be entered, for what hardware says of it: a bug of L0's, unless what it says it of
    /// came out of a state file and has never run here.
    #[cold]
    pub fn l1_is_not_entered(&self, why: fmt::Arguments<'_>) -> ! {
        let is_untried = self.counter(Counter::L1Exits) <= 1;
        if is_untried && matches!(self.partition.beginning, Beginning::Saved(_)) {
            fatal::refuse(format_args!(
                "VP {} cannot go on as it was saved: hardware does not enter it, {why}",
                self.index
            ))
        }
        panic!("VM entry of L1 failed: {why}")
    }

    /// Goes on from what was saved. The VP is new, VMCS 01 is current and nothing has run.
    ///
    /// # Errors
    /// What the processor or the partition's memory does not accept; the VP is not to run then.
    pub fn resume(&mut self, saved: state::Vp) -> Result<(), Unacceptable> {
        load_processor(self.partition, &saved.processor)?;
        saved.vmcs01.write(&mut CurrentVmcs);
        self.registers = Registers(saved.registers);
        self.activity = saved.activity;
        self.nmi_pending = saved.nmi_pending;
        self.init_pending = saved.init_pending;
        self.eoi_assisted = saved.eoi_assisted;
        self.latched = super::io::Latched::from(saved.latched);
        self.apic = saved.apic;
        self.hyperv = saved.hyperv;
        self.msrs = saved.msrs;
        // The offsets first: VMCS 02 is made with them.
        self.tsc_offset = self.partition_offset.wrapping_add(saved.tsc_ahead);
        self.nested_follow_tsc();
        self.follow_time();
        self.resume_nested(saved.nested)?;
        // What is in the inbox already kicks nobody any more.
        self.drain_inbox();
        self.update_deadline();
        self.attention = true;
        Ok(())
    }
}

fn processor(partition: &Partition) -> Processor {
    let components = partition.setup.cpuid.xcr0_supported();
    let mut area = vec![0; partition.setup.cpuid.extended_state_size()];
    extended::save(components, &mut area);
    // SAFETY: the policy lets L1 read the MSRs without an exit, since they exist; XCR0 exists where
    // L1 may have components, and L0 has CR4.OSXSAVE set there.
    let (msrs, xcr0) = unsafe {
        let read = |number| (number, msr::read(number));
        let xcr0 = (components != 0).then(|| register::xcr0());
        (partition.msrs.live().map(read).collect(), xcr0)
    };
    Processor {
        cr2: register::cr2(),
        debug: register::debug_addresses(),
        dr6: register::dr6(),
        xcr0,
        extended: area,
        msrs,
    }
}

fn load_processor(partition: &Partition, saved: &Processor) -> Result<(), Unacceptable> {
    let components = partition.setup.cpuid.xcr0_supported();
    extended::load(components, &saved.extended).map_err(|_| Unacceptable::ExtendedState)?;
    for &(number, value) in &saved.msrs {
        let is_live = partition.msrs.live().any(|live| live == number);
        // SAFETY: the MSR is one that L1 writes without an exit: none that L0 relies on.
        if !is_live || unsafe { probe::write(number, value) }.is_err() {
            return Err(Unacceptable::Msr(number));
        }
    }
    // SAFETY: these are L1's, which L0's own code does not use; XCR0's value is one that the
    // partition's policy accepts (`state::Machine::decode`), which is narrower than the processor.
    unsafe {
        register::set_cr2(saved.cr2);
        register::set_debug_addresses(saved.debug);
        register::set_dr6(saved.dr6 & DR6_WRITABLE);
        if let Some(xcr0) = saved.xcr0 {
            register::set_xcr0(xcr0);
        }
    }
    Ok(())
}

/// The bits of DR6 whose value is not #GP for a MOV: the lower half.
const DR6_WRITABLE: u64 = 0xFFFF_FFFF;
