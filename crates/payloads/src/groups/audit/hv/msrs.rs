//! Leaf 0x40000003: the MSRs and hypercalls that a partition may use.

use tlfs::hypercall::CallCode;
use tlfs::msr::Msr;
use tlfs::page::assist::APIC_ASSIST;

use super::super::cpuid::no_msr;
use super::super::walk::{Exercise, Verdict, equal, faults, holds, works};
use super::{Find, calls};
use crate::rt::apic::{self, register, timer};
use crate::rt::fault::{self, Fault};
use crate::rt::{cpu, memory, smp};

const VECTOR: u8 = 0x58;

/// Leaf 0x40000003, EBX:EAX: the privilege mask.
pub fn privilege(bit: u32) -> Find {
    let exercise = match bit {
        1 => Exercise::works("TIME_REF_COUNT rises, cannot be written", reference_count),
        3 => Exercise::works("a timer comes, not early", timers),
        4 => Exercise::works("TPR, ICR, EOI, VP_ASSIST_PAGE", interrupt_control),
        5 => Exercise::works("GUEST_OS_ID, a call by the page", hypercall_page),
        6 => Exercise::works("0 here, 1 on the second processor", vp_index),
        7 => Exercise::works("RESET reads 0; a reset is a run of its own", reset),
        9 => Exercise::works("the page and TIME_REF_COUNT agree", reference_page),
        10 => Exercise::works("reading waits for an interrupt", guest_idle),
        11 => Exercise::works("TSC_FREQUENCY is leaf 0x15's", frequencies),
        13 => Exercise::works(
            "the three MSRs; a change is a run of its own",
            reenlightenment,
        ),
        _ => Exercise::default(),
    };
    Some(match bit {
        0 => exercise.or_refused("VP_RUNTIME is no MSR", || no_msr(Msr::VP_RUNTIME.0)),
        1 => exercise.or_refused("TIME_REF_COUNT is no MSR", || no_msr(Msr::TIME_REF_COUNT.0)),
        2 => exercise.or_refused("SCONTROL to EOM, SINTs are none", || {
            no_msrs(Msr::SCONTROL, Msr::EOM)?;
            no_msrs(Msr::SINT0, Msr(Msr::SINT0.0 + 15))
        }),
        3 => exercise.or_refused("STIMER0 to STIMER3 are none", || {
            no_msrs(Msr::STIMER0_CONFIG, Msr::STIMER3_COUNT)
        }),
        4 => exercise.or_refused("EOI to VP_ASSIST_PAGE are none", || {
            no_msrs(Msr::EOI, Msr::VP_ASSIST_PAGE)
        }),
        5 => exercise.or_refused(
            "GUEST_OS_ID, HYPERCALL are none, VMCALL is undefined",
            || {
                no_msrs(Msr::GUEST_OS_ID, Msr::HYPERCALL)?;
                faults("VMCALL", calls::vmcall(0, 0, 0), Fault::UD)
            },
        ),
        6 => exercise.or_refused("VP_INDEX is no MSR", || no_msr(Msr::VP_INDEX.0)),
        7 => exercise.or_refused("RESET is no MSR", || no_msr(Msr::RESET.0)),
        8 => exercise.or_refused("the statistics pages' MSRs are none", || {
            no_msrs(Msr(0x4000_00e0), Msr(0x4000_00e3))
        }),
        9 => exercise.or_refused("REFERENCE_TSC is no MSR", || no_msr(Msr::REFERENCE_TSC.0)),
        10 => exercise.or_refused("GUEST_IDLE is no MSR", || no_msr(Msr::GUEST_IDLE.0)),
        11 => exercise.or_refused("both MSRs are none", || {
            no_msrs(Msr::TSC_FREQUENCY, Msr::APIC_FREQUENCY)
        }),
        12 => exercise.or_refused("the debugging MSRs are none", || {
            no_msrs(Msr(0x4000_00f1), Msr(0x4000_00f5))
        }),
        13 => exercise.or_refused("the three MSRs are none", || {
            no_msrs(Msr::REENLIGHTENMENT_CONTROL, Msr::TSC_EMULATION_STATUS)
        }),
        15 => exercise.or_refused("the MSR is none", || no_msr(Msr::TSC_INVARIANT_CONTROL.0)),
        32 => refused_call::<0x40>(),
        33 => refused_call::<0x46>(),
        34 => refused_call::<0x48>(),
        36 => refused_call::<{ CallCode::POST_MESSAGE.0 }>(),
        37 => refused_call::<{ CallCode::SIGNAL_EVENT.0 }>(),
        38 => refused_call::<0x57>(),
        39 => refused_call::<0x5a>(),
        43 => refused_call::<0x69>(),
        48 => refused_call::<0x0d>(),
        49 => refused_call::<{ CallCode::GET_VP_REGISTERS.0 }>(),
        52 => refused_call::<{ CallCode::EXT_QUERY_CAPABILITIES.0 }>(),
        53 => refused_call::<0x99>(),
        _ => return None,
    })
}

