//! Doubles of what the image supplies, which count what is done to them.

extern crate std;

use addr::{Gpa1, Spa};
use core::cell::Cell;
use std::collections::BTreeMap;
use std::vec::Vec;

use vmx::{Allowed, Capabilities, Field, Width};

use crate::access::{Memory, Page, Unbacked, Vmcs};
use crate::caps::default1;
use crate::shadow_vmcs::{ExitBitmap, ShadowVmcs};
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
    /// IA32_VMX_MISC bit 29.
    is_all_writable: bool,
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

    /// Lets VMWRITE store to every field.
    pub fn allow_all(&mut self) {
        self.is_all_writable = true;
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
        assert!(
            vmcs12::is_writable(field) || self.is_all_writable,
            "{field:?}"
        );
        let value = match field.width() {
            Width::U16 => value & 0xffff,
            Width::U32 => value & 0xffff_ffff,
            _ => value,
        };
        self.written.push(field);
        self.set(field, value);
    }
}

/// A shadow VMCS, as hardware lets L1 at it.
#[derive(Default)]
pub struct FakeShadow {
    pub vmcs: FakeVmcs,
    pub is_attached: bool,
}

impl FakeShadow {
    /// Whether a VMREAD or VMWRITE of `encoding` exits.
    pub fn exits(&self, bitmap: &ExitBitmap, encoding: u32) -> bool {
        !self.is_attached || bitmap[encoding as usize / 64] >> (encoding % 64) & 1 != 0
    }
}

impl ShadowVmcs for FakeShadow {
    type Fields = FakeVmcs;

    fn access<R>(&mut self, access: impl FnOnce(&mut FakeVmcs) -> R) -> R {
        self.vmcs.allow_all();
        access(&mut self.vmcs)
    }

    fn set_attached(&mut self, attached: bool) {
        assert_ne!(self.is_attached, attached);
        self.is_attached = attached;
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

    /// Stores eight bytes whatever the width, as VMREAD to memory does, and
    /// spoils what it may.
    fn save<const OFFSET: u16, const BYTES: u16, V: Vmcs>(&mut self, vmcs: &V, field: Field) {
        let spoiled = 0xa5a5_a5a5_a5a5_a5a5u64;
        let kept = u64::MAX >> (64 - 8 * BYTES);
        self.write_u64(OFFSET, vmcs.read(field) & kept | spoiled & !kept);
    }
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
        enlightenments: u32::MAX,
    }
}

/// A VMCS 12 that passes all checks, much as Linux's KVM writes it.
pub const LINUX: &[(Field, u64)] = &[
    (Field::PIN_BASED_CONTROLS, 0x3f),
    (Field::PRIMARY_CONTROLS, 0xb5a0_6dfa),
    (Field::SECONDARY_CONTROLS, 0x0010_10aa),
    (Field::EXIT_CONTROLS, 0x000b_efff),
    (Field::ENTRY_CONTROLS, 0x0000_53ff),
    (Field::EXCEPTION_BITMAP, 0x0006_0042),
    (Field::MSR_BITMAP, 0x3000),
    (Field::VIRTUAL_APIC_ADDRESS, 0x4000),
    (Field::TSC_OFFSET, 0xffff_ffff_0000_0000),
    (Field::TSC_MULTIPLIER, crate::tsc::ONE),
    (Field::EPT_POINTER, 0x501e),
    (Field::VPID, 1),
    (Field::VMCS_LINK_POINTER, u64::MAX),
    (Field::CR0_GUEST_HOST_MASK, 0xffff_ffff_ffff_fff7),
    (Field::CR4_GUEST_HOST_MASK, 0xffff_ffff_ffff_f871),
    (Field::CR0_READ_SHADOW, 0x8005_0033),
    (Field::CR4_READ_SHADOW, 0x6f0),
    (Field::GUEST_CR0, 0x8005_0033),
    (Field::GUEST_CR3, 0x1_2000),
    (Field::GUEST_CR4, 0x26f0),
    (Field::GUEST_DR7, 0x400),
    (Field::GUEST_RFLAGS, 2),
    (Field::GUEST_RSP, 0xffff_c900_0000_1000),
    (Field::GUEST_RIP, 0xffff_ffff_8100_0000),
    (Field::GUEST_PAT, 0x0007_0406_0007_0406),
    (Field::GUEST_EFER, 0xd01),
    (Field::GUEST_CS_SELECTOR, 0x10),
    (Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b),
    (Field::GUEST_SS_SELECTOR, 0x18),
    (Field::GUEST_SS_ACCESS_RIGHTS, 0xc093),
    (Field::HOST_CR0, 0x8005_0033),
    (Field::HOST_CR3, 0x2_0000),
    (Field::HOST_CR4, 0x26f0),
    (Field::HOST_CS_SELECTOR, 0x10),
    (Field::HOST_SS_SELECTOR, 0x18),
    (Field::HOST_TR_SELECTOR, 0x40),
    (Field::HOST_PAT, 0x0007_0406_0007_0406),
    (Field::HOST_RIP, 0xffff_ffff_c050_0000),
    (Field::HOST_RSP, 0xffff_c900_0040_0000),
    (Field::HOST_FS_BASE, 0x7fff_0000_1000),
    (Field::HOST_GS_BASE, 0xffff_8880_0f00_0000),
    (Field::HOST_TR_BASE, 0xffff_fe00_0000_3000),
    (Field::HOST_GDTR_BASE, 0xffff_fe00_0000_1000),
    (Field::HOST_IDTR_BASE, 0xffff_fe00_0000_0000),
    (Field::HOST_SYSENTER_CS, 0x10),
];

