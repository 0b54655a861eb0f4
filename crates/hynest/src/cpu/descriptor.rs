//! Descriptor tables: a flat GDT, one TSS per processor, one shared IDT.

use core::arch::asm;

use super::interrupt;

/// Selector of L0's 64-bit code segment.
pub const CODE: u16 = 8;
/// Selector of L0's data segment.
pub const DATA: u16 = 16;
/// Selector of the processor's TSS.
pub const TSS: u16 = 24;

/// A 64-bit task state segment (SDM vol. 3, 8.7): only its stacks are used.
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

/// A processor's GDT and TSS.
#[repr(C, align(16))]
pub struct Descriptors {
    gdt: [u64; 5],
    tss: TaskState,
}

/// The operand of LGDT and LIDT.
#[repr(C, packed)]
pub struct TablePointer {
    /// The table's bytes, less one.
    pub limit: u16,
    /// Its linear address.
    pub base: u64,
}

/// The bases that VM exits load into the host's registers.
pub struct HostBases {
    /// GDTR.base.
    pub gdt: u64,
    /// IDTR.base.
    pub idt: u64,
    /// TR.base.
    pub tss: u64,
}

impl Descriptors {
    /// Tables with nothing in them yet.
    pub const fn new() -> Self {
        Self {
            gdt: [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0, 0],
            tss: TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: 0,
                reserved3: 0,
                io_map: size_of::<TaskState>() as u16,
            },
        }
    }

    /// Fills the tables in and loads them, with the shared IDT.
    ///
    /// # Safety
    /// `self` stays where it is for as long as the processor runs, and both stacks are its own.
    pub unsafe fn load(&mut self, fault_stack: u64, nmi_stack: u64) {
        self.tss.ist[0] = fault_stack;
        self.tss.ist[1] = nmi_stack;
        let base = &raw const self.tss as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        self.gdt[3] = limit & 0xFFFF
            | (base & 0xFF_FFFF) << 16
            | 0x89 << 40
            | (limit >> 16 & 0xF) << 48
            | (base >> 24 & 0xFF) << 56;
        self.gdt[4] = base >> 32;
        let gdt = TablePointer {
            limit: size_of_val(&self.gdt) as u16 - 1,
            base: &raw const self.gdt as u64,
        };
        let idt = interrupt::table();
        // SAFETY: the tables are valid, and code and data selectors keep their meaning.
        unsafe {
            asm!(
                "lgdt [{gdt}]",
                "lidt [{idt}]",
                "ltr {tss:x}",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ds, {data:e}",
                "mov es, {data:e}",
                "mov ss, {data:e}",
                gdt = in(reg) &gdt,
                idt = in(reg) &idt,
                tss = in(reg) TSS,
                code = const CODE,
                data = in(reg) u32::from(DATA),
                scratch = out(reg) _,
            );
        }
    }
}

/// The running processor's table bases.
pub fn host_bases() -> HostBases {
    let mut gdt = TablePointer { limit: 0, base: 0 };
    let mut idt = TablePointer { limit: 0, base: 0 };
    // SAFETY: SGDT and SIDT write ten bytes each to the two locals.
    unsafe {
        asm!("sgdt [{}]", in(reg) &mut gdt, options(nostack, preserves_flags));
        asm!("sidt [{}]", in(reg) &mut idt, options(nostack, preserves_flags));
    }
    let table = gdt.base as *const u64;
    // SAFETY: `load` made this GDT: five entries, of which 3 and 4 are the TSS's.
    let (low, high) = unsafe { (table.add(3).read(), table.add(4).read()) };
    HostBases {
        gdt: gdt.base,
        idt: idt.base,
        tss: (low >> 16 & 0xFF_FFFF) | (low >> 56) << 24 | high << 32,
    }
}
