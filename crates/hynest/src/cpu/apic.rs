//! The physical local APIC, in x2APIC mode.

use super::interrupt::{SPURIOUS_VECTOR, WAKE_VECTOR};
use super::msr;

const X2APIC_ID: u32 = 0x802;
const X2APIC_EOI: u32 = 0x80B;
const X2APIC_SPURIOUS: u32 = 0x80F;
const X2APIC_ICR: u32 = 0x830;
const X2APIC_LVT_TIMER: u32 = 0x832;
const TSC_DEADLINE: u32 = 0x6E0;

const X2APIC_TPR: u32 = 0x808;
const X2APIC_LVT_LINT0: u32 = 0x835;
const X2APIC_LVT_LINT1: u32 = 0x836;
const X2APIC_LVT_ERROR: u32 = 0x837;
/// A local vector table entry that delivers nothing.
const LVT_MASKED: u64 = 1 << 16;
/// IA32_APIC_BASE: the APIC is enabled.
const XAPIC_ENABLED: u64 = 1 << 11;
/// IA32_APIC_BASE: enabled, in x2APIC mode.
const X2APIC_ENABLED: u64 = 3 << 10;

/// ICR: delivery mode NMI.
const ICR_NMI: u64 = 4 << 8;
/// ICR: delivery mode INIT, level assert.
const ICR_INIT: u64 = 5 << 8 | 1 << 14;
/// ICR: delivery mode start-up.
const ICR_STARTUP: u64 = 6 << 8 | 1 << 14;
/// LVT timer: TSC-deadline mode.
const TIMER_DEADLINE_MODE: u64 = 2 << 17;

/// Switches this processor's local APIC to x2APIC mode with its timer in TSC-deadline mode.
///
/// # Safety
/// Called once on each processor, before anything else uses its APIC.
pub unsafe fn enable_x2apic() {
    // SAFETY: `main` has checked that the processor has x2APIC and TSC-deadline.
    unsafe {
        let base = msr::read(msr::APIC_BASE);
        // From disabled to x2APIC mode the way leads through xAPIC mode.
        if base & X2APIC_ENABLED != X2APIC_ENABLED {
            msr::write(msr::APIC_BASE, base | XAPIC_ENABLED);
            msr::write(msr::APIC_BASE, base | X2APIC_ENABLED);
        }
        msr::write(X2APIC_SPURIOUS, 0x100 | u64::from(SPURIOUS_VECTOR));
        // What the firmware left: a priority, open local interrupts, interrupts in service.
        msr::write(X2APIC_TPR, 0);
        for local in [X2APIC_LVT_LINT0, X2APIC_LVT_LINT1, X2APIC_LVT_ERROR] {
            msr::write(local, LVT_MASKED);
        }
        for _ in 0..256 {
            msr::write(X2APIC_EOI, 0);
        }
        msr::write(
            X2APIC_LVT_TIMER,
            TIMER_DEADLINE_MODE | u64::from(WAKE_VECTOR),
        );
    }
}

/// This processor's x2APIC identifier.
pub fn id() -> u32 {
    // SAFETY: the APIC is in x2APIC mode.
    unsafe { msr::read(X2APIC_ID) as u32 }
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    // SAFETY: as above.
    unsafe { msr::write(X2APIC_EOI, 0) }
}

/// Makes the wake-up vector fire when the TSC reaches `deadline`; 0 disarms it.
pub fn arm_deadline(deadline: u64) {
    // SAFETY: `main` has checked for TSC-deadline; the vector's handler only ends it.
    unsafe { msr::write(TSC_DEADLINE, deadline) }
}

/// Sends an NMI to the processor with this identifier.
pub fn send_nmi(apic_id: u32) {
    // SAFETY: L0's NMI handler is prepared for an NMI at any time. The fences are there because
    // x2APIC writes do not serialise (SDM vol. 3, 11.12.3): without them the NMI could arrive before
    // the stores that it announces.
    unsafe {
        core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
        msr::write(X2APIC_ICR, u64::from(apic_id) << 32 | ICR_NMI);
    }
}

/// Resets the processor with this identifier.
///
/// # Safety
/// The processor does not run L0's code yet.
pub unsafe fn send_init(apic_id: u32) {
    // SAFETY: the caller's promise.
    unsafe { msr::write(X2APIC_ICR, u64::from(apic_id) << 32 | ICR_INIT) }
}

/// Starts the processor with this identifier at real-mode page `page`.
///
/// # Safety
/// The processor waits for it, and the page holds start-up code for it.
pub unsafe fn send_startup(apic_id: u32, page: u8) {
    // SAFETY: the caller's promise.
    unsafe {
        msr::write(
            X2APIC_ICR,
            u64::from(apic_id) << 32 | ICR_STARTUP | u64::from(page),
        );
    }
}
