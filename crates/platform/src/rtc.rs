//! The time of day, where PC software looks for it: index and data port of an MC146818.
//!
//! The platform has no such device, and ACPI says so; but Linux reads the clock before it reads
//! ACPI, and waits a second for one that does not answer. There are the registers of the time of
//! day and what tells how to read them; there are no alarms and no memory, and the clock cannot be
//! set: stores change nothing but the index.

use serde::{Deserialize, Serialize};

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Register B: 24-hour mode, binary values.
const FORMAT: u8 = 0x06;
/// Register A: the oscillator runs; no update is in progress.
const RUNNING: u8 = 0x20;
/// Register D: the contents are valid.
const VALID: u8 = 0x80;

/// The state of the device: the register that the data port stands for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Rtc {
    index: u8,
}

/// A date and time of the proleptic Gregorian calendar, in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DateTime {
    /// The year, from 1970 on.
    pub year: u32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// Days from 1970-01-01 to the first of January of `year`.
const fn days_before_year(year: u32) -> u64 {
    let y = year as u64 - 1;
    y * 365 + y / 4 - y / 100 + y / 400 - 719_162
}

const fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

const fn days_of_month(year: u32, month: u8) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl DateTime {
    /// The moment `seconds` after 1970-01-01 00:00:00.
    pub const fn from_unix(seconds: u64) -> Self {
        let (mut days, rest) = (seconds / DAY, seconds % DAY);
        // A year has at most 366 days, so this is never too late.
        let mut year = 1970 + (days / 366) as u32;
        while days_before_year(year + 1) <= days {
            year += 1;
        }
        days -= days_before_year(year);
        let mut month = 1;
        while days >= days_of_month(year, month) {
            days -= days_of_month(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: days as u8 + 1,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01 00:00:00; `None` if there is no such moment.
    pub fn to_unix(self) -> Option<u64> {
        let in_range = self.year >= 1970
            && (1..=12).contains(&self.month)
            && self.day >= 1
            && u64::from(self.day) <= days_of_month(self.year, self.month)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60;
        if !in_range {
            return None;
        }
        let months: u64 = (1..self.month).map(|m| days_of_month(self.year, m)).sum();
        let days = days_before_year(self.year) + months + u64::from(self.day) - 1;
        let (hour, minute) = (u64::from(self.hour), u64::from(self.minute));
        Some(days * DAY + hour * 3600 + minute * 60 + u64::from(self.second))
    }

    /// 1 for Sunday to 7 for Saturday, as register 6 counts.
    fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        let days = self.to_unix().unwrap_or(0) / DAY;
        ((days + 4) % 7) as u8 + 1
    }
}

impl Rtc {
    /// The device after reset.
    pub const fn new() -> Self {
        Self { index: 0 }
    }

    /// A store to the index port. Bit 7 masks NMIs on a PC; here it does nothing.
    pub fn select(&mut self, value: u8) {
        self.index = value & 0x7F;
    }

    /// A load from the data port, `now` in seconds since 1970.
    pub fn read(&self, now: u64) -> u8 {
        let time = DateTime::from_unix(now);
        match self.index {
            0x00 => time.second,
            0x02 => time.minute,
            0x04 => time.hour,
            0x06 => time.weekday(),
            0x07 => time.day,
            0x08 => time.month,
            0x09 => (time.year % 100) as u8,
            // Where the PC keeps the century, in BCD whatever register B says.
            0x32 => {
                let century = (time.year / 100) as u8;
                ((century / 10) << 4) | (century % 10)
            }
            0x0A => RUNNING,
            0x0B => FORMAT,
            0x0D => VALID,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn register(now: u64, index: u8) -> u8 {
        let mut rtc = Rtc::default();
        rtc.select(index);
        rtc.read(now)
    }

    #[test]
    fn known_moments() {
        let at = |seconds| {
            let t = DateTime::from_unix(seconds);
            (t.year, t.month, t.day, t.hour, t.minute, t.second)
        };
        assert_eq!(at(0), (1970, 1, 1, 0, 0, 0));
        assert_eq!(at(951_782_399), (2000, 2, 28, 23, 59, 59));
        assert_eq!(at(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(at(1_000_000_000), (2001, 9, 9, 1, 46, 40));
        assert_eq!(at(4_107_542_400), (2100, 3, 1, 0, 0, 0));
    }

    #[test]
    fn the_registers_of_a_moment() {
        let now = 1_000_000_000;
        let values = [0, 2, 4, 6, 7, 8, 9, 0x32].map(|index| register(now, index));
        // A Sunday.
        assert_eq!(values, [40, 46, 1, 1, 9, 9, 1, 0x20]);
        // No update is ever in progress: a reader need not wait.
        assert_eq!(register(now, 0x8A) & 0x80, 0);
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in 0u64..100_000_000_000) {
            prop_assert_eq!(DateTime::from_unix(seconds).to_unix(), Some(seconds));
        }

        #[test]
        fn no_such_moment(month: u8, day: u8) {
            let time = DateTime { year: 2023, month, day, hour: 0, minute: 0, second: 0 };
            let exists = (1..=12).contains(&month)
                && day >= 1
                && u64::from(day) <= days_of_month(2023, month);
            prop_assert_eq!(time.to_unix().is_some(), exists);
        }
    }
}
