//! The IOAPIC: 24 input pins, each with a redirection entry that says where its
//! interrupts go. After Intel's 82093AA and, for the EOI register, the ICH's.
//!
//! Nothing is delivered from here: messages are handed to the caller, who knows
//! the VPs' inboxes.

use crate::interrupt::{DeliveryMode, Destination, Message, Trigger};
use serde::{Deserialize, Serialize};

/// Number of input pins.
pub const PINS: usize = 24;

/// Version 0x20 (there is an EOI register) and the highest entry's number.
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

const SELECT: u16 = 0x00;
const WINDOW: u16 = 0x10;
const EOI: u16 = 0x40;

/// A redirection entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry(u64);

impl Entry {
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    /// What software can set: all but delivery status, remote IRR and reserved bits.
    const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;

    const fn vector(self) -> u8 {
        self.0 as u8
    }

    const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    fn message(self) -> Option<Message> {
        Some(Message {
            mode: DeliveryMode::from_bits((self.0 >> 8) as u32)?,
            vector: self.vector(),
            trigger: if self.has(Self::LEVEL) {
                Trigger::Level
            } else {
                Trigger::Edge
            },
            destination: Destination::from_xapic(self.has(1 << 11), (self.0 >> 56) as u8),
        })
    }
}

/// The state of the IOAPIC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ioapic {
    select: u8,
    id: u8,
    entries: [Entry; PINS],
    /// Pins whose device asserts its line, one bit each.
    lines: u32,
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioapic {
    /// The IOAPIC after reset: id 0, every pin masked, every line low.
    pub const fn new() -> Self {
        Self {
            select: 0,
            id: 0,
            entries: [Entry(Entry::MASKED); PINS],
            lines: 0,
        }
    }

    /// A device asserts (`true`) or releases its line. Polarity is the device's
    /// affair: an active-low line that is low is asserted. A pin that does not
    /// exist is not connected to anything.
    pub fn set_line(&mut self, pin: u8, asserted: bool, deliver: impl FnMut(Message)) {
        if usize::from(pin) >= PINS {
            return;
        }
        let bit = 1 << pin;
        let was_asserted = self.lines & bit != 0;
        if asserted == was_asserted {
            return;
        }
        self.lines ^= bit;
        // An edge at a masked pin is lost (82093AA, 'interrupt mask').
        if asserted {
            self.signal(usize::from(pin), deliver);
        }
    }

    /// A local APIC has ended a level-triggered interrupt with this vector:
    /// pins whose line is still up interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8, mut deliver: impl FnMut(Message)) {
        for pin in 0..PINS {
            let entry = &mut self.entries[pin];
            if entry.vector() == vector && entry.has(Entry::REMOTE_IRR) {
                entry.0 &= !Entry::REMOTE_IRR;
                self.signal_if_up(pin, &mut deliver);
            }
        }
    }

    /// A 32-bit load at byte `offset` of the IOAPIC's page. Other places read as 0.
    pub fn read(&self, offset: u16) -> u32 {
        match offset {
            SELECT => self.select.into(),
            WINDOW => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                1 => VERSION,
                select => match Self::entry_half(select) {
                    Some((pin, false)) => self.entries[pin].0 as u32,
                    Some((pin, true)) => (self.entries[pin].0 >> 32) as u32,
                    None => 0,
                },
            },
            _ => 0,
        }
    }

    /// A 32-bit store at byte `offset` of the IOAPIC's page. Other places and
    /// read-only registers are left alone.
    pub fn write(&mut self, offset: u16, value: u32, deliver: impl FnMut(Message)) {
        match offset {
            SELECT => self.select = value as u8,
            EOI => self.end_of_interrupt(value as u8, deliver),
            WINDOW if self.select == 0 => self.id = (value >> 24) as u8 & 0xF,
            WINDOW => {
                if let Some((pin, high)) = Self::entry_half(self.select) {
                    self.write_entry(pin, high, value, deliver);
                }
            }
            _ => {}
        }
    }

    /// The pin whose entry the window shows, and whether its high half.
    fn entry_half(select: u8) -> Option<(usize, bool)> {
        let half = usize::from(select.checked_sub(0x10)?);
        (half < 2 * PINS).then_some((half / 2, half % 2 != 0))
    }

    fn write_entry(&mut self, pin: usize, high: bool, value: u32, deliver: impl FnMut(Message)) {
        let (shift, half) = if high {
            (32, 0xFFFF_FFFF_0000_0000)
        } else {
            (0, 0xFFFF_FFFF)
        };
        let entry = &mut self.entries[pin];
        let writable = Entry::WRITABLE & half;
        entry.0 = entry.0 & !writable | u64::from(value) << shift & writable;
        if !entry.has(Entry::LEVEL) {
            // Remote IRR has no meaning for edges. Software uses this to end
            // an interrupt without an EOI.
            entry.0 &= !Entry::REMOTE_IRR;
        }
        self.signal_if_up(pin, deliver);
    }

    /// Delivers a level interrupt whose line is up, after an EOI or unmasking.
    fn signal_if_up(&mut self, pin: usize, deliver: impl FnMut(Message)) {
        if self.lines & 1 << pin != 0 && self.entries[pin].has(Entry::LEVEL) {
            self.signal(pin, deliver);
        }
    }

    fn signal(&mut self, pin: usize, mut deliver: impl FnMut(Message)) {
        let entry = &mut self.entries[pin];
        if entry.has(Entry::MASKED) || entry.has(Entry::LEVEL) && entry.has(Entry::REMOTE_IRR) {
            return;
        }
        let Some(message) = entry.message() else {
            return;
        };
        if entry.has(Entry::LEVEL) {
            entry.0 |= Entry::REMOTE_IRR;
        }
        deliver(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn select(ioapic: &mut Ioapic, index: u8, value: u32) -> Vec<Message> {
        let mut sent = Vec::new();
        ioapic.write(SELECT, index.into(), |m| sent.push(m));
        ioapic.write(WINDOW, value, |m| sent.push(m));
        sent
    }

    fn line(ioapic: &mut Ioapic, pin: u8, asserted: bool) -> Vec<Message> {
        let mut sent = Vec::new();
        ioapic.set_line(pin, asserted, |m| sent.push(m));
        sent
    }

    fn eoi(ioapic: &mut Ioapic, vector: u8) -> Vec<Message> {
        let mut sent = Vec::new();
        ioapic.end_of_interrupt(vector, |m| sent.push(m));
        sent
    }

    fn entry(pin: u8) -> u8 {
        0x10 + 2 * pin
    }

    #[test]
    fn identifies_itself() {
        let mut ioapic = Ioapic::new();
        select(&mut ioapic, 0, 0x0500_0000);
        assert_eq!(ioapic.read(WINDOW), 0x0500_0000);
        ioapic.write(SELECT, 1, |_| ());
        assert_eq!(ioapic.read(WINDOW), 0x0017_0020);
        ioapic.write(SELECT, 0x10 + 2 * PINS as u32, |_| ());
        assert_eq!(ioapic.read(WINDOW), 0);
    }

    #[test]
    fn an_edge_is_one_message() {
        let mut ioapic = Ioapic::new();
        assert_eq!(line(&mut ioapic, 4, true), [], "masked after reset");
        line(&mut ioapic, 4, false);
        select(&mut ioapic, entry(4) + 1, 0x0200_0000);
        assert_eq!(select(&mut ioapic, entry(4), 0x31), []);
        let message = Message {
            mode: DeliveryMode::Fixed,
            vector: 0x31,
            trigger: Trigger::Edge,
            destination: Destination::Physical(2),
        };
        assert_eq!(line(&mut ioapic, 4, true), [message]);
        assert_eq!(line(&mut ioapic, 4, true), []);
        assert_eq!(line(&mut ioapic, 4, false), []);
        assert_eq!(line(&mut ioapic, 4, true), [message]);
        assert_eq!(eoi(&mut ioapic, 0x31), [], "edges need no EOI");
    }

    #[test]
    fn an_edge_at_a_masked_pin_is_lost() {
        let mut ioapic = Ioapic::new();
        line(&mut ioapic, 4, true);
        assert_eq!(select(&mut ioapic, entry(4), 0x31), []);
    }

    #[test]
    fn a_level_repeats_until_released() {
        let mut ioapic = Ioapic::new();
        line(&mut ioapic, 9, true);
        let sent = select(&mut ioapic, entry(9), 0x8800 | 0x50);
        assert_eq!(sent.len(), 1, "unmasked while the line is up");
        assert_eq!(sent[0].destination, Destination::Logical(0));
        assert_eq!(sent[0].trigger, Trigger::Level);
        assert!(ioapic.read(WINDOW) & 1 << 14 != 0, "remote IRR");
        line(&mut ioapic, 9, false);
        assert_eq!(line(&mut ioapic, 9, true), [], "still in service");
        assert_eq!(eoi(&mut ioapic, 0x51), []);
        assert_eq!(eoi(&mut ioapic, 0x50).len(), 1);
        line(&mut ioapic, 9, false);
        assert_eq!(eoi(&mut ioapic, 0x50), []);
        assert!(ioapic.read(WINDOW) & 1 << 14 == 0);
    }

    #[test]
    fn the_eoi_register_and_the_edge_trick_end_interrupts() {
        let mut ioapic = Ioapic::new();
        select(&mut ioapic, entry(9), 0x8000 | 0x50);
        assert_eq!(line(&mut ioapic, 9, true).len(), 1);
        let mut sent = 0;
        ioapic.write(EOI, 0x50, |_| sent += 1);
        assert_eq!(sent, 1);
        select(&mut ioapic, entry(9), 0x1_0050);
        assert!(ioapic.read(WINDOW) & 1 << 14 == 0);
        assert_eq!(select(&mut ioapic, entry(9), 0x8050).len(), 1);
    }

    #[test]
    fn reserved_bits_and_modes() {
        let mut ioapic = Ioapic::new();
        select(&mut ioapic, entry(3), !0x1_0000);
        assert_eq!(ioapic.read(WINDOW), 0xAFFF);
        select(&mut ioapic, entry(3), 0x300 | 0x40);
        assert_eq!(line(&mut ioapic, 3, true), [], "reserved delivery mode");
        assert_eq!(line(&mut ioapic, 200, true), []);
    }
}
