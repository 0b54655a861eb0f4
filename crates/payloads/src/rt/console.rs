//! Text out: COM1, or port 0xE9 where an emulator takes bytes there without waiting.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use super::cpu;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
/// The transmitter holding register is empty.
const THR_EMPTY: u8 = 1 << 5;
const PORT_E9: u16 = 0xe9;

static USE_E9: AtomicBool = AtomicBool::new(false);
static LOCK: AtomicBool = AtomicBool::new(false);

/// Sends text to port 0xE9 from here on.
pub fn use_port_e9() {
    USE_E9.store(true, Ordering::Relaxed);
}

fn put(byte: u8) {
    if USE_E9.load(Ordering::Relaxed) {
        return cpu::out8(PORT_E9, byte);
    }
    let mut patience = 1_000_000;
    while cpu::in8(LINE_STATUS) & THR_EMPTY == 0 && patience > 0 {
        patience -= 1;
    }
    cpu::out8(COM1, byte);
}

/// The console as a sink of text.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Prints one line, whole, whichever processors print at once.
pub fn line(text: fmt::Arguments<'_>) {
    use fmt::Write;
    while LOCK.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let _ = Console.write_fmt(text);
    let _ = Console.write_str("\n");
    LOCK.store(false, Ordering::Release);
}

/// Takes the lock from whoever held it: a fault in the middle of a line must not be silent.
pub fn break_lock() {
    LOCK.store(false, Ordering::Release);
}

/// Prints a line.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::rt::console::line(format_args!($($argument)*))
    };
}
pub(crate) use say;
