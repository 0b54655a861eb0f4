//! The command people use: builds images, starts the machine, streams consoles, measures, reports.
//!
//! From the outside in: [`cli`] and [`scenario`] say what is wanted; [`run`] gets and builds it ([`deps`], [`kernel`],
//! [`initramfs`], [`image`], [`disk`]); [`machine`] runs it in an [`emulator`] and sorts what comes out ([`frames`],
//! [`console`], [`events`]) into a [`report`]. [`mod@test`], [`audit`], [`mod@bench`] and [`soak`] run many of them.

#![forbid(unsafe_code)]

mod audit;
mod bench;
mod clean;
mod cli;
mod console;
mod costs;
mod deps;
mod disk;
mod early;
mod emulator;
mod events;
mod exit;
mod frames;
mod image;
mod initramfs;
mod interactive;
mod kernel;
mod machine;
mod pack;
mod paths;
mod pool;
mod programs;
mod progress;
mod proof;
mod random;
mod rate_changes;
mod report;
mod run;
mod scenario;
mod snapshot;
mod soak;
mod state_disk;
mod steps;
mod test;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use cli::{Cli, Command};
use paths::Paths;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli.command) {
        Ok(status) => ExitCode::from(status),
        // Whatever failed, it did because Ctrl-C reached it, too.
        Err(_) if machine::interrupted() => {
            eprintln!("hynest: interrupted");
            ExitCode::from(exit::Ending::Interrupted.status())
        }
        Err(error) => {
            // One line: what failed, and after each colon, why.
            eprintln!("hynest: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: &Command) -> Result<u8> {
    let paths = Paths::new();
    machine::catch_interrupts()?;
    match command {
        Command::Run(options) => {
            let view = run::View {
                interactive: options.interactive,
                silent: options.json,
                log: options.log.clone(),
            };
            let summary = run::run(&paths, &options.scenario()?, &view)?;
            let text = match options.json {
                true => {
                    serde_json::to_string_pretty(&summary)
                        .context("the summary cannot be written")?
                        + "\n"
                }
                false => summary.text(console::has_colours()),
            };
            // A reader that has gone is no reason for an error message.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(summary.status())
        }
        Command::Audit(options) => audit::run(&paths, options),
        Command::Bench(options) => bench::run(&paths, options),
        Command::Soak(options) => soak::run(&paths, options),
        Command::Test(options) => test::run(&paths, options),
        Command::Clean(options) => clean::clean(&paths, options.all).map(|()| 0),
    }
}
