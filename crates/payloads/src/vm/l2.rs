//! An L2 processor.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use tlfs::evmcs::{self, CleanFields};
use vmx::{
    AccessRights, Capabilities, EntryControls, ExitControls, Field, PrimaryControls,
    SecondaryControls, ept_vpid,
};

use super::ept::Ept;
use super::{Door, Outcome, assist, door, guest, instruction, operation};
use crate::rt::fault::{self, attempt};
use crate::rt::{cpu, memory, segments};

global_asm!(include_str!("run.s"));

unsafe extern "C" {
    fn vm_enter(registers: *mut u64, launch: u64, area: u64) -> u64;
    fn vm_exit();
}

/// Where HOST_RSP points: room for a push below it, then what the exit code needs.
#[repr(C, align(16))]
struct ExitArea {
    room: [u64; 14],
    registers: u64,
    stack: u64,
}
const AREA_TOP: u64 = 14 * 8;
static mut AREAS: [ExitArea; cpu::MAX] = [const {
    ExitArea {
        room: [0; 14],
        registers: 0,
        stack: 0,
    }
}; cpu::MAX];

/// The current VMCS of each processor, as far as this module made it so.
static CURRENT: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(0) }; cpu::MAX];

/// Numbers of the general registers in [`L2::registers`].
pub mod reg {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8.
    pub const R8: usize = 8;
    /// R9.
    pub const R9: usize = 9;
    /// R10.
    pub const R10: usize = 10;
    /// R11.
    pub const R11: usize = 11;
}

/// An L2 processor, with everything set for 64-bit code in L1's address space.
pub struct L2 {
    door: Door,
    /// The VMCS or enlightened VMCS.
    pub page: u64,
    launched: bool,
    /// General registers by their number; RSP's place is unused.
    pub registers: [u64; 16],
    /// The capabilities that the controls were made from.
    pub caps: Capabilities,
    /// L2's stack: its top.
    pub stack: u64,
    /// L2's IDT.
    pub idt: u64,
    /// The extended page tables: the first 4 GiB one to one.
    pub ept: Ept,
}

impl L2 {
    /// An L2 that runs `code` in L1's address space, on EPT tables that map one to one, with the
    /// fewest controls; VMX operation is entered if need be.
    pub fn new(code: u64) -> Self {
        Self::with_ept(code, Ept::identity())
    }

    /// As [`L2::new`], on given EPT tables.
    pub fn with_ept(code: u64, ept: Ept) -> Self {
        if cpu::cr4() & cpu::CR4_VMXE == 0 {
            operation::enter();
            CURRENT[cpu::number()].store(0, Ordering::Relaxed);
        }
        let caps = operation::capabilities();
        // The tables' pages may have been other tables before.
        forget_translations(&caps);
        let page = memory::page();
        let door = door();
        let revision = match door {
            Door::Plain => caps.revision(),
            Door::Enlightened => evmcs::VERSION,
        };
        memory::write(page, revision);
        let mut l2 = Self {
            door,
            page,
            launched: false,
            registers: [0; 16],
            caps,
            stack: memory::page() + memory::PAGE - 64,
            idt: guest::idt(),
            ept,
        };
        l2.clear();
        l2.set_controls();
        l2.set_host();
        l2.set_guest(code);
        l2
    }

    /// VMCLEAR: the next entry launches.
    pub fn clear(&mut self) {
        let outcome = instruction::vmclear(self.page);
        assert!(outcome == Outcome::Success, "VMCLEAR: {outcome:?}");
        self.launched = false;
        CURRENT[cpu::number()].store(0, Ordering::Relaxed);
    }

    /// Makes this L2 the one that VMREAD, VMWRITE and VM entries mean.
    pub fn activate(&self) {
        let current = &CURRENT[cpu::number()];
        match self.door {
            Door::Plain => {
                assist::deselect();
                if current.load(Ordering::Relaxed) != self.page {
                    let outcome = instruction::vmptrld(self.page);
                    assert!(outcome == Outcome::Success, "VMPTRLD: {outcome:?}");
                    current.store(self.page, Ordering::Relaxed);
                }
            }
            Door::Enlightened => assist::select(self.page),
        }
    }

