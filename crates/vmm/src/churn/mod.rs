//! `vmm churn`: a guest whose memory is changed under it, and verified.
//!
//! Pages are given back to the kernel as by a balloon, replaced, swapped and
//! write-protected while the guest's vCPUs use them; each word is compared with what
//! must be there, by the guest and by the vmm. What it looks for is a hypervisor, here
//! or below, that keeps a translation which it was told to forget.

mod content;
mod guest;
mod payload;
mod region;
mod script;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use self::guest::Guest;
use self::region::HUGE;
use self::script::{Done, Script};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::paging::PAGE_SIZE;
use crate::report::Report;

/// The most vCPUs of such a guest.
pub const MAX_VCPUS: usize = 16;

/// What `vmm churn` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// Memory that is changed, in MiB: a multiple of 4, the first half of it in huge pages
    /// where the kernel has them
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = memory)]
    pub memory: u64,
    /// How many vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_VCPUS as i64))]
    pub vcpus: u8,
    /// How many rounds of changes
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub rounds: u64,
    /// Another number gives another row of changes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Where the first vCPU begins, counted among the CPUs that are allowed; the others begin
    /// on the next ones, and all change CPUs now and then
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub cpu: u16,
    /// What the guest is called in the report
    #[arg(long, default_value = "churn")]
    pub name: String,
    /// Where the finding goes: a JSON object, appended [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

fn memory(text: &str) -> std::result::Result<u64, String> {
    let mib: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let pages = (mib << 20) / PAGE_SIZE;
    let fits = mib.is_multiple_of(4) && (4..=1024).contains(&mib);
    match fits && pages >= script::min_pages(1) {
        true => Ok(mib),
        false => Err("a multiple of 4, from 4 to 1024".into()),
    }
}

/// The report's line.
#[derive(Serialize, Debug)]
struct Finding<'a> {
    event: &'static str,
    name: &'a str,
    vcpus: u8,
    memory_mib: u64,
    seconds: f64,
    /// What was wrong; `null` when nothing was.
    failure: Option<String>,
    #[serde(flatten)]
    done: Option<Done>,
}

/// Churns and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = Report::open(arguments.report.as_deref())?;
    let host = Host::open()?;
    let bytes = arguments.memory << 20;
    debug_assert_eq!(bytes % (2 * HUGE), 0);
    let pages = bytes / PAGE_SIZE;
    if pages < script::min_pages(arguments.vcpus.into()) {
        return Err(Error::Memory(format!(
            "{} MiB are too little for {} vCPUs",
            arguments.memory, arguments.vcpus
        )));
    }
    let started = Instant::now();
    let guest = Guest::start(&host, arguments.vcpus.into(), bytes, arguments.cpu.into())?;
    let done = Script::new(guest, pages, arguments.seed).run(arguments.rounds);
    let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    report.event(&Finding {
        event: "churn",
        name: &arguments.name,
        vcpus: arguments.vcpus,
        memory_mib: arguments.memory,
        seconds,
        failure: done.as_ref().err().map(Error::to_string),
        done: done.as_ref().ok().copied(),
    })?;
    done.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_pairs_of_huge_pages() {
        for good in ["4", "16", "1024"] {
            assert!(memory(good).is_ok(), "{good}");
        }
        for bad in ["0", "2", "6", "1028", "x", "-4", "18446744073709551612"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
