//! The interrupt command register. SDM vol. 3, 11.6.1 and 11.12.9.

use super::register::error;
use super::{Effect, LocalApic, Mode};
use crate::interrupt::{DeliveryMode, Destination, Message, Trigger};

const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;

/// Bits that are reserved in x2APIC mode. Delivery status (12) is gone there
/// too, but software written for both modes may leave it set: it is ignored.
pub(super) const X2APIC_RESERVED: u64 = 0xFFF3_2000;
/// Bits of the low half that software can set.
pub(super) const WRITABLE: u64 = 0x000C_CFFF;

impl LocalApic {
    /// Does what a write of the command register, now in `self.command`, asks for.
    pub(super) fn command_written(&mut self) -> Effect {
        let low = self.command as u32;
        let Some(mode) = DeliveryMode::from_bits(low >> 8) else {
            return Effect::None;
        };
        // INIT level de-assert: a relic that does nothing (SDM 11.6.1, 'Level').
        if mode == DeliveryMode::Init && low & LEVEL != 0 && low & ASSERT == 0 {
            return Effect::None;
        }
        let vector = low as u8;
        let vectored = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if vectored && vector < 16 {
            self.log_error(error::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let high = (self.command >> 32) as u32;
        let logical = low & LOGICAL != 0;
        let destination = match (low >> 18 & 3, self.mode) {
            (0, Mode::X2Apic) => Destination::from_x2apic(logical, high),
            (0, _) => Destination::from_xapic(logical, (high >> 24) as u8),
            (1, _) => Destination::Physical(self.id),
            (2, _) => Destination::All,
            _ => Destination::AllButSender,
        };
        // An IPI to oneself needs nobody else.
        if mode == DeliveryMode::Fixed && destination == Destination::Physical(self.id) {
            self.accept(vector, Trigger::Edge);
            return Effect::None;
        }
        Effect::Ipi(Message {
            mode,
            vector,
            // Whatever bit 15 says, IPIs are edges on the processors hynest
            // models: a level one would send its EOI to an IOAPIC.
            trigger: Trigger::Edge,
            destination,
        })
    }
}
