//! Features of control registers, MSRs, system calls and processors.

use core::arch::{asm, naked_asm};

use crate::groups::audit::walk::{Verdict, equal, faults, holds, works};
use crate::rt::apic::{self, register as reg, timer};
use crate::rt::fault::{self, Fault, attempt};
use crate::rt::{cpu, memory, smp};
use crate::vm::operation;

const VECTOR: u8 = 0x57;

/// An instruction that saves x87 and SSE state at RCX, as a function.
macro_rules! save {
    ($text:literal) => {
        // SAFETY: the area is a page of its own.
        |at| unsafe { asm!($text, in("rcx") at, in("eax") 3, in("edx") 0) }
    };
}

/// The CR4 bit can be set, and is set then.
pub fn cr4_takes(bit: u32) -> Verdict {
    works("setting the bit", cpu::set_cr4(cpu::cr4() | 1 << bit))?;
    equal("the bit", cpu::cr4() >> bit & 1, 1u64)
}

/// The CR4 bit gives #GP.
pub fn cr4_refuses(bit: u32) -> Verdict {
    faults(
        "setting the bit",
        cpu::set_cr4(cpu::cr4() | 1 << bit),
        Fault::GP,
    )
}

/// The MSR does not exist.
pub fn no_msr(msr: u32) -> Verdict {
    faults("RDMSR", cpu::rdmsr(msr), Fault::GP)?;
    faults("WRMSR", cpu::wrmsr(msr, 0), Fault::GP)
}

/// The MSR takes a value and gives it back; then it is what it was.
pub fn msr_keeps(msr: u32, value: u64) -> Verdict {
    let before = works("RDMSR", cpu::rdmsr(msr))?;
    works("WRMSR", cpu::wrmsr(msr, value))?;
    let after = works("RDMSR", cpu::rdmsr(msr));
    works("WRMSR", cpu::wrmsr(msr, before))?;
    equal("the value", after?, value)
}

/// The MSR can only be written.
pub fn msr_takes(msr: u32, value: u64) -> Verdict {
    works("WRMSR", cpu::wrmsr(msr, value))?;
    faults("RDMSR", cpu::rdmsr(msr), Fault::GP)
}

/// With DE, DR4 is no other name of DR6.
pub fn debugging_extensions() -> Verdict {
    // SAFETY: reads a debug register.
    let dr4 = || attempt(|| unsafe { asm!("mov {}, dr4", out(reg) _) });
    works("DR4 without DE", dr4())?;
    cr4_takes(3)?;
    faults("DR4 with DE", dr4(), Fault::UD)
}

/// CR4.TSD keeps RDTSC from ring 3, and only it.
pub fn time_stamp() -> Verdict {
    super::integer::rdtsc()?;
    let from_ring3 = || fault::in_ring3(read_tsc);
    works("RDTSC in ring 3", from_ring3())?;
    cr4_takes(2)?;
    faults("RDTSC in ring 3 with TSD", from_ring3(), Fault::GP)?;
    super::integer::rdtsc()
}

#[unsafe(naked)]
unsafe extern "C" fn read_tsc() {
    naked_asm!("rdtsc", "int 0x80")
}

#[unsafe(naked)]
unsafe extern "C" fn sysenter() {
    naked_asm!("sysenter", "ud2")
}

#[unsafe(naked)]
unsafe extern "C" fn syscall() {
    naked_asm!("syscall", "ud2")
}

/// Where system calls arrive: the way back, if this is ring 0.
#[unsafe(naked)]
unsafe extern "C" fn arrival() {
    naked_asm!("mov rax, cr0", "int 0x80")
}

/// SYSENTER from ring 3 arrives in ring 0.
pub fn system_enter() -> Verdict {
    let stack = memory::page() + memory::PAGE;
    let code = u64::from(crate::rt::segments::CODE);
    works("SYSENTER_CS", cpu::wrmsr(cpu::MSR_SYSENTER_CS, code))?;
    works("SYSENTER_ESP", cpu::wrmsr(cpu::MSR_SYSENTER_ESP, stack))?;
    let entry = arrival as *const () as u64;
    works("SYSENTER_EIP", cpu::wrmsr(cpu::MSR_SYSENTER_EIP, entry))?;
    let arrived = fault::in_ring3(sysenter);
    works("SYSENTER_CS", cpu::wrmsr(cpu::MSR_SYSENTER_CS, 0))?;
    works("SYSENTER", arrived)?;
    faults(
        "SYSENTER without a segment",
        fault::in_ring3(sysenter),
        Fault::GP,
    )
}

const LSTAR: u32 = 0xc000_0082;

