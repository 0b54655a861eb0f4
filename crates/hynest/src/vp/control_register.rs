//! L1's accesses to control registers that exit: bits that L0 keeps, and CR8.

use vmx::{AccessRights, CrAccess, EntryControls, Field};

use super::Vp;
use super::vmcs::{modify, read, write};
use super::vmcs01::{CR0_CACHE, CR0_MASK, CR0_OWNED, CR4_OWNED};

const CR0_PE: u64 = 1;
const CR0_TS: u64 = 1 << 3;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// The bits that CR0 has: the others ignore writes.
const CR0_DEFINED: u64 = 0xE005_003F;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
/// The bits with a say in translation, by whose change MOV to CR4 drops translations (SDM vol. 3,
/// 4.10.4.1): PSE, PAE, PGE, PCIDE, SMEP, SMAP.
const CR4_TRANSLATION: u64 = 1 << 4 | CR4_PAE | 1 << 7 | CR4_PCIDE | 3 << 20;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bits 63:4 of CR8 are reserved.
const CR8_RESERVED: u64 = !0xF;

impl Vp {
    /// Handles a CR-access exit of L1.
    pub fn control_register_exit(&mut self, access: CrAccess) {
        match access {
            CrAccess::MovTo { cr: 0, gpr } => self.write_cr0(self.gpr(gpr)),
            CrAccess::MovTo { cr: 4, gpr } => self.write_cr4(self.gpr(gpr)),
            CrAccess::MovTo { cr: 8, gpr } => {
                let value = self.gpr(gpr);
                if value & CR8_RESERVED != 0 {
                    return self.inject_gp();
                }
                self.apic.set_task_priority((value as u8) << 4);
                self.attention = true;
                self.advance();
            }
            CrAccess::MovFrom { cr: 8, gpr } => {
                let value = u64::from(self.apic.task_priority() >> 4);
                self.set_gpr(gpr, value);
                self.advance();
            }
            CrAccess::Clts => {
                let shadow = read(Field::CR0_READ_SHADOW) & !CR0_TS;
                self.write_cr0((self.effective_cr0() & !CR0_TS) | (shadow & CR0_MASK));
            }
            CrAccess::Lmsw { source } => {
                let old = self.effective_cr0();
                // LMSW sets bits 3:0 but cannot clear PE.
                self.write_cr0((old & !0xE) | u64::from(source & 0xF));
            }
            // Nothing else is intercepted from L1.
            _ => self.inject_gp(),
        }
    }

    /// CR0 as L1 reads it.
    pub fn effective_cr0(&self) -> u64 {
        read(Field::GUEST_CR0) & !CR0_MASK | read(Field::CR0_READ_SHADOW) & CR0_MASK
    }

    fn write_cr0(&mut self, value: u64) {
        let value = value & (CR0_DEFINED | !0xFFFF_FFFF);
        let (cr4, efer) = (read(Field::GUEST_CR4), read(Field::GUEST_EFER));
        let old = read(Field::GUEST_CR0);
        let paging_on = value & CR0_PG != 0;
        let was_on = old & CR0_PG != 0;
        let illegal = value >> 32 != 0
            || (paging_on && value & CR0_PE == 0)
            || (value & CR0_NW != 0 && value & CR0_CD == 0)
            || (paging_on && !was_on && efer & EFER_LME != 0 && !may_enter_long_mode(cr4))
            || (!paging_on && was_on && !may_leave_paging(cr4, efer))
            || !self.nested_allows_cr0(value);
        if illegal {
            return self.inject_gp();
        }
        let long_mode = u64::from(EntryControls::IA32E_MODE_GUEST.bits());
        if paging_on && !was_on {
            if efer & EFER_LME != 0 {
                write(Field::GUEST_EFER, efer | EFER_LMA);
                modify(Field::ENTRY_CONTROLS, long_mode, 0);
            } else if cr4 & CR4_PAE != 0 && !self.load_pdptes() {
                return self.inject_gp();
            }
        } else if !paging_on && was_on && efer & EFER_LMA != 0 {
            write(Field::GUEST_EFER, efer & !EFER_LMA);
            modify(Field::ENTRY_CONTROLS, 0, long_mode);
        }
        if was_on && !paging_on {
            super::nested::flush_vpid01();
        }
        write(Field::CR0_READ_SHADOW, value | 0x10);
        write(Field::GUEST_CR0, value & !CR0_CACHE | 0x10 | CR0_OWNED);
        self.nested_keep_cache_bits(value & CR0_CACHE);
        self.advance();
    }

