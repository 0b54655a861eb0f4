//! Saves while L2s run on both processors, one of each kind. The first one's L2 asks for the save
//! itself, by the port that L1 leaves open to it; the second one's is wherever it is then.
//!
//! Each stage runs twice, at first without a save. Whatever can be known at the end is to be the same both times.

use core::fmt;

use ::vmx::Field;

use super::record::Record;
use super::stages::{ALL, Stage, VECTOR};
use super::{PORT, SAVE};
use crate::rt::apic::{self, Delivery};
use crate::rt::harness::Check;
use crate::rt::{cpu, memory, smp};
use crate::vm::guest::{self, code};
use crate::vm::l2::reg;
use crate::vm::{Door, L2, Outcome, assist, operation, select};

/// Ticks in which an L2 comes to the middle of its run, or to where it exits.
const ON_ITS_WAY: u64 = 2_000_000;
/// Ticks in which it has halted behind its last store.
const TO_HALT: u64 = 100_000;
/// PAT after RESET.
const PAT: u64 = 0x0007_0406_0007_0406;

/// An L2 on its processor.
struct Side {
    stage: &'static Stage,
    /// 0 for the one that has the save made.
    number: usize,
    door: Door,
    /// A byte that L2 sets when it has come half its way, and one, [`GO_ON`] further, that lets it
    /// go on.
    meeting: u64,
    place: u64,
    l2: Option<L2>,
    /// How the run ended, and in the handler of which vector.
    came: Option<(Outcome, Option<u8>)>,
    record: Option<&'static Record>,
    /// What comes of launching it again, which the plain door refuses.
    again: Option<Outcome>,
}

const GO_ON: u64 = 0x100;

fn side(at: u64) -> &'static mut Side {
    // SAFETY: the processors take turns with a `Side`, which outlives its stage.
    unsafe { &mut *(at as *mut Side) }
}

/// Makes the L2, ready to be entered.
fn build(at: u64) {
    let side = side(at);
    operation::leave();
    select(side.door);
    let _ = cpu::wrmsr(cpu::MSR_KERNEL_GS_BASE, 0);
    memory::write(side.meeting, 0u8);
    memory::write(side.meeting + GO_ON, u8::from(side.number == 0));
    let role = &side.stage.roles[side.number];
    let mut l2 = L2::new((role.code)());
    let registers = &mut l2.registers;
    registers[reg::RDX] = u64::from(PORT);
    registers[reg::RSI] = side.meeting;
    registers[reg::RDI] = side.meeting + GO_ON;
    registers[reg::R8] = code!(
        "out dx, eax",
        "mov byte ptr [rsi], 1",
        "2: pause",
        "cmp byte ptr [rdi], 0",
        "je 2b",
        "xor eax, eax",
        "ret",
    );
    (side.stage.prepare)(&mut l2, side.number);
    side.l2 = Some(l2);
}

/// Runs it to its end.
fn run(at: u64) {
    let side = side(at);
    let Some(l2) = &mut side.l2 else {
        return;
    };
    let outcome = l2.run();
    side.came = Some((outcome, guest::vector_at(l2.get(Field::GUEST_RIP))));
    side.record = Some(Record::take(side.place, l2, Some(outcome)));
    if !l2.is_enlightened() {
        side.again = Some(l2.enter(true));
    }
    if apic::is_in_service(VECTOR) {
        apic::eoi();
    }
    // What L2 left where no control loads L1's own.
    let _ = cpu::wrmsr(cpu::MSR_PAT, PAT);
    operation::leave();
    cpu::interrupt_window();
}

/// Every stage.
pub fn running(check: &Check) {
    if !smp::ensure() {
        return check.that("a second processor", false, "does not start");
    }
    let doors = match assist::is_offered() {
        true => [Door::Plain, Door::Enlightened],
        false => [Door::Plain; 2],
    };
    let mark = memory::mark();
    for (i, stage) in ALL.iter().enumerate() {
        for swapped in [false, true] {
            // Where both L2s go through the same, one of each door has after one turn.
            if swapped != (i % 2 == 1) && !stage.takes_turns {
                continue;
            }
            let [one, other] = doors;
            memory::release(mark);
            perform(check, stage, if swapped { [other, one] } else { doors });
        }
    }
}

/// Goes through a stage without a save and with one.
fn perform(check: &Check, stage: &'static Stage, doors: [Door; 2]) {
    let places = [0; 2].map(|_| [0; 2].map(|_| Record::place()));
    let meetings = [0; 2].map(|_| memory::page());
    let mark = memory::mark();
    let [without, with] = [false, true].map(|saves| {
        // The same pages for the same purposes.
        memory::release(mark);
        let mut sides = [0, 1].map(|number| Side {
            stage,
            number,
            door: doors[number],
            meeting: meetings[number],
            place: places[usize::from(saves)][number],
            l2: None,
            came: None,
            record: None,
            again: None,
        });
        go_through(check, &mut sides, saves);
        sides
    });
    for (without, with) in without.iter().zip(&with) {
        let role = &stage.roles[with.number];
        let expected = Some((Outcome::exit(role.reason), role.vector));
        check.equal(
            format_args!("{with}, without a save"),
            without.came,
            expected,
        );
        check.equal(format_args!("{with}, ends"), with.came, expected);
        let refused = (with.door == Door::Plain).then_some(Outcome::FailValid(4));
        check.equal(format_args!("{with}, is launched"), with.again, refused);
        if let (Some(without), Some(record)) = (without.record, with.record) {
            record.expect(check, with, without);
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} of {:?}", self.stage.name, self.number, self.door)
    }
}

fn go_through(check: &Check, sides: &mut [Side; 2], saves: bool) {
    let [first, second] = [0, 1].map(|i| &raw mut sides[i] as u64);
    let built = smp::run(build, second);
    check.equal("the second L2 is made", built, Some(Ok(())));
    build(first);
    let meeting = side(second).meeting;
    smp::begin(run, second);
    let begun = cpu::tsc();
    while memory::read::<u8>(meeting) == 0
        && !smp::is_done()
        && cpu::tsc().wrapping_sub(begun) < ON_ITS_WAY
    {
        core::hint::spin_loop();
    }
    cpu::spin(TO_HALT);
    if let Some(l2) = &mut side(first).l2 {
        let word = if saves { SAVE } else { 0 };
        l2.registers[reg::RAX] = u64::from(word);
    }
    if saves {
        check.note(format_args!("saving at {}", side(first)));
    }
    run(first);
    memory::write(meeting + GO_ON, 1u8);
    if side(first).stage.takes_turns {
        apic::send(smp::SECOND, Delivery::Fixed, VECTOR);
    }
    check.equal("the second L2 ends", smp::finish(), Some(Ok(())));
}
