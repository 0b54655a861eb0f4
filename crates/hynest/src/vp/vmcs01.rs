//! Setting up VMCS 01, on which L1 runs, and what it shares with VMCS 02: the host state.

use addr::Spa;
use nested::exceptions;
use platform::boot::{EntryState, SegmentState};
use vmx::ept::Eptp;
use vmx::{
    Capabilities, EntryControls, ExitControls, Field, PinControls, PrimaryControls,
    SecondaryControls, ept_vpid,
};

use super::vmcs::write;
use crate::cpu::descriptor::{self, CODE, DATA, TSS};
use crate::cpu::{msr, per_cpu, register};
use crate::memory::mapping;

/// VPID of L1 on every processor.
pub const VPID01: u16 = 1;

/// CR4 bits that L0 keeps for itself: VMXE, which is fixed in VMX operation.
pub const CR4_OWNED: u64 = 1 << 13;
/// CR0 bits that L0 keeps for itself: NE, which is fixed in VMX operation.
pub const CR0_OWNED: u64 = 1 << 5;
/// CR0.CD and CR0.NW, which VM entry and exit do not switch: a guest's would leave L0, and what
/// shares its core, without caches. Guests read back what they write, and it does nothing.
pub const CR0_CACHE: u64 = 3 << 29;
/// The CR0 bits that L1 reads from the read shadow.
pub const CR0_MASK: u64 = CR0_OWNED | CR0_CACHE;

/// The control words that L0 runs L1 with, and that VMCS 02 starts from.
#[derive(Clone, Copy, Debug)]
pub struct Controls {
    /// Pin-based.
    pub pin: PinControls,
    /// Primary processor-based.
    pub primary: PrimaryControls,
    /// Secondary processor-based.
    pub secondary: SecondaryControls,
    /// Exit.
    pub exit: ExitControls,
    /// Entry, without IA-32e mode guest.
    pub entry: EntryControls,
}

impl Controls {
    /// What L0 wants, fitted to what the processor demands.
    ///
    /// # Errors
    /// The name of a control that L0 cannot do without and the processor does not have.
    pub fn choose(capabilities: &Capabilities) -> Result<Self, &'static str> {
        let pin = PinControls::EXTERNAL_INTERRUPT_EXITING
            | PinControls::NMI_EXITING
            | PinControls::VIRTUAL_NMIS
            | PinControls::PREEMPTION_TIMER;
        let primary = PrimaryControls::USE_TSC_OFFSETTING
            | PrimaryControls::HLT_EXITING
            // Instructions that CPUID does not show: neither L1 nor L2 has them.
            | PrimaryControls::MWAIT_EXITING
            | PrimaryControls::MONITOR_EXITING
            | PrimaryControls::RDPMC_EXITING
            | PrimaryControls::CR8_LOAD_EXITING
            | PrimaryControls::CR8_STORE_EXITING
            | PrimaryControls::UNCONDITIONAL_IO_EXITING
            | PrimaryControls::USE_MSR_BITMAPS
            | PrimaryControls::ACTIVATE_SECONDARY;
        let secondary = SecondaryControls::ENABLE_EPT
            | SecondaryControls::ENABLE_VPID
            | SecondaryControls::UNRESTRICTED_GUEST;
        // Instructions that L1 may use where the processor has them.
        let optional = SecondaryControls::ENABLE_RDTSCP
            | SecondaryControls::ENABLE_INVPCID
            | SecondaryControls::ENABLE_XSAVES;
        let exit = ExitControls::SAVE_DEBUG_CONTROLS
            | ExitControls::HOST_64_BIT
            | ExitControls::SAVE_PAT
            | ExitControls::LOAD_PAT
            | ExitControls::SAVE_EFER
            | ExitControls::LOAD_EFER;
        let entry =
            EntryControls::LOAD_DEBUG_CONTROLS | EntryControls::LOAD_PAT | EntryControls::LOAD_EFER;
        // L0's tables have four levels and write-back memory, and it flushes by these.
        const TRANSLATION: u64 = ept_vpid::WALK_LENGTH_4
            | ept_vpid::MEMORY_TYPE_WB
            | ept_vpid::INVEPT
            | ept_vpid::INVEPT_SINGLE
            | ept_vpid::INVEPT_ALL
            | ept_vpid::INVVPID
            | ept_vpid::INVVPID_SINGLE
            | ept_vpid::INVVPID_ALL;
        if TRANSLATION & !capabilities.ept_vpid != 0 {
            return Err("4-level write-back EPT, or INVEPT or INVVPID of one context");
        }
        let missing = [
            (
                capabilities.true_pin.missing(pin.bits()),
                "a pin-based control (preemption timer, virtual NMIs)",
            ),
            (
                capabilities.true_primary.missing(primary.bits()),
                "a primary processor-based control",
            ),
            (
                capabilities.secondary.missing(secondary.bits()),
                "EPT, VPID or unrestricted guest",
            ),
            (
                capabilities.true_exit.missing(exit.bits()),
                "a VM-exit control (PAT, EFER)",
            ),
            (
                capabilities.true_entry.missing(entry.bits()),
                "a VM-entry control (PAT, EFER)",
            ),
        ];
        if let Some((_, name)) = missing.iter().find(|(bits, _)| *bits != 0) {
            return Err(name);
        }
        let has = SecondaryControls::from_bits_retain(capabilities.secondary.may_be_one());
        Ok(Self {
            pin: capabilities.adjust_pin(pin),
            primary: capabilities.adjust_primary(primary),
            secondary: capabilities.adjust_secondary(secondary | (optional & has)),
            exit: capabilities.adjust_exit(exit),
            entry: capabilities.adjust_entry(entry),
        })
    }
}