/// An enlightened VMCS with [`LINUX`]'s values, all dirty.
pub fn linux_page() -> FakePage {
    let mut page = FakePage::new();
    for (field, value) in LINUX {
        page.store(*field, *value);
    }
    page
}

/// Where tests put the enlightened VMCS.
pub const EVMCS: Gpa1 = Gpa1::new(0x6000);

/// L0's share of VMCS 02 in tests.
pub fn policy() -> crate::L0Policy {
    use vmx::{EntryControls, PinControls, PrimaryControls, SecondaryControls};
    crate::L0Policy {
        pin: PinControls::EXTERNAL_INTERRUPT_EXITING | PinControls::NMI_EXITING,
        primary: PrimaryControls::ACTIVATE_SECONDARY | PrimaryControls::USE_TSC_OFFSETTING,
        secondary: SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID,
        entry: EntryControls::LOAD_DEBUG_CONTROLS
            | EntryControls::LOAD_PAT
            | EntryControls::LOAD_EFER,
        exception_bitmap: 1 << 18,
        cr0_mask: crate::cr::CR0_CD | crate::cr::CR0_NW,
        cr4_mask: 0,
        tsc: crate::tsc::L1Tsc {
            multiplier: crate::tsc::ONE,
            offset: 0x1000,
        },
        msr_bitmap: Spa::new(0x7_7000),
    }
}

/// How L0 keeps L1's CR0 and CR4 in tests.
pub fn registers() -> crate::L1Registers {
    crate::L1Registers {
        cr0_set: 0x20,
        cr0_clear: crate::cr::CR0_CD | crate::cr::CR0_NW,
        cr4_set: crate::cr::CR4_VMXE,
        cr4_clear: 0,
    }
}

/// A VMRESUME in 64-bit mode.
pub const RESUME: crate::EntryContext = crate::EntryContext {
    is_launch: false,
    is_long_mode: true,
    blocked_by_mov_ss: false,
};

/// A VMLAUNCH in 64-bit mode.
pub const LAUNCH: crate::EntryContext = crate::EntryContext {
    is_launch: true,
    ..RESUME
};

/// A partition in the middle of things: VMCSs, L1's page and memory.
pub struct Scene {
    pub nested: crate::Nested,
    pub vmcs01: FakeVmcs,
    pub vmcs02: FakeVmcs,
    pub page: FakePage,
    pub memory: FakeMemory,
}

impl Scene {
    /// Before L1's first entry with [`linux_page`].
    pub fn new() -> Self {
        let mut vmcs01 = FakeVmcs::default();
        vmcs01.set(Field::GUEST_EFER, 0xd01);
        Self {
            nested: nested(),
            vmcs01,
            vmcs02: FakeVmcs::default(),
            page: linux_page(),
            memory: FakeMemory::new(0x1_0000),
        }
    }

    /// After L1's first entry; counters are reset.
    pub fn entered() -> Self {
        let mut scene = Self::new();
        scene.prepare(&LAUNCH).unwrap();
        scene.merge();
        scene.reset();
        scene
    }

    /// After an exit for CPUID that L1 saw; counters are reset.
    pub fn reflected() -> Self {
        let mut scene = Self::entered();
        scene.exit(10);
        scene.reset();
        scene
    }

    /// Takes up L1's page.
    pub fn prepare(&mut self, context: &crate::EntryContext) -> Result<(), crate::EntryFailure> {
        self.nested
            .prepare_enlightened(EVMCS, &mut self.page, &self.memory, context, &registers())
    }

    /// Carries what changed to VMCS 02.
    pub fn merge(&mut self) -> crate::Merged {
        self.merge_with(&policy())
    }

    /// The same where L0 asks for something else.
    pub fn merge_with(&mut self, policy: &crate::L0Policy) -> crate::Merged {
        let carry = self.nested.carry_in(&self.vmcs01);
        self.nested
            .merge(&mut self.vmcs02, policy, &carry, &self.memory)
    }

    /// Reflects a hardware exit for `reason` to L1.
    pub fn exit(&mut self, reason: u64) {
        self.vmcs02.set(Field::EXIT_REASON, reason);
        let reason = self.reason();
        self.nested
            .reflect_enlightened(reason, &self.vmcs02, &mut self.page);
        let _ = self.nested.load_host(&mut self.vmcs01, false);
    }

    /// The reason of the last exit of VMCS 02.
    pub fn reason(&self) -> vmx::ExitReason {
        vmx::ExitReason::from_raw(self.vmcs02.peek(Field::EXIT_REASON) as u32)
    }

    /// Forgets what was counted.
    pub fn reset(&mut self) {
        self.page.take_counts();
        self.vmcs01.take_reads();
        self.vmcs02.take_reads();
        self.vmcs01.take_written();
        self.vmcs02.take_written();
    }
}
