//! GDT and task-state segments.

use core::arch::asm;

use super::{cpu, memory};

/// Selector of 64-bit code.
pub const CODE: u16 = 0x08;
/// Selector of data.
pub const DATA: u16 = 0x10;
/// Selector of the first processor's TSS; the others follow, 16 bytes apart.
pub const TSS: u16 = 0x30;

const ENTRIES: usize = 6 + 2 * cpu::MAX;
/// Null, code, data, 32-bit code for compatibility mode (0x18), ring 3's data (0x23) and code
/// (0x2b), and a TSS for each processor.
static mut GDT: [u64; ENTRIES] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_9B00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
    0,
    0,
    0,
    0,
];

/// Bytes of a TSS without an I/O bitmap.
const TSS_LIMIT: u64 = 0x67;
#[repr(C, align(16))]
struct TaskState([u8; 0x80]);
static mut TASKS: [TaskState; cpu::MAX] = [const { TaskState([0; 0x80]) }; cpu::MAX];

const STACK: usize = 16384;
#[repr(C, align(16))]
struct Stack([u8; STACK]);
/// For traps from ring 3 and for #DF, so that neither lands on the stack of the test.
static mut TRAP_STACKS: [[Stack; 2]; cpu::MAX] =
    [const { [const { Stack([0; STACK]) }; 2] }; cpu::MAX];

/// What LGDT, LIDT, SGDT and SIDT use.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
pub struct TablePointer {
    /// Bytes less one.
    pub limit: u16,
    /// The linear address.
    pub base: u64,
}

/// The GDT's address.
pub fn gdt() -> u64 {
    (&raw const GDT) as u64
}

/// The address of a processor's TSS.
pub fn task_state(number: usize) -> u64 {
    (&raw const TASKS) as u64 + (number * size_of::<TaskState>()) as u64
}

/// The selector of a processor's TSS.
pub const fn task_selector(number: usize) -> u16 {
    TSS + 16 * number as u16
}

/// Loads the GDT and the task register of this processor, as number `number`.
pub fn load(number: usize) {
    let task = task_state(number);
    let stacks = (&raw const TRAP_STACKS) as u64 + (number * 2 * STACK) as u64;
    memory::write(task + 4, stacks + STACK as u64);
    memory::write(task + 36, stacks + 2 * STACK as u64);
    memory::write(task + 102, 0x68u16);
    let descriptor = gdt() + u64::from(task_selector(number));
    let low = TSS_LIMIT | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
    memory::write(descriptor, low);
    memory::write(descriptor + 8, task >> 32);
    let pointer = TablePointer {
        limit: (ENTRIES * 8 - 1) as u16,
        base: gdt(),
    };
    // SAFETY: the same flat segments as before, at the same selectors, and a TSS just made.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "ltr {task:x}",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            pointer = in(reg) &raw const pointer,
            task = in(reg) task_selector(number),
            data = in(reg) u32::from(DATA),
        );
    }
}
