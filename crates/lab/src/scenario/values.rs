//! The values of a scenario: as a file has them and as the command line does.

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use hyperv::clock::RateChange;
use serde::Deserialize;

/// Whether hardware shadows a plain VMCS for L1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VmcsShadowing {
    /// Where the processor can
    #[default]
    Auto,
    /// Every VMREAD and VMWRITE exits
    Off,
}

/// Whether hardware hides changes of the TSC's rate from L1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TscScaling {
    /// Where the processor can
    #[default]
    Auto,
    /// L1 learns of each; what it may use itself stays as it is
    Off,
}

/// A size of memory, in the file and on the command line: a number of MiB, or with the unit M, MiB, G, GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size {
    /// In MiB.
    pub mib: u32,
}

/// A rate in Hz that a TSC can have: a number, or a text with `k`, `M` or `G` behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberText")]
pub struct Rate(pub u32);

impl std::str::FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        // The bounds are those of a rate that the TSC changes to.
        let change: RateChange = format!("0={text}")
            .parse()
            .map_err(|error| anyhow!("{error}"))?;
        Ok(Self(change.hz))
    }
}

/// A number of instructions: a number, or a text such as `800M` or `1.5G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberText")]
pub struct Count(pub u64);

impl std::str::FromStr for Count {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || anyhow!("'{text}' is no number of instructions: try 800M or 1.5G");
        let (digits, factor) = match text.strip_suffix(['k', 'M', 'G']) {
            Some(digits) if text.ends_with('k') => (digits, 1e3),
            Some(digits) if text.ends_with('M') => (digits, 1e6),
            Some(digits) => (digits, 1e9),
            None => (text, 1.0),
        };
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let count = number * factor;
        // Beyond that a floating-point number is no count.
        if !(1.0..9e15).contains(&count) || digits.starts_with(['+', '-']) {
            return Err(wrong());
        }
        Ok(Self(count as u64))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberText {
    Number(u64),
    Text(String),
}

macro_rules! from_number_or_text {
    ($($name:ident)*) => {
        $(impl TryFrom<NumberText> for $name {
            type Error = anyhow::Error;

            fn try_from(text: NumberText) -> Result<Self> {
                match text {
                    NumberText::Number(number) => number.to_string().parse(),
                    NumberText::Text(text) => text.parse(),
                }
            }
        })*
    };
}

from_number_or_text! { Rate Count }

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u32),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = anyhow::Error;

    fn try_from(text: SizeText) -> Result<Self> {
        match text {
            SizeText::Number(mib) => Ok(Self { mib }),
            SizeText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match &text[digits.len()..] {
            "" | "M" | "MiB" => 1,
            "G" | "GiB" => 1024,
            _ if digits.is_empty() => bail!("'{text}' is no size: try 768M or 1G"),
            unit => bail!("'{unit}' is no unit of memory: M or G"),
        };
        let number: u32 = digits
            .parse()
            .ok()
            .with_context(|| format!("'{text}' is no size: try 768M or 1G"))?;
        let mib = number
            .checked_mul(factor)
            .with_context(|| format!("'{text}' is more than there can be"))?;
        Ok(Self { mib })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let mib = |text: &str| text.parse::<Size>().ok().map(|size| size.mib);
        assert_eq!(mib("768"), Some(768));
        assert_eq!(mib("768M"), Some(768));
        assert_eq!(mib("1G"), Some(1024));
        assert_eq!(mib("1T"), None);
        assert_eq!(mib("M"), None);
        assert_eq!(mib("-1"), None);
        assert_eq!(mib("99999999G"), None);
    }
}
