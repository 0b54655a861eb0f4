//! Clocks on a machine whose TSC changes its rate, as L0's option `tsc_rate_change` has it: each
//! change is heard of by reenlightenment and acknowledged. Both processors and an L2 read all clocks
//! without pause.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls};
use tlfs::msr::Msr;

use crate::rt::harness::{Check, Group, Test};
use crate::rt::{apic, cpu, fault, memory, smp};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{self, L2, Outcome};

/// The group.
pub const GROUP: Group = Group {
    name: "time",
    reset: vm::operation::leave,
    tests: &[Test {
        name: "rates",
        run: rates,
    }],
};

/// How many changes there have to be, at intervals of a fifth of a second and more.
const CHANGES: u32 = 5;
const VECTOR: u8 = 0x5b;
const MSR_TSC_AUX: u32 = 0xc000_0103;
/// L1's offset for L2.
const L2_AHEAD: u64 = 1 << 40;

/// The latest value that either processor has seen, of the TSC and of the reference clock.
static TSC: AtomicU64 = AtomicU64::new(0);
static TIME: AtomicU64 = AtomicU64::new(0);
/// Reads of a clock that had been further already.
static BACKWARDS: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

fn saw(latest: &AtomicU64, read: impl FnOnce() -> u64) {
    let before = latest.load(Ordering::SeqCst);
    let now = read();
    latest.fetch_max(now, Ordering::SeqCst);
    READS.fetch_add(1, Ordering::Relaxed);
    if now < before {
        BACKWARDS.fetch_add(1, Ordering::Relaxed);
    }
}

/// The reference time by the page at `page`, as TLFS has it read.
fn by_page(page: u64) -> u64 {
    loop {
        let sequence = memory::read::<u32>(page);
        if sequence == 0 {
            return cpu::msr(Msr::TIME_REF_COUNT.0);
        }
        let (scale, offset) = (
            memory::read::<u64>(page + 8),
            memory::read::<u64>(page + 16),
        );
        let scaled = (u128::from(cpu::tsc()) * u128::from(scale)) >> 64;
        if memory::read::<u32>(page) == sequence {
            return (scaled as u64).wrapping_add(offset);
        }
    }
}

/// Reads every clock that L1 has.
fn observe(page: u64) {
    saw(&TSC, cpu::tsc);
    saw(&TIME, || by_page(page));
    saw(&TSC, || cpu::msr(cpu::MSR_TSC));
    saw(&TIME, || cpu::msr(Msr::TIME_REF_COUNT.0));
}

/// The second processor's work.
fn keep_observing(page: u64) {
    while !STOP.load(Ordering::SeqCst) {
        observe(page);
    }
}

/// Whether the TSC runs at TSC_FREQUENCY beside the reference clock, to a thousandth.
fn is_rate_right(check: &Check, what: &str, page: u64) {
    let (tsc, time) = (cpu::tsc(), by_page(page));
    cpu::spin(3_000_000);
    let (tsc, time) = (cpu::tsc() - tsc, by_page(page) - time);
    let hz = cpu::msr(Msr::TSC_FREQUENCY.0).max(1);
    let expected = u128::from(tsc) * 10_000_000 / u128::from(hz);
    check.that(
        format_args!("{what}: the TSC runs at TSC_FREQUENCY"),
        u128::from(time).abs_diff(expected) * 1000 <= expected,
        format_args!("{time} units for {tsc} ticks, {expected} expected"),
    );
}

/// An L2 that may read its TSC, which L1 does not intercept.
fn l2_with_a_tsc() -> L2 {
    let l2 = L2::new(code!("vmcall"));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS | PrimaryControls::USE_TSC_OFFSETTING);
    l2.set(Field::TSC_OFFSET, L2_AHEAD);
    l2
}

/// L2 reads its TSC in both ways, and L1 before and after. Returns how many were not in order.
fn observe_l2(l2: &mut L2) -> u64 {
    let codes = [
        code!("rdtsc", "vmcall"),
        code!("mov ecx, 0x10", "rdmsr", "vmcall"),
    ];
    let mut wrong = 0;
    for code in codes {
        l2.set_code(code);
        let before = cpu::tsc();
        let outcome = l2.run();
        let after = cpu::tsc();
        let value = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
        let is_right = outcome == Outcome::exit(Reason::Vmcall)
            && (before..=after).contains(&value.wrapping_sub(L2_AHEAD));
        wrong += u64::from(!is_right);
    }
    wrong
}

