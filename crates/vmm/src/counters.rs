//! The counter port: how many exits to L0 an operation took.
//!
//! Where L0 is hynest, it counts per VP and shows the counters at
//! [`platform::counters::SELECT_PORT`]. Elsewhere nothing answers there and
//! figures come without exits.

use core::arch::asm;

use platform::counters::{Counter, DATA_PORT, IDENTITY, NO_COUNTER, SAVE, SELECT_PORT};
use platform::text;

/// How many ports the device takes, from [`SELECT_PORT`] on.
const PORTS: u64 = 8;

/// One reading of every counter, in the order of [`Counter::ALL`].
pub type Reading = [u64; Counter::ALL.len()];

/// Leave to use the counter port of this thread's VP.
///
/// Counters are the VP's: the thread must stay on one CPU between two readings.
#[derive(Clone, Copy)]
pub struct CounterPort(());

impl CounterPort {
    /// Asks for leave to use the port, and whether hynest is behind it. `None`
    /// without the right to do port I/O, and where L0 is another or none.
    pub fn find() -> Option<Self> {
        // SAFETY: ioperm gives this thread leave to use the ports of a device that
        // nothing else in L1 uses; it touches no memory.
        if unsafe { libc::ioperm(SELECT_PORT.into(), PORTS, 1) } != 0 {
            return None;
        }
        // SAFETY: ioperm succeeded. A read of a port where no device is gives ones.
        let identity = unsafe { inl(SELECT_PORT) };
        (identity == IDENTITY).then_some(CounterPort(()))
    }

    /// Reads every counter, one after the other.
    pub fn read(self) -> Reading {
        core::array::from_fn(|n| self.one(Counter::ALL[n]))
    }

    /// Has L0 save the machine, where it has a place for that; else nothing happens.
    pub fn save(self) {
        // SAFETY: as for `one`; nothing that this program relies on changes while the machine is
        // saved.
        unsafe { outl(SELECT_PORT, SAVE) }
    }

    /// Has the machine's TSC change its rate, as L0 takes it. All VPs' guests wait for it. Returns
    /// whether L0 has counted it: not where it does not allow that, nor where the machine was saved
    /// and taken up meanwhile, by an L0 that counts from anew.
    pub fn change_tsc_rate(self, hz: u32) -> bool {
        let before = self.one(Counter::TscRateChanges);
        // SAFETY: as below; L0 writes no memory of this process for it.
        unsafe { outl(DATA_PORT, hz) };
        self.one(Counter::TscRateChanges) != before
    }

    /// The text that L0 was started with, if there is one that nobody has taken: it is, by this.
    pub fn take_text(self) -> Vec<u8> {
        let pieces = (0..text::TAKE).map(|number| self.latched(text::TEXT | number));
        // An L0 that knows no text has no such counter.
        let bytes = pieces
            .take_while(|&piece| piece != NO_COUNTER)
            .flat_map(u64::to_le_bytes);
        let text = bytes.take_while(|&byte| byte != 0).collect();
        // SAFETY: as for `latched`.
        unsafe { outl(SELECT_PORT, text::TEXT | text::TAKE) };
        text
    }

    /// Reads one counter.
    pub fn one(self, counter: Counter) -> u64 {
        self.latched(counter as u32)
    }

    /// What the device shows when this has been written to it.
    fn latched(self, selector: u32) -> u64 {
        // SAFETY: a CounterPort exists only after ioperm succeeded and the device
        // identified itself. Its ports have no effect but the latch.
        unsafe {
            outl(SELECT_PORT, selector);
            let low = inl(DATA_PORT);
            let high = inl(DATA_PORT);
            u64::from(high) << 32 | u64::from(low)
        }
    }
}

/// # Safety
///
/// The thread must have leave to use `port`, and the device there must do nothing
/// to memory.
unsafe fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// # Safety
///
/// As for [`inl`].
unsafe fn outl(port: u16, value: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}
