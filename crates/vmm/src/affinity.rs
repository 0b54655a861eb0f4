//! Pinning this thread to a CPU: counters and time stamps belong to one.

use core::mem;

use crate::error::{Error, Result, last_system_error};

/// Keeps this thread on CPU `cpu`, or on the first on which it may run.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    const WHAT: &str = "stay on one CPU";
    // SAFETY: a cpu_set_t is an array of integers, for which zeroes are a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&set);
    let cpu = match cpu {
        Some(cpu) if cpu >= libc::CPU_SETSIZE as usize => {
            return Err(Error::System {
                what: WHAT,
                cause: std::io::Error::from_raw_os_error(libc::EINVAL),
            });
        }
        Some(cpu) => cpu,
        None => {
            // SAFETY: the kernel writes at most `size` bytes to `set`.
            if unsafe { libc::sched_getaffinity(0, size, &mut set) } != 0 {
                return Err(last_system_error(WHAT));
            }
            // SAFETY: `n` is within the set.
            (0..libc::CPU_SETSIZE as usize)
                .find(|&n| unsafe { libc::CPU_ISSET(n, &set) })
                .unwrap_or(0)
        }
    };
    // SAFETY: `cpu` is within the set, as checked above.
    unsafe {
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(cpu, &mut set);
    }
    // SAFETY: the kernel reads `size` bytes from `set`.
    match unsafe { libc::sched_setaffinity(0, size, &set) } {
        0 => Ok(()),
        _ => Err(last_system_error(WHAT)),
    }
}
