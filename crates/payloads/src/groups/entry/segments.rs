//! Guest segments (SDM 27.3.1.2): a failed entry, reason 33.

use ::vmx::{AccessRights, BasicExitReason, Field, SecondaryControls};

use super::{Case, each_good, each_qualified};
use crate::rt::harness::Check;
use crate::rt::{cpu, paging};
use crate::vm::{L2, Outcome};

fn set(l2: &L2, field: Field, value: u64) -> bool {
    l2.set(field, value);
    true
}

fn rights(l2: &L2, field: Field, value: u32) -> bool {
    set(l2, field, u64::from(value))
}

const CODE: u32 = AccessRights::CODE64.raw();
const DATA: u32 = AccessRights::DATA.raw();
const TSS: u32 = AccessRights::BUSY_TSS.raw();
const L: u32 = 1 << 13;
const DB: u32 = 1 << 14;
const G: u32 = 1 << 15;
const P: u32 = 1 << 7;
const S: u32 = 1 << 4;

const BAD: &[Case] = &[
    ("CS not accessed", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE & !1)
    }),
    ("CS of type data", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, DATA)
    }),
    ("CS not present", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE & !P)
    }),
    ("CS a system segment", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE & !S)
    }),
    ("CS reserved bit 8", |l2| {
        // VMWRITE may drop the bit.
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE | 1 << 8)
            && l2.get(Field::GUEST_CS_ACCESS_RIGHTS) & 1 << 8 != 0
    }),
    ("CS both L and D", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE | L | DB)
    }),
    ("CS G clear with limit bits 31:20", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE & !G)
    }),
    ("CS G set with limit bits 11:0 clear", |l2| {
        set(l2, Field::GUEST_CS_LIMIT, 0xffff_0000)
    }),
    ("CS DPL other than SS's", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE | 3 << 5)
    }),
    ("CS conforming, DPL above SS's", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE | 4 | 1 << 5)
    }),
    ("CS base above 4 GiB", |l2| {
        set(l2, Field::GUEST_CS_BASE, 1 << 32)
    }),
    ("CS unusable", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE & !(S | P) | 1 << 16)
    }),
    ("SS of type code", |l2| {
        rights(l2, Field::GUEST_SS_ACCESS_RIGHTS, DATA | 8)
    }),
    ("SS read-only", |l2| {
        rights(l2, Field::GUEST_SS_ACCESS_RIGHTS, DATA & !2)
    }),
    ("SS RPL other than CS's", |l2| {
        set(
            l2,
            Field::GUEST_SS_SELECTOR,
            l2.get(Field::GUEST_SS_SELECTOR) | 3,
        )
    }),
    ("SS DPL other than its RPL", |l2| {
        rights(l2, Field::GUEST_SS_ACCESS_RIGHTS, DATA | 3 << 5)
    }),
    ("SS not present", |l2| {
        rights(l2, Field::GUEST_SS_ACCESS_RIGHTS, DATA & !P)
    }),
    ("SS base above 4 GiB", |l2| {
        set(l2, Field::GUEST_SS_BASE, 1 << 33)
    }),
    ("DS not accessed", |l2| {
        rights(l2, Field::GUEST_DS_ACCESS_RIGHTS, DATA & !1)
    }),
    ("DS execute-only code", |l2| {
        rights(l2, Field::GUEST_DS_ACCESS_RIGHTS, CODE & !2 & !L | DB)
    }),
    ("DS not present", |l2| {
        rights(l2, Field::GUEST_DS_ACCESS_RIGHTS, DATA & !P)
    }),
    ("DS base above 4 GiB", |l2| {
        set(l2, Field::GUEST_DS_BASE, 1 << 40)
    }),
    ("DS DPL below RPL", |l2| {
        set(
            l2,
            Field::GUEST_DS_SELECTOR,
            l2.get(Field::GUEST_DS_SELECTOR) | 3,
        )
    }),
    ("ES not accessed", |l2| {
        rights(l2, Field::GUEST_ES_ACCESS_RIGHTS, DATA & !1)
    }),
    ("ES base above 4 GiB", |l2| {
        set(l2, Field::GUEST_ES_BASE, 1 << 32)
    }),
    ("FS base not canonical", |l2| {
        set(l2, Field::GUEST_FS_BASE, paging::NON_CANONICAL)
    }),
    ("GS base not canonical", |l2| {
        set(l2, Field::GUEST_GS_BASE, paging::NON_CANONICAL)
    }),
    ("FS a system segment", |l2| {
        rights(l2, Field::GUEST_FS_ACCESS_RIGHTS, DATA & !S)
    }),
    ("GS G clear with limit bits 31:20", |l2| {
        rights(l2, Field::GUEST_GS_ACCESS_RIGHTS, DATA & !G)
    }),
    ("TR not busy", |l2| {
        rights(l2, Field::GUEST_TR_ACCESS_RIGHTS, TSS & !2)
    }),
    ("TR busy 16-bit in IA-32e mode", |l2| {
        rights(l2, Field::GUEST_TR_ACCESS_RIGHTS, TSS & !8)
    }),
    ("TR unusable", |l2| {
        rights(l2, Field::GUEST_TR_ACCESS_RIGHTS, TSS | 1 << 16)
    }),
    ("TR not a system segment", |l2| {
        rights(l2, Field::GUEST_TR_ACCESS_RIGHTS, TSS | S)
    }),
    ("TR not present", |l2| {
        rights(l2, Field::GUEST_TR_ACCESS_RIGHTS, TSS & !P)
    }),
    ("TR in the LDT", |l2| {
        set(
            l2,
            Field::GUEST_TR_SELECTOR,
            l2.get(Field::GUEST_TR_SELECTOR) | 4,
        )
    }),
    ("TR base not canonical", |l2| {
        set(l2, Field::GUEST_TR_BASE, paging::NON_CANONICAL)
    }),
    ("TR G clear with limit bits 31:20", |l2| {
        set(l2, Field::GUEST_TR_LIMIT, 0xfff0_0000)
    }),
    ("LDTR of a wrong type", |l2| {
        rights(l2, Field::GUEST_LDTR_ACCESS_RIGHTS, 0x83)
    }),
    ("LDTR in the LDT", |l2| {
        l2.set(Field::GUEST_LDTR_SELECTOR, 4);
        rights(l2, Field::GUEST_LDTR_ACCESS_RIGHTS, AccessRights::LDT.raw())
    }),
    ("LDTR base not canonical", |l2| {
        l2.set(Field::GUEST_LDTR_BASE, paging::NON_CANONICAL);
        rights(l2, Field::GUEST_LDTR_ACCESS_RIGHTS, AccessRights::LDT.raw())
    }),
    ("LDTR not present", |l2| {
        rights(
            l2,
            Field::GUEST_LDTR_ACCESS_RIGHTS,
            AccessRights::LDT.raw() & !P,
        )
    }),
];

