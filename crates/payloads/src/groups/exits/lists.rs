//! The VM-exit MSR-store and MSR-load lists (SDM 28.4, 28.6).

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};

use super::expect;
use crate::rt::harness::Check;
use crate::rt::{cpu, memory};
use crate::vm::L2;
use crate::vm::guest::code;

/// Stores L2's values, then loads L1's.
pub fn lists(check: &Check) {
    const KGS: u32 = cpu::MSR_KERNEL_GS_BASE;
    let mut l2 = L2::new(code!(
        "mov ecx, 0xC0000102",
        "mov eax, 0x0ABC0000",
        "mov edx, 1",
        "wrmsr",
        "vmcall"
    ));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    let (store, load) = (memory::page(), memory::page());
    let saved = (cpu::msr(KGS), cpu::msr(cpu::MSR_STAR));
    for (i, msr) in [KGS, cpu::MSR_TSC, cpu::MSR_STAR].into_iter().enumerate() {
        memory::write(store + 16 * i as u64, u64::from(msr));
        memory::write(store + 16 * i as u64 + 8, u64::MAX);
    }
    memory::write(load, u64::from(KGS));
    memory::write(load + 8, 0x1000u64);
    memory::write(load + 16, u64::from(KGS));
    memory::write(load + 24, 0x5555_0000u64);
    l2.set(Field::EXIT_MSR_STORE_ADDRESS, store);
    l2.set(Field::EXIT_MSR_STORE_COUNT, 3);
    l2.set(Field::EXIT_MSR_LOAD_ADDRESS, load);
    l2.set(Field::EXIT_MSR_LOAD_COUNT, 2);
    let before = cpu::tsc();
    expect(check, "runs", &mut l2, Reason::Vmcall);
    let after = cpu::tsc();
    check.equal(
        "stored KERNEL_GS_BASE",
        memory::read::<u64>(store + 8),
        0x1_0abc_0000,
    );
    let tsc = memory::read::<u64>(store + 24);
    if cpu::is_virtual() {
        // Bochs stores another clock.
        check.that(
            "stored TSC",
            (before..=after).contains(&tsc),
            format_args!("{tsc} is not in {before}..={after}"),
        );
    }
    check.equal("stored STAR", memory::read::<u64>(store + 40), saved.1);
    check.equal(
        "loaded KERNEL_GS_BASE, in order",
        cpu::msr(KGS),
        0x5555_0000,
    );
    let _ = cpu::wrmsr(KGS, saved.0);
}
