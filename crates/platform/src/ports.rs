//! The I/O port space that L1 sees: what answers where.

use crate::counters;

/// The console: PNP0501, IRQ 4.
pub const COM1: u16 = 0x3F8;
/// The IOAPIC pin of [`COM1`].
pub const COM1_PIN: u8 = 4;
/// What L1's user space reports to: PNP0501, IRQ 3.
pub const COM2: u16 = 0x2F8;
/// The IOAPIC pin of [`COM2`].
pub const COM2_PIN: u8 = 3;
/// ACPI sleep control register, then its status and the reset register.
pub const POWER: u16 = 0x5D0;

/// What answers at a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// Register 0 to 7 of the first UART, a byte each.
    Com1(u8),
    /// Register 0 to 7 of the second UART.
    Com2(u8),
    /// [`counters::SELECT_PORT`]: identity when read, selects when written; 32 bits.
    CounterSelect,
    /// [`counters::DATA_PORT`]: the latched value when read, the TSC's rate when
    /// written; 32 bits.
    CounterData,
    /// A register of [`power`](crate::power), a byte.
    Power(u8),
    /// The time of day: the index port, a byte.
    ClockIndex,
    /// The time of day: the data port, a byte.
    ClockData,
    /// Nobody: reads give ones, writes are dropped. So L1 finds no PIC, PIT,
    /// keyboard controller or PCI configuration mechanism, and its delays by
    /// writes to port 0x80 do no harm.
    Absent,
}

impl Port {
    /// What answers at port `port`.
    pub const fn at(port: u16) -> Self {
        match port {
            COM1..=0x3FF => Self::Com1((port - COM1) as u8),
            COM2..=0x2FF => Self::Com2((port - COM2) as u8),
            counters::SELECT_PORT => Self::CounterSelect,
            counters::DATA_PORT => Self::CounterData,
            POWER..=0x5D2 => Self::Power((port - POWER) as u8),
            0x70 => Self::ClockIndex,
            0x71 => Self::ClockData,
            _ => Self::Absent,
        }
    }
}

/// What a read of `size` bytes (1, 2 or 4) gives where nobody answers.
pub const fn absent(size: u8) -> u32 {
    match size {
        1 => 0xFF,
        2 => 0xFFFF,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_ports_and_nothing_else() {
        assert_eq!(Port::at(0x3F8), Port::Com1(0));
        assert_eq!(Port::at(0x3FF), Port::Com1(7));
        assert_eq!(Port::at(0x2FD), Port::Com2(5));
        assert_eq!(Port::at(0x5C0), Port::CounterSelect);
        assert_eq!(Port::at(0x5C4), Port::CounterData);
        assert_eq!(Port::at(0x5D2), Port::Power(2));
        let answered = (0..=u16::MAX).filter(|&p| Port::at(p) != Port::Absent);
        assert_eq!(answered.count(), 8 + 8 + 2 + 3 + 2);
        for legacy in [0x20, 0x21, 0x40, 0x60, 0x64, 0x80, 0xA1, 0xCF8, 0xCFC] {
            assert_eq!(Port::at(legacy), Port::Absent);
        }
    }

    #[test]
    fn nobody_reads_as_ones_of_the_size() {
        assert_eq!([1, 2, 4].map(absent), [0xFF, 0xFFFF, 0xFFFF_FFFF]);
    }
}
