//! The ports of the guest's machine: a serial port, a keyboard controller, the PCI
//! reset register. Everything else reads as nothing.

use std::io::Write;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::errno;

use super::console::{Console, Sign};
use super::keyboard::{self, Keyboard};
use crate::report::Report;

/// First of the eight ports of the 16550.
pub const SERIAL: u16 = 0x3F8;
const SERIAL_LAST: u16 = SERIAL + 7;
const SERIAL_IRQ: u32 = 4;

const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
const RESET_CONTROL: u16 = 0xCF9;

/// Reset control register: reset now.
const RESET_CPU: u8 = 1 << 2;

/// An ISA interrupt line of KVM's interrupt controllers.
struct Line {
    vm: Arc<VmFd>,
    irq: u32,
}

impl Trigger for Line {
    type E = errno::Error;

    /// ISA interrupts are edges: the line goes up and down again.
    fn trigger(&self) -> Result<(), errno::Error> {
        self.vm.set_irq_line(self.irq, true)?;
        self.vm.set_irq_line(self.irq, false)
    }
}

/// What a port access asks of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// To be reset.
    Reset,
    /// To be switched off: nothing runs any more.
    PowerOff,
    /// The console could not be passed on.
    ConsoleFailed(String),
}

/// The devices, shared by the guest's vCPUs.
pub struct Devices {
    serial: Serial<Line, NoEvents, Console>,
    keyboard: Keyboard,
}

impl Devices {
    /// The devices of the guest `name` in `vm`.
    pub fn new(vm: Arc<VmFd>, name: &str, report: Arc<Report>) -> Self {
        let line = Line {
            vm,
            irq: SERIAL_IRQ,
        };
        Devices {
            serial: Serial::new(line, Console::new(name, report)),
            keyboard: Keyboard::new(),
        }
    }

    /// OUT of one byte or several to a port.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Option<Request> {
        let &first = data.first()?;
        match port {
            SERIAL..=SERIAL_LAST => {
                for &byte in data {
                    if let Err(error) = self.serial.write((port - SERIAL) as u8, byte) {
                        return Some(Request::ConsoleFailed(error.to_string()));
                    }
                }
                (self.serial.writer().sign() == Some(&Sign::Halted)).then_some(Request::PowerOff)
            }
            keyboard::COMMAND => self.keyboard.command(first).then_some(Request::Reset),
            keyboard::DATA => {
                self.keyboard.write_data(first);
                None
            }
            RESET_CONTROL if first & RESET_CPU != 0 => Some(Request::Reset),
            _ => None,
        }
    }

    /// IN of one byte or several from a port.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        match port {
            SERIAL..=SERIAL_LAST => {
                for byte in data {
                    *byte = self.serial.read((port - SERIAL) as u8);
                }
            }
            keyboard::COMMAND => data.fill(self.keyboard.status()),
            keyboard::DATA => data.fill(self.keyboard.read_data()),
            // No clock runs behind the CMOS: its time is not being updated.
            CMOS_INDEX | CMOS_DATA => data.fill(0),
            _ => data.fill(0xFF),
        }
    }

    /// The reason of the guest's panic, when its console told of one.
    pub fn panic(&self) -> Option<&str> {
        match self.serial.writer().sign() {
            Some(Sign::Panic(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Passes on the last, unfinished line.
    pub fn finish(&mut self) {
        let console = self.serial.writer_mut();
        // The guest has ended; if its last words cannot be written, they are lost.
        let _ = console.finish().and_then(|()| console.flush());
    }
}
