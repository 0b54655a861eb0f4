//! The machine that L1 sees: APICs, timers, UART, CPUID, MSRs, Hv#1, processors.

mod apic;
mod cpuid;
mod debug;
mod devices;
mod eoi_assist;
mod hyperv;
mod processors;
mod timers;
mod xsave;

use crate::rt::harness::{Group, Test};
use crate::vm;

/// The group. It begins in xAPIC mode; `x2apic` leaves that mode for good.
pub const GROUP: Group = Group {
    name: "platform",
    reset: vm::operation::leave,
    tests: &[
        Test {
            name: "xapic",
            run: apic::xapic,
        },
        Test {
            name: "xapic-read-modify-write",
            run: apic::xapic_read_modify_write,
        },
        Test {
            name: "apic-interrupts",
            run: apic::interrupts,
        },
        Test {
            name: "one-shot",
            run: timers::one_shot,
        },
        Test {
            name: "periodic",
            run: timers::periodic,
        },
        Test {
            name: "ioapic",
            run: devices::ioapic,
        },
        Test {
            name: "uart",
            run: devices::uart,
        },
        Test {
            name: "ports",
            run: devices::absent_ports,
        },
        Test {
            name: "cpuid",
            run: cpuid::consistency,
        },
        Test {
            name: "xsave",
            run: xsave::components,
        },
        Test {
            name: "xsave-forms",
            run: xsave::forms,
        },
        Test {
            name: "msrs",
            run: cpuid::msrs,
        },
        Test {
            name: "single-steps",
            run: debug::single_steps,
        },
        Test {
            name: "debug-registers",
            run: debug::registers,
        },
        Test {
            name: "alignment-check",
            run: debug::alignment_check,
        },
        Test {
            name: "start-up-xapic",
            run: processors::start_up,
        },
        Test {
            name: "x2apic",
            run: apic::x2apic,
        },
        Test {
            name: "apic-interrupts-x2apic",
            run: apic::interrupts,
        },
        Test {
            name: "one-shot-x2apic",
            run: timers::one_shot,
        },
        Test {
            name: "tsc-deadline",
            run: timers::tsc_deadline,
        },
        Test {
            name: "hv-leaves",
            run: hyperv::leaves,
        },
        Test {
            name: "hv-msrs",
            run: hyperv::msrs,
        },
        Test {
            name: "hv-tsc-page",
            run: hyperv::tsc_page,
        },
        Test {
            name: "hv-stimer",
            run: hyperv::stimer,
        },
        Test {
            name: "hv-idle",
            run: hyperv::idle,
        },
        Test {
            name: "hv-eoi-assist",
            run: eoi_assist::eoi_assist,
        },
        Test {
            name: "hv-apic-msrs",
            run: eoi_assist::registers,
        },
        Test {
            name: "start-up-x2apic",
            run: processors::start_up,
        },
        Test {
            name: "second",
            run: processors::second,
        },
        Test {
            name: "apic-off",
            run: apic::off,
        },
    ],
};
