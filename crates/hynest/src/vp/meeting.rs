//! All VPs stopped at once.
//!
//! A shoot-down waits until VPs have left their guests once; a meeting has them stay away until
//! what it was called for has been done. So nothing that a VP has worked out before, and nothing
//! that its guest has seen, is of another time than what it finds afterwards.
//!
//! Who calls asks every VP for a flush of its translations, which it has to look at before it runs
//! a guest in any case ([`super::shootdown`]): as long as there is no meeting, none costs anything.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use spin::Mutex;

use super::Vp;
use super::shootdown::{self, publish_exit};
use crate::cpu::idle::Wait;
use crate::cpu::per_cpu;

/// Odd while there is a meeting; each has a number of its own.
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// How many VPs have come to it, without the one that called.
static PRESENT: AtomicUsize = AtomicUsize::new(0);

/// What each VP does when it comes, before it is counted.
static EACH: Mutex<fn(&mut Vp)> = Mutex::new(nothing);

fn nothing(_: &mut Vp) {}

/// The number of the meeting that has been called.
fn called() -> Option<u32> {
    Some(NUMBER.load(Ordering::SeqCst)).filter(|number| number & 1 != 0)
}

impl Vp {
    /// Does `work` while no VP runs or is in the middle of anything; each follows what has become
    /// of the time before it goes on. This one has left its guest and holds no lock.
    pub fn with_all_stopped<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.with_each_stopped(nothing, work)
    }

    /// The same, after each VP, this one too, has done `each`.
    pub fn with_each_stopped<T>(
        &mut self,
        each: fn(&mut Self),
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let number = loop {
            // Another VP's meeting comes first.
            self.attend_meeting();
            let number = NUMBER.load(Ordering::SeqCst) & !1;
            let next = number.wrapping_add(1);
            // Who finds the meeting called finds what to do there.
            let mut task = EACH.lock();
            let claim = NUMBER.compare_exchange(number, next, Ordering::SeqCst, Ordering::SeqCst);
            if claim.is_ok() {
                *task = each;
                break next;
            }
        };
        let vps = self.partition.inboxes.len();
        for index in (0..vps).filter(|&index| index != self.index) {
            shootdown::ask_for_flush(index);
            // Those that sleep are to come, too.
            per_cpu::cpu(index).kick();
        }
        while PRESENT.load(Ordering::Acquire) != vps - 1 {
            core::hint::spin_loop();
        }
        each(self);
        let result = work(self);
        PRESENT.store(0, Ordering::Relaxed);
        NUMBER.store(number.wrapping_add(1), Ordering::SeqCst);
        self.follow_time();
        result
    }

    /// If a meeting has been called, stays in it to its end. The VP has left its guest and holds no
    /// lock.
    pub fn attend_meeting(&mut self) {
        let Some(number) = called() else {
            return;
        };
        let each = *EACH.lock();
        each(self);
        PRESENT.fetch_add(1, Ordering::AcqRel);
        // The partition may be saved meanwhile.
        let mut wait = Wait::new();
        while NUMBER.load(Ordering::Acquire) == number {
            wait.pause();
        }
        self.follow_time();
    }

    /// After [`shootdown::publish_entry`], when a flush was asked for: attends the meeting that it
    /// may have been for. Returns whether there was one: the entry has to be prepared anew.
    #[cold]
    pub fn meet_instead_of_entering(&mut self) -> bool {
        if called().is_none() {
            return false;
        }
        publish_exit(self.cell);
        self.attend_meeting();
        true
    }
}
