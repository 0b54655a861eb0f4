//! One line of progress for work that takes a while, on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::machine;

/// Runs `work` under a line that says `what` is going on: a spinner on a terminal, one plain line elsewhere.
/// Work under a fifth of a second leaves nothing on a terminal. After Ctrl-C nothing follows.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal {
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    } else {
        eprintln!("hynest: {what}");
        ProgressBar::hidden()
    };
    let result = work();
    bar.finish_and_clear();
    ensure!(!machine::interrupted(), "interrupted");
    if terminal && result.is_ok() && started.elapsed() > Duration::from_millis(200) {
        eprintln!("hynest: {what} ({:.1} s)", started.elapsed().as_secs_f32());
    }
    result
}

/// How far a number of pieces of work is: on a terminal a bar with the time, and above it a line for whatever is worth
/// one; elsewhere the lines alone.
pub struct Pieces(ProgressBar);

impl Pieces {
    /// None of `total` done.
    pub fn new(total: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("[{bar:20}] {pos} of {len} ({elapsed})") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        match self.0.is_hidden() {
            true => eprintln!("hynest: {line}"),
            false => self.0.println(format!("hynest: {line}")),
        }
    }

    /// One more is done.
    pub fn done(&self) {
        self.0.inc(1);
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
