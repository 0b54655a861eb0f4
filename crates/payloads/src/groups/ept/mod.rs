//! EPT: what L1's tables say, L2 gets; what L1 takes away, L2 loses when L1 says so.

mod changes;
mod devices;
mod permissions;
mod spaces;

use ::vmx::ept::Level;
use ::vmx::{BasicExitReason as Reason, Field};

use crate::rt::harness::{Group, Test};
use crate::rt::memory;
use crate::vm::ept::Ept;
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{self, L2, Outcome};

/// The group.
pub const GROUP: Group = Group {
    name: "ept",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "sizes",
            run: permissions::sizes,
        },
        Test {
            name: "rights",
            run: permissions::rights,
        },
        Test {
            name: "large-rights",
            run: permissions::large_rights,
        },
        Test {
            name: "upper-levels",
            run: permissions::upper_levels,
        },
        Test {
            name: "misconfiguration",
            run: permissions::misconfiguration,
        },
        Test {
            name: "holes",
            run: permissions::holes,
        },
        Test {
            name: "devices",
            run: devices::registers,
        },
        Test {
            name: "page-walk",
            run: permissions::page_walk,
        },
        Test {
            name: "appear",
            run: changes::appear,
        },
        Test {
            name: "downgrade",
            run: changes::downgrade,
        },
        Test {
            name: "move",
            run: changes::moved,
        },
        Test {
            name: "split-and-merge",
            run: changes::split_and_merge,
        },
        Test {
            name: "second-processor",
            run: changes::second_processor,
        },
        Test {
            name: "same-root",
            run: spaces::same_root,
        },
        Test {
            name: "many",
            run: spaces::many,
        },
        Test {
            name: "changed-eptp",
            run: spaces::changed_eptp,
        },
        Test {
            name: "without",
            run: spaces::without,
        },
    ],
};

/// A guest-physical address that no memory of ours has; L2's linear address for it is the same.
const SPOT: u64 = 0x6000_0000;

/// Ways in which L2 touches [`SPOT`], whose address it has in RDI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Touch {
    Read,
    Write,
    Fetch,
}

impl Touch {
    fn code(self) -> u64 {
        match self {
            Self::Read => code!("mov rax, [rdi]", "vmcall"),
            Self::Write => code!("mov [rdi], rsi", "vmcall"),
            Self::Fetch => code!("call rdi", "vmcall"),
        }
    }

    /// The access bit of an EPT violation's qualification.
    fn bit(self) -> u64 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Fetch => 4,
        }
    }
}

/// What a write to `at` stores: begins with a RET, like everything at the spot.
const fn mark(at: u64) -> u64 {
    0x7e57_0000_0000_00c3 | at & !0xff
}

/// Touches `at` once. RAX is what was read, [`mark`] is what is written.
fn touch(l2: &mut L2, at: u64, how: Touch) -> Outcome {
    l2.registers[reg::RDI] = at;
    l2.registers[reg::RSI] = mark(at);
    l2.registers[reg::RAX] = 0;
    l2.set_code(how.code());
    l2.run()
}

/// An L2 and a page of memory that holds a RET and a number.
fn with_page(number: u64) -> (L2, u64) {
    let l2 = L2::new(code!("vmcall"));
    (l2, numbered_page(number))
}

/// A page whose first byte is RET; the rest of its first word is `number`.
fn numbered_page(number: u64) -> u64 {
    let page = memory::page();
    memory::write(page, number << 8 | 0xc3);
    page
}

/// INVEPT of one space.
fn flush(ept: &Ept) {
    let outcome = vm::instruction::invept(1, ept.eptp());
    assert!(outcome == Outcome::Success, "INVEPT: {outcome:?}");
}

/// The entry that maps [`SPOT`] in 4 KiB pages.
fn spot_entry(l2: &L2) -> u64 {
    l2.ept.entry(SPOT, Level::Pt)
}

const RUNS: Outcome = Outcome::exit(Reason::Vmcall);
const VIOLATION: Outcome = Outcome::exit(Reason::EptViolation);
const MISCONFIGURATION: Outcome = Outcome::exit(Reason::EptMisconfiguration);

/// The fields that describe an EPT violation or misconfiguration.
fn fault_address(l2: &L2) -> u64 {
    l2.get(Field::GUEST_PHYSICAL_ADDRESS)
}