    /// Whether this L2 is described by an enlightened VMCS.
    pub fn is_enlightened(&self) -> bool {
        self.door == Door::Enlightened
    }

    /// Writes a field; in an enlightened VMCS, and clears its group's clean bit.
    pub fn set(&self, field: Field, value: u64) {
        match self.door {
            Door::Plain => {
                self.activate();
                let outcome = instruction::vmwrite(field, value);
                assert!(
                    outcome == Outcome::Success,
                    "VMWRITE {field:?}: {outcome:?}"
                );
            }
            Door::Enlightened => {
                self.store(field, value);
                if let Some(slot) = evmcs::slot(field.encoding()) {
                    let clean = CleanFields::from_raw(memory::read(self.clean_fields()));
                    memory::write(
                        self.clean_fields(),
                        clean.without(slot.group.dirtied()).raw(),
                    );
                }
            }
        }
    }

    /// Stores a field in an enlightened VMCS without touching the clean bits.
    pub fn store(&self, field: Field, value: u64) {
        let slot = evmcs::slot(field.encoding());
        assert!(slot.is_some(), "{field:?} has no place in the page");
        if let Some(slot) = slot {
            let at = self.page + u64::from(slot.offset);
            match slot.width {
                evmcs::Width::U16 => memory::write(at, value as u16),
                evmcs::Width::U32 => memory::write(at, value as u32),
                evmcs::Width::U64 => memory::write(at, value),
            }
        }
    }

    /// Where the clean-fields word of an enlightened VMCS lies.
    pub fn clean_fields(&self) -> u64 {
        self.page + u64::from(evmcs::CLEAN_FIELDS)
    }

    /// Reads a field.
    pub fn get(&self, field: Field) -> u64 {
        match self.door {
            Door::Plain => {
                self.activate();
                let result = instruction::vmread(field);
                assert!(result.is_ok(), "VMREAD {field:?}: {result:?}");
                result.unwrap_or(0)
            }
            Door::Enlightened => {
                let slot = evmcs::slot(field.encoding());
                assert!(slot.is_some(), "{field:?} has no place in the page");
                slot.map_or(0, |slot| {
                    let at = self.page + u64::from(slot.offset);
                    match slot.width {
                        evmcs::Width::U16 => u64::from(memory::read::<u16>(at)),
                        evmcs::Width::U32 => u64::from(memory::read::<u32>(at)),
                        evmcs::Width::U64 => memory::read(at),
                    }
                })
            }
        }
    }

    /// Sets and clears bits of a field.
    pub fn modify(&self, field: Field, set: u64, clear: u64) {
        self.set(field, self.get(field) & !clear | set);
    }

    /// Sets bits of a field.
    pub fn add(&self, field: Field, bits: u64) {
        self.modify(field, bits, 0);
    }

    /// Sets primary controls.
    pub fn use_primary(&self, controls: PrimaryControls) {
        self.add(Field::PRIMARY_CONTROLS, u64::from(controls.bits()));
    }

    /// Sets secondary controls.
    pub fn use_secondary(&self, controls: SecondaryControls) {
        self.use_primary(PrimaryControls::ACTIVATE_SECONDARY);
        self.add(Field::SECONDARY_CONTROLS, u64::from(controls.bits()));
    }

    /// Whether secondary controls are offered.
    pub fn has_secondary(&self, controls: SecondaryControls) -> bool {
        self.caps.secondary.missing(controls.bits()) == 0
    }

    /// Lets L2 run `code` next, from the top of its stack.
    pub fn set_code(&self, code: u64) {
        self.set(Field::GUEST_RIP, code);
        self.set(Field::GUEST_RSP, self.stack);
    }

    /// Moves RIP past the instruction that caused the exit.
    pub fn skip_instruction(&self) {
        let length = self.get(Field::EXIT_INSTRUCTION_LENGTH);
        self.set(Field::GUEST_RIP, self.get(Field::GUEST_RIP) + length);
    }

