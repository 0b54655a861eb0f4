//! INS and OUTS of L1, and of an L2 whose port accesses are L1's.

use addr::Gva;
use vmx::{Field, IoAccess};

use super::paging::data_privilege;
use super::vmcs::read;
use super::{Registers, Vp};

const RSI: usize = 6;
const RDI: usize = 7;
/// RFLAGS.DF.
const DIRECTION: u64 = 1 << 10;

impl Vp {
    /// Executes one iteration of a string I/O instruction; with a REP prefix the instruction
    /// is left in place until RCX is used up, so that the guest takes its interrupts in between.
    pub fn string_io(&mut self, access: IoAccess) {
        // Bits 9:7 of the instruction information: address size 16, 32 or 64.
        let info = read(Field::EXIT_INSTRUCTION_INFO);
        let mask = match info >> 7 & 7 {
            0 => 0xFFFF,
            1 => 0xFFFF_FFFF,
            _ => u64::MAX,
        };
        let rcx = self.registers.0[Registers::RCX];
        if access.is_rep() && rcx & mask == 0 {
            return self.advance();
        }
        let address = Gva::new(read(Field::GUEST_LINEAR_ADDRESS));
        let size = usize::from(access.size());
        let privilege = data_privilege();
        let mut bytes = [0; 4];
        let index = if access.is_in() {
            // The fault comes before the device sees the read.
            if let Err(blocked) = self.check_guest_write(address, privilege, size) {
                return self.give_fault(blocked);
            }
            bytes = self.port_read(access.port(), access.size()).to_le_bytes();
            if let Err(blocked) = self.write_guest(address, privilege, &bytes[..size]) {
                return self.give_fault(blocked);
            }
            RDI
        } else {
            if let Err(blocked) = self.read_guest(address, privilege, &mut bytes[..size]) {
                return self.give_fault(blocked);
            }
            self.port_write(access.port(), access.size(), u32::from_le_bytes(bytes));
            RSI
        };
        let step = if read(Field::GUEST_RFLAGS) & DIRECTION == 0 {
            size as u64
        } else {
            (size as u64).wrapping_neg()
        };
        let merge = |old: u64, new: u64| match mask {
            0xFFFF => old & !mask | new & mask,
            _ => new & mask,
        };
        let register = &mut self.registers.0[index];
        *register = merge(*register, register.wrapping_add(step));
        if access.is_rep() {
            let left = (rcx & mask).wrapping_sub(1) & mask;
            self.registers.0[Registers::RCX] = merge(rcx, left);
            if left != 0 {
                return;
            }
        }
        self.advance();
    }
}
