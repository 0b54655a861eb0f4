//! Power-off and reset, as the FADT of a hardware-reduced platform names them:
//! sleep control and status registers (ACPI 6.5, 4.8.3.7) and the reset register
//! (4.8.3.6), each a byte in I/O space.

/// The sleep control register, from [`crate::ports::POWER`] on.
pub const SLEEP_CONTROL: u8 = 0;
/// The sleep status register.
pub const SLEEP_STATUS: u8 = 1;
/// The reset register.
pub const RESET: u8 = 2;

/// The sleep type that `\_S5` names: soft off.
pub const SOFT_OFF: u8 = 5;
/// What the FADT says to write to the reset register.
pub const RESET_VALUE: u8 = 0x06;

const SLEEP_ENABLE: u8 = 1 << 5;

/// What L1 asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Turn the partition off.
    PowerOff,
    /// Start the partition again from the beginning.
    Reset,
}

/// A store of `value` to register `register`. Only the values that ACPI says
/// mean something do.
pub const fn write(register: u8, value: u8) -> Option<Action> {
    match (register, value) {
        (SLEEP_CONTROL, _) if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SOFT_OFF => {
            Some(Action::PowerOff)
        }
        (RESET, RESET_VALUE) => Some(Action::Reset),
        _ => None,
    }
}

/// A load of any of the registers: the wake status is never set, since there
/// is no sleep to wake from, and the other two have no state.
pub const fn read(_register: u8) -> u8 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_needs_its_type_and_the_enable_bit() {
        let offs: alloc::vec::Vec<u8> = (0..=255)
            .filter(|&v| write(SLEEP_CONTROL, v) == Some(Action::PowerOff))
            .collect();
        assert!(offs.iter().all(|v| v & 0x3C == 5 << 2 | 1 << 5));
        assert_eq!(offs.len(), 16);
    }

    #[test]
    fn reset_needs_its_value() {
        let resets = (0..=255).filter(|&v| write(RESET, v) == Some(Action::Reset));
        assert!(resets.eq([RESET_VALUE]));
        assert_eq!(write(SLEEP_STATUS, 0xFF), None);
        assert_eq!(read(SLEEP_STATUS), 0);
    }
}
