//! The physical end of the output stream.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::cpu::port::{inb, outb};

/// Where the stream leaves the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Sink {
    /// The debug console of Bochs and QEMU: a byte costs one OUT.
    E9 = 0,
    /// The first 16550, polled, as the firmware or [`select`] set it up.
    Com1 = 1,
}

const COM1: u16 = 0x3F8;
const LINE_STATUS: u16 = COM1 + 5;
/// LSR: the transmit holding register is empty.
const THR_EMPTY: u8 = 0x20;

static SINK: AtomicU8 = AtomicU8::new(Sink::E9 as u8);

/// Chooses the sink and, for COM1, sets it to 115200 8N1 with FIFOs and no interrupts.
pub fn select(to: Sink) {
    if to == Sink::Com1 {
        initialise_com1();
    }
    SINK.store(to as u8, Ordering::Relaxed);
}

/// Sets the first UART up for polled use.
pub fn initialise_com1() {
    // SAFETY: the first UART belongs to L0 alone; these writes only set its line up.
    unsafe {
        outb(COM1 + 1, 0);
        outb(COM1 + 3, 0x80);
        outb(COM1, 1);
        outb(COM1 + 1, 0);
        outb(COM1 + 3, 3);
        outb(COM1 + 2, 7);
        outb(COM1 + 4, 3);
    }
}

fn sink() -> Sink {
    if SINK.load(Ordering::Relaxed) == Sink::Com1 as u8 {
        Sink::Com1
    } else {
        Sink::E9
    }
}

pub fn write_byte(byte: u8) {
    match sink() {
        // SAFETY: port 0xE9 is the emulators' debug console and nothing on a PC.
        Sink::E9 => unsafe { outb(0xE9, byte) },
        // SAFETY: the first UART belongs to L0; reads of its status have no effect.
        Sink::Com1 => unsafe {
            while inb(LINE_STATUS) & THR_EMPTY == 0 {
                core::hint::spin_loop();
            }
            outb(COM1, byte);
        },
    }
}
