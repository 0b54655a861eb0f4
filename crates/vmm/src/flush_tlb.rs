//! `vmm flush-tlb`, for a guest's user space: changes a page's rights while another CPU runs the
//! same program, so that the guest's kernel has to flush that CPU's TLB each time.

use crate::affinity::{self, Cpus};
use crate::error::Result;
use crate::measure::{Companion, Window};

/// What `vmm flush-tlb` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub changes: u32,
}

/// Changes, and prints a line. On one CPU there is nobody to flush, and nothing is done.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cpus = Cpus::allowed()?;
    if cpus.count() < 2 {
        return Ok(());
    }
    let page = Window::new(1)?;
    page.touch()?;
    affinity::pin(Some(cpus.nth(0)))?;
    let _companion = Companion::start(cpus.nth(1))?;
    for _ in 0..arguments.changes {
        page.protect_and_open()?;
    }
    println!(
        "log: took the right to write a page away {} times, with another CPU that may hold it",
        arguments.changes
    );
    Ok(())
}
