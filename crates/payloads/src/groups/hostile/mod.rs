//! Garbage everywhere: whatever L1 does, L0 answers, and still answers properly afterwards.
//!
//! What a test breaks it puts back, so that each ends with a proof: a fresh L2 runs, time goes on.
//! Tests that are meant to end the partition are run alone, by name (`last-...`).

mod ends;
mod enlightened;
mod interrupts;
mod plain;
mod registers;
mod switching;

use ::vmx::BasicExitReason as Reason;

use crate::rt::harness::{Check, Group, Test};
use crate::rt::{apic, boot, cpu};
use crate::vm::ept::Ept;
use crate::vm::guest::code;
use crate::vm::l2::reg;
use crate::vm::{self, L2, Outcome};

/// The group.
pub const GROUP: Group = Group {
    name: "hostile",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "random-vmcs",
            run: plain::random_vmcs,
        },
        Test {
            name: "random-region",
            run: plain::random_region,
        },
        Test {
            name: "random-ept",
            run: plain::random_ept,
        },
        Test {
            name: "pointers",
            run: plain::pointers,
        },
        Test {
            name: "one-page",
            run: plain::one_page,
        },
        Test {
            name: "freed-vmcs",
            run: plain::freed_vmcs,
        },
        Test {
            name: "fields-stay",
            run: switching::fields_stay,
        },
        Test {
            name: "random-evmcs",
            run: enlightened::random_pages,
        },
        Test {
            name: "overlay-pages",
            run: enlightened::overlays,
        },
        Test {
            name: "hypercalls",
            run: enlightened::hypercalls,
        },
        Test {
            name: "ports",
            run: registers::ports,
        },
        Test {
            name: "msrs-read",
            run: registers::read_msrs,
        },
        Test {
            name: "msrs-written",
            run: registers::write_msrs,
        },
        Test {
            name: "apic-registers",
            run: registers::apic_registers,
        },
        Test {
            name: "ipis",
            run: interrupts::all_modes,
        },
        Test {
            name: "init-second",
            run: interrupts::init_second,
        },
        Test {
            name: "tiny-period",
            run: interrupts::tiny_period,
        },
        Test {
            name: "last-init-self",
            run: ends::init_self,
        },
        Test {
            name: "last-triple-fault",
            run: ends::triple_fault,
        },
        Test {
            name: "last-vmx-abort",
            run: ends::vmx_abort,
        },
    ],
};

/// L0 still does what it is to do.
fn still_well(check: &Check) {
    vm::operation::leave();
    let mut l2 = L2::new(code!("mov eax, 0x600d", "vmcall"));
    check.equal("a fresh L2 runs", l2.run(), Outcome::exit(Reason::Vmcall));
    check.equal("and says so", l2.registers[reg::RAX], 0x600d);
    let before = cpu::tsc();
    cpu::spin(1000);
    check.that("time goes on", cpu::tsc() > before, "it does not");
}

/// An L2 that nothing is known of: it may write nowhere, and a timer ends it.
fn caged() -> L2 {
    let l2 = L2::with_ept(code!("vmcall"), Ept::read_only());
    l2.add(::vmx::Field::PIN_BASED_CONTROLS, 1);
    l2
}

/// Lets a timer end whatever L2 does next.
fn arm() {
    apic::write(apic::register::DIVIDE, apic::timer::DIVIDE_BY_1);
    apic::write(apic::register::LVT_TIMER, 0x41);
    apic::write(apic::register::INITIAL_COUNT, 100_000);
}

/// Whether a test that ends the partition was asked for by its name.
fn is_asked_for(name: &str) -> bool {
    boot::option("test") == Some(name)
}