/// Writes the host state of the current VMCS: exits land at `handler`, on `stack`.
pub fn write_host_state(stack: u64, handler: *const [u8; 0]) {
    let bases = descriptor::host_bases();
    write(Field::HOST_CR0, register::cr0());
    write(Field::HOST_CR3, mapping::root().raw());
    write(Field::HOST_CR4, register::cr4());
    write(Field::HOST_CS_SELECTOR, u64::from(CODE));
    for field in [
        Field::HOST_SS_SELECTOR,
        Field::HOST_DS_SELECTOR,
        Field::HOST_ES_SELECTOR,
    ] {
        write(field, u64::from(DATA));
    }
    write(Field::HOST_FS_SELECTOR, 0);
    write(Field::HOST_GS_SELECTOR, 0);
    write(Field::HOST_TR_SELECTOR, u64::from(TSS));
    write(Field::HOST_FS_BASE, 0);
    write(
        Field::HOST_GS_BASE,
        core::ptr::from_ref(per_cpu::this()) as u64,
    );
    write(Field::HOST_TR_BASE, bases.tss);
    write(Field::HOST_GDTR_BASE, bases.gdt);
    write(Field::HOST_IDTR_BASE, bases.idt);
    write(Field::HOST_SYSENTER_CS, 0);
    write(Field::HOST_SYSENTER_ESP, 0);
    write(Field::HOST_SYSENTER_EIP, 0);
    // SAFETY: both MSRs exist on a processor with long mode.
    let (pat, efer) = unsafe { (msr::read(msr::PAT), msr::read(msr::EFER)) };
    write(Field::HOST_PAT, pat);
    write(Field::HOST_EFER, efer);
    write(Field::HOST_RSP, stack);
    write(Field::HOST_RIP, handler as u64);
}

/// What of a partition its VMCS 01s name.
pub struct Structures {
    /// EPT 01.
    pub eptp: Eptp,
    /// L0's MSR bitmap for L1.
    pub msr_bitmap: Spa,
    /// What is added to the processor's TSC to give L1's.
    pub tsc_offset: u64,
    /// CR4 bits that L1 may not change without L0.
    pub cr4_mask: u64,
}

/// Writes the controls of the current VMCS, to run L1 on.
pub fn write_controls(controls: &Controls, structures: &Structures) {
    write(Field::PIN_BASED_CONTROLS, u64::from(controls.pin.bits()));
    write(Field::PRIMARY_CONTROLS, u64::from(controls.primary.bits()));
    write(
        Field::SECONDARY_CONTROLS,
        u64::from(controls.secondary.bits()),
    );
    write(Field::EXIT_CONTROLS, u64::from(controls.exit.bits()));
    write(Field::ENTRY_CONTROLS, u64::from(controls.entry.bits()));
    write(Field::EPT_POINTER, structures.eptp.raw());
    write(Field::VPID, u64::from(VPID01));
    write(Field::MSR_BITMAP, structures.msr_bitmap.raw());
    write(Field::TSC_OFFSET, structures.tsc_offset);
    write(Field::CR0_GUEST_HOST_MASK, CR0_MASK);
    write(Field::CR4_GUEST_HOST_MASK, structures.cr4_mask);
    write(Field::EXCEPTION_BITMAP, u64::from(exceptions::ENDLESS));
    for field in [
        Field::PAGE_FAULT_ERROR_CODE_MASK,
        Field::PAGE_FAULT_ERROR_CODE_MATCH,
        Field::CR3_TARGET_COUNT,
        Field::EXIT_MSR_STORE_COUNT,
        Field::EXIT_MSR_LOAD_COUNT,
        Field::ENTRY_MSR_LOAD_COUNT,
        Field::ENTRY_INTERRUPTION_INFO,
    ] {
        write(field, 0);
    }
    if controls
        .secondary
        .contains(SecondaryControls::ENABLE_XSAVES)
    {
        write(Field::XSS_EXITING_BITMAP, 0);
    }
    write(Field::VMCS_LINK_POINTER, u64::MAX);
}

