//! A thread that does nothing on another CPU: what is done to this program's memory concerns that CPU, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::affinity;
use crate::error::{Error, Result};

/// The thread; it ends when this is dropped.
pub struct Companion {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Companion {
    /// Starts it, and waits until it runs on `cpu`.
    pub fn start(cpu: usize) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let runs = Arc::new(AtomicBool::new(false));
        let (its_end, it_runs) = (Arc::clone(&end), Arc::clone(&runs));
        let spin = move || {
            let pinned = affinity::pin(Some(cpu)).is_ok();
            it_runs.store(pinned, Ordering::Release);
            while pinned && !its_end.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        };
        let thread = thread::Builder::new()
            .spawn(spin)
            .map_err(|cause| Error::System {
                what: "start a thread",
                cause,
            })?;
        while !runs.load(Ordering::Acquire) {
            if thread.is_finished() {
                return Err(Error::NotOffered("another CPU to run on"));
            }
            thread::yield_now();
        }
        Ok(Companion {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_it_is_dropped() {
        let cpu = affinity::Cpus::allowed().unwrap().nth(0);
        let companion = Companion::start(cpu).unwrap();
        assert!(!companion.thread.as_ref().unwrap().is_finished());
        let end = Arc::clone(&companion.end);
        drop(companion);
        // The thread held the other reference.
        assert_eq!(Arc::strong_count(&end), 1);
        assert!(Companion::start(libc::CPU_SETSIZE as usize).is_err());
    }
}