fn refused_call<const CODE: u16>() -> Exercise {
    Exercise::refused("its hypercall is refused", || {
        calls::refused(CallCode(CODE))
    })
}

/// Leaf 0x40000003, EDX.
pub fn feature(bit: u32) -> Find {
    Some(match bit {
        4 => Exercise::works("a fast call with a word in XMM0", calls::xmm_input).or_refused(
            "a fast call with more than two words is undefined",
            calls::no_xmm_input,
        ),
        5 => Exercise::works("reading GUEST_IDLE waits", guest_idle)
            .or_refused("GUEST_IDLE is no MSR", || no_msr(Msr::GUEST_IDLE.0)),
        8 => Exercise::works("TSC_FREQUENCY is leaf 0x15's", frequencies)
            .or_refused("both MSRs are none", || {
                no_msrs(Msr::TSC_FREQUENCY, Msr::APIC_FREQUENCY)
            }),
        10 => Exercise::works(
            "P0 to P4 keep, CTL tells; a crash is a run of its own",
            crash,
        )
        .or_refused("CRASH_P0 to CRASH_CTL are none", || {
            no_msrs(Msr::CRASH_P0, Msr::CRASH_CTL)
        }),
        11 => Exercise::refused("the debugging MSRs are none", || {
            no_msrs(Msr(0x4000_00f1), Msr(0x4000_00f5))
        }),
        12 => Exercise::refused("NPIEP_CONFIG is no MSR", || no_msr(Msr::NPIEP_CONFIG.0)),
        14 => Exercise::works("a range of a large page", calls::extended_ranges).or_refused(
            "the flag is an invalid parameter",
            calls::no_extended_ranges,
        ),
        18 => Exercise::refused("the bit does not stay", || {
            if !super::is_offered() {
                return Ok(());
            }
            calls::identify();
            works("HYPERCALL", cpu::wrmsr(Msr::HYPERCALL.0, 2))?;
            equal("the MSR", cpu::msr(Msr::HYPERCALL.0) & 2, 0u64)
        }),
        19 => Exercise::works("a timer asserts its vector", timers).or_refused(
            "a configuration for it gives #GP",
            || {
                faults(
                    "STIMER0_CONFIG",
                    cpu::wrmsr(Msr::STIMER0_CONFIG.0, DIRECT),
                    Fault::GP,
                )
            },
        ),
        23 => Exercise::refused("its MSRs are none", || {
            no_msrs(Msr::TIME_UNHALTED_CONFIG, Msr::TIME_UNHALTED_COUNT)
        }),
        _ => return None,
    })
}

/// From the first to the last of them, none exists.
fn no_msrs(first: Msr, last: Msr) -> Verdict {
    (first.0..=last.0).try_for_each(no_msr)
}

/// The reference time.
fn now() -> u64 {
    cpu::msr(Msr::TIME_REF_COUNT.0)
}

fn reference_count() -> Verdict {
    let (start, tsc) = (
        works("RDMSR", cpu::rdmsr(Msr::TIME_REF_COUNT.0))?,
        cpu::tsc(),
    );
    cpu::spin(1_000_000);
    let (took, ticks) = (now() - start, cpu::tsc() - tsc);
    let hertz = u64::from(cpu::cpuid(0x15, 0)[2]);
    let expected = ticks * 10_000 / (hertz / 1000);
    holds(
        took.abs_diff(expected) * 20 <= expected,
        "another rate than the TSC's",
    )?;
    faults("WRMSR", cpu::wrmsr(Msr::TIME_REF_COUNT.0, 0), Fault::GP)
}

/// Enabled when the count is written, direct, with the vector.
const DIRECT: u64 = 1 << 3 | (VECTOR as u64) << 4 | 1 << 12;