/// One segment register's four fields, by its index in the encodings (ES, CS, SS, DS, FS, GS,
/// LDTR, TR).
fn write_segment(index: u32, state: &SegmentState) {
    let field = |first: Field| Field::from_encoding(first.encoding() + 2 * index);
    write(field(Field::GUEST_ES_SELECTOR), u64::from(state.selector));
    write(field(Field::GUEST_ES_BASE), state.base);
    write(field(Field::GUEST_ES_LIMIT), u64::from(state.limit));
    write(
        field(Field::GUEST_ES_ACCESS_RIGHTS),
        u64::from(state.access_rights),
    );
}

/// A segment as in real mode after INIT.
const fn real_mode(selector: u16, access_rights: u32) -> SegmentState {
    SegmentState {
        selector,
        base: (selector as u64) << 4,
        limit: 0xFFFF,
        access_rights,
    }
}

const ES: u32 = 0;
const CS: u32 = 1;
const LDTR: u32 = 6;
const TR: u32 = 7;

/// CR0.ET, which always reads 1.
const CR0_ET: u64 = 1 << 4;
/// The PAT after reset.
const RESET_PAT: u64 = 0x0007_0406_0007_0406;

fn write_common_state(cr0: u64) {
    write(Field::GUEST_CR0, cr0 & !CR0_CACHE | CR0_ET | CR0_OWNED);
    write(Field::CR0_READ_SHADOW, cr0 | CR0_ET);
    write(Field::GUEST_CR3, 0);
    write(Field::GUEST_CR4, CR4_OWNED);
    write(Field::CR4_READ_SHADOW, 0);
    write(Field::GUEST_EFER, 0);
    write(Field::GUEST_PAT, RESET_PAT);
    write(Field::GUEST_DR7, 0x400);
    write(Field::GUEST_DEBUGCTL, 0);
    write(Field::GUEST_RFLAGS, 2);
    write(Field::GUEST_RSP, 0);
    for field in [
        Field::GUEST_GDTR_BASE,
        Field::GUEST_IDTR_BASE,
        Field::GUEST_SYSENTER_CS,
        Field::GUEST_SYSENTER_ESP,
        Field::GUEST_SYSENTER_EIP,
        Field::GUEST_INTERRUPTIBILITY,
        Field::GUEST_ACTIVITY_STATE,
        Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
        Field::ENTRY_INTERRUPTION_INFO,
    ] {
        write(field, 0);
    }
    write(Field::GUEST_GDTR_LIMIT, 0xFFFF);
    write(Field::GUEST_IDTR_LIMIT, 0xFFFF);
    write_segment(LDTR, &real_mode(0, 0x82));
    write_segment(TR, &real_mode(0, 0x8B));
    super::vmcs::modify(
        Field::ENTRY_CONTROLS,
        0,
        u64::from(EntryControls::IA32E_MODE_GUEST.bits()),
    );
}

/// Sets the current VMCS to the state in which L1's first VP begins.
pub fn write_entry_state(state: &EntryState) {
    write_common_state(state.cr0);
    for index in ES..LDTR {
        write_segment(index, if index == CS { &state.cs } else { &state.data });
    }
    write_segment(LDTR, &state.ldtr);
    write_segment(TR, &state.tr);
    write(Field::GUEST_CR4, state.cr4 | CR4_OWNED);
    write(Field::CR4_READ_SHADOW, state.cr4);
    write(Field::GUEST_RFLAGS, state.rflags);
    write(Field::GUEST_RIP, state.rip);
}

/// Sets the current VMCS to the state a start-up IPI leaves: real mode at `page`.
pub fn write_startup(page: u8) {
    write_common_state(0);
    for index in ES..LDTR {
        write_segment(index, &real_mode(0, 0x93));
    }
    write_segment(CS, &real_mode(u16::from(page) << 8, 0x9B));
    write(Field::GUEST_RIP, 0);
}
