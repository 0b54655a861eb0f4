//! IA32_VMX_EPT_VPID_CAP.

use ::vmx::ept::{Access, Level};
use ::vmx::{BasicExitReason as Reason, Field};

use super::{Find, INVALID_CONTROLS, l2_with};
use crate::groups::audit::walk::{Exercise, Verdict, Word, ends, equal, exits, walk};
use crate::rt::harness::Check;
use crate::rt::memory;
use crate::rt::paging::{self, PRESENT, WINDOW};
use crate::vm::ept::{SIZE_1G, SIZE_2M, leaf};
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{L2, Outcome, instruction, operation};

/// A guest-physical address that no memory of ours has; L2's linear address for it is the same.
const SPOT: u64 = 0x6000_0000;

/// Each bit.
pub fn all(check: &Check) {
    walk(
        check,
        &Word {
            register: "IA32_VMX_EPT_VPID_CAP",
            value: operation::capabilities().ept_vpid,
            facts: 0,
            exercise: bit,
        },
    );
}

fn bit(bit: u32) -> Find {
    Some(match bit {
        0 => Exercise::works(
            "a page is executed, reading it is a violation",
            execute_only,
        )
        .or_refused("such an entry is a misconfiguration", || {
            let mut l2 = with_page(Access::EXECUTE);
            ends("fetching", call(&mut l2), MISCONFIGURATION)
        }),
        6 => Exercise::works("in use", || {
            let mut l2 = with_page(Access::RWX);
            exits("reading", read(&mut l2), Reason::Vmcall)
        }),
        7 => Exercise::refused("VMfail(7)", || eptp(3 << 3, 4 << 3)),
        8 => Exercise::works("tables that are uncacheable", || {
            let mut l2 = with_page(Access::RWX);
            l2.modify(Field::EPT_POINTER, 0, 7);
            exits("reading", read(&mut l2), Reason::Vmcall)
        })
        .or_refused("VMfail(7)", || eptp(7, 0)),
        14 => Exercise::works("in use; type 1 is VMfail(7)", || {
            let mut l2 = with_page(Access::RWX);
            exits("reading", read(&mut l2), Reason::Vmcall)?;
            eptp(7, 1)
        }),
        16 => Exercise::works("a page of 2 MiB", || {
            exits("reading", large(Level::Pd, SIZE_2M)?, Reason::Vmcall)
        })
        .or_refused("such an entry is a misconfiguration", || {
            ends("reading", large(Level::Pd, SIZE_2M)?, MISCONFIGURATION)
        }),
        17 => Exercise::works("a page of 1 GiB", || {
            exits("reading", large(Level::Pdpt, SIZE_1G)?, Reason::Vmcall)
        })
        .or_refused("such an entry is a misconfiguration", || {
            ends("reading", large(Level::Pdpt, SIZE_1G)?, MISCONFIGURATION)
        }),
        20 => Exercise::works("type 0 and type 3 are VMfail(28)", || {
            operation::enter();
            let _ = instruction::vmptrld(operation::region());
            ends("type 0", instruction::invept(0, 0), Outcome::FailValid(28))?;
            ends("type 3", instruction::invept(3, 0), Outcome::FailValid(28))
        })
        .or_refused("INVEPT is undefined", || {
            operation::enter();
            ends("INVEPT", instruction::invept(2, 0), Outcome::UD)
        }),
        21 => Exercise::works("reading sets A, writing D", accessed_dirty)
            .or_refused("VMfail(7)", || eptp(0, 1 << 6)),
        23 => Exercise::refused("VMfail(7)", || eptp(0, 1 << 7)),
        25 => Exercise::works("a page changed is seen changed", || invept(1))
            .or_refused("VMfail(28)", || no_invept(1)),
        26 => Exercise::works("a page changed is seen changed", || invept(2))
            .or_refused("VMfail(28)", || no_invept(2)),
        32 => Exercise::works("type 4 is VMfail(28)", || {
            operation::enter();
            let _ = instruction::vmptrld(operation::region());
            ends(
                "type 4",
                instruction::invvpid(4, 1, 0),
                Outcome::FailValid(28),
            )
        })
        .or_refused("INVVPID is undefined", || {
            operation::enter();
            ends("INVVPID", instruction::invvpid(2, 0, 0), Outcome::UD)
        }),
        40 => Exercise::works("L2's page changed is seen changed", || invvpid(0))
            .or_refused("VMfail(28)", || no_invvpid(0)),
        41 => Exercise::works("L2's page changed is seen changed", || invvpid(1))
            .or_refused("VMfail(28)", || no_invvpid(1)),
        42 => Exercise::works("L2's page changed is seen changed", || invvpid(2))
            .or_refused("VMfail(28)", || no_invvpid(2)),
        43 => Exercise::works("L2's page changed is seen changed", || invvpid(3))
            .or_refused("VMfail(28)", || no_invvpid(3)),
        _ => return None,
    })
}

