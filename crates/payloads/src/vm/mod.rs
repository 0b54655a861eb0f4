//! L1's part: VMX operation, and L2s described by VMWRITE or by the enlightened VMCS.

pub mod assist;
pub mod ept;
pub mod guest;
pub mod instruction;
pub mod l2;
pub mod operation;
pub mod outcome;

use core::sync::atomic::{AtomicU8, Ordering};

pub use l2::L2;
pub use outcome::Outcome;

/// How an L2 is described.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// VMPTRLD, VMREAD and VMWRITE.
    Plain,
    /// Stores to an enlightened VMCS.
    Enlightened,
}

static DOOR: AtomicU8 = AtomicU8::new(0);

/// Which door [`L2::new`] takes.
pub fn door() -> Door {
    match DOOR.load(Ordering::Relaxed) {
        0 => Door::Plain,
        _ => Door::Enlightened,
    }
}

/// Chooses the door by its name on the command line.
pub fn select_door(name: Option<&str>) {
    select(match name {
        Some("enlightened") => Door::Enlightened,
        _ => Door::Plain,
    });
}

/// Chooses the door.
pub fn select(door: Door) {
    DOOR.store(u8::from(door == Door::Enlightened), Ordering::Relaxed);
}