    /// Enters: VMLAUNCH the first time after [`L2::clear`], then VMRESUME.
    pub fn run(&mut self) -> Outcome {
        let launch = !self.launched;
        let outcome = self.enter(launch);
        if let Outcome::Exit(reason) = outcome
            && reason >> 31 == 0
        {
            self.launched = true;
        }
        outcome
    }

    /// Enters by VMLAUNCH or VMRESUME.
    pub fn enter(&mut self, launch: bool) -> Outcome {
        self.activate();
        let area = area(cpu::number());
        let registers = self.registers.as_mut_ptr();
        // SAFETY: the host state leads back behind the call, on this stack.
        match attempt(|| unsafe { vm_enter(registers, u64::from(launch), area) }) {
            Err(fault) => Outcome::Fault(fault),
            Ok(flags) if flags >> 63 != 0 => Outcome::Exit(self.get(Field::EXIT_REASON) as u32),
            Ok(flags) => Outcome::from_flags(flags, || self.get(Field::INSTRUCTION_ERROR) as u32),
        }
    }

    fn set_controls(&self) {
        let caps = &self.caps;
        let primary = PrimaryControls::HLT_EXITING | PrimaryControls::ACTIVATE_SECONDARY;
        let exit = ExitControls::HOST_64_BIT | ExitControls::SAVE_EFER | ExitControls::LOAD_EFER;
        let entry = EntryControls::IA32E_MODE_GUEST | EntryControls::LOAD_EFER;
        let words = [
            (Field::PIN_BASED_CONTROLS, caps.true_pin.adjust(0)),
            (
                Field::PRIMARY_CONTROLS,
                caps.true_primary.adjust(primary.bits()),
            ),
            (
                Field::SECONDARY_CONTROLS,
                caps.secondary.adjust(SecondaryControls::ENABLE_EPT.bits()),
            ),
            (Field::EXIT_CONTROLS, caps.true_exit.adjust(exit.bits())),
            (Field::ENTRY_CONTROLS, caps.true_entry.adjust(entry.bits())),
        ];
        for (field, word) in words {
            self.set(field, u64::from(word));
        }
        self.set(Field::EPT_POINTER, self.ept.eptp());
        self.set(Field::VMCS_LINK_POINTER, u64::MAX);
        for field in [
            Field::EXCEPTION_BITMAP,
            Field::PAGE_FAULT_ERROR_CODE_MASK,
            Field::PAGE_FAULT_ERROR_CODE_MATCH,
            Field::CR3_TARGET_COUNT,
            Field::EXIT_MSR_STORE_COUNT,
            Field::EXIT_MSR_LOAD_COUNT,
            Field::ENTRY_MSR_LOAD_COUNT,
            Field::ENTRY_INTERRUPTION_INFO,
            Field::ENTRY_EXCEPTION_ERROR_CODE,
            Field::ENTRY_INSTRUCTION_LENGTH,
            Field::TSC_OFFSET,
            Field::CR0_GUEST_HOST_MASK,
            Field::CR4_GUEST_HOST_MASK,
            Field::CR0_READ_SHADOW,
            Field::CR4_READ_SHADOW,
        ] {
            self.set(field, 0);
        }
    }

