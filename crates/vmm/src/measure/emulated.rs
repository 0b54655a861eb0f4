//! A TSC that L0 emulates: its rate has changed and L1 has not taken note yet.

use std::thread::sleep;
use std::time::Duration;

use crate::counters::CounterPort;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Linux takes note a tenth of a second after it was told. By its own clock.
const STEP: Duration = Duration::from_millis(50);
const STEPS: u32 = 40;

/// The TSC is emulated from the beginning of this on, until Linux takes note a tenth of a second later.
pub struct Emulated {
    port: CounterPort,
    reference: Reference,
    original_hz: u32,
}

impl Emulated {
    /// Changes the rate by so little that a tick is an instruction still.
    ///
    /// # Errors
    /// [`Error::NotMeasurable`] where L0 does not let the rate be changed or has hardware hide that.
    pub fn begin(operation: &'static str, port: Option<CounterPort>, cpu: usize) -> Result<Self> {
        let not = |why: &str| Error::NotMeasurable {
            operation,
            why: why.into(),
        };
        let port = port.ok_or_else(|| not("L0 is not hynest"))?;
        let reference = Reference::of(cpu)?;
        let hz = reference.tsc_hz()?;
        let original_hz = u32::try_from(hz).map_err(|_| not("the TSC is too fast"))?;
        let begun = Self {
            port,
            reference,
            original_hz,
        };
        if !port.change_tsc_rate(original_hz.saturating_add(original_hz / 100_000)) {
            return Err(not("L0 does not let the TSC's rate be changed"));
        }
        if begun.goes_on()? {
            return Ok(begun);
        }
        begun.end()?;
        Err(not("hardware hides another rate"))
    }

    /// Whether it is emulated still.
    pub fn goes_on(&self) -> Result<bool> {
        self.reference.is_tsc_emulated()
    }

    /// Waits for L1 to take note, and has it take note of the rate that was.
    pub fn end(self) -> Result<()> {
        self.wait()?;
        self.port.change_tsc_rate(self.original_hz);
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        for _ in 0..STEPS {
            if !self.goes_on()? {
                return Ok(());
            }
            sleep(STEP);
        }
        Err(Error::Guest("L1 takes no note of the TSC's rate".into()))
    }
}
