//! Sleeping until there is something to do.

use core::arch::global_asm;

use super::per_cpu::KICKED_OFFSET;
use super::{apic, per_cpu};

global_asm!(
    r#"
    .text
    .global idle_sleep
    .global idle_start
    .global idle_end
    idle_sleep:
    idle_start:
    cmp byte ptr gs:[{kicked}], 0
    jne idle_end
    sti
    hlt
    idle_end:
    cli
    ret
    "#,
    kicked = const KICKED_OFFSET,
);

unsafe extern "C" {
    fn idle_sleep();
    static idle_start: [u8; 0];
    static idle_end: [u8; 0];
}

/// Sleeps until a kick, or until the TSC reaches `deadline` if there is one.
pub fn sleep_until(deadline: Option<u64>) {
    apic::arm_deadline(deadline.unwrap_or(0));
    // SAFETY: the routine enables interrupts only around HLT, and the handlers that may run
    // then change nothing but the local APIC.
    unsafe { idle_sleep() };
    apic::arm_deadline(0);
}

/// Moves `rip` past the HLT if it lies between the test for a kick and the HLT: called by the
/// NMI that is the kick, or the processor would sleep on it.
pub fn leave(rip: &mut u64) {
    let window = (&raw const idle_start) as u64..(&raw const idle_end) as u64;
    if window.contains(rip) && per_cpu::this().kick_pending() {
        *rip = (&raw const idle_end) as u64;
    }
}