    /// Writes the host state: exits come back to this processor.
    pub fn set_host(&self) {
        let number = cpu::number();
        let values = [
            (Field::HOST_CR0, cpu::cr0()),
            (Field::HOST_CR3, cpu::cr3()),
            (Field::HOST_CR4, cpu::cr4()),
            (Field::HOST_CS_SELECTOR, u64::from(segments::CODE)),
            (Field::HOST_SS_SELECTOR, u64::from(segments::DATA)),
            (Field::HOST_DS_SELECTOR, u64::from(segments::DATA)),
            (Field::HOST_ES_SELECTOR, u64::from(segments::DATA)),
            (Field::HOST_FS_SELECTOR, 0),
            (Field::HOST_GS_SELECTOR, 0),
            (
                Field::HOST_TR_SELECTOR,
                u64::from(segments::task_selector(number)),
            ),
            (Field::HOST_FS_BASE, cpu::msr(cpu::MSR_FS_BASE)),
            (Field::HOST_GS_BASE, cpu::msr(cpu::MSR_GS_BASE)),
            (Field::HOST_TR_BASE, segments::task_state(number)),
            (Field::HOST_GDTR_BASE, segments::gdt()),
            (Field::HOST_IDTR_BASE, fault::idt()),
            (Field::HOST_SYSENTER_CS, cpu::msr(cpu::MSR_SYSENTER_CS)),
            (Field::HOST_SYSENTER_ESP, cpu::msr(cpu::MSR_SYSENTER_ESP)),
            (Field::HOST_SYSENTER_EIP, cpu::msr(cpu::MSR_SYSENTER_EIP)),
            (Field::HOST_EFER, cpu::msr(cpu::MSR_EFER)),
            (Field::HOST_PAT, cpu::msr(cpu::MSR_PAT)),
            (Field::HOST_RSP, area(number)),
            (Field::HOST_RIP, vm_exit as *const () as u64),
        ];
        for (field, value) in values {
            self.set(field, value);
        }
    }

    fn set_guest(&self, code: u64) {
        let number = cpu::number();
        let data = (
            u64::from(segments::DATA),
            0,
            0xffff_ffff,
            AccessRights::DATA.raw(),
        );
        let null = (0, 0, 0xffff, AccessRights::UNUSABLE.raw());
        let cs = (
            u64::from(segments::CODE),
            0,
            0xffff_ffff,
            AccessRights::CODE64.raw(),
        );
        let tr = (
            u64::from(segments::task_selector(number)),
            segments::task_state(number),
            0x67,
            AccessRights::BUSY_TSS.raw(),
        );
        // In the order of the encodings: ES, CS, SS, DS, FS, GS, LDTR, TR.
        for (i, segment) in [data, cs, data, data, data, data, null, tr]
            .iter()
            .enumerate()
        {
            let field = |first: Field| Field::from_encoding(first.encoding() + 2 * i as u32);
            self.set(field(Field::GUEST_ES_SELECTOR), segment.0);
            self.set(field(Field::GUEST_ES_BASE), segment.1);
            self.set(field(Field::GUEST_ES_LIMIT), segment.2);
            self.set(field(Field::GUEST_ES_ACCESS_RIGHTS), u64::from(segment.3));
        }
        let values = [
            (Field::GUEST_CR0, cpu::cr0()),
            (Field::GUEST_CR3, cpu::cr3()),
            (Field::GUEST_CR4, cpu::cr4()),
            (Field::GUEST_GDTR_BASE, segments::gdt()),
            (Field::GUEST_GDTR_LIMIT, 0xffff),
            (Field::GUEST_IDTR_BASE, self.idt),
            (Field::GUEST_IDTR_LIMIT, 0xfff),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_RFLAGS, 2),
            (Field::GUEST_RSP, self.stack),
            (Field::GUEST_RIP, code),
            (Field::GUEST_EFER, cpu::msr(cpu::MSR_EFER)),
            (Field::GUEST_PAT, cpu::msr(cpu::MSR_PAT)),
            (Field::GUEST_DEBUGCTL, 0),
            (Field::GUEST_SYSENTER_CS, 0),
            (Field::GUEST_SYSENTER_ESP, 0),
            (Field::GUEST_SYSENTER_EIP, 0),
            (Field::GUEST_INTERRUPTIBILITY, 0),
            (Field::GUEST_ACTIVITY_STATE, 0),
            (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        ];
        for (field, value) in values {
            self.set(field, value);
        }
    }
}

/// INVEPT and INVVPID of everything, on this processor.
fn forget_translations(caps: &Capabilities) {
    if caps.ept_vpid & ept_vpid::INVEPT_ALL != 0 {
        let _ = instruction::invept(2, 0);
    }
    if caps.ept_vpid & ept_vpid::INVVPID_ALL != 0 {
        let _ = instruction::invvpid(2, 0, 0);
    }
}

fn area(number: usize) -> u64 {
    (&raw const AREAS) as u64 + (number * size_of::<ExitArea>()) as u64 + AREA_TOP
}
