//! When the machine's TSC is to take on another rate, in words: `AT=RATE`.

use super::{REFERENCE_HZ, ReferenceTime};
use core::fmt;
use core::str::FromStr;

/// From this moment of the partition on, its machine's TSC has this rate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RateChange {
    /// When.
    pub at: ReferenceTime,
    /// The rate in Hz: more than 10 MHz, and what CPUID can tell.
    pub hz: u32,
}

/// Why a text is no [`RateChange`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRateChange {
    /// It has not the form `AT=RATE`.
    Form,
    /// What stands for the moment is no number of seconds.
    Moment,
    /// What stands for the rate is no number of Hz.
    Rate,
    /// The rate is not above 10 MHz, or above 4.29 GHz.
    Range,
}

impl fmt::Display for BadRateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a change of the TSC's rate is AT=RATE, such as 12.5=150M",
            Self::Moment => "when the TSC's rate changes is a number of seconds, such as 12.5",
            Self::Rate => "the TSC's rate is a number of Hz, such as 150000000 or 150M",
            Self::Range => "the TSC's rate is above 10 MHz and below 4295 MHz",
        })
    }
}

impl core::error::Error for BadRateChange {}

impl FromStr for RateChange {
    type Err = BadRateChange;

    /// `AT` in seconds of the reference clock, with up to seven decimals; `RATE` in Hz, or with `k`,
    /// `M` or `G` behind it.
    fn from_str(text: &str) -> Result<Self, BadRateChange> {
        let (at, rate) = text.split_once('=').ok_or(BadRateChange::Form)?;
        let at = moment(at).ok_or(BadRateChange::Moment)?;
        let hz = hertz(rate).ok_or(BadRateChange::Rate)?;
        let hz = u32::try_from(hz).map_err(|_| BadRateChange::Range)?;
        if u64::from(hz) <= REFERENCE_HZ {
            return Err(BadRateChange::Range);
        }
        Ok(Self { at, hz })
    }
}

impl fmt::Display for RateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, rest) = (self.at.0 / REFERENCE_HZ, self.at.0 % REFERENCE_HZ);
        write!(f, "{seconds}.{rest:07}={}", self.hz)
    }
}

fn digits(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| are_digits)
}

fn moment(text: &str) -> Option<ReferenceTime> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if decimals.len() > 7 {
        return None;
    }
    let unit = REFERENCE_HZ / 10u64.pow(decimals.len() as u32);
    let units = digits(seconds)?.checked_mul(REFERENCE_HZ)?;
    let units = units.checked_add(digits(decimals)? * unit)?;
    Some(ReferenceTime(units))
}

fn hertz(text: &str) -> Option<u64> {
    let (number, factor) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000),
        b'M' => (&text[..text.len() - 1], 1_000_000),
        b'G' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    digits(number)?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn moments_and_rates() {
        let change = |text: &str| text.parse::<RateChange>().map(|c| (c.at.0, c.hz));
        assert_eq!(change("12.5=150M"), Ok((125_000_000, 150_000_000)));
        assert_eq!(change("0=4G"), Ok((0, 4_000_000_000)));
        assert_eq!(change("3.0000001=20000k"), Ok((30_000_001, 20_000_000)));
        for (text, why) in [
            ("12.5", BadRateChange::Form),
            ("=150M", BadRateChange::Moment),
            ("+1=150M", BadRateChange::Moment),
            ("1.=150M", BadRateChange::Moment),
            ("1.00000001=150M", BadRateChange::Moment),
            ("99999999999999=150M", BadRateChange::Moment),
            ("1=", BadRateChange::Rate),
            ("1=fast", BadRateChange::Rate),
            ("1=-5M", BadRateChange::Rate),
            ("1=10M", BadRateChange::Range),
            ("1=5G", BadRateChange::Range),
        ] {
            assert_eq!(change(text), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(at: u64, hz in 10_000_001u32..) {
            let at = ReferenceTime(at);
            let change = RateChange { at, hz };
            prop_assert_eq!(change.to_string().parse(), Ok(change));
        }

        #[test]
        fn no_text_is_trouble(text: std::string::String) {
            let _ = text.parse::<RateChange>();
        }
    }
}
