//! The crash control register.

use bitfield_struct::bitfield;

/// CRASH_CTL. Read, it says which of its bits are supported; written, it
/// reports a crash.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CrashControl {
    #[bits(58)]
    __: u64,
    /// The environment before the operating system in which the crash happened.
    #[bits(3)]
    pub pre_os_id: u8,
    /// No dump was taken.
    pub no_dump: bool,
    /// CRASH_P3 is the address and CRASH_P4 the length of a message.
    pub message: bool,
    /// There is a crash to report.
    pub notify: bool,
}

impl CrashControl {
    /// The longest message, in bytes.
    pub const MESSAGE_MAX: u64 = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lie_where_the_tlfs_puts_them() {
        assert_eq!(CrashControl::new().with_notify(true).into_bits(), 1 << 63);
        assert_eq!(CrashControl::new().with_message(true).into_bits(), 1 << 62);
        assert_eq!(CrashControl::new().with_no_dump(true).into_bits(), 1 << 61);
        assert_eq!(CrashControl::new().with_pre_os_id(7).into_bits(), 7 << 58);
    }
}
