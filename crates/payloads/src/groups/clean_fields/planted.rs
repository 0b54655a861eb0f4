//! Changes that are not declared: each is to be found once, under its name.

use ::vmx::{Field, PrimaryControls};
use tlfs::evmcs::{self, EnlightenmentsControl, Group, TABLE};

use super::{RUNS, enter_clean, enter_declared};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::vm::L2;
use crate::vm::guest::code;

/// The lowest bit of every field that a clean bit covers, or all of them together.
pub fn fields(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    check.equal("first", l2.run(), RUNS);
    for slot in TABLE {
        let field = Field::from_encoding(slot.encoding);
        if slot.group.clean_bit() == evmcs::CleanFields::NONE && slot.group != Group::Ungrouped {
            continue;
        }
        l2.skip_instruction();
        let declared = enter_declared(&mut l2);
        let value = l2.get(field);
        l2.skip_instruction();
        l2.store(field, value ^ 1);
        let clean = enter_clean(&mut l2, false);
        check.equal(slot.name, [declared, clean], [RUNS; 2]);
        l2.store(field, value);
    }
}

/// A bit of the MSR bitmap, which the enlightened MSR bitmap puts under a clean bit.
pub fn bitmap(check: &Check) {
    let mut l2 = L2::new(code!("2: vmcall", "jmp 2b"));
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
    memory::write(
        l2.page + u64::from(evmcs::ENLIGHTENMENTS_CONTROL),
        EnlightenmentsControl::MSR_BITMAP,
    );
    check.equal("first", l2.run(), RUNS);
    l2.skip_instruction();
    memory::write(l2.get(Field::MSR_BITMAP) + 0x123, 1u8);
    check.equal("changed", enter_clean(&mut l2, false), RUNS);
}
