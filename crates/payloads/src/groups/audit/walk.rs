//! How a word of advertised bits is walked, and the lines that tell of it.
//!
//! A line is `audit`, then by tabs: the register, the bits (`3` or `15:8`), what they are (`shown`,
//! `hidden`, `fact`), `ok` or `FAIL`, how that was found, and what was wrong. Before its bits a
//! register has a line `audit-word`, register, value. What the bits are called is the business of
//! whoever reads: the crates that define them know.

use core::fmt;

use ::vmx::BasicExitReason as Reason;

use crate::rt::fault::{self, Fault};
use crate::rt::harness::Check;
use crate::rt::{apic, cpu, memory, paging};
use crate::vm::{self, Outcome};

/// Why an exercise failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// In words.
    Says(&'static str),
    /// A number is another.
    Differs {
        what: &'static str,
        got: u64,
        expected: u64,
    },
    /// It faults.
    Faults(&'static str, Fault),
    /// It does not fault, or not as it should.
    NoFault(&'static str, Option<Fault>),
    /// An entry or a VMX instruction ends otherwise.
    Ends(&'static str, Outcome),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Says(text) => f.write_str(text),
            Self::Differs {
                what,
                got,
                expected,
            } => write!(f, "{what} is {got:#x}, expected {expected:#x}"),
            Self::Faults(what, fault) => write!(f, "{what}: {fault:?}"),
            Self::NoFault(what, None) => write!(f, "{what}: no fault"),
            Self::NoFault(what, Some(other)) => write!(f, "{what}: another fault, {other:?}"),
            Self::Ends(what, outcome) => write!(f, "{what}: {outcome:?}"),
        }
    }
}

/// What an exercise comes to.
pub type Verdict = Result<(), Problem>;

/// A number is to be the expected one.
pub fn equal(what: &'static str, got: impl Into<u64>, expected: impl Into<u64>) -> Verdict {
    let (got, expected) = (got.into(), expected.into());
    if got == expected {
        Ok(())
    } else {
        Err(Problem::Differs {
            what,
            got,
            expected,
        })
    }
}

/// Something is to hold; `otherwise` says what it means when it does not.
pub fn holds(condition: bool, otherwise: &'static str) -> Verdict {
    if condition {
        Ok(())
    } else {
        Err(Problem::Says(otherwise))
    }
}

/// There is to be no fault.
pub fn works<T>(what: &'static str, result: Result<T, Fault>) -> Result<T, Problem> {
    result.map_err(|fault| Problem::Faults(what, fault))
}

/// There is to be this fault.
pub fn faults<T>(what: &'static str, result: Result<T, Fault>, fault: Fault) -> Verdict {
    match result {
        Err(came) if came == fault => Ok(()),
        Err(other) => Err(Problem::NoFault(what, Some(other))),
        Ok(_) => Err(Problem::NoFault(what, None)),
    }
}

/// An instruction or entry is to end like this.
pub fn ends(what: &'static str, came: Outcome, expected: Outcome) -> Verdict {
    if came == expected {
        Ok(())
    } else {
        Err(Problem::Ends(what, came))
    }
}

/// L2 is to exit for this reason.
pub fn exits(what: &'static str, came: Outcome, reason: Reason) -> Verdict {
    ends(what, came, Outcome::exit(reason))
}

/// A register, bits of it from the lowest to the highest, what is done, and the doing.
pub type Fact = (&'static str, (u32, u32), &'static str, fn() -> Verdict);

/// Something to do, and how it is told in the table.
#[derive(Clone, Copy)]
struct Trial {
    /// What is done, in a few words.
    how: &'static str,
    run: Run,
}

/// Does what a trial is.
#[derive(Clone, Copy)]
enum Run {
    Alone(fn() -> Verdict),
    /// For any bit of a word.
    OfBit(fn(u32) -> Verdict),
}

/// What a bit is put to.
#[derive(Clone, Copy, Default)]
pub struct Exercise {
    /// Where the bit is shown: what it promises.
    shown: Option<Trial>,
    /// Where it is not: that the feature is refused, if it can be.
    hidden: Option<Trial>,
}

impl Exercise {
    /// Where the bit is shown, this works.
    pub const fn works(how: &'static str, run: fn() -> Verdict) -> Self {
        let run = Run::Alone(run);
        Self {
            shown: Some(Trial { how, run }),
            hidden: None,
        }
    }

    /// The same for any bit of a word.
    pub const fn bit_works(how: &'static str, run: fn(u32) -> Verdict) -> Self {
        let run = Run::OfBit(run);
        Self {
            shown: Some(Trial { how, run }),
            hidden: None,
        }
    }

    /// Where the bit is not shown, this is refused; there is no exercise for where it is.
    pub const fn refused(how: &'static str, run: fn() -> Verdict) -> Self {
        Self {
            shown: None,
            hidden: None,
        }
        .or_refused(how, run)
    }

    /// With what is refused where the bit is not shown.
    pub const fn or_refused(self, how: &'static str, run: fn() -> Verdict) -> Self {
        let run = Run::Alone(run);
        Self {
            hidden: Some(Trial { how, run }),
            ..self
        }
    }

    /// The same for any bit of a word.
    pub const fn or_bit_refused(self, how: &'static str, run: fn(u32) -> Verdict) -> Self {
        let run = Run::OfBit(run);
        Self {
            hidden: Some(Trial { how, run }),
            ..self
        }
    }
}

/// Runs a trial and brings the processor back to where the next one may begin.
fn attempt(trial: Trial, bit: u32) -> Verdict {
    let mark = memory::mark();
    let (cr0, cr4, efer) = (cpu::cr0(), cpu::cr4(), cpu::msr(cpu::MSR_EFER));
    let verdict = fault::attempt(|| match trial.run {
        Run::Alone(run) => run(),
        Run::OfBit(run) => run(bit),
    })
    .unwrap_or_else(|fault| Err(Problem::Faults("an unexpected fault", fault)));
    vm::operation::leave();
    let _ = cpu::set_cr0(cr0);
    let _ = cpu::set_cr4(cr4);
    let _ = cpu::wrmsr(cpu::MSR_EFER, efer);
    paging::unmap_window();
    fault::set_automatic_eoi(true);
    apic::stop_timer();
    memory::release(mark);
    verdict
}

/// A register, and what is known of it.
pub struct Word {
    /// Its name, the same as the reader of the lines has for it.
    pub register: &'static str,
    /// What it shows.
    pub value: u64,
    /// Bits that are no feature each; [`fact`] looks at them.
    pub facts: u64,
    /// What each other bit is put to; none for bits nobody has thought of.
    pub exercise: fn(u32) -> Option<Exercise>,
}

/// Goes through the bits of `word`.
pub fn walk(check: &Check, word: &Word) {
    announce(check, word.register, word.value);
    for bit in (0..64).filter(|bit| word.facts >> bit & 1 == 0) {
        let exercise = (word.exercise)(bit).unwrap_or_default();
        let shown = word.value >> bit & 1 != 0;
        let trial = if shown {
            exercise.shown
        } else {
            exercise.hidden
        };
        let kind = if shown { "shown" } else { "hidden" };
        let (how, verdict) = match trial {
            Some(trial) => (trial.how, attempt(trial, bit)),
            None if shown => ("-", Err(Problem::Says("no exercise for it"))),
            None => continue,
        };
        row(check, word.register, bit, bit, kind, how, verdict);
    }
}

/// A register, its value, its bits that are no feature each, and what the others are put to.
pub type Entry = (&'static str, u64, u64, fn(u32) -> Option<Exercise>);

/// Goes through the bits of each word.
pub fn walk_all<const N: usize>(check: &Check, words: [Entry; N]) {
    for (register, value, facts, exercise) in words {
        let word = Word {
            register,
            value,
            facts,
            exercise,
        };
        walk(check, &word);
    }
}

/// Looks at bits that are a number or a property rather than a feature.
pub fn fact(
    check: &Check,
    register: &'static str,
    bits: (u32, u32),
    how: &'static str,
    run: fn() -> Verdict,
) {
    let run = Run::Alone(run);
    let verdict = attempt(Trial { how, run }, bits.0);
    row(check, register, bits.1, bits.0, "fact", how, verdict);
}

/// Says what a register holds.
pub fn announce(check: &Check, register: &'static str, value: u64) {
    check.line(format_args!("audit-word\t{register}\t{value:#x}"));
}

fn row(
    check: &Check,
    register: &'static str,
    high: u32,
    low: u32,
    kind: &'static str,
    how: &'static str,
    verdict: Verdict,
) {
    struct Bits(u32, u32);
    impl fmt::Display for Bits {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.0 == self.1 {
                write!(f, "{}", self.0)
            } else {
                write!(f, "{}:{}", self.0, self.1)
            }
        }
    }
    let bits = Bits(high, low);
    match verdict {
        Ok(()) => check.verdict(
            true,
            format_args!("audit\t{register}\t{bits}\t{kind}\tok\t{how}\t"),
        ),
        Err(problem) => check.verdict(
            false,
            format_args!("audit\t{register}\t{bits}\t{kind}\tFAIL\t{how}\t{problem}"),
        ),
    }
}
