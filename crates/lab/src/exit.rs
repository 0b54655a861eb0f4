//! How a run ended, and the exit status that tells it.

use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// L1 switched itself off.
    PowerOff,
    /// L1 reset itself.
    Reset,
    /// L1 ended in a triple fault.
    TripleFault,
    /// L1's kernel panicked.
    Panic,
    /// The partition is saved, to go on where it is restored.
    Saved,
    /// L0 stopped: a bug, or it refused to go on.
    L0Stop,
    /// Nothing happened for too long.
    Watchdog,
    /// The time that `--timeout` gives was over.
    Timeout,
    /// The emulator ended before L0 said how it ended.
    Emulator,
    /// The user ended it.
    Interrupted,
}

impl Ending {
    /// The command's exit status. 1 is an error of the lab itself, 2 a wrong command line.
    pub fn status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Saved => 0,
            Self::Reset => 10,
            Self::TripleFault => 11,
            Self::Panic => 12,
            Self::L0Stop => 13,
            Self::Watchdog => 14,
            Self::Timeout => 15,
            Self::Emulator => 16,
            Self::Interrupted => 130,
        }
    }

    /// A sentence without its full stop.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::PowerOff => "L1 powered off",
            Self::Reset => "L1 reset itself",
            Self::TripleFault => "L1 ended in a triple fault",
            Self::Panic => "L1's kernel panicked",
            Self::Saved => "the partition is saved",
            Self::L0Stop => "L0 stopped",
            Self::Watchdog => "nothing happened for too long",
            Self::Timeout => "the time was over",
            Self::Emulator => "the emulator ended before L0 did",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The exit status of a run that ended well and in which L1 broke the clean fields' promise.
pub const STALE_FIELDS: u8 = 17;

/// The exit status of a run that ended well and in which a step of L1's init failed.
pub const FAILED_STEP: u8 = 18;

/// The part of `--help` that explains the exit status.
pub const HELP: &str = "\
Exit status:
  0   L1 powered off, all its steps done; or it was saved
  1   the run could not be started (one line says why)
  2   wrong command line
  10  L1 reset itself             11  triple fault in L1
  12  L1's kernel panicked        13  L0 stopped (a bug of hynest, or a refusal; the message says which)
  14  watchdog                    15  --timeout
  16  the emulator failed         17  --audit-clean-fields found stale fields
  18  L1 powered off, and a step of its init had failed
  130 Ctrl-C or Ctrl-A X";
