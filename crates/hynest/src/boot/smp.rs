//! Bringing up the other processors.

use core::sync::atomic::{AtomicU64, Ordering};

use addr::Spa;

use crate::cpu::{apic, per_cpu, tsc};
use crate::memory::pointer;

/// The page, below 1 MiB, that the start-up code is copied to.
pub const TRAMPOLINE: u64 = 0x8000;

unsafe extern "C" {
    static trampoline_start: [u8; 0];
    static trampoline_end: [u8; 0];
    static trampoline_stack: [u8; 0];
    static trampoline_number: [u8; 0];
}

/// Processors that have arrived in [`ap_entry`].
static ARRIVED: AtomicU64 = AtomicU64::new(1);

/// A processor did not answer its start-up.
#[derive(Debug)]
pub struct NoAnswer {
    /// Its x2APIC identifier.
    pub apic_id: u32,
}

/// Starts the processors with these identifiers, but for the running one, at most `limit`
/// in all. Returns how many run.
///
/// # Errors
/// The first processor that does not arrive within a second.
///
/// # Safety
/// Called once, by the boot processor, when everything the others use is initialised.
pub unsafe fn start(ids: &[u32], limit: usize, tsc_hz: u64) -> Result<usize, NoAnswer> {
    let start = &raw const trampoline_start as u64;
    let length = &raw const trampoline_end as u64 - start;
    // SAFETY: the trampoline page lies in the first MiB, which nothing else of L0 uses.
    unsafe {
        (start as *const u8).copy_to_nonoverlapping(pointer(Spa::new(TRAMPOLINE)), length as usize);
    }
    let place = |symbol: u64| pointer::<u64>(Spa::new(TRAMPOLINE + (symbol - start)));
    let mut count = 1;
    for &apic_id in ids.iter().filter(|&&id| id != apic::id()) {
        if count == limit.min(per_cpu::MAX_CPUS) {
            break;
        }
        // SAFETY: the two words of the copied trampoline, and a processor that waits for us.
        unsafe {
            place(&raw const trampoline_stack as u64)
                .write_volatile(per_cpu::cpu(count).stack_top());
            place(&raw const trampoline_number as u64).write_volatile(count as u64);
            apic::send_init(apic_id);
            delay(tsc_hz / 100);
            apic::send_startup(apic_id, (TRAMPOLINE >> 12) as u8);
            if !arrived(count as u64 + 1, tsc_hz / 5000) {
                apic::send_startup(apic_id, (TRAMPOLINE >> 12) as u8);
            }
        }
        if !arrived(count as u64 + 1, tsc_hz) {
            return Err(NoAnswer { apic_id });
        }
        count += 1;
    }
    Ok(count)
}

fn delay(ticks: u64) {
    let start = tsc::now();
    while tsc::now() - start < ticks {
        core::hint::spin_loop();
    }
}

fn arrived(count: u64, ticks: u64) -> bool {
    let start = tsc::now();
    while ARRIVED.load(Ordering::Acquire) < count {
        if tsc::now() - start >= ticks {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Where the trampoline enters Rust, on the processor's own stack.
pub extern "C" fn ap_entry(number: u64) -> ! {
    // SAFETY: the trampoline passes this processor's number, given out once.
    unsafe { per_cpu::adopt(number as usize) };
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    crate::run_processor(number as usize)
}