/// SYSCALL from ring 3 arrives in ring 0, if EFER.SCE is set.
pub fn system_call() -> Verdict {
    let efer = cpu::msr(cpu::MSR_EFER);
    works("EFER", cpu::wrmsr(cpu::MSR_EFER, efer & !1))?;
    faults("SYSCALL without SCE", fault::in_ring3(syscall), Fault::UD)?;
    let segments = u64::from(crate::rt::segments::CODE) << 32;
    works("STAR", cpu::wrmsr(cpu::MSR_STAR, segments))?;
    works("LSTAR", cpu::wrmsr(LSTAR, arrival as *const () as u64))?;
    works("EFER", cpu::wrmsr(cpu::MSR_EFER, efer | 1))?;
    let arrived = fault::in_ring3(syscall);
    works("EFER", cpu::wrmsr(cpu::MSR_EFER, efer))?;
    works("SYSCALL", arrived)
}

/// The APIC answers to its name.
pub fn local_apic() -> Verdict {
    equal("its identifier", apic::id(), cpu::cpuid(0xb, 0)[3])?;
    let before = fault::count(VECTOR);
    apic::send_self(VECTOR);
    cpu::interrupt_window();
    equal("interrupts", fault::count(VECTOR), before + 1)
}

/// x2APIC mode: this group runs in it.
pub fn x2apic() -> Verdict {
    equal("the mode", cpu::msr(cpu::MSR_APIC_BASE) >> 10 & 3, 3u64)?;
    equal(
        "the identifier",
        works("RDMSR", cpu::rdmsr(0x802))?,
        cpu::cpuid(0xb, 0)[3],
    )?;
    let before = fault::count(VECTOR);
    works("self-IPI", cpu::wrmsr(0x83f, u64::from(VECTOR)))?;
    cpu::interrupt_window();
    equal("interrupts", fault::count(VECTOR), before + 1)
}

/// A TSC deadline wakes from HLT, and not early.
pub fn tsc_deadline() -> Verdict {
    apic::write(reg::LVT_TIMER, timer::TSC_DEADLINE | u32::from(VECTOR));
    let before = fault::count(VECTOR);
    let deadline = cpu::tsc() + 300_000;
    works("arming", cpu::wrmsr(cpu::MSR_TSC_DEADLINE, deadline))?;
    cpu::halt();
    let after = cpu::tsc();
    equal("interrupts", fault::count(VECTOR), before + 1)?;
    holds(after >= deadline, "it came early")
}

/// The APIC timer goes on in HLT, and so does the TSC.
pub fn timer_in_halt() -> Verdict {
    apic::write(reg::DIVIDE, timer::DIVIDE_BY_1);
    apic::write(reg::LVT_TIMER, timer::ONE_SHOT | u32::from(VECTOR));
    let (before, start) = (fault::count(VECTOR), cpu::tsc());
    apic::write(reg::INITIAL_COUNT, 400_000);
    cpu::halt();
    let took = cpu::tsc() - start;
    equal("interrupts", fault::count(VECTOR), before + 1)?;
    // Leaf 0x15 says that they tick alike.
    holds(took >= 400_000, "the timer ran faster than the TSC")
}

/// FS base by instructions.
pub fn fs_gs_base() -> Verdict {
    let read = || {
        attempt(|| {
            let base: u64;
            // SAFETY: reads a base.
            unsafe { asm!("rdfsbase {}", out(reg) base) };
            base
        })
    };
    faults("without CR4.FSGSBASE", read(), Fault::UD)?;
    cr4_takes(16)?;
    let saved = cpu::msr(cpu::MSR_FS_BASE);
    works(
        "WRFSBASE",
        // SAFETY: nothing of the payload's lies by FS.
        attempt(|| unsafe { asm!("wrfsbase {}", in(reg) 0x1234_5000u64) }),
    )?;
    let (by_instruction, by_msr) = (read(), cpu::msr(cpu::MSR_FS_BASE));
    works("FS base", cpu::wrmsr(cpu::MSR_FS_BASE, saved))?;
    equal(
        "RDFSBASE",
        works("RDFSBASE", by_instruction)?,
        0x1234_5000u64,
    )?;
    equal("the MSR", by_msr, 0x1234_5000u64)
}

/// UMIP keeps SGDT from ring 3.
pub fn user_mode_instruction_prevention() -> Verdict {
    #[unsafe(naked)]
    unsafe extern "C" fn store() {
        naked_asm!("sub rsp, 16", "sgdt [rsp]", "int 0x80")
    }
    works("SGDT in ring 3", fault::in_ring3(store))?;
    cr4_takes(11)?;
    faults(
        "SGDT in ring 3 with UMIP",
        fault::in_ring3(store),
        Fault::GP,
    )
}

