//! Hypercalls, and leaf 0x40000004, which recommends them.

use core::arch::asm;

use tlfs::cpuid::leaf;
use tlfs::hypercall::{CallCode, FlushFlags, Status};
use tlfs::msr::Msr;

use super::super::walk::{Exercise, Problem, Verdict, ends, equal, faults, holds, works};
use super::{Find, is_offered, msrs, nested, words};
use crate::rt::apic;
use crate::rt::fault::{self, Fault, attempt};
use crate::rt::paging::{self, PRESENT, WINDOW};
use crate::rt::{cpu, memory, smp};
use crate::vm::{Outcome, assist, instruction, operation};

const VECTOR: u8 = 0x59;

/// Control word: the input is in registers.
pub const FAST: u64 = 1 << 16;
/// Control word: one element of a list.
const ONE_REP: u64 = 1 << 32;

/// All processors and all address spaces.
const EVERYWHERE: u64 = FlushFlags::new()
    .with_all_processors(true)
    .with_all_address_spaces(true)
    .into_bits();

/// Leaf 0x40000004, EAX.
pub fn recommendation(bit: u32) -> Find {
    Some(match bit {
        0 => Exercise::refused("its hypercall is refused", || refused(CallCode(1))),
        2 => Exercise::works("FlushVirtualAddressSpace and -List flush", flush).or_refused(
            "both are denied",
            || {
                denied(CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE)?;
                denied(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST)
            },
        ),
        3 => Exercise::works("an interrupt ends without an EOI", || {
            msrs::eoi_assist(true)
        })
        .or_refused("every interrupt needs its EOI", || msrs::eoi_assist(false)),
        4 => Exercise::works("RESET reads 0; a reset is a run of its own", msrs::reset),
        5 => Exercise::works("a hint: nothing to use", || Ok(())),
        9 => Exercise::works("a hint: nothing to use", || Ok(())),
        10 => Exercise::works(
            "SendSyntheticClusterIpi reaches both processors",
            cluster_ipi,
        )
        .or_refused("it is denied", || {
            denied(CallCode::SEND_SYNTHETIC_CLUSTER_IPI)
        }),
        11 => Exercise::works("the Ex forms of what is recommended", ex_forms).or_refused(
            "the Ex forms are denied",
            || {
                denied(CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE_EX)?;
                denied(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST_EX)?;
                denied(CallCode::SEND_SYNTHETIC_CLUSTER_IPI_EX)
            },
        ),
        14 => Exercise::works("an L2 by the enlightened VMCS", nested::evmcs)
            .or_refused("EnlightenVmEntry means nothing", no_evmcs),
        _ => return None,
    })
}

/// Says who this guest is, without which there are no hypercalls.
pub fn identify() {
    let _ = cpu::wrmsr(Msr::GUEST_OS_ID.0, 0x8100_0000_0000_0001);
}

/// VMCALL: RAX.
pub fn vmcall(control: u64, rdx: u64, r8: u64) -> Result<u64, Fault> {
    attempt(|| {
        let result;
        // SAFETY: no call here has output.
        unsafe {
            asm!("vmcall", inout("rcx") control => _, inout("rdx") rdx => _, inout("r8") r8 => _,
                out("rax") result, out("r9") _, out("r10") _, out("r11") _);
        }
        result
    })
}

/// A hypercall of a guest that has said who it is.
pub fn call(control: u64, rdx: u64, r8: u64) -> Result<u64, Fault> {
    identify();
    vmcall(control, rdx, r8)
}

/// A call with these words of input in memory.
fn call_with(control: u64, input: &[u64]) -> Result<u64, Fault> {
    let page = memory::page();
    for (i, word) in input.iter().enumerate() {
        memory::write(page + 8 * i as u64, *word);
    }
    call(control, page, 0)
}

/// The status of a call is success.
pub fn succeeds(result: Result<u64, Fault>) -> Verdict {
    has_status(result, Status::SUCCESS)
}

fn has_status(result: Result<u64, Fault>, status: Status) -> Verdict {
    equal("the status", works("VMCALL", result)? & 0xffff, status.0)
}

/// The call is there, but not for this partition; without an interface VMCALL is undefined.
pub fn denied(code: CallCode) -> Verdict {
    if is_offered() {
        has_status(call(u64::from(code.0), 0, 0), Status::ACCESS_DENIED)
    } else {
        faults("VMCALL", vmcall(u64::from(code.0), 0, 0), Fault::UD)
    }
}

/// The call is denied, or there is none.
pub fn refused(code: CallCode) -> Verdict {
    if !is_offered() {
        return denied(code);
    }
    let status = works("VMCALL", call(u64::from(code.0), 0, 0))? & 0xffff;
    let either = [Status::ACCESS_DENIED, Status::INVALID_HYPERCALL_CODE];
    if either.iter().any(|one| u64::from(one.0) == status) {
        Ok(())
    } else {
        Err(Problem::Differs {
            what: "the status",
            got: status,
            expected: u64::from(Status::ACCESS_DENIED.0),
        })
    }
}

/// A page that L1 has read by the window is exchanged for another; after `flush` the other is seen.
fn sees_change(flush: impl FnOnce() -> Verdict) -> Verdict {
    let pages = [memory::page(), memory::page()];
    memory::write(pages[1], 2u64);
    paging::map(WINDOW, pages[0], PRESENT);
    equal("before", memory::read::<u64>(WINDOW), 0u64)?;
    let entry = [39, 30, 21]
        .iter()
        .fold(cpu::cr3() & !0xfff, |table, shift| {
            memory::read::<u64>(table + (WINDOW >> shift & 511) * 8) & 0x000f_ffff_ffff_f000
        });
    memory::write(entry, pages[1] | PRESENT);
    flush()?;
    equal("after the flush", memory::read::<u64>(WINDOW), 2u64)
}

