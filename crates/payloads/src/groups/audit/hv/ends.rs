//! What ends the partition: run one at a time, by the exact name. What counts is what L0 reports.

use tlfs::msr::{CrashControl, Msr};

use crate::rt::harness::Check;
use crate::rt::{boot, cpu, memory};

fn is_asked_for(name: &str) -> bool {
    boot::option("test") == Some(name)
}

/// WRMSR of 1 to RESET.
pub fn reset(check: &Check) {
    if is_asked_for("last-hv-reset") {
        let _ = cpu::wrmsr(Msr::RESET.0, 1);
        check.that("the partition has ended", false, "it has not");
    }
}

/// A crash with a message.
pub fn crash(check: &Check) {
    if is_asked_for("last-hv-crash") {
        let text = b"the audit's crash";
        let page = memory::page();
        for (offset, byte) in text.iter().enumerate() {
            memory::write(page + offset as u64, *byte);
        }
        let _ = cpu::wrmsr(Msr::CRASH_P3.0, page);
        let _ = cpu::wrmsr(Msr::CRASH_P4.0, text.len() as u64);
        let control = CrashControl::new().with_notify(true).with_message(true);
        let _ = cpu::wrmsr(Msr::CRASH_CTL.0, control.into_bits());
        check.that("the partition has ended", false, "it has not");
    }
}
