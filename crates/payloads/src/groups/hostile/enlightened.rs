//! Hv#1 pages and hypercalls full of garbage.

use core::arch::asm;

use tlfs::msr::Msr;

use super::{arm, still_well};
use crate::rt::fault::attempt;
use crate::rt::harness::Check;
use crate::rt::random::Random;
use crate::rt::{apic, cpu, memory};
use crate::vm::ept::Ept;
use crate::vm::guest::code;
use crate::vm::{self, L2, Outcome, assist};

/// Enlightened VMCSs with random bytes, all clean or all dirty.
pub fn random_pages(check: &Check) {
    if !assist::is_offered() {
        return check.skip("all", "no enlightened VMCS is offered");
    }
    let door = vm::door();
    vm::select_door(Some("enlightened"));
    let mut random = Random::new(0xabc);
    let mut legal = 0;
    let rounds = 300;
    let mark = memory::mark();
    for _ in 0..rounds {
        vm::operation::leave();
        memory::release(mark);
        let mut l2 = L2::with_ept(code!("vmcall"), Ept::read_only());
        memory::write(l2.page + 0x5c, memory::read::<u32>(l2.page + 0x5c) | 1);
        for _ in 0..1 + random.below(30) {
            let at = 0x68 + random.below(0x3d0 - 0x68);
            let spared = [0x140..0x150, 0x184..0x190, 0x240..0x278];
            if !spared.iter().any(|range| range.contains(&at)) {
                memory::write(l2.page + at, random.next() as u8);
            }
        }
        arm();
        let outcome = l2.enter(random.below(2) == 0);
        apic::stop_timer();
        legal += u32::from(matches!(
            outcome,
            Outcome::Exit(_) | Outcome::FailInvalid | Outcome::FailValid(7 | 8)
        ));
    }
    check.equal("legal answers", legal, rounds);
    vm::operation::leave();
    vm::select_door(if door == vm::Door::Enlightened {
        Some("enlightened")
    } else {
        None
    });
    still_well(check);
}

/// Hypercall page, TSC page and assist page over devices, holes and L1's own tables.
pub fn overlays(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "no Hv#1 interface");
    }
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0x8100_0000_0000_0001);
    for register in [Msr::HYPERCALL, Msr::REFERENCE_TSC, Msr::VP_ASSIST_PAGE] {
        for place in [
            0xfee0_0000u64,
            0xfec0_0000,
            0xc000_0000,
            0xffff_f000,
            1 << 39,
            1 << 51,
        ] {
            let result = cpu::wrmsr(register.0, place | 1);
            check.note(format_args!("{register:?} at {place:#x}: {result:?}"));
            let _ = cpu::wrmsr(register.0, 0);
            check.equal("off again", cpu::rdmsr(register.0).map(|v| v & 1), Ok(0));
        }
        check.that(
            format_args!("{register:?}, all ones"),
            cpu::wrmsr(register.0, u64::MAX).is_err() || cpu::wrmsr(register.0, 0).is_ok(),
            "stuck",
        );
        let _ = cpu::wrmsr(register.0, 0);
    }
    // All three at one page, and at the page that is current as L2's VMCS.
    let page = memory::page();
    for register in [Msr::HYPERCALL, Msr::REFERENCE_TSC, Msr::VP_ASSIST_PAGE] {
        let _ = cpu::wrmsr(register.0, page | 1);
    }
    memory::fill(page, 4096, u64::MAX);
    let _ = cpu::msr(Msr::TIME_REF_COUNT.0);
    for register in [Msr::HYPERCALL, Msr::REFERENCE_TSC, Msr::VP_ASSIST_PAGE] {
        let _ = cpu::wrmsr(register.0, 0);
    }
    still_well(check);
}

/// VMCALL with random control words and parameters.
pub fn hypercalls(check: &Check) {
    if !cpu::is_virtual() {
        return check.skip("all", "no Hv#1 interface");
    }
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0x8100_0000_0000_0001);
    let mut random = Random::new(0xca11);
    let input = memory::page();
    let (mut answered, mut faulted) = (0, 0);
    let codes = [
        2u64, 3, 8, 0xb, 0x13, 0x14, 0x15, 0x50, 0x51, 0x5c, 0x5d, 0xaf, 0xb0, 0x8001, 0, 0xffff,
    ];
    for round in 0..600u64 {
        for at in (0..4096).step_by(8) {
            if random.below(16) == 0 {
                memory::write(input + at, random.nasty());
            }
        }
        let code = codes[random.below(codes.len() as u64) as usize];
        let control = code
            | match random.below(3) {
                0 => random.nasty() & !0xffff,
                1 => random.below(600) << 32 | random.below(70) << 17,
                _ => random.below(2) << 16,
            };
        let rdx = match random.below(4) {
            0 => random.nasty(),
            1 => input + random.below(512) * 8,
            2 => 0xfee0_0000,
            _ => input,
        };
        let r8 = if round % 2 == 0 {
            random.nasty()
        } else {
            input
        };
        let result = attempt(|| {
            let status: u64;
            // SAFETY: outputs go to a page of ours, or to where they are refused.
            unsafe {
                asm!("vmcall", inout("rcx") control => _, inout("rdx") rdx => _,
                    inout("r8") r8 => _, out("rax") status, out("r9") _, out("r10") _, out("r11") _);
            }
            status
        });
        match result {
            Ok(_) => answered += 1,
            Err(_) => faulted += 1,
        }
    }
    check.note(format_args!(
        "{answered} answered, {faulted} with an exception"
    ));
    check.equal("hypercalls that came back", answered + faulted, 600);
    still_well(check);
}
