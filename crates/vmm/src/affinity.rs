//! Keeping threads on CPUs: counters and time stamps belong to one.

use core::mem;

use crate::error::{Error, Result, last_system_error};

const WHAT: &str = "stay on one CPU";

/// A thread of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadId(libc::pid_t);

/// The thread that asks.
pub fn this_thread() -> ThreadId {
    // SAFETY: gettid takes nothing and touches no memory.
    ThreadId(unsafe { libc::gettid() })
}

/// The CPUs on which this process may run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cpus(Vec<usize>);

impl Cpus {
    /// Those on which the thread that asks may run: at least one.
    pub fn allowed() -> Result<Self> {
        let mut set = empty();
        // SAFETY: the kernel writes at most the set's size to it.
        if unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) } != 0 {
            return Err(last_system_error(WHAT));
        }
        // SAFETY: `n` is within the set.
        let cpus = (0..SIZE).filter(|&n| unsafe { libc::CPU_ISSET(n, &set) });
        Ok(Cpus(cpus.collect()))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// CPU `n` of them; after the last comes the first again.
    pub fn nth(&self, n: usize) -> usize {
        self.0[n % self.0.len()]
    }
}

/// Keeps this thread on CPU `cpu`, or on the first on which it may run.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let cpu = match cpu {
        Some(cpu) => cpu,
        None => Cpus::allowed()?.nth(0),
    };
    pin_thread(ThreadId(0), cpu)
}

/// Keeps a thread of this process on CPU `cpu`.
pub fn pin_thread(thread: ThreadId, cpu: usize) -> Result<()> {
    if cpu >= SIZE {
        return Err(Error::System {
            what: WHAT,
            cause: std::io::Error::from_raw_os_error(libc::EINVAL),
        });
    }
    let mut set = empty();
    // SAFETY: `cpu` is within the set, as checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the set's size from it.
    match unsafe { libc::sched_setaffinity(thread.0, mem::size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(last_system_error(WHAT)),
    }
}

/// How many CPUs a set can hold.
const SIZE: usize = libc::CPU_SETSIZE as usize;

fn empty() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is an array of integers, for which zeroes are a value.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_where_it_was_put() {
        let cpus = Cpus::allowed().unwrap();
        let last = cpus.nth(cpus.count() - 1);
        std::thread::spawn(move || {
            pin_thread(this_thread(), last).unwrap();
            assert_eq!(Cpus::allowed().unwrap(), Cpus(vec![last]));
        })
        .join()
        .unwrap();
        assert!(pin(Some(SIZE)).is_err());
    }
}
