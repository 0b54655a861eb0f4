//! How often Linux was told that its TSC may have another rate: it counts the interrupts in
//! /proc/interrupts, in the row HRE.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Result};

const FILE: &str = "/proc/interrupts";

/// On all processors together, since the boot; `None` where the kernel has no such row.
pub fn count() -> Result<Option<u64>> {
    let text = fs::read_to_string(FILE).map_err(|cause| Error::File {
        path: PathBuf::from(FILE),
        cause,
    })?;
    Ok(sum(&text))
}

fn sum(interrupts: &str) -> Option<u64> {
    let mut rows = interrupts.lines().map(str::trim_start);
    let row = rows.find_map(|row| row.strip_prefix("HRE:"))?;
    let counts = row
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok());
    Some(counts.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_summed_over_the_processors() {
        let text = "           CPU0       CPU1\n LOC:  5  6  Local timer interrupts\n \
                    HRE:         20          3  Hyper-V reenlightenment 7 interrupts\n";
        assert_eq!(sum(text), Some(23));
        assert_eq!(sum("LOC: 5 6\n"), None);
    }
}
