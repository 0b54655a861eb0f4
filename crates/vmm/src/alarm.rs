//! An alarm that takes a thread out of `KVM_RUN`.

use core::{mem, ptr};

use crate::error::{Result, last_system_error};

/// While it lives, a signal is due after its time. The signal does nothing but end a
/// system call of this process with `EINTR`.
pub struct Alarm(());

/// The signal's only purpose is to interrupt.
extern "C" fn interrupt(_signal: libc::c_int) {}

impl Alarm {
    /// An alarm due after `seconds`. There is one at a time in a process.
    pub fn after(seconds: u32) -> Result<Self> {
        // SAFETY: a sigaction is integers and pointers, for which zeroes are a value:
        // no flags (in particular no SA_RESTART) and no signal masked.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing, which is safe at any point of a program.
        if unsafe { libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) } != 0 {
            return Err(last_system_error("set an alarm"));
        }
        // SAFETY: alarm takes a number and touches no memory.
        unsafe { libc::alarm(seconds) };
        Ok(Alarm(()))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: as above; zero takes the alarm back.
        unsafe { libc::alarm(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_while_it_lives() {
        // SAFETY: alarm takes a number and touches no memory. It answers how many
        // seconds were left of the alarm that it takes back.
        let left = || unsafe { libc::alarm(0) };
        let alarm = Alarm::after(1000).unwrap();
        assert!((1..=1000).contains(&left()));
        drop(alarm);
        assert_eq!(left(), 0);
        drop(Alarm::after(1000).unwrap());
        assert_eq!(left(), 0);
    }
}