fn flush() -> Verdict {
    let space = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE.0);
    let list = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST.0);
    sees_change(|| succeeds(call_with(space, &[0, EVERYWHERE, 0])))?;
    // This VP alone, this address space.
    sees_change(|| succeeds(call_with(space, &[cpu::cr3() & !0xfff, 0, 1])))?;
    sees_change(|| {
        let result = call_with(list | ONE_REP, &[0, EVERYWHERE, 0, WINDOW]);
        equal(
            "elements done",
            works("VMCALL", result)? >> 32 & 0xfff,
            1u64,
        )?;
        succeeds(result)
    })
}

fn cluster_ipi() -> Verdict {
    let code = u64::from(CallCode::SEND_SYNTHETIC_CLUSTER_IPI.0);
    reaches_both(|| succeeds(call(code | FAST, u64::from(VECTOR), 3)))
}

/// An interrupt comes on both processors.
fn reaches_both(send: impl FnOnce() -> Verdict) -> Verdict {
    holds(smp::ensure(), "the second processor does not start")?;
    let before = [fault::count_on(0, VECTOR), fault::count_on(1, VECTOR)];
    smp::begin(|_| cpu::halt(), 0);
    cpu::spin(200_000);
    let sent = send();
    cpu::interrupt_window();
    let came = smp::wait_for(|| fault::count_on(1, VECTOR) > before[1]);
    if !came {
        // Whatever went wrong, the second processor must not sleep on.
        apic::send(smp::SECOND, apic::Delivery::Fixed, 0x5a);
    }
    let _ = smp::finish();
    sent?;
    holds(came, "it does not come on the second")?;
    equal("here", fault::count_on(0, VECTOR), before[0] + 1)
}

fn ex_forms() -> Verdict {
    let recommended = words(leaf::RECOMMENDATIONS)[0];
    // One bank of a sparse set, with both processors in it.
    const ONE_BANK: u64 = 1 << 17;
    if recommended >> 2 & 1 != 0 {
        let space = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE_EX.0);
        sees_change(|| succeeds(call_with(space | ONE_BANK, &[0, 2, 0, 1, 3])))?;
        let list = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST_EX.0);
        let input = [0, 2, 0, 1, 3, WINDOW];
        sees_change(|| succeeds(call_with(list | ONE_BANK | ONE_REP, &input)))?;
    }
    if recommended >> 10 & 1 != 0 {
        let code = u64::from(CallCode::SEND_SYNTHETIC_CLUSTER_IPI_EX.0);
        let input = [u64::from(VECTOR), 0, 1, 3];
        reaches_both(|| succeeds(call_with(code | ONE_BANK, &input)))?;
    }
    holds(
        recommended >> 2 & 1 != 0 || recommended >> 10 & 1 != 0,
        "there is nothing to extend",
    )
}

/// A fast call whose third word is in XMM0.
fn three_words() -> Result<u64, Fault> {
    identify();
    let control = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE.0) | FAST;
    let _ = cpu::set_cr4(cpu::cr4() | 1 << 9);
    attempt(|| {
        let result;
        // SAFETY: nothing of the payload's own is in XMM0.
        unsafe {
            asm!("movq xmm0, {mask}", "vmcall", mask = in(reg) 1u64,
                inout("rcx") control => _, inout("rdx") 0u64 => _, inout("r8") 2u64 => _,
                out("rax") result, out("r9") _, out("r10") _, out("r11") _);
        }
        result
    })
}

/// What XMM input is good for: a flush of this VP in all address spaces.
pub fn xmm_input() -> Verdict {
    if words(leaf::RECOMMENDATIONS)[0] >> 2 & 1 == 0 {
        return has_status(three_words(), Status::ACCESS_DENIED);
    }
    sees_change(|| succeeds(three_words()))
}

/// Without it such a call is undefined, whatever its code, unless it is denied.
pub fn no_xmm_input() -> Verdict {
    if is_offered() && words(leaf::RECOMMENDATIONS)[0] >> 2 & 1 == 0 {
        return has_status(three_words(), Status::ACCESS_DENIED);
    }
    faults("VMCALL", three_words(), Fault::UD)
}

/// FlushVirtualAddressList with the flag for large pages, a range of one of 2 MiB.
fn extended() -> Result<u64, Fault> {
    let flags = EVERYWHERE | FlushFlags::new().with_extended_ranges(true).into_bits();
    let list = u64::from(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST.0) | ONE_REP;
    call_with(list, &[0, flags, 0, WINDOW | 1 << 11])
}

/// Ranges of large pages.
pub fn extended_ranges() -> Verdict {
    sees_change(|| succeeds(extended()))
}

/// Without them their flag is wrong.
pub fn no_extended_ranges() -> Verdict {
    if words(leaf::RECOMMENDATIONS)[0] >> 2 & 1 == 0 {
        return denied(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST);
    }
    has_status(extended(), Status::INVALID_PARAMETER)
}

/// Without the recommendation, VM entries mean the current VMCS, of which there is none.
fn no_evmcs() -> Verdict {
    operation::enter();
    let page = memory::page();
    memory::write(page, tlfs::evmcs::VERSION);
    if cpu::rdmsr(Msr::VP_ASSIST_PAGE.0).is_ok() {
        assist::select(page);
    }
    ends("VMLAUNCH", instruction::vmlaunch(), Outcome::FailInvalid)
}
