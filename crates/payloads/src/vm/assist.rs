//! The VP assist page, by which L1 names an enlightened VMCS.

use core::sync::atomic::{AtomicU64, Ordering};

use tlfs::cpuid::HYPERVISOR_RANGE_FIRST;
use tlfs::msr::Msr;
use tlfs::page::assist;

use crate::rt::{cpu, memory};

/// The page of each processor; 0 while there is none.
static PAGES: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];

/// Whether the enlightened VMCS is offered: leaf 4 recommends it, and leaf 10 has version 1.
pub fn is_offered() -> bool {
    const RECOMMENDED: u32 = 1 << 14;
    cpu::is_virtual()
        && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 1, 0)[0] == 0x3123_7648
        && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 4, 0)[0] & RECOMMENDED != 0
        && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 10, 0)[0] & 0xff <= 1
        && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 10, 0)[0] >> 8 & 0xff >= 1
}

/// This processor's assist page, enabled if it is not yet.
pub fn page() -> u64 {
    let slot = &PAGES[cpu::number()];
    let mut page = slot.load(Ordering::Relaxed);
    if page == 0 {
        page = memory::page();
        slot.store(page, Ordering::Relaxed);
        let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, page | 1);
    }
    page
}

/// Makes the next VM entry of this processor use the enlightened VMCS at `evmcs`.
pub fn select(evmcs: u64) {
    let page = page();
    memory::write(page + assist::CURRENT_NESTED_VMCS, evmcs);
    memory::write(page + assist::ENLIGHTEN_VM_ENTRY, 1u8);
}

/// Makes the next VM entry use the current VMCS.
pub fn deselect() {
    let page = PAGES[cpu::number()].load(Ordering::Relaxed);
    if page != 0 {
        memory::write(page + assist::ENLIGHTEN_VM_ENTRY, 0u8);
        memory::write(page + assist::CURRENT_NESTED_VMCS, 0u64);
    }
}

/// Gives the assist page up.
pub fn disable() {
    if PAGES[cpu::number()].swap(0, Ordering::Relaxed) != 0 {
        let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, 0);
    }
}
