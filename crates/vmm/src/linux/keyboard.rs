//! A keyboard controller (8042) without a keyboard: Linux finds it in working
//! order, has nothing to wait for, and resets the machine through it.

/// Data port.
pub const DATA: u16 = 0x60;
/// Command port when written, status when read.
pub const COMMAND: u16 = 0x64;

/// Status: a byte waits to be read.
const OUTPUT_FULL: u8 = 1 << 0;
/// Status: the keyboard is not locked.
const UNLOCKED: u8 = 1 << 4;

/// Command: read the command byte.
const READ_COMMAND_BYTE: u8 = 0x20;
/// Command: the next byte of data is the new command byte.
const WRITE_COMMAND_BYTE: u8 = 0x60;
/// Command: pulse the reset line.
const PULSE_RESET: u8 = 0xFE;

/// Command byte after reset: both ports disabled, no interrupts, translation on.
const DISABLED: u8 = 0x70;

/// The controller.
#[derive(Debug)]
pub struct Keyboard {
    command_byte: u8,
    output: Option<u8>,
    data_is_command_byte: bool,
}

impl Keyboard {
    /// A controller after reset.
    pub fn new() -> Self {
        Keyboard {
            command_byte: DISABLED,
            output: None,
            data_is_command_byte: false,
        }
    }

    /// Writes to the command port; whether the machine is to be reset.
    pub fn command(&mut self, command: u8) -> bool {
        self.data_is_command_byte = command == WRITE_COMMAND_BYTE;
        if command == READ_COMMAND_BYTE {
            self.output = Some(self.command_byte);
        }
        command == PULSE_RESET
    }

    /// Writes to the data port. What is meant for a keyboard reaches nobody.
    pub fn write_data(&mut self, data: u8) {
        if std::mem::take(&mut self.data_is_command_byte) {
            self.command_byte = data;
        }
    }

    /// Reads the data port.
    pub fn read_data(&mut self) -> u8 {
        self.output.take().unwrap_or(0)
    }

    /// Reads the status port.
    pub fn status(&self) -> u8 {
        UNLOCKED
            | if self.output.is_some() {
                OUTPUT_FULL
            } else {
                0
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_command_byte_is_what_was_written_last(
            values in proptest::collection::vec(any::<u8>(), 1..20),
        ) {
            let mut keyboard = Keyboard::new();
            for value in values {
                prop_assert!(!keyboard.command(WRITE_COMMAND_BYTE));
                keyboard.write_data(value);
                keyboard.write_data(!value); // for the keyboard
                prop_assert!(!keyboard.command(READ_COMMAND_BYTE));
                prop_assert_eq!(keyboard.status() & OUTPUT_FULL, OUTPUT_FULL);
                prop_assert_eq!(keyboard.read_data(), value);
                prop_assert_eq!(keyboard.status() & OUTPUT_FULL, 0);
            }
        }

        #[test]
        fn only_one_command_resets(command: u8) {
            prop_assert_eq!(Keyboard::new().command(command), command == PULSE_RESET);
        }
    }
}
