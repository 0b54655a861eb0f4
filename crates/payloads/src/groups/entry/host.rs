//! Host state (SDM 27.2.2 to 27.2.4): VMfail(8).

use ::vmx::{EntryControls, ExitControls, Field};

use super::{Case, each, each_good};
use crate::rt::harness::Check;
use crate::rt::{cpu, paging, segments};
use crate::vm::{L2, Outcome};

fn set(l2: &L2, field: Field, value: u64) -> bool {
    l2.set(field, value);
    true
}

fn change(l2: &L2, field: Field, set: u64, clear: u64) -> bool {
    l2.modify(field, set, clear);
    true
}

fn with_exit(l2: &L2, control: ExitControls, field: Field, value: u64) -> bool {
    if l2.caps.true_exit.missing(control.bits()) != 0 {
        return false;
    }
    l2.add(Field::EXIT_CONTROLS, u64::from(control.bits()));
    l2.set(field, value);
    true
}

const BAD: &[Case] = &[
    ("CR0.PE clear", |l2| change(l2, Field::HOST_CR0, 0, 1)),
    ("CR0.PG clear", |l2| {
        change(l2, Field::HOST_CR0, 0, cpu::CR0_PG)
    }),
    ("CR0.NE clear", |l2| {
        change(l2, Field::HOST_CR0, 0, cpu::CR0_NE)
    }),
    ("CR0 bit 32", |l2| change(l2, Field::HOST_CR0, 1 << 32, 0)),
    ("CR4.VMXE clear", |l2| {
        change(l2, Field::HOST_CR4, 0, cpu::CR4_VMXE)
    }),
    ("CR4.PAE clear", |l2| {
        change(l2, Field::HOST_CR4, 0, cpu::CR4_PAE)
    }),
    ("CR4 bit 63", |l2| change(l2, Field::HOST_CR4, 1 << 63, 0)),
    ("CR4 bit fixed to 0", |l2| {
        let free = !l2.caps.cr4_fixed1 & 0xffff_ffff;
        free != 0 && change(l2, Field::HOST_CR4, free & free.wrapping_neg(), 0)
    }),
    ("CR3 beyond memory", |l2| {
        change(l2, Field::HOST_CR3, 1 << cpu::physical_bits(), 0)
    }),
    ("CR3 bit 62", |l2| change(l2, Field::HOST_CR3, 1 << 62, 0)),
    ("SYSENTER ESP not canonical", |l2| {
        set(l2, Field::HOST_SYSENTER_ESP, paging::NON_CANONICAL)
    }),
    ("SYSENTER EIP not canonical", |l2| {
        set(l2, Field::HOST_SYSENTER_EIP, paging::NON_CANONICAL)
    }),
    ("PAT of type 2", |l2| {
        with_exit(l2, ExitControls::LOAD_PAT, Field::HOST_PAT, 0x02)
    }),
    ("PAT of type 8", |l2| {
        with_exit(l2, ExitControls::LOAD_PAT, Field::HOST_PAT, 8 << 56)
    }),
    ("EFER reserved bit", |l2| {
        with_exit(
            l2,
            ExitControls::LOAD_EFER,
            Field::HOST_EFER,
            cpu::msr(cpu::MSR_EFER) | 1 << 1,
        )
    }),
    ("EFER.LMA clear", |l2| {
        with_exit(
            l2,
            ExitControls::LOAD_EFER,
            Field::HOST_EFER,
            cpu::msr(cpu::MSR_EFER) & !(1 << 10),
        )
    }),
    ("EFER.LME clear", |l2| {
        with_exit(
            l2,
            ExitControls::LOAD_EFER,
            Field::HOST_EFER,
            cpu::msr(cpu::MSR_EFER) & !(1 << 8),
        )
    }),
    ("host not in 64-bit mode", |l2| {
        change(
            l2,
            Field::EXIT_CONTROLS,
            0,
            u64::from(ExitControls::HOST_64_BIT.bits()),
        )
    }),
    ("neither host nor guest in IA-32e mode", |l2| {
        l2.modify(
            Field::ENTRY_CONTROLS,
            0,
            u64::from(EntryControls::IA32E_MODE_GUEST.bits()),
        );
        change(
            l2,
            Field::EXIT_CONTROLS,
            0,
            u64::from(ExitControls::HOST_64_BIT.bits()),
        )
    }),
    ("CS null", |l2| set(l2, Field::HOST_CS_SELECTOR, 0)),
    ("TR null", |l2| set(l2, Field::HOST_TR_SELECTOR, 0)),
    ("CS with RPL", |l2| {
        set(l2, Field::HOST_CS_SELECTOR, u64::from(segments::CODE) | 3)
    }),
    ("SS with RPL", |l2| {
        set(l2, Field::HOST_SS_SELECTOR, u64::from(segments::DATA) | 1)
    }),
    ("DS with TI", |l2| {
        set(l2, Field::HOST_DS_SELECTOR, u64::from(segments::DATA) | 4)
    }),
    ("ES with RPL", |l2| {
        set(l2, Field::HOST_ES_SELECTOR, u64::from(segments::DATA) | 2)
    }),
    ("FS with TI", |l2| set(l2, Field::HOST_FS_SELECTOR, 4)),
    ("GS with RPL", |l2| set(l2, Field::HOST_GS_SELECTOR, 3)),
    ("TR with TI", |l2| {
        set(l2, Field::HOST_TR_SELECTOR, u64::from(segments::TSS) | 4)
    }),
    ("FS base not canonical", |l2| {
        set(l2, Field::HOST_FS_BASE, paging::NON_CANONICAL)
    }),
    ("GS base not canonical", |l2| {
        set(l2, Field::HOST_GS_BASE, paging::NON_CANONICAL)
    }),
    ("TR base not canonical", |l2| {
        set(l2, Field::HOST_TR_BASE, paging::NON_CANONICAL)
    }),
    ("GDTR base not canonical", |l2| {
        set(l2, Field::HOST_GDTR_BASE, paging::NON_CANONICAL)
    }),
    ("IDTR base not canonical", |l2| {
        set(l2, Field::HOST_IDTR_BASE, 1 << 63)
    }),
    ("RIP not canonical", |l2| {
        set(l2, Field::HOST_RIP, paging::NON_CANONICAL)
    }),
    ("PERF_GLOBAL_CTRL reserved bits", |l2| {
        // Bochs does not look at it.
        cpu::is_virtual()
            && with_exit(
                l2,
                ExitControls::LOAD_PERF_GLOBAL_CTRL,
                Field::HOST_PERF_GLOBAL_CTRL,
                1 << 63,
            )
    }),
];

const GOOD: &[Case] = &[
    ("SS null in 64-bit mode", |l2| {
        set(l2, Field::HOST_SS_SELECTOR, 0)
    }),
    ("DS and ES null", |l2| {
        set(l2, Field::HOST_DS_SELECTOR, 0) && set(l2, Field::HOST_ES_SELECTOR, 0)
    }),
    ("PAT of type 7 and 4", |l2| {
        with_exit(
            l2,
            ExitControls::LOAD_PAT,
            Field::HOST_PAT,
            0x0706_0504_0100_0406,
        )
    }),
    ("CR0.WP clear", |l2| {
        change(l2, Field::HOST_CR0, 0, cpu::CR0_WP)
    }),
];

/// One wrong field of host state each.
pub fn host(check: &Check) {
    each(check, BAD, Outcome::FailValid(8));
    let (pat, cr0) = (cpu::msr(cpu::MSR_PAT), cpu::cr0());
    each_good(check, GOOD);
    let _ = cpu::wrmsr(cpu::MSR_PAT, pat);
    let _ = cpu::set_cr0(cr0);
}