fn timers() -> Verdict {
    for n in 0..4 {
        let (config, count) = (Msr::STIMER0_CONFIG.0 + 2 * n, Msr::STIMER0_COUNT.0 + 2 * n);
        let before = fault::count(VECTOR);
        works("the configuration", cpu::wrmsr(config, DIRECT))?;
        let deadline = now() + 200;
        works("the count", cpu::wrmsr(count, deadline))?;
        let came = smp::wait_for(|| {
            cpu::interrupt_window();
            fault::count(VECTOR) > before
        });
        let at = now();
        works("the configuration", cpu::wrmsr(config, 0))?;
        holds(came, "it does not come")?;
        holds(at >= deadline, "it comes early")?;
    }
    Ok(())
}

/// An interrupt that L1 ends by its VP assist page, if it `is_offered`, or by nothing but an EOI.
pub fn eoi_assist(is_offered: bool) -> Verdict {
    let page = memory::page();
    // Without the page's MSR there is no page, and the bit stays clear all the same.
    let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, page | 1);
    fault::set_automatic_eoi(false);
    apic::send_self(VECTOR);
    cpu::interrupt_window();
    let bit = memory::read::<u32>(page + APIC_ASSIST) & 1;
    memory::write(page + APIC_ASSIST, 0u32);
    let served = apic::is_in_service(VECTOR);
    apic::eoi();
    let _ = cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, 0);
    equal("no EOI is required", bit, u32::from(is_offered))?;
    equal("in service without EOI", served, !is_offered)
}

fn interrupt_control() -> Verdict {
    works("TPR", cpu::wrmsr(Msr::TPR.0, 0x40))?;
    equal("the APIC's TPR", apic::read(register::TPR), 0x40u32)?;
    apic::write(register::TPR, 0x20);
    equal(
        "the TPR MSR",
        works("TPR", cpu::rdmsr(Msr::TPR.0))?,
        0x20u64,
    )?;
    apic::write(register::TPR, 0);
    fault::set_automatic_eoi(false);
    let before = fault::count(VECTOR);
    let id = u64::from(apic::id());
    works("ICR", cpu::wrmsr(Msr::ICR.0, id << 56 | u64::from(VECTOR)))?;
    cpu::interrupt_window();
    let served = apic::is_in_service(VECTOR);
    let ended = cpu::wrmsr(Msr::EOI.0, 0);
    equal("interrupts by ICR", fault::count(VECTOR), before + 1)?;
    equal("in service before EOI", served, true)?;
    works("EOI", ended)?;
    equal("in service after EOI", apic::is_in_service(VECTOR), false)?;
    faults("reading EOI", cpu::rdmsr(Msr::EOI.0), Fault::GP)?;
    let page = memory::page();
    works(
        "VP_ASSIST_PAGE",
        cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, page | 1),
    )?;
    let value = cpu::msr(Msr::VP_ASSIST_PAGE.0);
    works("VP_ASSIST_PAGE", cpu::wrmsr(Msr::VP_ASSIST_PAGE.0, 0))?;
    equal("VP_ASSIST_PAGE", value, page | 1)
}

fn hypercall_page() -> Verdict {
    works("GUEST_OS_ID", cpu::wrmsr(Msr::GUEST_OS_ID.0, 0))?;
    faults("VMCALL without identity", calls::vmcall(0, 0, 0), Fault::UD)?;
    calls::identify();
    let page = memory::page();
    works("HYPERCALL", cpu::wrmsr(Msr::HYPERCALL.0, page | 1))?;
    let result = fault::attempt(|| {
        let result: u64;
        // SAFETY: the page holds VMCALL and RET.
        unsafe {
            core::arch::asm!("call {page}", page = in(reg) page, inout("rcx") 0xffffu64 => _,
                inout("rdx") 0u64 => _, inout("r8") 0u64 => _, out("rax") result);
        }
        result
    });
    works("HYPERCALL", cpu::wrmsr(Msr::HYPERCALL.0, 0))?;
    equal(
        "the result of a call there is not",
        works("the call", result)? & 0xffff,
        2u64,
    )
}