/// VMXON works.
pub fn vmx() -> Verdict {
    operation::enter();
    let base = cpu::cr4() & !cpu::CR4_VMXE;
    faults(
        "clearing CR4.VMXE in VMX operation",
        cpu::set_cr4(base),
        Fault::GP,
    )
}

/// The second of several processors starts.
pub fn second_processor() -> Verdict {
    holds(
        cpu::cpuid(1, 0)[1] >> 16 & 0xff > 1,
        "leaf 1 has identifiers for one only",
    )?;
    holds(smp::ensure(), "the second does not start")
}

/// What answers where a hypervisor is: the counter port, whatever is offered of Hv#1.
pub fn hypervisor() -> Verdict {
    equal("the counter port", cpu::in32(0x5c0), 0x314e_5948u32)
}

/// The MTRR MSRs that leaf and capability promise.
pub fn mtrr() -> Verdict {
    let capability = works("IA32_MTRRCAP", cpu::rdmsr(0xfe))?;
    msr_keeps(0x2ff, 1 << 11 | 6)?;
    faults("type 2", cpu::wrmsr(0x2ff, 1 << 11 | 2), Fault::GP)?;
    for range in 0..(capability & 0xff) as u32 {
        works("a variable range", cpu::rdmsr(0x200 + 2 * range))?;
    }
    if capability >> 8 & 1 != 0 {
        works("the fixed ranges", cpu::rdmsr(0x250)).map(|_| ())
    } else {
        faults("the fixed ranges", cpu::rdmsr(0x250), Fault::GP)
    }
}

/// The machine-check MSRs, with as many banks as they promise.
pub fn machine_check() -> Verdict {
    let capability = works("IA32_MCG_CAP", cpu::rdmsr(0x179))?;
    works("IA32_MCG_STATUS", cpu::rdmsr(0x17a))?;
    for bank in 0..(capability & 0xff) as u32 {
        works("a bank's status", cpu::rdmsr(0x401 + 4 * bank))?;
    }
    Ok(())
}

/// IA32_PAT takes types that there are, and no others.
pub fn pat() -> Verdict {
    msr_keeps(cpu::MSR_PAT, 0x0007_0406_0107_0406)?;
    faults("type 2", cpu::wrmsr(cpu::MSR_PAT, 2), Fault::GP)
}

/// EFER.LMA is set: this is long mode, with PAE.
pub fn long_mode() -> Verdict {
    equal("EFER.LME and LMA", cpu::msr(cpu::MSR_EFER) >> 8 & 5, 5u64)?;
    holds(cpu::cr4() & cpu::CR4_PAE != 0, "CR4.PAE is clear")
}

const CR4_OSXSAVE: u32 = 18;

/// XGETBV.
fn xgetbv(index: u32) -> Result<u64, Fault> {
    attempt(|| {
        let (low, high): (u32, u32);
        // SAFETY: reads a register; a fault ends up in `attempt`.
        unsafe { asm!("xgetbv", in("ecx") index, out("eax") low, out("edx") high) };
        u64::from(high) << 32 | u64::from(low)
    })
}

/// XSETBV of XCR0.
pub fn xsetbv(value: u64) -> Result<(), Fault> {
    attempt(|| {
        // SAFETY: state that nothing here uses; a fault ends up in `attempt`.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32)
        }
    })
}

/// CR4.OSXSAVE shows in CPUID; XGETBV, XSETBV, XSAVE.
pub fn xsave() -> Verdict {
    faults("XGETBV without OSXSAVE", xgetbv(0), Fault::UD)?;
    save_with(save!("xsave [rcx]"))
}

/// Puts XMM0 into an area by `save` and looks whether it is there.
fn save_with(save: fn(u64)) -> Verdict {
    cr4_takes(CR4_OSXSAVE)?;
    equal("OSXSAVE in leaf 1", cpu::cpuid(1, 0)[2] >> 27 & 1, 1u32)?;
    works("CR4.OSFXSR", cpu::set_cr4(cpu::cr4() | 1 << 9))?;
    works("XSETBV", xsetbv(3))?;
    equal("XCR0", works("XGETBV", xgetbv(0))?, 3u64)?;
    let (area, value) = (memory::page(), 0x1357_9bdf_0246_8aceu64);
    works(
        "MOVQ",
        // SAFETY: nothing of the payload's own is in XMM0.
        attempt(|| unsafe { asm!("movq xmm0, {}", in(reg) value) }),
    )?;
    works("saving", attempt(|| save(area)))?;
    // SAFETY: as above.
    works("PXOR", attempt(|| unsafe { asm!("pxor xmm0, xmm0") }))?;
    equal("XMM0 in the area", memory::read::<u64>(area + 160), value)?;
    let restored = attempt(|| {
        let value: u64;
        let compacted = memory::read::<u64>(area + 520) >> 63 != 0;
        // SAFETY: the area was saved just now, in this form.
        unsafe {
            if compacted && cpu::cpuid(0xd, 1)[0] & 8 != 0 {
                asm!("xrstors [rcx]", in("rcx") area, in("eax") 3, in("edx") 0);
            } else {
                asm!("xrstor [rcx]", in("rcx") area, in("eax") 3, in("edx") 0);
            }
            asm!("movq {}, xmm0", out(reg) value);
        }
        value
    });
    let restored = works("restoring", restored)?;
    works("XSETBV", xsetbv(1))?;
    equal("XMM0 restored", restored, value)
}