    /// PAE paging loads four directory pointers with CR0 and CR3 (SDM vol. 3, 4.4.1). `false`, with
    /// nothing loaded, when one of them has reserved bits.
    pub fn load_pdptes(&self) -> bool {
        let base = addr::Gpa1::new(read(Field::GUEST_CR3) & 0xFFFF_FFE0);
        let fields = [
            Field::GUEST_PDPTE0,
            Field::GUEST_PDPTE1,
            Field::GUEST_PDPTE2,
            Field::GUEST_PDPTE3,
        ];
        // Bits 2:1 and 8:5 of a present pointer, and those above the address, are reserved.
        let reserved = 0x1E6 | u64::MAX << self.partition.setup.physical_address_bits;
        let mut entries = [0; 4];
        for (i, entry) in entries.iter_mut().enumerate() {
            let slot = addr::Gpa1::new(base.raw() + 8 * i as u64);
            *entry = self.partition.memory.read_u64(slot).unwrap_or(0);
            if *entry & 1 != 0 && *entry & reserved != 0 {
                return false;
            }
        }
        for (field, entry) in fields.into_iter().zip(entries) {
            write(field, entry);
        }
        true
    }

    /// Writes that change CR4.VMXE, or a bit that L1 is not offered, come here. What hardware would
    /// refuse of the value is refused here.
    fn write_cr4(&mut self, value: u64) {
        let (cr0, efer) = (read(Field::GUEST_CR0), read(Field::GUEST_EFER));
        let old = read(Field::GUEST_CR4);
        // PCIDs come on in IA-32e mode with PCID 0 in CR3 (SDM vol. 3, 4.10.1).
        let bad_pcid = value & CR4_PCIDE != 0
            && (efer & EFER_LMA == 0
                || (old & CR4_PCIDE == 0 && read(Field::GUEST_CR3) & 0xFFF != 0));
        let illegal = value & !self.partition.setup.cr4_offered != 0
            || bad_pcid
            || (efer & EFER_LMA != 0 && value & CR4_PAE == 0)
            || !self.nested_allows_cr4(value);
        if illegal {
            return self.inject_gp();
        }
        if cr0 & CR0_PG != 0
            && efer & EFER_LMA == 0
            && value & CR4_PAE != 0
            && old & CR4_PAE == 0
            && !self.load_pdptes()
        {
            return self.inject_gp();
        }
        if (value ^ old) & CR4_TRANSLATION != 0 {
            super::nested::flush_vpid01();
        }
        write(Field::CR4_READ_SHADOW, value);
        write(Field::GUEST_CR4, value | CR4_OWNED);
        self.advance();
    }
}

/// Whether CR0.PG may be set with EFER.LME (SDM vol. 3, 10.8.5): PAE, code that is not 64-bit
/// already, a 32-bit TSS.
fn may_enter_long_mode(cr4: u64) -> bool {
    let code = AccessRights::from_raw(read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
    let task = AccessRights::from_raw(read(Field::GUEST_TR_ACCESS_RIGHTS) as u32);
    cr4 & CR4_PAE != 0 && !code.is_long() && task.segment_type() & 8 != 0
}

/// Whether CR0.PG may be cleared: not with PCIDs, and not in 64-bit code.
fn may_leave_paging(cr4: u64, efer: u64) -> bool {
    let code = AccessRights::from_raw(read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
    cr4 & CR4_PCIDE == 0 && !(efer & EFER_LMA != 0 && code.is_long())
}
