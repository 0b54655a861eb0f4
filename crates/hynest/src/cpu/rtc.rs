//! The machine's clock, read once: the time of day at which the partition begins.

use platform::rtc::DateTime;

use super::port::{inb, outb};

/// Register A: an update is in progress.
const UPDATING: u8 = 0x80;
/// Register B: binary values.
const BINARY: u8 = 0x04;
/// Register B: 24-hour mode.
const HOURS_24: u8 = 0x02;

fn register(index: u8) -> u8 {
    // SAFETY: the clock belongs to L0; selecting and reading these registers changes nothing.
    unsafe {
        outb(0x70, index);
        inb(0x71)
    }
}

fn snapshot() -> [u8; 7] {
    // The BIOS keeps the century at 0x32.
    [0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32].map(register)
}

/// Seconds since 1970, or 0 where the machine has no clock that tells.
pub fn now() -> u64 {
    // Two equal readings in a row, neither of them during an update, which takes 2 ms.
    let mut last = [0xFF; 7];
    for _ in 0..100_000 {
        if register(0x0A) & UPDATING != 0 {
            continue;
        }
        let values = snapshot();
        if values == last {
            return decode(values, register(0x0B)).unwrap_or(0);
        }
        last = values;
    }
    0
}

fn decode(values: [u8; 7], format: u8) -> Option<u64> {
    let afternoon = format & HOURS_24 == 0 && values[2] & 0x80 != 0;
    let number = |value: u8| {
        if format & BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 15)
        }
    };
    let [second, minute, hour, day, month, year, _] = values.map(number);
    let century = u32::from((values[6] >> 4) * 10 + (values[6] & 15));
    let hour = if format & HOURS_24 == 0 {
        number(values[2] & 0x7F) % 12 + 12 * u8::from(afternoon)
    } else {
        hour
    };
    DateTime {
        year: century * 100 + u32::from(year),
        month,
        day,
        hour,
        minute,
        second,
    }
    .to_unix()
}