fn real_mode(l2: &L2) -> bool {
    if !l2.has_secondary(SecondaryControls::UNRESTRICTED_GUEST) {
        return false;
    }
    l2.use_secondary(SecondaryControls::UNRESTRICTED_GUEST);
    l2.modify(Field::GUEST_CR0, 0, 1 | cpu::CR0_PG);
    l2.modify(
        Field::ENTRY_CONTROLS,
        0,
        u64::from(::vmx::EntryControls::IA32E_MODE_GUEST.bits()),
    );
    l2.set(Field::GUEST_EFER, 0);
    l2.modify(Field::GUEST_CR4, 0, 0);
    // The code lies above 1 MiB: reach it by CS's base.
    let rip = l2.get(Field::GUEST_RIP);
    l2.set(Field::GUEST_CS_BASE, rip & !0xf);
    l2.set(Field::GUEST_RIP, rip & 0xf);
    l2.set(Field::GUEST_CS_LIMIT, 0xffff);
    l2.set(Field::GUEST_CS_ACCESS_RIGHTS, 0x9b);
    true
}

const GOOD: &[Case] = &[
    ("data segments unusable", |l2| {
        for field in [
            Field::GUEST_DS_ACCESS_RIGHTS,
            Field::GUEST_ES_ACCESS_RIGHTS,
            Field::GUEST_FS_ACCESS_RIGHTS,
            Field::GUEST_GS_ACCESS_RIGHTS,
        ] {
            l2.set(field, 1 << 16);
        }
        true
    }),
    ("SS unusable", |l2| {
        set(l2, Field::GUEST_SS_ACCESS_RIGHTS, 1 << 16)
    }),
    ("unusable segments with wild rights", |l2| {
        set(l2, Field::GUEST_DS_ACCESS_RIGHTS, 0x1_f0ff)
            && set(l2, Field::GUEST_DS_LIMIT, 0x1234_5678)
    }),
    ("LDTR usable", |l2| {
        rights(l2, Field::GUEST_LDTR_ACCESS_RIGHTS, AccessRights::LDT.raw())
    }),
    ("CS conforming", |l2| {
        rights(l2, Field::GUEST_CS_ACCESS_RIGHTS, CODE | 4)
    }),
    ("FS and GS bases far away", |l2| {
        set(l2, Field::GUEST_FS_BASE, 0xffff_8000_0000_0000)
            && set(l2, Field::GUEST_GS_BASE, 0x7fff_ffff_f000)
    }),
    ("real mode, unrestricted", real_mode),
];

/// One wrong segment each.
pub fn segments(check: &Check) {
    let failed = Outcome::entry_failure(BasicExitReason::InvalidGuestState);
    each_qualified(check, BAD, failed, Some(0));
    each_good(check, GOOD);
}
