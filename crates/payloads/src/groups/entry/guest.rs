//! Guest state but for segments (SDM 27.3.1): a failed entry, reason 33.

use ::vmx::{
    BasicExitReason, EntryControls, Field, InterruptionInfo, PinControls, SecondaryControls,
};

use super::{Case, each_good, each_qualified};
use crate::rt::harness::Check;
use crate::rt::{apic, cpu, memory, paging};
use crate::vm::{L2, Outcome};

const IA32E: u64 = EntryControls::IA32E_MODE_GUEST.bits() as u64;
const RFLAGS_IF: u64 = cpu::RFLAGS_IF;
const RFLAGS_TF: u64 = 1 << 8;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const NULL_LINK: u64 = u64::MAX;

fn set(l2: &L2, field: Field, value: u64) -> bool {
    l2.set(field, value);
    true
}

fn change(l2: &L2, field: Field, set: u64, clear: u64) -> bool {
    l2.modify(field, set, clear);
    true
}

fn with_entry(l2: &L2, control: EntryControls, field: Field, value: u64) -> bool {
    if l2.caps.true_entry.missing(control.bits()) != 0 {
        return false;
    }
    l2.add(Field::ENTRY_CONTROLS, u64::from(control.bits()));
    l2.set(field, value);
    true
}

fn inject(l2: &L2, info: InterruptionInfo) -> bool {
    set(l2, Field::ENTRY_INTERRUPTION_INFO, u64::from(info.raw()))
}

fn unrestricted(l2: &L2) -> bool {
    l2.has_secondary(SecondaryControls::UNRESTRICTED_GUEST) && {
        l2.use_secondary(SecondaryControls::UNRESTRICTED_GUEST);
        true
    }
}

/// Enters with an activity state. Should L2 sleep, the timer ends it.
fn activity(l2: &L2, state: u64) -> bool {
    if l2.caps.misc >> (5 + state) & 1 == 0 {
        return false;
    }
    l2.set(Field::GUEST_ACTIVITY_STATE, state);
    l2.add(
        Field::PIN_BASED_CONTROLS,
        u64::from(PinControls::EXTERNAL_INTERRUPT_EXITING.bits()),
    );
    apic::write(apic::register::DIVIDE, apic::timer::DIVIDE_BY_1);
    apic::write(apic::register::LVT_TIMER, 0x41);
    apic::write(apic::register::INITIAL_COUNT, 20_000_000);
    true
}

/// Whether what Bochs itself does not check is to be checked: under a hypervisor.
fn beyond_bochs() -> bool {
    cpu::is_virtual()
}