/// RDTSCP: TSC and TSC_AUX of L1.
fn is_rdtscp_right(check: &Check) {
    let (low, high, aux): (u32, u32, u32);
    let before = cpu::tsc();
    // SAFETY: reads a counter.
    unsafe {
        core::arch::asm!("rdtscp", out("eax") low, out("edx") high, out("ecx") aux, options(nostack));
    }
    let value = u64::from(high) << 32 | u64::from(low);
    check.that(
        "RDTSCP: the TSC",
        (before..=cpu::tsc()).contains(&value),
        format_args!("{value}"),
    );
    check.equal("RDTSCP: TSC_AUX", aux, 0xabcd);
}

/// What the page holds but for its reserved words.
fn words(page: u64) -> [u64; 3] {
    [0, 8, 16].map(|at| memory::read(page + at))
}

fn rates(check: &Check) {
    if cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 1).is_err() {
        return check.skip("all", "no reenlightenment");
    }
    let page = memory::page();
    let _ = cpu::wrmsr(MSR_TSC_AUX, 0xabcd);
    let _ = cpu::wrmsr(Msr::REFERENCE_TSC.0, page | 1);
    let own = u64::from(apic::id());
    let control = own << 32 | 1 << 16 | u64::from(VECTOR);
    check.equal(
        "REENLIGHTENMENT_CONTROL",
        cpu::wrmsr(Msr::REENLIGHTENMENT_CONTROL.0, control),
        Ok(()),
    );
    check.equal("the second processor is there", smp::ensure(), true);
    smp::begin(keep_observing, page);
    let mut l2 = l2_with_a_tsc();
    let mut wrong = 0;
    for n in 0..CHANGES {
        let told = fault::count(VECTOR);
        let (hz, before) = (cpu::msr(Msr::TSC_FREQUENCY.0), words(page));
        let came = smp::wait_for(|| {
            observe(page);
            wrong += observe_l2(&mut l2);
            cpu::interrupt_window();
            fault::count(VECTOR) != told
        });
        check.equal(format_args!("change {n}: is told"), came, true);
        let status = || cpu::msr(Msr::TSC_EMULATION_STATUS.0);
        check.equal(format_args!("change {n}: in progress"), status(), 1);
        for _ in 0..50 {
            observe(page);
            wrong += observe_l2(&mut l2);
        }
        is_rate_right(check, "emulated", page);
        is_rdtscp_right(check);
        check.equal(
            "the rate is the old one",
            cpu::msr(Msr::TSC_FREQUENCY.0),
            hz,
        );
        check.equal("the page is as it was", words(page), before);
        if n & 1 == 0 {
            let _ = cpu::wrmsr(Msr::TSC_EMULATION_STATUS.0, 0);
        } else {
            let _ = cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 0);
            let _ = cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 1);
        }
        check.equal(format_args!("change {n}: acknowledged"), status(), 0);
        check.that(
            "the rate is another one",
            cpu::msr(Msr::TSC_FREQUENCY.0) != hz,
            format_args!("{hz}"),
        );
        check.that(
            "the page is another one, and valid",
            words(page) != before && memory::read::<u32>(page) != 0,
            format_args!("{:x?}", words(page)),
        );
        for _ in 0..50 {
            observe(page);
            wrong += observe_l2(&mut l2);
        }
        is_rate_right(check, "as it is", page);
        is_rdtscp_right(check);
    }
    STOP.store(true, Ordering::SeqCst);
    check.equal("the second processor's end", smp::finish(), Some(Ok(())));
    let backwards = BACKWARDS.load(Ordering::SeqCst);
    check.equal("reads of a clock that went back", backwards, 0);
    check.equal("reads of L2's that L1 contradicts", wrong, 0);
    check.note(format_args!("{} reads", READS.load(Ordering::Relaxed)));
    let _ = cpu::wrmsr(Msr::REENLIGHTENMENT_CONTROL.0, 0);
    let _ = cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 0);
    let _ = cpu::wrmsr(Msr::REFERENCE_TSC.0, 0);
}
