//! The two front doors to the registers: the xAPIC page and the x2APIC MSRs.

use super::register::{LocalVector, Register, error};
use super::timer::{Timer, TimerMode};
use super::{Effect, LocalApic, Mode, command, spurious};
use crate::GeneralProtection;
use crate::interrupt::Trigger;

/// First MSR of the x2APIC range.
const X2APIC_MSRS: u32 = 0x800;
/// Version 0x14 (integrated APIC), last local vector table entry 5.
const VERSION: u32 = 0x0005_0014;

impl LocalApic {
    /// A load of `size` bytes (1, 2 or 4) at byte `offset` of the APIC page. Registers
    /// are 32 bits at multiples of 16; what lies between reads as 0, and so does the
    /// whole page outside xAPIC mode. `now` is the VP's TSC.
    pub fn read_page(&mut self, offset: u16, size: u8, now: u64) -> u32 {
        if self.mode != Mode::XApic {
            return 0;
        }
        let byte = offset & 0xF;
        let Some(register) = Register::at((offset >> 4).into()) else {
            self.log_error(error::ILLEGAL_REGISTER);
            return 0;
        };
        if byte >= 4 {
            return 0;
        }
        let value = match register {
            Register::Id => self.id << 24,
            Register::LogicalDestination => u32::from(self.logical) << 24,
            Register::DestinationFormat => u32::from(self.model) << 28 | 0x0FFF_FFFF,
            Register::CommandLow => self.command as u32,
            Register::CommandHigh => (self.command >> 32) as u32,
            Register::Eoi | Register::SelfIpi => 0,
            other => self.read_common(other, now),
        };
        let bits = 8 * u32::from(size.min(4));
        value >> (8 * byte) & (u64::MAX >> (64 - bits.max(1))) as u32
    }

    /// A store at byte `offset` of the APIC page. Only aligned 32-bit stores
    /// reach a register (SDM 11.4.1); others, and stores outside xAPIC mode, are dropped.
    pub fn write_page(&mut self, offset: u16, size: u8, value: u32, now: u64) -> Effect {
        if self.mode != Mode::XApic || size != 4 || offset & 0xF != 0 {
            return Effect::None;
        }
        let Some(register) = Register::at((offset >> 4).into()) else {
            self.log_error(error::ILLEGAL_REGISTER);
            return Effect::None;
        };
        match register {
            Register::LogicalDestination => {
                self.logical = (value >> 24) as u8;
                Effect::Addressing
            }
            Register::DestinationFormat => {
                self.model = (value >> 28) as u8;
                Effect::Addressing
            }
            Register::Eoi => self.end_of_interrupt(),
            Register::CommandLow => {
                let high = self.command & !u64::from(u32::MAX);
                self.command = high | u64::from(value) & command::WRITABLE;
                self.command_written()
            }
            Register::CommandHigh => {
                let low = self.command & u64::from(u32::MAX);
                self.command = low | u64::from(value & 0xFF00_0000) << 32;
                Effect::None
            }
            Register::SelfIpi => {
                self.log_error(error::ILLEGAL_REGISTER);
                Effect::None
            }
            other => self.write_common(other, value, now),
        }
    }

