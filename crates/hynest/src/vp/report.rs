//! Counters and state for reports.

use core::sync::atomic::{AtomicPtr, Ordering};

use platform::counters::Counter;
use vmx::Field;

use super::Vp;
use super::vmcs::read;
use crate::cpu::per_cpu::{self, MAX_CPUS};
use crate::log;
use crate::output::{self, Channel};

/// The VPs, by index, once they run.
static VPS: [AtomicPtr<Vp>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// Makes a VP known to reports.
pub fn register(index: usize, vp: *mut Vp) {
    VPS[index].store(vp, Ordering::Release);
}

/// Writes the `counters` report.
pub fn report_counters(reason: &str) {
    let channel = Channel::Report;
    let mut first = true;
    for pointer in &VPS {
        let vp = pointer.load(Ordering::Acquire);
        if vp.is_null() {
            continue;
        }
        // SAFETY: VPs are never freed. Their owners have stopped, or count on while this reads: it
        // touches atomics alone.
        let counters = unsafe { &(*vp).counters };
        let count = |counter: Counter| counters[counter as usize].load(Ordering::Relaxed);
        let exits = count(Counter::L1Exits) + count(Counter::L2Exits);
        if first {
            output::write(
                channel,
                format_args!("{{\"event\":\"counters\",\"reason\":\"{reason}\",\"vps\":["),
            );
        }
        output::write(channel, format_args!("{}{{", if first { "" } else { "," }));
        // What one processor alone knows of its accesses is no part of a report of all.
        let kept = Counter::ALL.iter().filter(|counter| !counter.is_access());
        for (i, counter) in kept.enumerate() {
            output::write(
                channel,
                format_args!(
                    "{}\"{}\":{}",
                    if i == 0 { "" } else { "," },
                    counter.name(),
                    match counter {
                        Counter::Exits => exits,
                        _ => count(*counter),
                    }
                ),
            );
        }
        output::write(channel, format_args!("}}"));
        first = false;
    }
    if !first {
        output::write(channel, format_args!("]}}\n"));
    }
}

/// Logs the state of this processor's current VMCS, for the report of a bug.
pub fn log_vmcs() {
    let vp = VPS[per_cpu::this().number()].load(Ordering::Acquire);
    if vp.is_null() {
        return;
    }
    // SAFETY: this processor's own VP; the code that was using it does not go on.
    let vp = unsafe { &*vp };
    super::exits::log_exit(vp);
    let fields = [
        Field::GUEST_RIP,
        Field::GUEST_RSP,
        Field::GUEST_RFLAGS,
        Field::GUEST_CR0,
        Field::GUEST_CR3,
        Field::GUEST_CR4,
        Field::GUEST_EFER,
        Field::GUEST_CS_SELECTOR,
        Field::GUEST_CS_ACCESS_RIGHTS,
        Field::GUEST_SS_ACCESS_RIGHTS,
        Field::GUEST_INTERRUPTIBILITY,
        Field::GUEST_ACTIVITY_STATE,
        Field::PIN_BASED_CONTROLS,
        Field::PRIMARY_CONTROLS,
        Field::SECONDARY_CONTROLS,
        Field::EXIT_CONTROLS,
        Field::ENTRY_CONTROLS,
        Field::ENTRY_INTERRUPTION_INFO,
        Field::IDT_VECTORING_INFO,
        Field::EXIT_INTERRUPTION_INFO,
        Field::GUEST_PHYSICAL_ADDRESS,
        Field::GUEST_LINEAR_ADDRESS,
        Field::INSTRUCTION_ERROR,
    ];
    for field in fields {
        log!("  {field:?} = {:#x}", read(field));
    }
}