/// XSAVEOPT.
pub fn xsaveopt() -> Verdict {
    save_with(save!("xsaveopt [rcx]"))
}

/// XSAVEC.
pub fn xsavec() -> Verdict {
    save_with(save!("xsavec [rcx]"))
}

/// XSAVES and XRSTORS, and IA32_XSS.
pub fn xsaves() -> Verdict {
    equal(
        "IA32_XSS",
        works("RDMSR of IA32_XSS", cpu::rdmsr(0xda0))?,
        0u64,
    )?;
    works("WRMSR of IA32_XSS", cpu::wrmsr(0xda0, 0))?;
    let components = cpu::cpuid(0xd, 1);
    let offered = u64::from(components[2]) | u64::from(components[3]) << 32;
    faults(
        "a component not offered",
        cpu::wrmsr(0xda0, !offered & 1 << 8),
        Fault::GP,
    )?;
    save_with(save!("xsaves [rcx]"))
}

/// XGETBV of 1: which components are in use.
pub fn xgetbv_1() -> Verdict {
    cr4_takes(CR4_OSXSAVE)?;
    let in_use = works("XGETBV", xgetbv(1))?;
    holds(
        in_use & !works("XGETBV", xgetbv(0))? == 0,
        "more in use than enabled",
    )
}

/// XSETBV takes the component with what belongs to it.
pub fn component(bit: u32) -> Verdict {
    cr4_takes(CR4_OSXSAVE)?;
    let with = match bit {
        0 => 1,
        1 => 3,
        3 | 4 => 0x1b,
        5..=7 => 0xe7,
        17 | 18 => 0x6_0003,
        bit => 3 | 1 << bit,
    };
    works("XSETBV", xsetbv(with))?;
    let now = works("XGETBV", xgetbv(0))?;
    works("XSETBV", xsetbv(1))?;
    equal("XCR0", now, with)
}

/// XSETBV refuses the component.
pub fn no_component(bit: u32) -> Verdict {
    cr4_takes(CR4_OSXSAVE)?;
    faults("XSETBV", xsetbv(3 | 1 << bit), Fault::GP)
}

/// An instruction that is not there.
pub fn undefined(instruction: fn()) -> Verdict {
    let came: Result<(), Fault> = attempt(instruction);
    faults("the instruction", came, Fault::UD)
}

/// EFER.NXE cannot be set.
pub fn no_execute_refused() -> Verdict {
    let efer = cpu::msr(cpu::MSR_EFER);
    faults(
        "EFER.NXE",
        cpu::wrmsr(cpu::MSR_EFER, efer | 1 << 11),
        Fault::GP,
    )
}

/// What is added to one of TSC and IA32_TSC_ADJUST is added to the other (SDM vol. 3, 18.17.3).
/// Afterwards both are what they would be.
pub fn tsc_adjust() -> Verdict {
    const FAR: u64 = 1 << 40;
    const SOON: u64 = 1 << 32;
    let before = works("RDMSR", cpu::rdmsr(cpu::MSR_TSC_ADJUST))?;
    let began = cpu::tsc();
    works("WRMSR", cpu::wrmsr(cpu::MSR_TSC_ADJUST, before + FAR))?;
    let ahead = cpu::tsc().wrapping_sub(began);
    works("WRMSR", cpu::wrmsr(cpu::MSR_TSC, cpu::tsc() + FAR))?;
    let twice = cpu::msr(cpu::MSR_TSC_ADJUST).wrapping_sub(before);
    works("WRMSR", cpu::wrmsr(cpu::MSR_TSC_ADJUST, before))?;
    let back = cpu::tsc().wrapping_sub(began);
    equal("what was written", cpu::msr(cpu::MSR_TSC_ADJUST), before)?;
    holds(
        (FAR..FAR + SOON).contains(&ahead),
        "the TSC does not follow",
    )?;
    // The TSC has gone on while it was read and written.
    holds(
        (2 * FAR - SOON..=2 * FAR).contains(&twice),
        "a write of the TSC moves another way",
    )?;
    holds(back < SOON, "the TSC does not come back")
}
