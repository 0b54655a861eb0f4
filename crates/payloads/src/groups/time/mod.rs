//! Clocks on a machine whose TSC changes its rate, as L0's option `tsc_rate_change` has it or, with
//! `tsc_rate_port`, the payload: each change is heard of by reenlightenment. Either it is hidden, so
//! that nothing that L1 knows of its clocks changes, or the TSC is emulated until L1 acknowledges
//! it. Both processors and two L2s, of which L1 scales one's TSC, read all clocks without pause.

mod points;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::vmx::{BasicExitReason as Reason, Field, PrimaryControls, SecondaryControls};
use tlfs::msr::Msr;

use crate::rt::apic::{register, timer};
use crate::rt::harness::{Check, Group, Test};
use crate::rt::{apic, cpu, fault, memory, smp};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{self, L2, Outcome};

/// The group.
pub const GROUP: Group = Group {
    name: "time",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "rates",
            run: rates,
        },
        Test {
            name: "points",
            run: points::points,
        },
    ],
};

/// How many changes there have to be, at intervals of a fifth of a second and more.
const CHANGES: u32 = 5;
const VECTOR: u8 = 0x5b;
/// A 32-bit OUT of a rate in Hz has the TSC take it on, where L0 allows that (`platform::counters`).
const RATE_PORT: u16 = 0x5c4;
const MSR_TSC_AUX: u32 = 0xc000_0103;
/// L1's offset for L2.
const L2_AHEAD: u64 = 1 << 40;
/// L1's multiplier for the L2 whose TSC it scales.
const L2_SCALE: u64 = 3 << 47;
/// A multiplier of 1.
const ONE: u64 = 1 << 48;
const TIMER_VECTOR: u8 = 0x5c;

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
    cpu::spin(1_000_000);
    let (tsc, time) = (cpu::tsc() - tsc, by_page(page) - time);
    let hz = cpu::msr(Msr::TSC_FREQUENCY.0).max(1);
    let expected = u128::from(tsc) * 10_000_000 / u128::from(hz);
    check.that(
        format_args!("{what}: the TSC runs at TSC_FREQUENCY"),
        u128::from(time).abs_diff(expected) * 1000 <= expected,
        format_args!("{time} units for {tsc} ticks, {expected} expected"),
    );
}

/// An L2 that may read its TSC, which L1 does not intercept, and L1's multiplier for it.
struct Reader {
    l2: L2,
    multiplier: u64,
}

/// One L2, and where there is TSC scaling another.
fn readers() -> impl Iterator<Item = Reader> {
    let scaling = SecondaryControls::TSC_SCALING.bits();
    let can_scale = vm::operation::capabilities().secondary.missing(scaling) == 0;
    let scaled = can_scale.then(|| {
        let l2 = l2_with_a_tsc();
        l2.add(Field::SECONDARY_CONTROLS, scaling.into());
        l2.set(Field::TSC_MULTIPLIER, L2_SCALE);
        Reader {
            l2,
            multiplier: L2_SCALE,
        }
    });
    let plain = Reader {
        l2: l2_with_a_tsc(),
        multiplier: ONE,
    };
    [Some(plain), scaled].into_iter().flatten()
}

fn l2_with_a_tsc() -> L2 {
    let l2 = L2::new(code!("vmcall"));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS | PrimaryControls::USE_TSC_OFFSETTING);
    l2.set(Field::TSC_OFFSET, L2_AHEAD);
    l2
}

/// L2 reads its TSC in both ways, and L1 before and after. Returns how many were not in order: by
/// more than two ticks, as L0's multiplier and L1's are two and become one.
fn observe_l2(reader: &mut Reader) -> u64 {
    let Reader { l2, multiplier } = reader;
    let by_l1 = |tsc: u64| ((u128::from(tsc) * u128::from(*multiplier)) >> 48) as u64;
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
            && (by_l1(before) - 2..=by_l1(after) + 2).contains(&value.wrapping_sub(L2_AHEAD));
        wrong += u64::from(!is_right);
    }
    wrong
}

/// A deadline by the TSC comes when it is time and not before.
fn is_timer_right(check: &Check) {
    const AHEAD: u64 = 100_000;
    apic::write(
        register::LVT_TIMER,
        timer::TSC_DEADLINE | u32::from(TIMER_VECTOR),
    );
    let before = fault::count(TIMER_VECTOR);
    let deadline = cpu::tsc() + AHEAD;
    let _ = cpu::wrmsr(cpu::MSR_TSC_DEADLINE, deadline);
    while fault::count(TIMER_VECTOR) == before && cpu::tsc() < deadline + 100 * AHEAD {
        cpu::interrupt_window();
    }
    let now = cpu::tsc();
    check.that(
        "a timer",
        fault::count(TIMER_VECTOR) == before + 1 && now >= deadline && now < deadline + AHEAD,
        format_args!("due at {deadline}, came before {now}"),
    );
}

