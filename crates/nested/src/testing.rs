//! Doubles of what the image supplies, which count what is done to them.

extern crate std;

use addr::{Gpa1, Spa};
use core::cell::Cell;
use std::collections::BTreeMap;
use std::vec::Vec;

use vmx::{Allowed, Capabilities, Field, Width};

use crate::access::{Memory, Page, Unbacked, Vmcs};
use crate::caps::default1;
use crate::vmcs12;

/// A processor that has everything hynest could offer and a lot more.
pub fn capable_processor() -> Capabilities {
    let all = |must| Allowed::new(must, u32::MAX);
    Capabilities {
        basic: 0x00da_0400_0000_0004,
        pin: all(default1::PIN),
        primary: all(default1::PRIMARY),
        exit: all(default1::EXIT),
        entry: all(default1::ENTRY),
        misc: 0x7004_c1e7,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x37_67ff,
        vmcs_enum: 0x2e,
        secondary: Allowed::new(0, u32::MAX),
        ept_vpid: 0x0f01_0673_4141,
        true_pin: all(0x16),
        true_primary: all(0x0400_6172),
        true_exit: all(0x0003_6dfb),
        true_entry: all(0x11fb),
        vmfunc: 1,
    }
}

/// A VMCS as a map, with counts of its accesses.
#[derive(Default)]
pub struct FakeVmcs {
    fields: BTreeMap<u32, u64>,
    reads: Cell<usize>,
    written: Vec<Field>,
}

impl FakeVmcs {
    /// Sets a field without counting.
    pub fn set(&mut self, field: Field, value: u64) {
        self.fields.insert(field.encoding(), value);
    }

    /// A field's value without counting.
    pub fn peek(&self, field: Field) -> u64 {
        self.fields.get(&field.encoding()).copied().unwrap_or(0)
    }

    /// The fields written since the last call.
    pub fn take_written(&mut self) -> Vec<Field> {
        core::mem::take(&mut self.written)
    }

    /// The number of reads since the last call.
    pub fn take_reads(&self) -> usize {
        self.reads.take()
    }
}

impl Vmcs for FakeVmcs {
    fn read(&self, field: Field) -> u64 {
        assert!(field.is_known(), "{field:?}");
        self.reads.set(self.reads.get() + 1);
        self.peek(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        assert!(field.is_known(), "{field:?}");
        assert!(vmcs12::is_writable(field), "{field:?}");
        let value = match field.width() {
            Width::U16 => value & 0xffff,
            Width::U32 => value & 0xffff_ffff,
            _ => value,
        };
        self.written.push(field);
        self.set(field, value);
    }
}

/// L1's enlightened VMCS, with counts of its accesses.
pub struct FakePage {
    bytes: [u8; 4096],
    reads: Cell<usize>,
    writes: usize,
}

impl FakePage {
    /// A page of zeroes but for the version.
    pub fn new() -> Self {
        let mut page = Self {
            bytes: [0; 4096],
            reads: Cell::new(0),
            writes: 0,
        };
        page.write_u32(0, 1);
        page.writes = 0;
        page
    }

    /// Stores a field as L1 does, marking its group dirty; not counted.
    pub fn store(&mut self, field: Field, value: u64) {
        use tlfs::evmcs::{CLEAN_FIELDS, CleanFields, Width};
        let slot = vmcs12::place(field.encoding());
        match slot.width {
            Width::U16 => self.write_u16(slot.offset, value as u16),
            Width::U32 => self.write_u32(slot.offset, value as u32),
            Width::U64 => self.write_u64(slot.offset, value),
        }
        let clean = CleanFields::from_raw(self.read_u32(CLEAN_FIELDS));
        self.write_u32(CLEAN_FIELDS, clean.without(slot.group.dirtied()).raw());
        self.reads.set(self.reads.get() - 1);
        self.writes -= 2;
    }

    /// A field without counting.
    pub fn peek(&self, field: Field) -> u64 {
        let value = vmcs12::load(self, &vmcs12::place(field.encoding()));
        self.reads.set(self.reads.get() - 1);
        value
    }

    /// Reads and writes since the last call.
    pub fn take_counts(&mut self) -> (usize, usize) {
        (self.reads.take(), core::mem::take(&mut self.writes))
    }
}

macro_rules! page_access {
    ($read:ident $write:ident $type:ty) => {
        fn $read(&self, offset: u16) -> $type {
            self.reads.set(self.reads.get() + 1);
            let at = offset as usize;
            let bytes = self.bytes[at..at + size_of::<$type>()].try_into();
            <$type>::from_le_bytes(bytes.unwrap())
        }

        fn $write(&mut self, offset: u16, value: $type) {
            self.writes += 1;
            let at = offset as usize;
            self.bytes[at..at + size_of::<$type>()].copy_from_slice(&value.to_le_bytes());
        }
    };
}

impl Page for FakePage {
    page_access!(read_u16 write_u16 u16);
    page_access!(read_u32 write_u32 u32);
    page_access!(read_u64 write_u64 u64);
}

/// Some MiB of L1 memory from address 0.
pub struct FakeMemory(pub Vec<u8>);

impl FakeMemory {
    /// `bytes` of zeroes.
    pub fn new(bytes: usize) -> Self {
        Self(std::vec![0; bytes])
    }

    fn range(&self, at: Gpa1, bytes: usize) -> Result<core::ops::Range<usize>, Unbacked> {
        let start = usize::try_from(at.raw()).map_err(|_| Unbacked(at))?;
        let end = start.checked_add(bytes).ok_or(Unbacked(at))?;
        if end <= self.0.len() {
            Ok(start..end)
        } else {
            Err(Unbacked(at))
        }
    }
}

impl Memory for FakeMemory {
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unbacked> {
        into.copy_from_slice(&self.0[self.range(at, into.len())?]);
        Ok(())
    }

    fn write(&mut self, at: Gpa1, from: &[u8]) -> Result<(), Unbacked> {
        let range = self.range(at, from.len())?;
        self.0[range].copy_from_slice(from);
        Ok(())
    }

    fn machine_page(&self, at: Gpa1) -> Option<Spa> {
        self.range(at.page(), 4096).ok()?;
        Some(Spa::new(at.page().raw() + 0x1_0000_0000))
    }
}

/// A VP of a partition on [`capable_processor`], in VMX operation.
pub fn nested() -> crate::Nested {
    let mut nested = crate::Nested::new(config());
    nested.vmxon = Some(Gpa1::new(0xf000));
    nested
}

/// What such a partition is told.
pub const fn cr4_offered() -> u64 {
    0x37_67ff
}

/// What L1 on [`capable_processor`] is told.
pub fn config() -> crate::Config {
    crate::Config {
        caps: crate::caps::offer(&capable_processor(), cr4_offered()),
        physical_bits: 39,
    }
}
