//! What L2s are in the middle of when the partition is saved.

use ::vmx::ept::Access;
use ::vmx::{
    BasicExitReason as Reason, EntryControls, ExitControls, Field, PinControls, PrimaryControls,
    SecondaryControls,
};

use crate::rt::cpu::{self, RFLAGS_IF};
use crate::rt::{apic, memory};
use crate::vm::L2;
use crate::vm::guest::code;
use crate::vm::l2::reg;

/// The interrupt that some stages have.
pub const VECTOR: u8 = 0x63;

/// A stage of two L2s' lives.
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Completes an L2, for the side with this number, on its processor.
    pub prepare: fn(&mut L2, usize),
    /// What each side's L2 does.
    pub roles: [Role; 2],
    /// The roles differ: each is taken once by an L2 of either door. The second one sleeps until its
    /// processor is sent [`VECTOR`].
    pub takes_turns: bool,
}

/// What an L2 does.
#[derive(Clone, Copy)]
pub struct Role {
    /// Its code. RAX and RDX are such that `out dx, eax` asks for the save on the first side and for
    /// nothing on the second; `call r8` does that and, on the second side, waits for the other.
    pub code: fn() -> u64,
    /// How it is to exit.
    pub reason: Reason,
    /// The vector in whose handler.
    pub vector: Option<u8>,
}

const fn exits(reason: Reason, code: fn() -> u64) -> Role {
    Role {
        code,
        reason,
        vector: None,
    }
}

const fn takes(vector: u8, code: fn() -> u64) -> Role {
    Role {
        code,
        reason: Reason::Vmcall,
        vector: Some(vector),
    }
}

/// All of them. Each costs a run of the machine for each turn that it takes, so that one is of many
/// things.
pub const ALL: &[Stage] = &[
    both(
        "registers and memory",
        everything,
        exits(Reason::EptViolation, || {
            code!(
                // What is in no VMCS, or that L1's controls do not switch.
                "mov r12, rax",
                "mov r13, rdx",
                "mov cr2, rbx",
                "mov dr0, rbx",
                "mov dr3, r10",
                "movq xmm3, rbp",
                "movq mm5, r9",
                "mov ecx, 0xC0000102",
                "mov eax, ebx",
                "xor edx, edx",
                "wrmsr",
                "mov ecx, 0x277",
                "rdmsr",
                "xor eax, 0x100",
                "wrmsr",
                // Registers that L2 has in part.
                "mov r11, cr0",
                "xor r11d, 0x10000",
                "mov cr0, r11",
                "mov r11, cr4",
                "xor r11d, 0x80",
                "mov cr4, r11",
                "mov r11d, 5",
                "mov cr8, r11",
                // Memory behind L1's tables, and the clock.
                "mov r11, [r9]",
                "mov [r9 + 8], r11",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "mov [r9 + 32], rax",
                "mov rax, r12",
                "mov rdx, r13",
                "std",
                "stc",
                "call r8",
                "setc bl",
                "cld",
                "mov r14, cr2",
                "add rbp, r14",
                "mov r14, dr0",
                "add rbp, r14",
                "mov r14, dr3",
                "add rbp, r14",
                "movq r14, xmm3",
                "add rbp, r14",
                "movq r14, mm5",
                "add rbp, r14",
                "emms",
                "mov ecx, 0xC0000102",
                "rdmsr",
                "mov r11, rax",
                "mov ecx, 0x277",
                "rdmsr",
                "mov r12, rax",
                "mov r13, cr0",
                "mov r14, cr4",
                "mov r15, cr8",
                "mov rsi, [r9]",
                "mov rdi, [r9 + 8]",
                "inc qword ptr [r9 + 16]",
                "add rdi, [r9 + 16]",
                // The clock is ahead as L1 has it, and has gone on, but not by long.
                "mov rcx, [r9 + 32]",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "sub rax, rcx",
                "shr rax, 32",
                "add rdi, rax",
                "shr rcx, 40",
                "xor edx, edx",
                "mov qword ptr [r9 + 32], 0",
                "mov rax, [r10]",
                "mov [r10], rbx",
                "vmcall",
            )
        }),
    ),
    both(
        "interrupt window, no EPT",
        |l2, _| {
            let ept = u64::from(SecondaryControls::ENABLE_EPT.bits());
            l2.modify(Field::SECONDARY_CONTROLS, 0, ept);
            l2.use_primary(PrimaryControls::INTERRUPT_WINDOW_EXITING);
            let page = memory::page();
            memory::write(page, 0x7654_3210_0123_4567u64);
            l2.registers[reg::R9] = page;
        },
        exits(Reason::InterruptWindow, || {
            code!(
                "mov rbx, [r9]",
                "call r8",
                "mov r10, [r9]",
                "inc qword ptr [r9]",
                "mov r11, [r9]",
                "sti",
                "nop",
                "nop",
                "vmcall",
            )
        }),
    ),
    both(
        "NMI window",
        |l2, _| {
            use_pin(l2, PinControls::NMI_EXITING | PinControls::VIRTUAL_NMIS);
            l2.use_primary(PrimaryControls::NMI_WINDOW_EXITING);
            l2.set(Field::GUEST_INTERRUPTIBILITY, BLOCKED_BY_NMI);
        },
        exits(Reason::NmiWindow, || {
            code!(
                "mov rbx, rsp",
                "push 0x10",
                "push rbx",
                "pushfq",
                "push 8",
                "lea rbx, [rip + 2f]",
                "push rbx",
                "call r8",
                "iretq",
                "2: nop",
                "nop",
                "vmcall",
            )
        }),
    ),
    // The NMI comes at IRET, and the interrupt is left.
    both(
        "an NMI and an interrupt wait",
        |l2, number| {
            apic::send_self(VECTOR);
            open_msrs(l2);
            l2.set(Field::GUEST_INTERRUPTIBILITY, BLOCKED_BY_NMI);
            l2.registers[reg::R9] = number as u64;
        },
        takes(2, || {
            code!(
                "mov rbx, rsp",
                "push 0x10",
                "push rbx",
                "pushfq",
                "push 8",
                "lea rbx, [rip + 2f]",
                "push rbx",
                "mov r10, rax",
                "mov r11, rdx",
                "mov ecx, 0x830",
                "mov eax, 0x400",
                "mov edx, r9d",
                "wrmsr",
                "mov rax, r10",
                "mov rdx, r11",
                "xor r10d, r10d",
                "call r8",
                "iretq",
                "2: nop",
                "nop",
                "vmcall",
            )
        }),
    ),
    // The first saves in the middle of a single step; the second sleeps.
    one_each(
        "a single step, and HLT",
        |l2, number| {
            if number == 1 {
                let exiting = u64::from(PrimaryControls::HLT_EXITING.bits());
                l2.modify(Field::PRIMARY_CONTROLS, 0, exiting);
            }
        },
        [
            takes(1, || {
                code!(
                    "pushfq",
                    "or dword ptr [rsp], 0x100",
                    "popfq",
                    "out dx, eax",
                    "nop",
                    "vmcall",
                )
            }),
            takes(VECTOR, || {
                code!("mov byte ptr [rsi], 1", "sti", "hlt", "vmcall")
            }),
        ],
    ),
    // The first saves where nothing is to come between two instructions; the second has never run.
    one_each(
        "behind MOV SS, and an entry into HLT",
        |l2, number| match number {
            0 => {
                apic::send_self(VECTOR);
                l2.registers[reg::RBX] = 0x10;
            }
            _ => {
                l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
                use_pin(l2, PinControls::EXTERNAL_INTERRUPT_EXITING);
                l2.set(Field::GUEST_ACTIVITY_STATE, 1);
            }
        },
        [
            takes(VECTOR, || {
                code!("sti", "mov ss, bx", "out dx, eax", "nop", "nop", "vmcall")
            }),
            exits(Reason::ExternalInterrupt, || code!("vmcall")),
        ],
    ),
];

