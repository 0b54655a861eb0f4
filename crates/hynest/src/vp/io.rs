//! L1's I/O ports.

use platform::counters::{Counter, IDENTITY, NO_COUNTER, SAVE};
use platform::ports::{Port, absent};
use platform::{power, text};
use vmx::IoAccess;

use super::{Registers, Vp, accesses};
use crate::fatal::{self, End};

/// The counter port's state: the latched counter and how many halves have been read.
#[derive(Clone, Copy, Default)]
pub struct Latched {
    value: u64,
}

impl Latched {
    /// What is left to read.
    pub fn value(self) -> u64 {
        self.value
    }
}

impl From<u64> for Latched {
    fn from(value: u64) -> Self {
        Self { value }
    }
}

impl Vp {
    /// What a counter holds; `None` when this image does not keep it.
    fn counted(&self, counter: Counter) -> Option<u64> {
        match counter.is_access() {
            true => accesses::counted(counter),
            false => Some(self.counter(counter)),
        }
    }

    /// Handles an I/O instruction of L1.
    pub fn io_exit(&mut self, access: IoAccess) {
        if access.is_string() {
            return self.string_io(access);
        }
        let (port, size) = (access.port(), access.size());
        if access.is_in() {
            let value = self.port_read(port, size);
            let rax = &mut self.registers.0[Registers::RAX];
            *rax = match size {
                1 => *rax & !0xFF | u64::from(value & 0xFF),
                2 => *rax & !0xFFFF | u64::from(value & 0xFFFF),
                _ => u64::from(value),
            };
        } else {
            let value = self.registers.0[Registers::RAX] as u32;
            self.port_write(port, size, value);
        }
        self.advance();
    }

    /// A load from a port.
    pub fn port_read(&mut self, port: u16, size: u8) -> u32 {
        match Port::at(port) {
            Port::Com1(register) if size == 1 => {
                u32::from(self.partition.devices().uart_read(0, register))
            }
            Port::Com2(register) if size == 1 => {
                u32::from(self.partition.devices().uart_read(1, register))
            }
            Port::ClockData if size == 1 => {
                let now = self.partition.began + self.reference_seconds();
                u32::from(self.partition.devices().rtc_read(now))
            }
            Port::Power(register) if size == 1 => u32::from(power::read(register)),
            Port::CounterSelect if size == 4 => IDENTITY,
            Port::CounterData if size == 4 => {
                let half = self.latched.value as u32;
                self.latched.value >>= 32;
                half
            }
            _ => absent(size),
        }
    }

    /// A store to a port.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) {
        match Port::at(port) {
            Port::Com1(register) if size == 1 => {
                self.partition
                    .devices()
                    .uart_write(0, register, value as u8);
            }
            Port::Com2(register) if size == 1 => {
                self.partition
                    .devices()
                    .uart_write(1, register, value as u8);
            }
            Port::ClockIndex if size == 1 => self.partition.devices().rtc_select(value as u8),
            Port::Power(register) if size == 1 => match power::write(register, value as u8) {
                Some(power::Action::PowerOff) => {
                    fatal::end(End::PowerOff, format_args!("L1 switched itself off"))
                }
                Some(power::Action::Reset) => {
                    fatal::end(End::Reset, format_args!("L1 reset itself"))
                }
                None => {}
            },
            Port::CounterSelect if size == 4 && value == SAVE => self.ask_for_save(),
            Port::CounterSelect if size == 4 => {
                match text::Request::decode(value) {
                    Some(text::Request::Piece(number)) => {
                        let value = text::piece(self.partition.text(), number);
                        self.latched = Latched { value };
                        return;
                    }
                    Some(text::Request::Take) => return self.partition.take_text(),
                    None => {}
                }
                let counter = Counter::ALL.get(value as usize).copied();
                self.latched = Latched {
                    value: counter.and_then(|c| self.counted(c)).unwrap_or(NO_COUNTER),
                };
            }
            Port::CounterData if size == 4 && self.partition.has_rate_port => {
                self.change_tsc_rate(value.into());
            }
            _ => {}
        }
    }
}
