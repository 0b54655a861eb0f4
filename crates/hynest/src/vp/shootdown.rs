//! Making other VPs' processors forget.
//!
//! Each VP publishes whether its processor is in a guest or about to be; it reads what it has to
//! forget after that. Who takes something away, be it an entry of a shadow EPT or L1's linear
//! translations, records it first and then waits for every VP that was in a guest to have left it
//! once: by then it has forgotten, or will have before it enters again. A VP in L0 is not waited
//! for.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use vmx::instructions::{InvvpidScope, invvpid};

use super::Vp;
use super::vmcs01::VPID01;
use crate::cpu::per_cpu::{self, MAX_CPUS};

/// What others may touch of a VP, alone on its cache lines.
#[repr(align(128))]
pub struct Cell {
    /// Odd while the VP is in a guest. It grows with each change, so that a processor that waits
    /// for the VP to leave is not fooled by its return.
    runs: AtomicU64,
    /// L1's linear translations on the VP's processor must go before L1 runs there again.
    flush_l1: AtomicBool,
    /// L2's linear translations there must go before L2 runs there again.
    flush_l2: AtomicBool,
    /// The L2 context of the last entry, as L1 names it: virtual machine and VP index.
    vm: AtomicU64,
    vp: AtomicU32,
}

/// One virtual processor of an L2, as L1 names it in its enlightened VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L2Context {
    /// VmId.
    pub vm: u64,
    /// VpId.
    pub vp: u32,
}

static CELLS: [Cell; MAX_CPUS] = [const {
    Cell {
        runs: AtomicU64::new(0),
        flush_l1: AtomicBool::new(false),
        flush_l2: AtomicBool::new(false),
        vm: AtomicU64::new(0),
        vp: AtomicU32::new(0),
    }
}; MAX_CPUS];

/// What others may touch of the VP `index`.
pub fn cell(index: usize) -> &'static Cell {
    &CELLS[index]
}

/// The VP, which was not in a guest, is about to enter one: from here on a shoot-down waits for it.
#[inline(always)]
pub fn publish_entry(cell: &Cell) {
    // Ordered before the reads of what is to be forgotten.
    let before = cell.runs.fetch_add(1, Ordering::SeqCst);
    debug_assert!(before & 1 == 0);
}

/// The VP has left its guest, and will look at what it has to forget before it enters one again.
#[inline(always)]
pub fn publish_exit(cell: &Cell) {
    // The VP's processor alone writes this.
    let before = cell.runs.load(Ordering::Relaxed);
    cell.runs.store(before.wrapping_add(1), Ordering::Release);
    debug_assert!(before & 1 != 0);
}

/// Whether L1's translations on this VP's processor are to be flushed.
#[inline(always)]
pub fn l1_flush_is_asked(cell: &Cell) -> bool {
    cell.flush_l1.load(Ordering::SeqCst)
}

/// Whether L2's translations on this VP's processor are to be flushed.
#[inline(always)]
pub fn l2_flush_is_asked(cell: &Cell) -> bool {
    cell.flush_l2.load(Ordering::SeqCst)
}

/// As [`l1_flush_is_asked`]; the question is taken as answered.
fn take_l1_flush(cell: &Cell) -> bool {
    l1_flush_is_asked(cell) && cell.flush_l1.swap(false, Ordering::SeqCst)
}

/// As [`l2_flush_is_asked`]; the question is taken as answered.
pub fn take_l2_flush(cell: &Cell) -> bool {
    l2_flush_is_asked(cell) && cell.flush_l2.swap(false, Ordering::SeqCst)
}

/// Makes the VP `index` look at what it has to forget before it enters a guest again.
pub fn ask_for_flush(index: usize) {
    CELLS[index].flush_l1.store(true, Ordering::SeqCst);
    CELLS[index].flush_l2.store(true, Ordering::SeqCst);
}

/// This VP is about to run this context; before [`publish_entry`]. Returns whether it is another
/// one than the last: its translations must go then.
#[inline(always)]
pub fn publish_context(cell: &Cell, context: L2Context) -> bool {
    let is_other = cell.vm.load(Ordering::Relaxed) != context.vm
        || cell.vp.load(Ordering::Relaxed) != context.vp;
    if is_other {
        cell.vm.store(context.vm, Ordering::Relaxed);
        cell.vp.store(context.vp, Ordering::Relaxed);
    }
    is_other
}

/// The context of L2 that the processor of this VP runs, or ran last.
#[inline(always)]
fn context(cell: &Cell) -> L2Context {
    L2Context {
        vm: cell.vm.load(Ordering::SeqCst),
        vp: cell.vp.load(Ordering::SeqCst),
    }
}

/// Where [`flush_l2`] has to do with no other processor than that of the VP `own`: whether this one's
/// translations are to go. `None` where it has.
#[inline(always)]
pub fn l2_flush_is_own(
    own: usize,
    vps: usize,
    concerns: impl Fn(L2Context) -> bool,
) -> Option<bool> {
    let mut is_own = false;
    for (index, cell) in CELLS.iter().enumerate().take(vps) {
        if concerns(context(cell)) {
            if index != own {
                return None;
            }
            is_own = true;
        }
    }
    Some(is_own)
}

/// Flushes L2's linear translations on the processors that run, or ran last, a context that
/// `concerns` picks. A context that ran elsewhere before is flushed when it comes back there: it is
/// then another one than the processor's last.
pub fn flush_l2(own: usize, vps: usize, concerns: impl Fn(L2Context) -> bool) {
    let is_target = |index: usize| {
        let cell: &Cell = &CELLS[index];
        concerns(context(cell))
    };
    let mut targets = 0u64;
    for index in (0..vps).filter(|&index| is_target(index)) {
        CELLS[index].flush_l2.store(true, Ordering::SeqCst);
        targets |= 1 << index;
    }
    // Most flushes of one processor's own translations end here.
    if targets & !(1 << own) != 0 {
        shoot_down(own, vps, |index| targets >> index & 1 != 0);
    }
}

/// Waits until the VPs that `concerns` names, but for `own`, have left their guests since now.
/// The caller has recorded what they are to forget.
pub fn shoot_down(own: usize, vps: usize, concerns: impl Fn(usize) -> bool) {
    let others = || (0..vps).filter(|&index| index != own && concerns(index));
    let mut before = [0; MAX_CPUS];
    for index in others() {
        before[index] = CELLS[index].runs.load(Ordering::SeqCst);
        if before[index] & 1 != 0 {
            per_cpu::cpu(index).kick();
        }
    }
    for index in others() {
        while before[index] & 1 != 0 && CELLS[index].runs.load(Ordering::Acquire) == before[index] {
            core::hint::spin_loop();
        }
    }
}

impl Vp {
    /// Flushes L1's linear translations on the processors of the VPs that `targets` names.
    pub fn flush_l1_translations(&self, targets: impl Fn(usize) -> bool) {
        let vps = self.partition.inboxes.len();
        for index in (0..vps).filter(|&index| targets(index)) {
            CELLS[index].flush_l1.store(true, Ordering::SeqCst);
        }
        shoot_down(self.index, vps, targets);
    }

    /// Forgets L1's linear translations on this processor if another VP has asked for it, and
    /// returns whether one has.
    pub fn settle_l1_translations(&self) -> bool {
        let is_asked = take_l1_flush(self.cell);
        if is_asked {
            // SAFETY: root operation; L0 needs a processor with VPIDs and this scope.
            let _ = unsafe { invvpid(InvvpidScope::Single(VPID01)) };
        }
        is_asked
    }
}
