//! Ends of interrupts by the VP assist page, and the APIC's registers as Hv#1 MSRs.

use tlfs::cpuid::HYPERVISOR_RANGE_FIRST;
use tlfs::msr::Msr;
use tlfs::page::assist::APIC_ASSIST;

use crate::rt::fault::{self, Fault};
use crate::rt::harness::Check;
use crate::rt::{apic, cpu, memory};

const LOW: u8 = 0x62;
const HIGH: u8 = 0x75;

fn is_offered() -> bool {
    cpu::is_virtual()
        && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 1, 0)[0] == 0x3123_7648
        && cpu::cpuid(HYPERVISOR_RANGE_FIRST + 4, 0)[0] & 1 << 3 != 0
}

fn send(vector: u8) {
    apic::send_self(vector);
    cpu::interrupt_window();
}

/// Most interrupts are ended without an exit, and none is lost by it.
pub fn eoi_assist(check: &Check) {
    if !is_offered() {
        return check.skip("all", "no APIC MSRs are recommended");
    }
    let page = memory::page();
    let word = page + APIC_ASSIST;
    let bit = || memory::read::<u32>(word);
    memory::write(word, 1u32);
    check.equal(
        "assist page",
        cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, page | 1),
        Ok(()),
    );
    check.equal("says nothing at first", bit(), 0);
    fault::set_automatic_eoi(false);
    let (low, high) = (fault::count(LOW), fault::count(HIGH));

    for i in 1..=3 {
        send(LOW);
        check.equal("an interrupt", fault::count(LOW), low + i);
        check.equal("needs no EOI", bit(), 1);
        memory::write(word, 0u32);
    }

    send(LOW);
    check.equal("one more", fault::count(LOW), low + 4);
    check.equal("needs no EOI", bit(), 1);
    send(LOW);
    check.equal("another waits for it", fault::count(LOW), low + 4);
    check.equal("so it needs one", bit(), 0);
    check.equal("EOI", cpu::wrmsr(Msr::EOI.0, 0), Ok(()));
    cpu::interrupt_window();
    check.equal("the other comes", fault::count(LOW), low + 5);
    check.equal("and needs none", bit(), 1);

    send(HIGH);
    check.equal("a higher one comes", fault::count(HIGH), high + 1);
    check.equal("and needs none", bit(), 1);
    memory::write(word, 0u32);
    check.equal("it is over", apic::is_in_service(HIGH), false);
    check.equal("the lower one is not", apic::is_in_service(LOW), true);
    check.equal("nor does it do without EOI", bit(), 0);
    check.equal("EOI", cpu::wrmsr(Msr::EOI.0, 0), Ok(()));
    check.equal("over", apic::is_in_service(LOW), false);

    send(LOW);
    check.equal("needs no EOI", bit(), 1);
    apic::eoi();
    check.equal(
        "which may come all the same",
        apic::is_in_service(LOW),
        false,
    );
    check.equal("and is then the last word", bit(), 0);

    send(LOW);
    memory::write(word, 0u32);
    let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, 0);
    check.equal(
        "ended before the page goes",
        apic::is_in_service(LOW),
        false,
    );
    send(LOW);
    check.equal("without the page", apic::is_in_service(LOW), true);
    apic::eoi();
    check.equal("it takes an EOI", apic::is_in_service(LOW), false);
    check.equal("interrupts in all", fault::count(LOW), low + 8);
    fault::set_automatic_eoi(true);
}

/// EOI, ICR and TPR.
pub fn registers(check: &Check) {
    if !is_offered() {
        return check.skip("all", "no APIC MSRs are recommended");
    }
    check.equal("EOI cannot be read", cpu::rdmsr(Msr::EOI.0), Err(Fault::GP));
    let before = fault::count(LOW);
    // To oneself, by the shorthand.
    let command = 1 << 18 | u64::from(LOW);
    check.equal("ICR", cpu::wrmsr(Msr::ICR.0, command), Ok(()));
    cpu::interrupt_window();
    check.equal("sends", fault::count(LOW), before + 1);
    check.equal(
        "reads back",
        cpu::rdmsr(Msr::ICR.0).map(|command| command as u32 & 0xff),
        Ok(u32::from(LOW)),
    );
    check.equal("TPR", cpu::wrmsr(Msr::TPR.0, 0x70), Ok(()));
    check.equal("reads back", cpu::rdmsr(Msr::TPR.0), Ok(0x70));
    let cr8: u64;
    // SAFETY: reading CR8 changes nothing.
    unsafe { core::arch::asm!("mov {}, cr8", out(reg) cr8, options(nomem, nostack)) };
    check.equal("is CR8", cr8, 7);
    send(LOW);
    check.equal("holds back", fault::count(LOW), before + 1);
    check.equal("TPR", cpu::wrmsr(Msr::TPR.0, 0), Ok(()));
    cpu::interrupt_window();
    check.equal("lets go", fault::count(LOW), before + 2);
}
