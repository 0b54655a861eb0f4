//! `vmm read-clock`, for a guest's user space: reads its clock many times, and says
//! whether that took system calls. A `vmm linux` outside counts the exits.

use core::arch::asm;
use std::fs;
use std::time::Duration;

use crate::affinity;
use crate::error::{Result, last_system_error};
use crate::linux::MARKS_PORT;

/// What `vmm read-clock` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub reads: u32,
}

const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Reads and prints a line.
pub fn run(arguments: &Arguments) -> Result<()> {
    let source = fs::read_to_string(CLOCKSOURCE).unwrap_or_else(|_| "an unknown clock".into());
    affinity::pin(None)?;
    let marks = Marks::find();
    forbid_the_system_call()?;
    marks.out(1);
    let found = read(arguments.reads);
    marks.out(0);
    println!(
        "clock: {}, {} reads, {} by system call, {} backwards, {} ns each",
        source.trim(),
        arguments.reads,
        found.refused,
        found.backwards,
        found.took.as_nanos() / u128::from(arguments.reads)
    );
    Ok(())
}

/// What came of reading.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Found {
    /// Reads for which libc wanted the kernel, which was forbidden.
    refused: u32,
    /// Reads that were earlier than the one before.
    backwards: u32,
    /// From the first to the last.
    took: Duration,
}

fn read(reads: u32) -> Found {
    let mut found = Found::default();
    let mut first = None;
    let mut last = Duration::ZERO;
    for _ in 0..reads {
        let Some(now) = monotonic() else {
            found.refused += 1;
            continue;
        };
        if now < last {
            found.backwards += 1;
        }
        last = now;
        first.get_or_insert(now);
    }
    found.took = last.saturating_sub(first.unwrap_or(last));
    found
}

/// CLOCK_MONOTONIC by libc, which asks the vDSO first.
pub fn monotonic() -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    match unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) } {
        0 => Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32)),
        _ => None,
    }
}

/// From here on the system call that the vDSO saves fails: so it shows.
pub fn forbid_the_system_call() -> Result<()> {
    const WHAT: &str = "forbid a system call";
    // Where a filter's input has the number of the system call.
    const NUMBER: u32 = 0;
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_clock_gettime as u32,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the first call takes numbers alone; the second reads the program and its
    // filter, which live until it returns.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
    };
    match refused {
        true => Err(last_system_error(WHAT)),
        false => Ok(()),
    }
}

/// The port by which a vmm outside is told where the reads begin and end.
#[derive(Clone, Copy)]
struct Marks {
    allowed: bool,
}

impl Marks {
    /// Without the right to use the port, nothing is told. On a machine without such
    /// a vmm nothing is at the port.
    fn find() -> Self {
        // SAFETY: ioperm gives leave to use a port that no device of a `vmm linux` guest
        // but the marks answers to; it touches no memory.
        let allowed = unsafe { libc::ioperm(MARKS_PORT.into(), 1, 1) } == 0;
        Marks { allowed }
    }

    fn out(self, value: u8) {
        if self.allowed {
            // SAFETY: the leave was given, and the port does nothing to memory.
            unsafe {
                asm!("out dx, al", in("dx") MARKS_PORT, in("al") value, options(nomem, nostack, preserves_flags));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let found = read(1000);
        assert_eq!((found.refused, found.backwards), (0, 0));
        assert!(found.took > Duration::ZERO);
    }

    #[test]
    fn the_system_call_is_refused() {
        // A filter is for the thread that asks, and for good.
        std::thread::spawn(|| {
            forbid_the_system_call().unwrap();
            // SAFETY: with a null pointer the kernel would write nothing.
            let answer = unsafe {
                libc::syscall(
                    libc::SYS_clock_gettime,
                    libc::CLOCK_MONOTONIC,
                    core::ptr::null::<libc::timespec>(),
                )
            };
            let errno = std::io::Error::last_os_error().raw_os_error();
            assert_eq!((answer, errno), (-1, Some(libc::EPERM)));
        })
        .join()
        .unwrap();
    }
}
