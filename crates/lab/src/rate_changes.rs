//! Changes of the TSC's rate as people ask for them: one by one, or drawn by a seed.

use anyhow::{Context, Result, anyhow, ensure};
use hyperv::clock::{RateChange, ReferenceTime};

use crate::random::Random;

/// How many changes a seed stands for unless it says how many.
const COUNT: u32 = 20;
/// A seed is good for no more: L0's command line has to hold them.
const MOST: u32 = 200;

/// When the first change comes at the earliest, in units of 100 ns: L1 has booted by then.
const BEGIN: u64 = 100_000_000;
/// From one change to the next, in the same units: L1 takes note after a tenth of a second.
const GAPS: (u64, u64) = (100_000, 4_000_000);
/// Rates in kHz, which is how Linux's KVM counts them.
const RATES_KHZ: (f64, f64) = (20_000.0, 1_000_000.0);

/// Reads `AT=RATE` or `random:SEED[:COUNT]`.
pub fn parse(text: &str) -> Result<Vec<RateChange>> {
    let parsed = match text.strip_prefix("random:") {
        Some(drawn) => random(drawn),
        None => text
            .parse()
            .map(|change| vec![change])
            .map_err(|e| anyhow!("{e}")),
    };
    parsed.with_context(|| format!("--tsc-rate-change {text}"))
}

fn random(text: &str) -> Result<Vec<RateChange>> {
    let (seed, count) = seed_and_count(text, COUNT)?;
    ensure!(count <= MOST, "there can be {MOST} changes at the most");
    let mut random = Random::new(seed);
    let mut at = BEGIN;
    let changes = (0..count).map(|_| {
        at += random.between(GAPS);
        RateChange {
            at: ReferenceTime(at),
            hz: random.ratio(RATES_KHZ) as u32 * 1000,
        }
    });
    Ok(changes.collect())
}

fn seed_and_count(text: &str, default: u32) -> Result<(u64, u32)> {
    let (seed, count) = match text.split_once(':') {
        Some((seed, count)) => (seed, count.parse().ok()),
        None => (text, Some(default)),
    };
    let both = seed.parse().ok().zip(count);
    both.context("it is no random:SEED or random:SEED:COUNT, such as random:7:20")
}

/// What the step `clocks` goes through, `COUNT[:SEED[:MOVES]]`, as L1's init is told.
pub fn of_step(text: &str) -> Result<String> {
    let mut words = text.split(':');
    let mut next = |default: &str| words.next().unwrap_or(default).parse::<u64>().ok();
    let all = next("").zip(next("1")).zip(next("0"));
    let ((count, seed), moves) = all.filter(|_| words.next().is_none()).with_context(|| {
        format!("--clock-changes {text}: it is no COUNT, COUNT:SEED or COUNT:SEED:MOVES")
    })?;
    for (number, what) in [(count, "changes"), (moves, "moves")] {
        let is_small = u32::try_from(number).is_ok();
        ensure!(is_small, "--clock-changes {text}: too many {what}");
    }
    Ok(format!("{count},{seed},{moves}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_is_as_it_was_given() {
        let change = RateChange {
            at: ReferenceTime(15_000_000),
            hz: 150_000_000,
        };
        assert_eq!(parse("1.5=150M").unwrap(), [change]);
    }

    #[test]
    fn a_seed_stands_for_its_changes() {
        assert_eq!(parse("random:7").unwrap().len(), 20);
        let changes = parse("random:7:200").unwrap();
        assert_eq!(changes[..20], parse("random:7").unwrap());
        assert_ne!(changes[..20], parse("random:8").unwrap());
        assert!(changes.is_sorted() && changes[0].at.0 > BEGIN);
        for change in &changes {
            assert!((20_000_000..=1_000_000_000).contains(&change.hz));
        }
        let slow = changes.iter().filter(|change| change.hz < 141_000_000);
        assert!((70..130).contains(&slow.count()));
    }

    #[test]
    fn what_is_none_is_refused_with_its_words() {
        for text in [
            "1.5=5M",
            "random:",
            "random:x",
            "random:1:x",
            "random:1:201",
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(
                error.starts_with(&format!("--tsc-rate-change {text}: ")),
                "{error}"
            );
        }
        assert_eq!(of_step("20").unwrap(), "20,1,0");
        assert_eq!(of_step("200:9").unwrap(), "200,9,0");
        assert_eq!(of_step("200:9:50").unwrap(), "200,9,50");
        for text in ["", "many", "1:2:3:4", "5000000000"] {
            assert!(of_step(text).is_err(), "{text}");
        }
    }
}
