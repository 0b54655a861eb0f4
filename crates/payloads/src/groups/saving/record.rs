//! All that L1 and L2 can know of an L2 that is not running.

use core::fmt::Display;

use ::vmx::Field;

use super::SAVE;
use super::stages::VECTOR;
use crate::rt::harness::Check;
use crate::rt::{apic, cpu, memory};
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, instruction};

const FIELDS: usize = Field::ALL.len();
/// Words of the stack that are looked at, from its top down.
const STACK: usize = 16;
/// L1's registers that an exit may leave as L2 had them.
const REGISTERS: [u32; 5] = [
    cpu::MSR_PAT,
    cpu::MSR_EFER,
    cpu::MSR_KERNEL_GS_BASE,
    cpu::MSR_FS_BASE,
    cpu::MSR_SYSENTER_EIP,
];

/// An L2, its VMCS and the processor it was on.
pub struct Record {
    outcome: Option<Outcome>,
    registers: [u64; 16],
    stack: [u64; STACK],
    processor: [u64; 6 + REGISTERS.len()],
    fields: [Option<u64>; FIELDS],
    /// An enlightened VMCS; zero for a plain one.
    page: [u64; 512],
}

impl Record {
    /// Pages of the pool for one.
    pub fn place() -> u64 {
        memory::pages(size_of::<Self>().div_ceil(memory::PAGE as usize), 1)
    }

    /// Takes down `l2`, whose last entry ended with `outcome`, on the processor that it is on, at a
    /// [`place`](Self::place) of its own.
    pub fn take(place: u64, l2: &L2, outcome: Option<Outcome>) -> &'static Self {
        let at = place as *mut Self;
        let mut registers = l2.registers;
        if registers[reg::RAX] == u64::from(SAVE) {
            // The same run without the save has nothing there.
            registers[reg::RAX] = 0;
        }
        // SAFETY: the place is large enough and nobody else's; each field is written before it is read.
        unsafe {
            (&raw mut (*at).outcome).write(outcome);
            (&raw mut (*at).registers).write(registers);
            (&raw mut (*at).stack).write(core::array::from_fn(|i| {
                memory::read(l2.stack - 8 * (i as u64 + 1))
            }));
            (&raw mut (*at).processor).write(processor());
            for (i, field) in Field::ALL.iter().enumerate() {
                (&raw mut (*at).fields[i]).write(value(l2, *field));
            }
            for i in 0..512 {
                let word = match l2.is_enlightened() {
                    true => memory::read(l2.page + 8 * i as u64),
                    false => 0,
                };
                (&raw mut (*at).page[i]).write(word);
            }
            &*at
        }
    }

    /// This is to be what `other` is.
    pub fn expect(&self, check: &Check, name: impl Display, other: &Self) {
        check.equal(format_args!("{name}: outcome"), self.outcome, other.outcome);
        check.equal(
            format_args!("{name}: registers"),
            self.registers,
            other.registers,
        );
        check.equal(format_args!("{name}: stack"), self.stack, other.stack);
        check.equal(
            format_args!("{name}: processor"),
            self.processor,
            other.processor,
        );
        let pairs = self.fields.iter().zip(&other.fields);
        let field = pairs.clone().position(|(one, other)| one != other);
        let text = |i: usize| (Field::ALL[i], other.fields[i], self.fields[i]);
        check.that(
            format_args!("{name}: fields"),
            field.is_none(),
            format_args!("field, expected, came {:x?}", field.map(text)),
        );
        let word = (0..512).find(|&i| self.page[i] != other.page[i]);
        let text = |i: usize| (8 * i, other.page[i], self.page[i]);
        check.that(
            format_args!("{name}: page"),
            word.is_none(),
            format_args!("offset, expected, came {:x?}", word.map(text)),
        );
        let read = self.fields.iter().flatten().count();
        check.that(
            format_args!("{name}: fields there"),
            read > 100,
            format_args!("{read}"),
        );
    }
}

/// What the field holds; `None` where it is not there.
fn value(l2: &L2, field: Field) -> Option<u64> {
    if l2.is_enlightened() {
        tlfs::evmcs::slot(field.encoding()).map(|_| l2.get(field))
    } else {
        l2.activate();
        instruction::vmread(field).ok()
    }
}

fn processor() -> [u64; 6 + REGISTERS.len()] {
    let [a, b, c, d, e] = REGISTERS.map(cpu::msr);
    [
        cpu::cr0(),
        cpu::cr2(),
        cpu::cr4(),
        cpu::dr0(),
        cpu::dr7(),
        u64::from(apic::is_requested(VECTOR)),
        a,
        b,
        c,
        d,
        e,
    ]
}
