//! The command line.

use clap::{Parser, Subcommand};

use crate::{churn, clock, clocks, count, flush_tlb, info, linux, measure, read_clock};

/// Runs and measures guests under /dev/kvm.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the vmm can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure what a guest's operations cost, by the guest's own time-stamp counter
    Measure(measure::Arguments),
    /// Change a guest's memory under it and verify what it holds
    Churn(churn::Arguments),
    /// Count the exits of a guest that reads its clock
    Clock(clock::Arguments),
    /// Compare a guest's clocks and this machine's with L0's while the TSC's rate changes
    Clocks(clocks::Arguments),
    /// Run a Linux guest with an initramfs and a serial console
    Linux(linux::Arguments),
    /// Read this machine's clock, in a guest: a vmm outside counts the exits
    ReadClock(read_clock::Arguments),
    /// Change a page's rights beside another CPU, in a guest: its kernel flushes TLBs for it
    FlushTlb(flush_tlb::Arguments),
    /// Show L0's counters, where L0 is hynest
    Counters(count::Arguments),
    /// Have L0 save this machine, where L0 is hynest and has a place for it; done when it goes on
    Save,
    /// Show the text that L0 was started with (its option text=), where L0 is hynest: once, for it is taken by that
    Text,
    /// Show what the KVM of this machine offers
    Info(info::Arguments),
}
