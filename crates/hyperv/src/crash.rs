//! What a crashing L1 leaves behind in the crash MSRs.

use crate::memory::{ReadMemory, Unmapped};
use addr::Gpa1;
use tlfs::msr::CrashControl;

/// A crash as L1 reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashReport {
    /// What was written to CRASH_CTL.
    pub control: CrashControl,
    /// CRASH_P0 to CRASH_P4. What they mean is the guest's matter; Linux gives
    /// the panic's code, RIP, RAX, then the message's address and length.
    pub parameters: [u64; 5],
}

impl CrashReport {
    /// Bytes of the longest message.
    pub const MESSAGE_MAX: usize = CrashControl::MESSAGE_MAX as usize;

    /// Where the message lies and how many bytes it has, if L1 says there is
    /// one. What exceeds [`Self::MESSAGE_MAX`] is left out.
    pub fn message_range(&self) -> Option<(Gpa1, usize)> {
        let [.., address, length] = self.parameters;
        let length = length.min(CrashControl::MESSAGE_MAX) as usize;
        (self.control.message() && length > 0).then_some((Gpa1::new(address), length))
    }

    /// The message's bytes, read from L1's memory into `buffer`. They are
    /// whatever L1 left there: often the tail of its log, rarely all text.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] if the message lies outside of L1's memory.
    pub fn message<'b>(
        &self,
        memory: &impl ReadMemory<Gpa1>,
        buffer: &'b mut [u8; Self::MESSAGE_MAX],
    ) -> Result<&'b [u8], Unmapped> {
        let Some((address, length)) = self.message_range() else {
            return Ok(&[]);
        };
        memory.read(address, &mut buffer[..length])?;
        Ok(&buffer[..length])
    }
}
