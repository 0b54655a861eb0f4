//! `vmm save`: has L0 save this machine, and ends when that goes on.

use crate::counters::CounterPort;
use crate::error::{Error, Result};

/// Asks L0, if it is hynest.
pub fn run() -> Result<()> {
    let port = CounterPort::find().ok_or(Error::NoHynest)?;
    port.save();
    Ok(())
}