const REGISTERS: &[Case] = &[
    ("CR0.PE clear with PG set", |l2| {
        change(l2, Field::GUEST_CR0, 0, 1)
    }),
    ("CR0.PG clear without unrestricted guest", |l2| {
        change(l2, Field::GUEST_CR0, 0, cpu::CR0_PG)
    }),
    ("CR0.PE clear with PG set, unrestricted", |l2| {
        unrestricted(l2) && change(l2, Field::GUEST_CR0, 0, 1)
    }),
    ("CR0.NE clear", |l2| {
        change(l2, Field::GUEST_CR0, 0, cpu::CR0_NE)
    }),
    ("CR0 bit 32", |l2| change(l2, Field::GUEST_CR0, 1 << 32, 0)),
    ("CR4.VMXE clear", |l2| {
        change(l2, Field::GUEST_CR4, 0, cpu::CR4_VMXE)
    }),
    ("CR4 bit 63", |l2| change(l2, Field::GUEST_CR4, 1 << 63, 0)),
    ("CR4 bit fixed to 0", |l2| {
        let free = !l2.caps.cr4_fixed1 & 0xffff_ffff;
        free != 0 && change(l2, Field::GUEST_CR4, free & free.wrapping_neg(), 0)
    }),
    ("IA-32e mode, CR4.PAE clear", |l2| {
        change(l2, Field::GUEST_CR4, 0, cpu::CR4_PAE)
    }),
    ("IA-32e mode, CR0.PG clear, unrestricted", |l2| {
        beyond_bochs() && unrestricted(l2) && change(l2, Field::GUEST_CR0, 0, cpu::CR0_PG)
    }),
    ("CR3 beyond memory", |l2| {
        change(l2, Field::GUEST_CR3, 1 << cpu::physical_bits(), 0)
    }),
    ("CR3 bit 63", |l2| change(l2, Field::GUEST_CR3, 1 << 63, 0)),
    ("SYSENTER ESP not canonical", |l2| {
        set(l2, Field::GUEST_SYSENTER_ESP, paging::NON_CANONICAL)
    }),
    ("SYSENTER EIP not canonical", |l2| {
        set(l2, Field::GUEST_SYSENTER_EIP, paging::NON_CANONICAL)
    }),
    ("DR7 bit 32", |l2| {
        with_entry(
            l2,
            EntryControls::LOAD_DEBUG_CONTROLS,
            Field::GUEST_DR7,
            1 << 32 | 0x400,
        )
    }),
    ("DEBUGCTL reserved bit", |l2| {
        beyond_bochs()
            && with_entry(
                l2,
                EntryControls::LOAD_DEBUG_CONTROLS,
                Field::GUEST_DEBUGCTL,
                1 << 63,
            )
    }),
    ("PAT of type 3", |l2| {
        with_entry(l2, EntryControls::LOAD_PAT, Field::GUEST_PAT, 0x0300)
    }),
    ("PAT of type 0x10", |l2| {
        with_entry(l2, EntryControls::LOAD_PAT, Field::GUEST_PAT, 0x10)
    }),
    ("EFER reserved bit", |l2| {
        with_entry(
            l2,
            EntryControls::LOAD_EFER,
            Field::GUEST_EFER,
            cpu::msr(cpu::MSR_EFER) | 1 << 9,
        )
    }),
    ("EFER.LMA other than the control", |l2| {
        with_entry(
            l2,
            EntryControls::LOAD_EFER,
            Field::GUEST_EFER,
            cpu::msr(cpu::MSR_EFER) & !EFER_LMA,
        )
    }),
    ("EFER.LME other than LMA", |l2| {
        with_entry(
            l2,
            EntryControls::LOAD_EFER,
            Field::GUEST_EFER,
            cpu::msr(cpu::MSR_EFER) & !EFER_LME,
        )
    }),
    ("EFER.LMA without the control", |l2| {
        change(l2, Field::ENTRY_CONTROLS, 0, IA32E)
    }),
    ("BNDCFGS reserved bit", |l2| {
        with_entry(l2, EntryControls::LOAD_BNDCFGS, Field::GUEST_BNDCFGS, 4)
    }),
    ("GDTR base not canonical", |l2| {
        set(l2, Field::GUEST_GDTR_BASE, paging::NON_CANONICAL)
    }),
    ("IDTR base not canonical", |l2| {
        set(l2, Field::GUEST_IDTR_BASE, paging::NON_CANONICAL)
    }),
    ("GDTR limit above 16 bits", |l2| {
        set(l2, Field::GUEST_GDTR_LIMIT, 0x1_0000)
    }),
    ("IDTR limit above 16 bits", |l2| {
        set(l2, Field::GUEST_IDTR_LIMIT, 0x8000_0000)
    }),
    ("RIP not canonical", |l2| {
        beyond_bochs() && set(l2, Field::GUEST_RIP, paging::NON_CANONICAL << 8)
    }),
    ("RFLAGS bit 1 clear", |l2| set(l2, Field::GUEST_RFLAGS, 0)),
    ("RFLAGS bit 3", |l2| set(l2, Field::GUEST_RFLAGS, 0xa)),
    ("RFLAGS bit 15", |l2| set(l2, Field::GUEST_RFLAGS, 0x8002)),
    ("RFLAGS bit 22", |l2| {
        set(l2, Field::GUEST_RFLAGS, 1 << 22 | 2)
    }),
    ("RFLAGS bit 63", |l2| {
        set(l2, Field::GUEST_RFLAGS, 1 << 63 | 2)
    }),
    ("RFLAGS.VM in IA-32e mode", |l2| {
        set(l2, Field::GUEST_RFLAGS, 1 << 17 | 2)
    }),
];

