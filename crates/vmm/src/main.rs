//! L1's user space: a small VMM that runs and measures L2 guests under /dev/kvm.

mod affinity;
mod alarm;
mod assembly;
mod bare;
mod churn;
mod cli;
mod clock;
mod clocks;
mod count;
mod counters;
mod cpuid;
mod error;
mod flush_tlb;
mod host;
mod info;
mod linux;
mod long_mode;
mod measure;
mod memory;
mod paging;
mod random;
mod read_clock;
mod reenlightenments;
mod reference;
mod report;
mod save;
mod stats;
mod text;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Measure(arguments) => measure::run(&arguments),
        Command::Churn(arguments) => churn::run(&arguments),
        Command::Clock(arguments) => clock::run(&arguments),
        Command::Clocks(arguments) => clocks::run(&arguments),
        Command::Linux(arguments) => linux::run(&arguments),
        Command::ReadClock(arguments) => read_clock::run(&arguments),
        Command::FlushTlb(arguments) => flush_tlb::run(&arguments),
        Command::Counters(arguments) => count::run(&arguments),
        Command::Save => save::run(),
        Command::Text => text::run(),
        Command::Info(arguments) => info::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm: {error}");
            ExitCode::FAILURE
        }
    }
}
