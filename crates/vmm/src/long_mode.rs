//! A vCPU's system registers for a start in 64-bit mode with flat segments.

use kvm_bindings::{kvm_segment, kvm_sregs};

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Selector of the code segment, as the Linux boot protocol wants it (`__BOOT_CS`).
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segments (`__BOOT_DS`).
pub const DATA_SELECTOR: u16 = 0x18;

/// The GDT that [`CODE_SELECTOR`] and [`DATA_SELECTOR`] select from: two empty
/// descriptors, 64-bit code, flat data. All are marked accessed: the processor
/// writes nothing when they are loaded.
pub const GDT: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Changes `sregs`, as KVM gives them for a fresh vCPU, into those of a CPU in
/// 64-bit mode at CPL 0 that uses the tables at `cr3`, the GDT at `gdt` and, when
/// `idt` is not `None`, a full IDT there.
pub fn enter(sregs: &mut kvm_sregs, cr3: u64, gdt: u64, idt: Option<u64>) {
    // 11: code, readable, accessed; 3: data, writable, accessed.
    sregs.cs = flat(CODE_SELECTOR, 11, true);
    let data = flat(DATA_SELECTOR, 3, false);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.gdt.base = gdt;
    sregs.gdt.limit = (GDT.len() * 8 - 1) as u16;
    sregs.idt.base = idt.unwrap_or(0);
    // Without an IDT any exception becomes a triple fault, which the vmm sees.
    sregs.idt.limit = if idt.is_some() { 256 * 16 - 1 } else { 0 };
    sregs.cr3 = cr3;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.efer = EFER_LME | EFER_LMA;
}
