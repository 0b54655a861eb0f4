//! L1's device pages: the local APIC in xAPIC mode and the IOAPIC.

use addr::{Gpa1, Gva};
use platform::apic::Mode;
use platform::layout::{APIC_BASE, IOAPIC_BASE};
use platform::mmio::{self, Alu, CodeSize, DecodeError, Operand, Operation};
use platform::paging::{AccessError, Privilege};
use vmx::{AccessRights, EptViolation, Field, Interruptibility};

use super::Vp;
use super::paging::Blocked;
use super::vmcs::{modify, read, write};

/// EFER.LMA.
const EFER_LMA: u64 = 1 << 10;
/// CR0.PE.
const CR0_PE: u64 = 1;

impl Vp {
    /// An EPT violation where EPT 01 alone is in the way: L1's, or that of an L2 without EPT 12.
    pub fn mmio_exit(&mut self) {
        let address = Gpa1::new(read(Field::GUEST_PHYSICAL_ADDRESS));
        if read(Field::IDT_VECTORING_INFO) >> 31 & 1 != 0 {
            // The delivery of an event led here: a stack or an IDT in a device page. No instruction
            // is to blame, and the delivery cannot succeed.
            return self.inject_exception(8, Some(0));
        }
        if read(Field::EXIT_QUALIFICATION) & EptViolation::NMI_UNBLOCKING != 0 {
            // An IRET from there: it has not been executed after all.
            let nmi = u64::from(Interruptibility::NMI.bits());
            modify(Field::GUEST_INTERRUPTIBILITY, nmi, 0);
        }
        self.device_access(address);
    }

    /// The guest's instruction accesses `address`, where L1 has no memory: a device register, or
    /// nothing.
    pub fn device_access(&mut self, address: Gpa1) {
        let mut bytes = [0; mmio::MAX_LENGTH];
        let instruction = match self.fetch(&mut bytes) {
            Ok(available) => mmio::decode(available, self.code_size()),
            Err(AccessError::Page(fault)) => return self.inject_page_fault(fault),
            // L1 has taken the page from L2 meanwhile: L2 will meet that when it tries again.
            Err(AccessError::Physical { .. }) => return,
        };
        let instruction = match instruction {
            Ok(instruction) => instruction,
            Err(DecodeError::TooLong) => return self.inject_gp(),
            Err(error) => {
                if self.may_log() {
                    crate::log!(
                        "VP {}: {error:?} at {:#x} accesses {address}, where L1 has no memory: #GP",
                        self.index,
                        read(Field::GUEST_RIP)
                    );
                }
                return self.inject_gp();
            }
        };
        match instruction.operation {
            Operation::Load { register, .. } => {
                let data = self.device_load(address, instruction.size);
                let old = self.gpr(register.number);
                let value = instruction.operation.loaded(instruction.size, data, old);
                self.set_gpr(register.number, value);
            }
            Operation::Exchange(register) => {
                let data = self.device_load(address, instruction.size);
                let old = self.gpr(register.number);
                let value = register.stored(instruction.size, old);
                self.device_store(address, instruction.size, value);
                let loaded = instruction.operation.loaded(instruction.size, data, old);
                self.set_gpr(register.number, loaded);
            }
            Operation::Store(register) => {
                let value = register.stored(instruction.size, self.gpr(register.number));
                self.device_store(address, instruction.size, value);
            }
            Operation::StoreImmediate(value) => {
                self.device_store(address, instruction.size, value);
            }
            Operation::Compute {
                alu,
                operand,
                to_memory,
            } => self.device_compute(address, instruction.size, alu, operand, to_memory),
        }
        self.advance_by(u64::from(instruction.length));
    }

    fn device_compute(
        &mut self,
        address: Gpa1,
        size: u8,
        alu: Alu,
        operand: Operand,
        to_memory: bool,
    ) {
        let data = self.device_load(address, size);
        let other = match operand {
            Operand::Register(register) => register.stored(size, self.gpr(register.number)),
            Operand::Immediate(value) => value,
        };
        let (left, right) = if to_memory {
            (data, other)
        } else {
            (other, data)
        };
        let (result, rflags) = alu.compute(size, left, right, read(Field::GUEST_RFLAGS));
        write(Field::GUEST_RFLAGS, rflags);
        match operand {
            _ if !alu.stores() => {}
            Operand::Register(register) if !to_memory => {
                let value = register.with(size, result, self.gpr(register.number));
                self.set_gpr(register.number, value);
            }
            _ => self.device_store(address, size, result),
        }
    }

    fn code_size(&self) -> CodeSize {
        let rights = AccessRights::from_raw(read(Field::GUEST_CS_ACCESS_RIGHTS) as u32);
        let protected = read(Field::GUEST_CR0) & CR0_PE != 0;
        if protected && rights.is_long() && read(Field::GUEST_EFER) & EFER_LMA != 0 {
            CodeSize::Bits64
        } else if protected && rights.is_default_big() {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// Reads the bytes at RIP: as many as the page of the last one allows.
    fn fetch<'a>(&self, bytes: &'a mut [u8; mmio::MAX_LENGTH]) -> Result<&'a [u8], Blocked> {
        let rip = read(Field::GUEST_RIP);
        let base = if self.code_size() == CodeSize::Bits64 {
            0
        } else {
            read(Field::GUEST_CS_BASE)
        };
        let at = Gva::new(base.wrapping_add(rip));
        // The processor has fetched them already, with the rights that takes.
        let privilege = Privilege::Supervisor;
        if self.read_guest(at, privilege, bytes).is_ok() {
            return Ok(bytes);
        }
        // The instruction may end before a page that is not there.
        let first = (4096 - at.page_offset() as usize).min(bytes.len());
        self.read_guest(at, privilege, &mut bytes[..first])?;
        Ok(&bytes[..first])
    }

    fn device_load(&mut self, address: Gpa1, size: u8) -> u64 {
        let offset = address.page_offset() as u16;
        if address.page() == APIC_BASE && self.apic.mode() == Mode::XApic {
            self.withdraw_eoi_assist();
            let now = self.tsc_now();
            u64::from(self.apic.read_page(offset, size, now))
        } else if address.page() == IOAPIC_BASE {
            u64::from(self.partition.devices().ioapic_read(offset))
        } else {
            u64::MAX
        }
    }

    fn device_store(&mut self, address: Gpa1, size: u8, value: u64) {
        let offset = address.page_offset() as u16;
        if address.page() == APIC_BASE && self.apic.mode() == Mode::XApic {
            self.withdraw_eoi_assist();
            let now = self.tsc_now();
            let effect = self.apic.write_page(offset, size, value as u32, now);
            self.apply_effect(effect);
        } else if address.page() == IOAPIC_BASE {
            self.partition.devices().ioapic_write(offset, value as u32);
        }
    }
}
