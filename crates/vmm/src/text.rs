//! `vmm text`: shows the text that L0 was started with, and takes it.

use std::io::{self, Write};

use crate::counters::CounterPort;
use crate::error::{Error, Result};

/// Shows it as a line; nothing where there is none, where it has been taken, and where L0 is not hynest.
pub fn run() -> Result<()> {
    let mut line = CounterPort::find().map_or_else(Vec::new, CounterPort::take_text);
    if !line.is_empty() {
        line.push(b'\n');
        io::stdout().write_all(&line).map_err(Error::Report)?;
    }
    Ok(())
}
