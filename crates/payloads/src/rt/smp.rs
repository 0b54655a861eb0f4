//! The second processor: started on demand, then it runs what it is given.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::apic::{self, Delivery};
use super::boot::TRAMPOLINE;
use super::fault::{self, Fault, attempt};
use super::{cpu, memory, segments};

unsafe extern "C" {
    static trampoline_start: [u8; 0];
    static trampoline_end: [u8; 0];
}

/// The APIC identifier of the second processor.
pub const SECOND: u32 = 1;

/// The second processor has reached Rust, this many times.
static ARRIVALS: AtomicU64 = AtomicU64::new(0);
/// The work: a function, and its argument; the function is 0 when there is none.
static WORK: AtomicU64 = AtomicU64::new(0);
static ARGUMENT: AtomicU64 = AtomicU64::new(0);
static FAULT: AtomicU64 = AtomicU64::new(0);
static USE_X2APIC: AtomicBool = AtomicBool::new(false);

/// Ticks of the TSC that count as long: no answer in that time is none.
pub const PATIENCE: u64 = 2_000_000_000;

/// Where the trampoline comes out.
pub extern "C" fn ap_entry() -> ! {
    segments::load(1);
    fault::load();
    apic::initialise();
    if USE_X2APIC.load(Ordering::SeqCst) {
        apic::use_x2apic();
    }
    ARRIVALS.fetch_add(1, Ordering::SeqCst);
    loop {
        let work = WORK.load(Ordering::Acquire);
        if work == 0 {
            core::hint::spin_loop();
            continue;
        }
        // SAFETY: `WORK` holds such a function, and `ARGUMENT` was set before it.
        let work = unsafe { core::mem::transmute::<u64, fn(u64)>(work) };
        let outcome = attempt(|| work(ARGUMENT.load(Ordering::Relaxed)));
        let word = match outcome {
            Ok(()) => 0,
            Err(fault) => 1 << 63 | u64::from(fault.vector) << 32 | u64::from(fault.error),
        };
        FAULT.store(word, Ordering::Relaxed);
        WORK.store(0, Ordering::Release);
    }
}

/// How often the second processor has started.
pub fn arrivals() -> u64 {
    ARRIVALS.load(Ordering::SeqCst)
}

/// Waits until `done`, at most [`PATIENCE`]. Returns whether it came.
pub fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let start = cpu::tsc();
    while !done() {
        if cpu::tsc().wrapping_sub(start) > PATIENCE {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Starts the second processor by INIT and start-up messages, from whatever it was doing.
/// Returns whether it came.
pub fn start() -> bool {
    let first = &raw const trampoline_start as u64;
    let length = &raw const trampoline_end as u64 - first;
    for i in 0..length {
        memory::write(TRAMPOLINE + i, memory::read::<u8>(first + i));
    }
    let base = cpu::msr(cpu::MSR_APIC_BASE);
    USE_X2APIC.store(base & apic::BASE_X2APIC != 0, Ordering::SeqCst);
    WORK.store(0, Ordering::SeqCst);
    let before = arrivals();
    apic::send(SECOND, Delivery::Init, 0);
    cpu::spin(2_000_000);
    for _ in 0..2 {
        apic::send(SECOND, Delivery::StartUp, (TRAMPOLINE >> 12) as u8);
        cpu::spin(200_000);
        if arrivals() != before {
            return true;
        }
    }
    wait_for(|| arrivals() != before)
}

/// Starts the second processor unless it runs already. Returns whether it is there.
pub fn ensure() -> bool {
    arrivals() > 0 || start()
}

/// Gives the second processor `work` and returns at once.
pub fn begin(work: fn(u64), argument: u64) {
    ARGUMENT.store(argument, Ordering::Relaxed);
    WORK.store(work as *const () as u64, Ordering::Release);
}

/// Whether the second processor has finished.
pub fn is_done() -> bool {
    WORK.load(Ordering::Acquire) == 0
}

/// Waits for the second processor. `None` if it does not finish.
pub fn finish() -> Option<Result<(), Fault>> {
    if !wait_for(is_done) {
        return None;
    }
    let word = FAULT.load(Ordering::Relaxed);
    Some(if word == 0 {
        Ok(())
    } else {
        Err(Fault::new((word >> 32) as u8, word as u32))
    })
}

/// Runs `work` on the second processor and waits for it.
pub fn run(work: fn(u64), argument: u64) -> Option<Result<(), Fault>> {
    begin(work, argument);
    finish()
}