    /// A RDMSR of 0x800 to 0x8FF.
    ///
    /// # Errors
    ///
    /// #GP outside x2APIC mode, for MSRs that do not exist and for those that
    /// can only be written.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        Ok(match self.msr_register(msr)? {
            Register::Id => self.id.into(),
            Register::LogicalDestination => super::ApicAddress::x2apic_logical(self.id).into(),
            Register::CommandLow => self.command,
            Register::Eoi
            | Register::SelfIpi
            | Register::CommandHigh
            | Register::DestinationFormat
            | Register::ArbitrationPriority => return Err(GeneralProtection),
            other => self.read_common(other, now).into(),
        })
    }

    /// A WRMSR of 0x800 to 0x8FF.
    ///
    /// # Errors
    ///
    /// #GP outside x2APIC mode, for MSRs that do not exist or can only be read,
    /// and for reserved bits (SDM 11.12.1.3).
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        let register = self.msr_register(msr)?;
        let allowed = match register {
            Register::Eoi | Register::ErrorStatus => 0,
            Register::TaskPriority | Register::SelfIpi => 0xFF,
            Register::Spurious => spurious::WRITABLE.into(),
            Register::CommandLow => !command::X2APIC_RESERVED,
            Register::Local(entry) => u64::from(entry.writable() | entry.read_only()),
            Register::InitialCount => u32::MAX.into(),
            Register::Divide => Timer::DIVIDE_BITS.into(),
            _ => return Err(GeneralProtection),
        };
        if value & !allowed != 0 {
            return Err(GeneralProtection);
        }
        Ok(match register {
            Register::Eoi => self.end_of_interrupt(),
            Register::SelfIpi => self.self_ipi(value as u8),
            Register::CommandLow => {
                self.command = value & (command::WRITABLE | !u64::from(u32::MAX));
                self.command_written()
            }
            other => self.write_common(other, value as u32, now),
        })
    }

    fn msr_register(&self, msr: u32) -> Result<Register, GeneralProtection> {
        if self.mode != Mode::X2Apic {
            return Err(GeneralProtection);
        }
        msr.checked_sub(X2APIC_MSRS)
            .and_then(Register::at)
            .ok_or(GeneralProtection)
    }

    fn self_ipi(&mut self, vector: u8) -> Effect {
        if vector < 16 {
            self.log_error(error::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, Trigger::Edge);
        }
        Effect::None
    }

    /// Reads a register that is the same through both doors.
    fn read_common(&self, register: Register, now: u64) -> u32 {
        match register {
            Register::Version => VERSION,
            Register::TaskPriority => self.task_priority.into(),
            Register::ProcessorPriority => self.processor_priority().into(),
            Register::Spurious => self.spurious,
            Register::InService(index) => self.in_service.register(index),
            Register::TriggerMode(index) => self.trigger_mode.register(index),
            Register::Requested(index) => self.requested.register(index),
            Register::ErrorStatus => self.error_status,
            Register::Local(entry) => self.local[entry as usize],
            Register::InitialCount => self.timer.initial(),
            Register::CurrentCount => self.timer.current(now),
            Register::Divide => self.timer.divide(),
            _ => 0,
        }
    }

    /// Writes a register that is the same through both doors; reserved bits and
    /// read-only registers are left alone.
    fn write_common(&mut self, register: Register, value: u32, now: u64) -> Effect {
        match register {
            Register::TaskPriority => {
                self.set_task_priority(value as u8);
                Effect::None
            }
            Register::Spurious => self.write_spurious(value & spurious::WRITABLE),
            Register::ErrorStatus => {
                self.error_status = core::mem::take(&mut self.errors);
                Effect::None
            }
            Register::Local(entry) => self.write_local(entry, value & entry.writable(), now),
            Register::InitialCount => {
                self.expire(now);
                self.timer.set_initial(value, now);
                Effect::Timer
            }
            Register::Divide => {
                self.expire(now);
                self.timer.set_divide(value, now);
                Effect::Timer
            }
            _ => Effect::None,
        }
    }

    fn write_spurious(&mut self, value: u32) -> Effect {
        let was_enabled = self.is_enabled();
        self.spurious = value;
        if was_enabled == self.is_enabled() {
            return Effect::None;
        }
        if was_enabled {
            // Disabling masks every entry; they cannot be unmasked until it is
            // enabled again (SDM 11.4.7.2).
            for lvt in &mut self.local {
                *lvt |= LocalVector::MASKED;
            }
        }
        Effect::Addressing
    }

    fn write_local(&mut self, entry: LocalVector, mut value: u32, now: u64) -> Effect {
        if !self.is_enabled() {
            value |= LocalVector::MASKED;
        }
        if entry != LocalVector::Timer {
            self.local[entry as usize] = value;
            return Effect::None;
        }
        // What ended before this write ended under the old entry.
        self.expire(now);
        self.local[entry as usize] = value;
        if let Some(mode) = TimerMode::from_lvt(value) {
            self.timer.set_mode(mode, now);
        }
        Effect::Timer
    }
}