/// How far the TSC goes while the processor does the same work.
fn pace() -> u64 {
    let before = cpu::tsc();
    // SAFETY: counts.
    unsafe {
        core::arch::asm!("2: dec ecx", "jnz 2b", inout("ecx") 200_000 => _, options(nomem, nostack))
    };
    cpu::tsc() - before
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

/// What goes on over the changes.
struct Changes {
    page: u64,
    readers: [Option<Reader>; 2],
    /// Reads of an L2's that L1 contradicts.
    wrong: u64,
    /// Changes that were hidden.
    hidden: u32,
    /// Those after which the same work takes another number of ticks.
    paces: u32,
}

impl Changes {
    /// Everybody reads.
    fn observe(&mut self) {
        observe(self.page);
        for reader in self.readers.iter_mut().flatten() {
            self.wrong += observe_l2(reader);
        }
    }

    /// Waits for a change and goes through with it.
    fn pass(&mut self, check: &Check, n: u32) {
        let page = self.page;
        let told = fault::count(VECTOR);
        let rate = || cpu::msr(Msr::TSC_FREQUENCY.0);
        let (hz, before, pace_before) = (rate(), words(page), pace());
        let came = smp::wait_for(|| {
            self.observe();
            cpu::interrupt_window();
            fault::count(VECTOR) != told
        });
        check.equal(format_args!("change {n}: is told"), came, true);
        let status = || cpu::msr(Msr::TSC_EMULATION_STATUS.0);
        let is_hidden = status() == 0;
        self.hidden += u32::from(is_hidden);
        for _ in 0..50 {
            self.observe();
        }
        let what = if is_hidden { "hidden" } else { "emulated" };
        is_rate_right(check, what, page);
        is_rdtscp_right(check);
        is_timer_right(check);
        check.equal("the rate is the old one", rate(), hz);
        check.equal("the page is as it was", words(page), before);
        acknowledge(n);
        check.equal(format_args!("change {n}: acknowledged"), status(), 0);
        if is_hidden {
            let now = pace();
            check.note(format_args!("change {n}: {pace_before} ticks, then {now}"));
            self.paces += u32::from(now.abs_diff(pace_before) > pace_before / 20);
            check.equal("the rate stays", rate(), hz);
            check.equal("the page stays", words(page), before);
        } else {
            check.that(
                "the rate is another one",
                rate() != hz,
                format_args!("{hz}"),
            );
            check.that(
                "the page is another one, and valid",
                words(page) != before && memory::read::<u32>(page) != 0,
                format_args!("{:x?}", words(page)),
            );
        }
        for _ in 0..50 {
            self.observe();
        }
        is_rate_right(check, "as it is", page);
        is_rdtscp_right(check);
        is_timer_right(check);
    }
}

/// Takes note of a change, in one of two ways. It does nothing where none is in progress.
fn acknowledge(n: u32) {
    if n & 1 == 0 {
        let _ = cpu::wrmsr(Msr::TSC_EMULATION_STATUS.0, 0);
    } else {
        let _ = cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 0);
        let _ = cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 1);
    }
}

/// Asks for reenlightenment and has the second processor do `work`, which gets the reference TSC page
/// that is the result.
fn begin(check: &Check, work: fn(u64)) -> Option<u64> {
    if cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 1).is_err() {
        check.skip("all", "no reenlightenment");
        return None;
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
    STOP.store(false, Ordering::SeqCst);
    smp::begin(work, page);
    Some(page)
}

/// Ends what [`begin`] began, and tells of clocks that went back.
fn end(check: &Check) {
    STOP.store(true, Ordering::SeqCst);
    check.equal("the second processor's end", smp::finish(), Some(Ok(())));
    let backwards = BACKWARDS.load(Ordering::SeqCst);
    check.equal("reads of a clock that went back", backwards, 0);
    check.note(format_args!("{} reads", READS.load(Ordering::Relaxed)));
    let _ = cpu::wrmsr(Msr::REENLIGHTENMENT_CONTROL.0, 0);
    let _ = cpu::wrmsr(Msr::TSC_EMULATION_CONTROL.0, 0);
    let _ = cpu::wrmsr(Msr::REFERENCE_TSC.0, 0);
}

fn rates(check: &Check) {
    let Some(page) = begin(check, keep_observing) else {
        return;
    };
    let hz = cpu::msr(Msr::TSC_FREQUENCY.0);
    cpu::out32(RATE_PORT, 50_000_000);
    cpu::interrupt_window();
    check.equal(
        "without L0's leave nothing changes",
        fault::count(VECTOR),
        0,
    );
    check.equal("nor the rate", cpu::msr(Msr::TSC_FREQUENCY.0), hz);
    let mut readers: [Option<Reader>; 2] = [None, None];
    for (place, reader) in readers.iter_mut().zip(self::readers()) {
        *place = Some(reader);
    }
    let mut changes = Changes {
        page,
        readers,
        wrong: 0,
        hidden: 0,
        paces: 0,
    };
    for n in 0..CHANGES {
        changes.pass(check, n);
    }
    let Changes {
        wrong,
        hidden,
        paces,
        ..
    } = changes;
    check.that(
        "all changes are hidden, or none",
        hidden == 0 || hidden == CHANGES,
        format_args!("{hidden} of {CHANGES}"),
    );
    if hidden != 0 {
        // It is not that nothing has changed.
        check.that(
            "the TSC is scaled",
            paces >= 3,
            format_args!("the same work takes as long but for {paces} of {CHANGES} changes"),
        );
    }
    check.equal("reads of L2's that L1 contradicts", wrong, 0);
    end(check);
}