const MISCONFIGURATION: Outcome = Outcome::exit(Reason::EptMisconfiguration);

/// An L2 with a page of its own at the spot: a RET, and a number.
fn with_page(access: Access) -> L2 {
    let l2 = L2::new(code!("vmcall"));
    l2.ept.map(SPOT, page(0x31), access);
    l2
}

/// A page that begins with a RET and holds a number.
fn page(number: u64) -> u64 {
    let page = memory::page();
    memory::write(page, number << 8 | 0xc3);
    page
}

fn read(l2: &mut L2) -> Outcome {
    l2.registers[reg::RDI] = SPOT;
    l2.set_code(code!("mov rax, [rdi]", "vmcall"));
    l2.run()
}

fn call(l2: &mut L2) -> Outcome {
    l2.registers[reg::RDI] = SPOT;
    l2.set_code(code!("call rdi", "vmcall"));
    l2.run()
}

fn execute_only() -> Verdict {
    let mut l2 = with_page(Access::EXECUTE);
    exits("fetching", call(&mut l2), Reason::Vmcall)?;
    exits("reading", read(&mut l2), Reason::EptViolation)
}

/// An EPTP with bits cleared and set that are not offered.
fn eptp(clear: u64, set: u64) -> Verdict {
    let mut l2 = L2::new(code!("vmcall"));
    let pointer = l2.get(Field::EPT_POINTER);
    l2.set(Field::EPT_POINTER, pointer & !clear | set);
    ends("the entry", l2.run(), INVALID_CONTROLS)
}

/// Reads by a page of this size at the spot, whose last part is a page of the pool.
fn large(level: Level, size: u64) -> Result<Outcome, super::Problem> {
    let mut l2 = L2::new(code!("mov rax, [rdi]", "vmcall"));
    let page = page(0x32);
    l2.ept.set(
        SPOT & !(size - 1),
        level,
        leaf(page & !(size - 1), Access::RWX, level),
    );
    l2.registers[reg::RDI] = (SPOT & !(size - 1)) + (page & (size - 1));
    let outcome = l2.run();
    if outcome == Outcome::exit(Reason::Vmcall) {
        equal("what L2 read", l2.registers[reg::RAX], 0x32_c3u64)?;
    }
    Ok(outcome)
}

fn accessed_dirty() -> Verdict {
    let mut l2 = with_page(Access::RWX);
    l2.add(Field::EPT_POINTER, 1 << 6);
    let entry = l2.ept.entry(SPOT, Level::Pt);
    exits("reading", read(&mut l2), Reason::Vmcall)?;
    equal("A and D", memory::read::<u64>(entry) >> 8 & 3, 1u64)?;
    l2.set_code(code!("mov [rdi], rdi", "vmcall"));
    exits("writing", l2.run(), Reason::Vmcall)?;
    equal("A and D", memory::read::<u64>(entry) >> 8 & 3, 3u64)
}

fn invept(kind: u64) -> Verdict {
    let mut l2 = with_page(Access::RWX);
    exits("reading", read(&mut l2), Reason::Vmcall)?;
    l2.ept.map(SPOT, page(0x33), Access::RWX);
    let outcome = instruction::invept(kind, l2.ept.eptp());
    ends("INVEPT", outcome, Outcome::Success)?;
    exits("reading", read(&mut l2), Reason::Vmcall)?;
    equal("what L2 read", l2.registers[reg::RAX], 0x33_c3u64)
}

fn no_invept(kind: u64) -> Verdict {
    operation::enter();
    let _ = instruction::vmptrld(operation::region());
    ends(
        "INVEPT",
        instruction::invept(kind, 0),
        Outcome::FailValid(28),
    )
}

fn invvpid(kind: u64) -> Verdict {
    const VPID: u64 = 7;
    let mut l2 = l2_with(Field::SECONDARY_CONTROLS, 1 << 5, code!("vmcall"));
    l2.set(Field::VPID, VPID);
    l2.registers[reg::RDI] = WINDOW;
    for number in [0x34, 0x35] {
        // L2's tables are L1's own; only L2 has used this translation.
        paging::map(WINDOW, page(number), PRESENT);
        if number == 0x35 {
            let outcome = instruction::invvpid(kind, if kind == 2 { 0 } else { VPID }, WINDOW);
            ends("INVVPID", outcome, Outcome::Success)?;
        }
        l2.set_code(code!("mov rax, [rdi]", "vmcall"));
        exits("reading", l2.run(), Reason::Vmcall)?;
        equal("what L2 read", l2.registers[reg::RAX], number << 8 | 0xc3)?;
    }
    Ok(())
}

fn no_invvpid(kind: u64) -> Verdict {
    operation::enter();
    let _ = instruction::vmptrld(operation::region());
    ends(
        "INVVPID",
        instruction::invvpid(kind, 1, 0),
        Outcome::FailValid(28),
    )
}
