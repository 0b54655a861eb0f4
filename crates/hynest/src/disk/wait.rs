//! Waiting for a disk.

use crate::cpu::tsc;

/// Asks until the answer is yes, or until `ticks` have passed: then `false`.
///
/// It asks and asks. A command takes some 10 microseconds; to sleep in between would take longer.
pub fn until(ticks: u64, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = tsc::now().saturating_add(ticks);
    loop {
        // Whether it is late is asked first: what is so at the end is so in time.
        let is_late = tsc::now() >= deadline;
        if is_so() {
            return true;
        }
        if is_late {
            return false;
        }
        core::hint::spin_loop();
    }
}
