//! Waiting for a disk.

use crate::cpu::idle::Wait;
use crate::cpu::per_cpu;

/// Asks until the answer is yes, or until `ticks` have passed: then `false`.
///
/// The disk of an emulator takes a millisecond for a command. Asleep its only processor is through
/// that at once; of several it takes as long for a tick in which all of them sleep as for a whole
/// turn of their instructions, and to stay awake is the faster way.
pub fn until(ticks: u64, mut is_so: impl FnMut() -> bool) -> bool {
    let is_alone = per_cpu::online().nth(1).is_none();
    let mut wait = Wait::new();
    loop {
        // Whether it is late is asked first: what is so at the end is so in time.
        let is_late = wait.ticks() >= ticks;
        if is_so() {
            return true;
        }
        if is_late {
            return false;
        }
        match is_alone {
            true => wait.pause(),
            false => wait.pause_awake(),
        }
    }
}