const STATE: &[Case] = &[
    ("RFLAGS.IF clear with an interrupt to inject", |l2| {
        inject(l2, InterruptionInfo::external_interrupt(0x40))
    }),
    ("activity state 4", |l2| {
        set(l2, Field::GUEST_ACTIVITY_STATE, 4)
    }),
    ("activity state shutdown where not offered", |l2| {
        l2.caps.misc & 1 << 7 == 0 && set(l2, Field::GUEST_ACTIVITY_STATE, 2)
    }),
    ("activity state wait-for-SIPI where not offered", |l2| {
        l2.caps.misc & 1 << 8 == 0 && set(l2, Field::GUEST_ACTIVITY_STATE, 3)
    }),
    ("HLT with blocking by STI", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        l2.set(Field::GUEST_INTERRUPTIBILITY, 1);
        activity(l2, 1)
    }),
    ("HLT with blocking by MOV SS", |l2| {
        l2.set(Field::GUEST_INTERRUPTIBILITY, 2);
        activity(l2, 1)
    }),
    ("HLT with #UD to inject", |l2| {
        beyond_bochs() && inject(l2, InterruptionInfo::exception(6)) && activity(l2, 1)
    }),
    ("shutdown with an interrupt to inject", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        inject(l2, InterruptionInfo::external_interrupt(0x40)) && activity(l2, 2)
    }),
    ("wait-for-SIPI with an NMI to inject", |l2| {
        inject(l2, InterruptionInfo::nmi()) && activity(l2, 3)
    }),
    ("interruptibility bit 5", |l2| {
        set(l2, Field::GUEST_INTERRUPTIBILITY, 1 << 5)
    }),
    ("interruptibility bit 31", |l2| {
        set(l2, Field::GUEST_INTERRUPTIBILITY, 1 << 31)
    }),
    ("blocking by STI and by MOV SS", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        set(l2, Field::GUEST_INTERRUPTIBILITY, 3)
    }),
    ("blocking by STI with IF clear", |l2| {
        set(l2, Field::GUEST_INTERRUPTIBILITY, 1)
    }),
    ("blocking by STI with an interrupt to inject", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        l2.set(Field::GUEST_INTERRUPTIBILITY, 1);
        inject(l2, InterruptionInfo::external_interrupt(0x40))
    }),
    ("blocking by MOV SS with an interrupt to inject", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        l2.set(Field::GUEST_INTERRUPTIBILITY, 2);
        inject(l2, InterruptionInfo::external_interrupt(0x40))
    }),
    ("blocking by MOV SS with an NMI to inject", |l2| {
        l2.set(Field::GUEST_INTERRUPTIBILITY, 2);
        inject(l2, InterruptionInfo::nmi())
    }),
    ("blocking by SMI outside of SMM", |l2| {
        set(l2, Field::GUEST_INTERRUPTIBILITY, 4)
    }),
    (
        "blocking by NMI with an NMI to inject, virtual NMIs",
        |l2| {
            let pin = PinControls::NMI_EXITING | PinControls::VIRTUAL_NMIS;
            if !beyond_bochs() || l2.caps.true_pin.missing(pin.bits()) != 0 {
                return false;
            }
            l2.add(Field::PIN_BASED_CONTROLS, u64::from(pin.bits()));
            l2.set(Field::GUEST_INTERRUPTIBILITY, 8);
            inject(l2, InterruptionInfo::nmi())
        },
    ),
    ("pending debug exceptions bit 4", |l2| {
        set(l2, Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 4)
    }),
    ("pending debug exceptions bit 13", |l2| {
        set(l2, Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 13)
    }),
    ("pending debug exceptions bit 63", |l2| {
        beyond_bochs() && set(l2, Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 63)
    }),
    ("TF, blocking by MOV SS, BS clear", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_TF | 2);
        beyond_bochs() && set(l2, Field::GUEST_INTERRUPTIBILITY, 2)
    }),
    ("no TF, blocking by MOV SS, BS set", |l2| {
        l2.set(Field::GUEST_INTERRUPTIBILITY, 2);
        beyond_bochs() && set(l2, Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14)
    }),
];

