//! L0's one output stream and the channels it carries.
//!
//! The bytes leave by port 0xE9 (Bochs, QEMU: costs one instruction) or by COM1.
//! Frames are described in ARCHITECTURE.md: DLE and a letter choose the channel
//! of what follows, DLE DLE is a literal DLE.

pub mod json;
mod port;

use core::fmt::{self, Write};

use spin::Mutex;

pub use port::Sink;
use port::write_byte;

/// The framing escape.
const DLE: u8 = 0x10;

/// A channel of the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// L0's own log.
    Log = b'L',
    /// L1's first UART, its console.
    Console = b'C',
    /// L1's second UART.
    Data = b'D',
    /// L0's reports, one JSON object a line.
    Report = b'R',
}

struct Stream {
    channel: Option<Channel>,
}

impl Stream {
    fn put(&mut self, channel: Channel, byte: u8) {
        if self.channel != Some(channel) {
            write_byte(DLE);
            write_byte(channel as u8);
            self.channel = Some(channel);
        }
        if byte == DLE {
            write_byte(DLE);
        }
        write_byte(byte);
    }
}

static STREAM: Mutex<Stream> = Mutex::new(Stream { channel: None });

/// Chooses where the stream leaves the machine.
pub fn select(to: Sink) {
    port::select(to);
}

/// Sets the first UART up to take what is typed, where the stream does not use it already.
pub fn initialise_input() {
    port::initialise_com1();
}

/// Sends one byte of a partition's UART.
pub fn put(channel: Channel, byte: u8) {
    STREAM.lock().put(channel, byte);
}

/// Lets a processor that is about to stop the machine write, whoever holds the stream.
///
/// # Safety
/// Every other processor has been stopped, or the machine is being given up.
pub unsafe fn seize() {
    // SAFETY: the caller says that no other holder will go on.
    unsafe { STREAM.force_unlock() }
}

struct Writer(Channel);

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut stream = STREAM.lock();
        for byte in text.bytes() {
            stream.put(self.0, byte);
        }
        Ok(())
    }
}

/// Writes formatted text to a channel, as [`log!`] and the reports do. The stream is
/// held per piece, so lines of different processors may interleave within a channel
/// only where they are longer than one piece: both callers format into one.
pub fn write(channel: Channel, text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    // A line that does not fit is cut, which `Line` marks; it cannot fail otherwise.
    let _ = line.write_fmt(text);
    let _ = Writer(channel).write_str(line.text());
}

/// A line being put together before it goes out in one piece.
struct Line {
    bytes: [u8; 2048],
    length: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; 2048],
            length: 0,
        }
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("(not text)\n")
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.length;
        let mut take = text.len().min(room);
        while !text.is_char_boundary(take) {
            take -= 1;
        }
        self.bytes[self.length..self.length + take].copy_from_slice(&text.as_bytes()[..take]);
        self.length += take;
        if take < text.len() {
            self.bytes[self.length] = b'\n';
            self.length += 1;
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Writes a line to L0's log.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::output::write(
            $crate::output::Channel::Log,
            format_args!("{}\n", format_args!($($argument)*)),
        )
    };
}
