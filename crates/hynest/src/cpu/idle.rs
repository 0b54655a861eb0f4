//! Sleeping until there is something to do.

use core::arch::global_asm;

use super::per_cpu::KICKED_OFFSET;
use super::{apic, per_cpu, tsc};

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

/// A wait for what no interrupt tells of.
///
/// Who waits asks again and again; a few times at once, for some microseconds, then it sleeps
/// between two questions for a quarter of the time that it has waited, so that the answer comes
/// late by a quarter at most. An emulator runs all processors in turn, and a machine in which
/// nobody has anything to do in no time at all.
pub struct Wait {
    began: u64,
    questions: u32,
}

impl Wait {
    /// Questions before the first sleep.
    const AT_ONCE: u32 = 16;

    /// Begins.
    pub fn new() -> Self {
        Self {
            began: tsc::now(),
            questions: 0,
        }
    }

    /// Ticks since the beginning.
    pub fn ticks(&self) -> u64 {
        tsc::now().wrapping_sub(self.began)
    }

    /// Returns when it is time to ask again.
    pub fn pause(&mut self) {
        if let Some(until) = self.next() {
            sleep_until(Some(until));
        }
    }

    /// The same, but turns round where it would sleep. A question may cost more than some turns.
    pub fn pause_awake(&mut self) {
        if let Some(until) = self.next() {
            while tsc::now() < until {
                (0..64).for_each(|_| core::hint::spin_loop());
            }
        }
    }

    /// Until when to wait with the next question.
    fn next(&mut self) -> Option<u64> {
        self.questions = self.questions.saturating_add(1);
        let now = tsc::now();
        (self.questions > Self::AT_ONCE)
            .then(|| now.saturating_add(now.wrapping_sub(self.began) / 4))
    }
}

/// Moves `rip` past the HLT if it lies between the test for a kick and the HLT: called by the
/// NMI that is the kick, or the processor would sleep on it.
pub fn leave(rip: &mut u64) {
    let window = (&raw const idle_start) as u64..(&raw const idle_end) as u64;
    if window.contains(rip) && per_cpu::this().kick_pending() {
        *rip = (&raw const idle_end) as u64;
    }
}