/// Both L2s go through the stage.
const fn both(name: &'static str, prepare: fn(&mut L2, usize), role: Role) -> Stage {
    Stage {
        name,
        prepare,
        roles: [role, role],
        takes_turns: false,
    }
}

/// Each L2 goes through one of its own. The second sleeps and is woken.
const fn one_each(name: &'static str, prepare: fn(&mut L2, usize), roles: [Role; 2]) -> Stage {
    Stage {
        name,
        prepare,
        roles,
        takes_turns: true,
    }
}

const BLOCKED_BY_NMI: u64 = 8;

fn use_pin(l2: &L2, controls: PinControls) {
    l2.add(Field::PIN_BASED_CONTROLS, u64::from(controls.bits()));
}

/// MSRs are L2's as far as they are L1's.
fn open_msrs(l2: &L2) {
    l2.set(Field::MSR_BITMAP, memory::page());
    l2.use_primary(PrimaryControls::USE_MSR_BITMAPS);
}

/// Something in each place where an L2's state can be.
fn everything(l2: &mut L2, number: usize) {
    const CR4_OSFXSR: u64 = 1 << 9;
    open_msrs(l2);
    l2.add(Field::GUEST_CR4, CR4_OSFXSR);
    l2.set(Field::CR0_GUEST_HOST_MASK, cpu::CR0_TS | cpu::CR0_AM);
    l2.set(Field::CR0_READ_SHADOW, cpu::CR0_AM);
    l2.set(Field::CR4_GUEST_HOST_MASK, cpu::CR4_TSD | cpu::CR4_VMXE);
    l2.set(Field::CR4_READ_SHADOW, cpu::CR4_TSD);
    let virtual_apic = memory::page();
    l2.set(Field::VIRTUAL_APIC_ADDRESS, virtual_apic);
    l2.set(Field::TPR_THRESHOLD, 0);
    l2.set(Field::TSC_OFFSET, 1 << 40);
    l2.use_primary(PrimaryControls::USE_TPR_SHADOW | PrimaryControls::USE_TSC_OFFSETTING);
    let exit = ExitControls::SAVE_EFER | ExitControls::LOAD_EFER;
    l2.modify(Field::EXIT_CONTROLS, 0, u64::from(exit.bits()));
    let entry = EntryControls::LOAD_EFER;
    l2.modify(Field::ENTRY_CONTROLS, 0, u64::from(entry.bits()));
    // A page that lies elsewhere, and one that is not to be written.
    let [here, there, constant] = [0; 3].map(|_| memory::page());
    memory::write(here, 1u64);
    memory::write(there, 0x1357_9bdf_0246_8ace + number as u64);
    memory::write(constant, 3u64);
    l2.ept.map(here, there, Access::RWX);
    l2.ept.protect(constant, Access::READ);
    l2.registers[reg::RBX] = 0x0123_4567_89ab_0000 + number as u64;
    l2.registers[reg::RBP] = 0x0fed_cba9_8765_0000 + number as u64;
    l2.registers[reg::R9] = here;
    l2.registers[reg::R10] = constant;
}
