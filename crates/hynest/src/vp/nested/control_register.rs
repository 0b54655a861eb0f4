//! Control-register accesses of L2 that L1 lets through and L0 does not: CR0's cache bits, CR4 bits
//! that L1 is not offered, and CR8 where L2 has no TPR of its own.

use nested::cr;
use vmx::{CrAccess, Field};

use super::super::Vp;
use super::super::vmcs::{read, write};
use super::super::vmcs01::CR0_CACHE;

impl Vp {
    /// Does what L2 wants, on its behalf; VMCS 02 is current.
    pub fn l2_control_register_exit(&mut self) {
        match CrAccess::from_qualification(read(Field::EXIT_QUALIFICATION)) {
            CrAccess::MovTo { cr: 0, gpr } => self.write_l2_cr0(self.gpr(gpr)),
            // The bits of CR4 that L0 alone intercepts do not exist for L1's guests either.
            CrAccess::MovTo { cr: 4, .. } => self.inject_gp(),
            CrAccess::Clts => {
                let value = self.l2_reads(Field::GUEST_CR0) & !cr::CR0_TS;
                self.write_l2_cr0(value);
            }
            CrAccess::Lmsw { source } => {
                let old = self.l2_reads(Field::GUEST_CR0);
                self.write_l2_cr0(old & !0xE | u64::from(source & 0xF));
            }
            // CR8 is L1's, and L1's is L0's emulation.
            access => self.control_register_exit(access),
        }
    }

    /// CR0 or CR4 as L2 reads it.
    fn l2_reads(&self, register: Field) -> u64 {
        let (mask, shadow) = if register == Field::GUEST_CR0 {
            (Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW)
        } else {
            (Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW)
        };
        let mask = read(mask);
        read(register) & !mask | read(shadow) & mask
    }

    fn write_l2_cr0(&mut self, value: u64) {
        if value >> 32 != 0 {
            return self.inject_gp();
        }
        let hardware = read(Field::GUEST_CR0);
        let switches = cr::CR0_PE | cr::CR0_PG;
        // A mode switch together with a change of the cache bits: hardware does the switch when L2
        // repeats the instruction with the cache bits as it will read them.
        let cache = value & CR0_CACHE;
        let shadow = read(Field::CR0_READ_SHADOW) & !CR0_CACHE | cache;
        if (value ^ hardware) & switches != 0 {
            return write(Field::CR0_READ_SHADOW, shadow);
        }
        if cache == CR0_CACHE & !cr::CR0_CD {
            return self.inject_gp();
        }
        let mask12 = read(Field::CR0_GUEST_HOST_MASK) & !self.nested.policy.cr0_mask;
        let (hardware, shadow) = cr::emulate_write(
            value,
            hardware,
            read(Field::CR0_READ_SHADOW),
            mask12,
            (0, CR0_CACHE),
        );
        write(Field::GUEST_CR0, hardware);
        write(Field::CR0_READ_SHADOW, shadow);
        self.advance();
    }
}
