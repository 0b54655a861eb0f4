//! A second processor that writes to the page while the first enters from it.

use core::sync::atomic::{AtomicBool, Ordering};

use tlfs::evmcs;

use super::RUNS;
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{memory, smp};
use crate::vm::ept::Ept;
use crate::vm::guest::code;
use crate::vm::{L2, Outcome};

static STOP: AtomicBool = AtomicBool::new(false);

fn scramble_clean_fields(page: u64) {
    let mut random = Random::new(0xc1ea);
    while !STOP.load(Ordering::Relaxed) {
        memory::write(page + u64::from(evmcs::CLEAN_FIELDS), random.next() as u32);
    }
}

fn scramble_everything(page: u64) {
    let mut random = Random::new(0xe4e2);
    while !STOP.load(Ordering::Relaxed) {
        // All but the version and what an exit does to L1, which is L1's own risk: host state, the
        // exit's MSR lists; and the EPT root, which keeps L2 from L1's memory.
        let at = 0x5c + random.below(0x3d0 - 0x5c);
        let spared = [0x140..0x150, 0x184..0x18c, 0x240..0x278, 0x64..0x68];
        if !spared.iter().any(|range| range.contains(&at)) {
            memory::write(page + at, random.next() as u8);
        }
    }
}

/// The clean-fields word changes at any moment: L2 runs all the same, for its fields do not.
pub fn clean_fields(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let code = code!("mov rax, rsp", "vmcall");
    let mut l2 = L2::new(code);
    STOP.store(false, Ordering::SeqCst);
    smp::begin(scramble_clean_fields, l2.page);
    let mut good = 0;
    for i in 0..400 {
        l2.store(::vmx::Field::GUEST_RIP, code);
        let outcome = l2.enter(i % 7 == 0);
        good += u32::from(outcome == RUNS);
    }
    STOP.store(true, Ordering::SeqCst);
    check.equal("the second processor ends", smp::finish(), Some(Ok(())));
    check.equal("entries that ran", good, 400);
}

/// Any field changes at any moment: L0 answers each entry in some legal way.
pub fn everything(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let l2 = L2::with_ept(code!("vmcall"), Ept::read_only());
    let mut copy = [0u64; 128];
    for (i, word) in copy.iter_mut().enumerate() {
        *word = memory::read(l2.page + 8 * i as u64);
    }
    let mut l2 = l2;
    let external = ::vmx::PinControls::EXTERNAL_INTERRUPT_EXITING;
    copy[0x58 / 8] |= u64::from(external.bits()) << 32;
    STOP.store(false, Ordering::SeqCst);
    smp::begin(scramble_everything, l2.page);
    let mut legal = 0;
    for _ in 0..300 {
        for (i, word) in copy.iter().enumerate() {
            memory::write(l2.page + 8 * i as u64, *word);
        }
        crate::rt::apic::write(crate::rt::apic::register::LVT_TIMER, 0x41);
        crate::rt::apic::write(crate::rt::apic::register::INITIAL_COUNT, 200_000);
        let outcome = l2.enter(true);
        legal += u32::from(!matches!(outcome, Outcome::Flags(_)));
        crate::rt::apic::stop_timer();
    }
    STOP.store(true, Ordering::SeqCst);
    check.equal("the second processor ends", smp::finish(), Some(Ok(())));
    check.equal("legal answers", legal, 300);
    let mut fresh = L2::new(code!("vmcall"));
    check.equal("a fresh L2 runs", fresh.run(), RUNS);
}