fn vp_index() -> Verdict {
    equal("here", works("RDMSR", cpu::rdmsr(Msr::VP_INDEX.0))?, 0u64)?;
    faults("WRMSR", cpu::wrmsr(Msr::VP_INDEX.0, 0), Fault::GP)?;
    holds(smp::ensure(), "the second processor does not start")?;
    let at = memory::page();
    memory::write(at, u64::MAX);
    let ran = smp::run(|at| memory::write(at, cpu::msr(Msr::VP_INDEX.0)), at);
    holds(ran == Some(Ok(())), "the second processor does not answer")?;
    equal("there", memory::read::<u64>(at), 1u64)
}

/// What of RESET leaves the partition as it is.
pub fn reset() -> Verdict {
    equal("RESET", works("RDMSR", cpu::rdmsr(Msr::RESET.0))?, 0u64)?;
    works("WRMSR of 0", cpu::wrmsr(Msr::RESET.0, 0))
}

fn reference_page() -> Verdict {
    let page = memory::page();
    works("REFERENCE_TSC", cpu::wrmsr(Msr::REFERENCE_TSC.0, page | 1))?;
    let by_page = || {
        let (scale, offset): (u64, u64) = (memory::read(page + 8), memory::read(page + 16));
        (((u128::from(cpu::tsc()) * u128::from(scale)) >> 64) as u64).wrapping_add(offset)
    };
    let sequence = memory::read::<u32>(page);
    let (first, between, last) = (by_page(), now(), by_page());
    works("REFERENCE_TSC", cpu::wrmsr(Msr::REFERENCE_TSC.0, 0))?;
    holds(sequence != 0, "the page is not valid")?;
    holds((first..=last).contains(&between), "another time by the MSR")
}

fn guest_idle() -> Verdict {
    apic::write(register::DIVIDE, timer::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, u32::from(VECTOR));
    apic::write(register::INITIAL_COUNT, 400_000);
    works("RDMSR", cpu::rdmsr(Msr::GUEST_IDLE.0))?;
    let requested = apic::is_requested(VECTOR);
    cpu::interrupt_window();
    equal("an interrupt requested", requested, true)
}

fn frequencies() -> Verdict {
    let tsc = works("TSC_FREQUENCY", cpu::rdmsr(Msr::TSC_FREQUENCY.0))?;
    let apic = works("APIC_FREQUENCY", cpu::rdmsr(Msr::APIC_FREQUENCY.0))?;
    let [denominator, numerator, hertz, _] = cpu::cpuid(0x15, 0);
    equal("the APIC timer's", apic, hertz)?;
    let expected = u64::from(hertz) * u64::from(numerator) / u64::from(denominator.max(1));
    equal("the TSC's", tsc, expected)?;
    faults("WRMSR", cpu::wrmsr(Msr::TSC_FREQUENCY.0, 0), Fault::GP)
}

fn reenlightenment() -> Verdict {
    let (control, emulation) = (Msr::REENLIGHTENMENT_CONTROL.0, Msr::TSC_EMULATION_CONTROL.0);
    let status = Msr::TSC_EMULATION_STATUS.0;
    for (msr, values) in [
        (control, [1 << 32 | 1 << 16 | u64::from(VECTOR), 0]),
        (emulation, [1, 0]),
    ] {
        for value in values {
            works("WRMSR", cpu::wrmsr(msr, value))?;
            equal("what was written", works("RDMSR", cpu::rdmsr(msr))?, value)?;
        }
    }
    equal("no emulation", works("RDMSR", cpu::rdmsr(status))?, 0u64)?;
    works("acknowledging nothing", cpu::wrmsr(status, 0))?;
    faults("beginning one", cpu::wrmsr(status, 1), Fault::GP)?;
    faults("a reserved bit", cpu::wrmsr(emulation, 2), Fault::GP)?;
    faults("a reserved bit", cpu::wrmsr(control, 1 << 17), Fault::GP)
}

fn crash() -> Verdict {
    for (n, msr) in (Msr::CRASH_P0.0..=Msr::CRASH_P4.0).enumerate() {
        works("a parameter", cpu::wrmsr(msr, 0x1000 + n as u64))?;
        equal(
            "a parameter",
            works("a parameter", cpu::rdmsr(msr))?,
            0x1000 + n as u64,
        )?;
    }
    let control = works("CRASH_CTL", cpu::rdmsr(Msr::CRASH_CTL.0))?;
    equal("CRASH_CTL", control >> 62, 3u64)?;
    works("CRASH_CTL without a crash", cpu::wrmsr(Msr::CRASH_CTL.0, 0))
}