const LINK: &[Case] = &[
    ("link pointer unaligned", |l2| {
        set(l2, Field::VMCS_LINK_POINTER, 0x10)
    }),
    ("link pointer beyond memory", |l2| {
        set(l2, Field::VMCS_LINK_POINTER, 1 << cpu::physical_bits())
    }),
    ("link pointer to a page without the revision", |l2| {
        let page = memory::page();
        memory::write(page, l2.caps.revision() ^ 0xff);
        set(l2, Field::VMCS_LINK_POINTER, page)
    }),
    ("link pointer to a shadow VMCS without shadowing", |l2| {
        let page = memory::page();
        memory::write(page, l2.caps.revision() | 1 << 31);
        set(l2, Field::VMCS_LINK_POINTER, page)
    }),
];

const GOOD: &[Case] = &[
    ("blocking by STI", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_IF | 2);
        set(l2, Field::GUEST_INTERRUPTIBILITY, 1)
    }),
    ("blocking by MOV SS", |l2| {
        set(l2, Field::GUEST_INTERRUPTIBILITY, 2)
    }),
    ("blocking by NMI", |l2| {
        set(l2, Field::GUEST_INTERRUPTIBILITY, 8)
    }),
    (
        "blocking by NMI with an NMI to inject, no virtual NMIs",
        |l2| {
            l2.set(Field::GUEST_INTERRUPTIBILITY, 8);
            inject(l2, InterruptionInfo::nmi())
        },
    ),
    ("link pointer to a VMCS of the right kind", |l2| {
        if l2.is_enlightened() {
            return false;
        }
        let page = memory::page();
        memory::write(page, l2.caps.revision());
        set(l2, Field::VMCS_LINK_POINTER, page)
    }),
    ("no link pointer", |l2| {
        set(l2, Field::VMCS_LINK_POINTER, NULL_LINK)
    }),
    ("PAT wrong but not loaded", |l2| {
        set(l2, Field::GUEST_PAT, u64::MAX)
    }),
    ("DEBUGCTL wrong but not loaded", |l2| {
        l2.caps.true_entry.must_be_one() & EntryControls::LOAD_DEBUG_CONTROLS.bits() == 0
            && change(
                l2,
                Field::ENTRY_CONTROLS,
                0,
                u64::from(EntryControls::LOAD_DEBUG_CONTROLS.bits()),
            )
            && set(l2, Field::GUEST_DEBUGCTL, u64::MAX)
            && set(l2, Field::GUEST_DR7, u64::MAX)
    }),
    ("EFER not loaded", |l2| {
        l2.set(Field::GUEST_EFER, u64::MAX);
        change(
            l2,
            Field::ENTRY_CONTROLS,
            0,
            u64::from(EntryControls::LOAD_EFER.bits()),
        )
    }),
    ("TF, blocking by MOV SS, BS set", |l2| {
        l2.set(Field::GUEST_RFLAGS, RFLAGS_TF | 2);
        l2.set(Field::GUEST_INTERRUPTIBILITY, 2);
        set(l2, Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14)
    }),
    ("PDPTEs wrong but unused in IA-32e mode", |l2| {
        set(l2, Field::GUEST_PDPTE0, u64::MAX) && set(l2, Field::GUEST_PDPTE3, u64::MAX)
    }),
];

/// One wrong piece of guest state each.
pub fn guest(check: &Check) {
    let failed = Outcome::entry_failure(BasicExitReason::InvalidGuestState);
    each_qualified(check, REGISTERS, failed, Some(0));
    each_qualified(check, STATE, failed, None);
    each_qualified(check, LINK, failed, Some(4));
    each_good(check, GOOD);
}
