//! Changes of the TSC's rate that the payload has L0 make, by the counter port: at points of its own
//! choice, which a seed gives (`seed=N` on the command line).

use core::sync::atomic::{AtomicU64, Ordering};

use ::vmx::{BasicExitReason as Reason, Field, InterruptionInfo, PrimaryControls};
use tlfs::msr::Msr;

use super::{
    L2_AHEAD, ONE, RATE_PORT, Reader, VECTOR, is_rate_right, l2_with_a_tsc, observe, observe_l2,
};
use crate::groups::exits::injection::inject;
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{boot, cpu, fault, smp};
use crate::vm::guest::{self, code};
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome};

/// How many changes.
const CHANGES: u32 = 60;
/// #UD: an event that needs no error code and no interrupt flag.
const INJECTED: u8 = 6;

/// A rate that the second processor is to have L0 change to, or 0.
static WANTED: AtomicU64 = AtomicU64::new(0);

fn change(hz: u64) {
    cpu::out32(RATE_PORT, hz as u32);
}

/// The second processor's work.
fn observe_and_change(page: u64) {
    while !super::STOP.load(Ordering::SeqCst) {
        observe(page);
        let hz = WANTED.swap(0, Ordering::SeqCst);
        if hz != 0 {
            change(hz);
        }
    }
}

/// L2 does it by an OUT that L1 lets through, and reads its TSC at once. Returns whether L1's TSC says
/// the same.
fn by_l2(l2: &mut L2, hz: u64) -> bool {
    l2.set_code(code!("out dx, eax", "rdtsc", "vmcall"));
    l2.registers[reg::RDX] = RATE_PORT.into();
    l2.registers[reg::RAX] = hz;
    let before = cpu::tsc();
    let outcome = l2.run();
    let value = l2.registers[reg::RAX] & 0xffff_ffff | l2.registers[reg::RDX] << 32;
    outcome == Outcome::exit(Reason::Vmcall)
        && (before..=cpu::tsc()).contains(&value.wrapping_sub(L2_AHEAD))
}

/// L1 does it when L2 has left by an OUT, and enters L2 again with an event. Returns whether that is
/// all that L2 takes note of.
fn within_an_exit(l2: &mut L2, hz: u64) -> bool {
    l2.set_code(code!("out dx, eax", "ud2"));
    l2.registers[reg::RDX] = RATE_PORT.into();
    let left = l2.run();
    change(hz);
    l2.skip_instruction();
    inject(l2, InterruptionInfo::exception(INJECTED), 0, 0);
    let resumed = l2.run();
    left == Outcome::exit(Reason::IoInstruction)
        && resumed == Outcome::exit(Reason::Vmcall)
        && guest::vector_at(l2.get(Field::GUEST_RIP)) == Some(INJECTED)
}

/// All clocks go on whatever happens when.
pub fn points(check: &Check) {
    let Some(page) = super::begin(check, observe_and_change) else {
        return;
    };
    let seed = boot::option("seed").and_then(|text| text.parse().ok());
    let mut random = Random::new(seed.filter(|&seed| seed != 0).unwrap_or(1));
    let mut reader = Reader {
        l2: l2_with_a_tsc(),
        multiplier: ONE,
    };
    let mut intercepted = l2_with_a_tsc();
    intercepted.use_primary(PrimaryControls::UNCONDITIONAL_IO_EXITING);
    let (mut wrong, mut told) = (0, 0);
    let status = || cpu::msr(Msr::TSC_EMULATION_STATUS.0);
    let (mut hidden, mut emulated) = (0, [0; 2]);
    for _ in 0..CHANGES {
        let octave = 20_000_000 << random.below(5);
        let hz = octave + random.below(octave);
        let before = fault::count(VECTOR);
        let is_right = match random.below(4) {
            0 => {
                change(hz);
                true
            }
            1 => by_l2(&mut reader.l2, hz),
            2 => within_an_exit(&mut intercepted, hz),
            _ => {
                WANTED.store(hz, Ordering::SeqCst);
                true
            }
        };
        wrong += u64::from(!is_right);
        let came = smp::wait_for(|| {
            observe(page);
            wrong += observe_l2(&mut reader);
            cpu::interrupt_window();
            fault::count(VECTOR) != before
        });
        told += u32::from(came);
        hidden += u32::from(status() == 0);
        for _ in 0..random.below(8) {
            observe(page);
            wrong += observe_l2(&mut reader);
        }
        // Left alone, the emulation goes on over the next change.
        if random.below(4) != 0 {
            let _ = cpu::wrmsr(Msr::TSC_EMULATION_STATUS.0, 0);
        }
        emulated[status() as usize & 1] += 1;
    }
    is_rate_right(check, "after all changes", page);
    check.equal("changes that L1 was told of", told, CHANGES);
    check.equal("what L2 finds is right", wrong, 0);
    check.that(
        "all are hidden, or some are taken note of and some are not",
        hidden == CHANGES || hidden == 0 && emulated.iter().all(|&n| n > 0),
        format_args!("{hidden} hidden, {emulated:?}"),
    );
    super::end(check);
}
