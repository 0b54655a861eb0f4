//! A 16550A UART: one byte-wide register file of eight ports, with FIFOs.
//! After National Semiconductor's PC16550D.
//!
//! There is no line behind it: a byte written is sent at once, so the transmitter is
//! always empty and its interrupt follows each byte. That keeps an
//! interrupt-driven driver busy without ever making it wait.

use serde::{Deserialize, Serialize};

/// Depth of the receive FIFO.
pub const FIFO_DEPTH: usize = 16;

/// Receiver buffer (read), transmitter holding (write), divisor low (DLAB).
const DATA: u8 = 0;
/// Interrupt enable; divisor high (DLAB).
const IER: u8 = 1;
/// Interrupt identification (read), FIFO control (write).
const IIR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;
const LSR: u8 = 5;
const MSR: u8 = 6;
const SCR: u8 = 7;

mod ier {
    pub const RECEIVED: u8 = 1 << 0;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const WRITABLE: u8 = 0xF;
}

mod iir {
    pub const NONE: u8 = 0x1;
    pub const LINE_STATUS: u8 = 0x6;
    pub const RECEIVED: u8 = 0x4;
    pub const TIMEOUT: u8 = 0xC;
    pub const TRANSMITTER_EMPTY: u8 = 0x2;
    pub const MODEM_STATUS: u8 = 0x0;
    pub const FIFOS_ENABLED: u8 = 0xC0;
}

mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
}

mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    /// Holding register and shift register empty: always, see the module text.
    pub const TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;
}

mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOP: u8 = 1 << 4;
    pub const WRITABLE: u8 = 0x1F;
}

mod msr {
    pub const DELTA_CTS: u8 = 1 << 0;
    pub const DELTA_DSR: u8 = 1 << 1;
    pub const TRAILING_RI: u8 = 1 << 2;
    pub const DELTA_DCD: u8 = 1 << 3;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const DELTAS: u8 = 0xF;
}

const DLAB: u8 = 1 << 7;

/// The state of one UART.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uart {
    received: [u8; FIFO_DEPTH],
    /// Index of the oldest byte in `received`.
    first: u8,
    count: u8,
    overrun: bool,
    /// The transmitter-empty interrupt is due: set when the holding register
    /// becomes empty, cleared when IIR has named it.
    empty_due: bool,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    modem_deltas: u8,
    divisor: [u8; 2],
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart {
    /// The UART after reset.
    pub const fn new() -> Self {
        Self {
            received: [0; FIFO_DEPTH],
            first: 0,
            count: 0,
            overrun: false,
            empty_due: false,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            modem_deltas: 0,
            divisor: [12, 0],
        }
    }

    /// Whether the UART asserts its interrupt line. Ask after each
    /// [`read`](Self::read), [`write`](Self::write) and [`receive`](Self::receive).
    ///
    /// As on a PC, OUT2 gates the line.
    pub fn interrupt(&self) -> bool {
        self.mcr & (mcr::OUT2 | mcr::LOOP) == mcr::OUT2 && self.identify() != iir::NONE
    }

    /// Whether registers and bytes can have led to this.
    pub fn is_possible(&self) -> bool {
        usize::from(self.first) < FIFO_DEPTH && usize::from(self.count) <= FIFO_DEPTH
    }

    /// How many more bytes [`receive`](Self::receive) takes without an overrun. The
    /// caller keeps what does not fit, and offers it after a read.
    pub fn room(&self) -> usize {
        self.depth().saturating_sub(self.count.into())
    }

    /// A byte arrives on the line. In loopback mode the line is disconnected, and
    /// the byte is lost; with a full FIFO it is lost too, and an overrun noted.
    pub fn receive(&mut self, byte: u8) {
        if self.mcr & mcr::LOOP == 0 {
            self.push(byte);
        }
    }

    /// A load from register `register` (0 to 7, the port's low three bits).
    pub fn read(&mut self, register: u8) -> u8 {
        match register & 7 {
            DATA if self.lcr & DLAB != 0 => self.divisor[0],
            DATA => self.pop(),
            IER if self.lcr & DLAB != 0 => self.divisor[1],
            IER => self.ier,
            IIR => self.read_identification(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => self.read_line_status(),
            MSR => self.read_modem_status(),
            _ => self.scr,
        }
    }

    /// A store to register `register` (0 to 7). Returns the byte that goes out on
    /// the line, if one does.
    pub fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        match register & 7 {
            DATA if self.lcr & DLAB != 0 => self.divisor[0] = value,
            DATA => return self.transmit(value),
            IER if self.lcr & DLAB != 0 => self.divisor[1] = value,
            IER => {
                let enabled = value & !self.ier & ier::TRANSMITTER_EMPTY != 0;
                self.ier = value & ier::WRITABLE;
                // Enabling it with an empty transmitter interrupts at once; drivers
                // start sending this way, and test for it.
                if enabled {
                    self.empty_due = true;
                }
            }
            IIR => self.write_fifo_control(value),
            LCR => self.lcr = value,
            MCR => self.write_modem_control(value & mcr::WRITABLE),
            SCR => self.scr = value,
            _ => {}
        }
        None
    }

    fn fifos_enabled(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifos_enabled() { FIFO_DEPTH } else { 1 }
    }

    /// Bytes in the FIFO from which 'received data' is due. Fewer are a
    /// character timeout: no more will follow until someone sends them.
    fn trigger_level(&self) -> u8 {
        match (self.fifos_enabled(), self.fcr >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    /// The interrupt of highest priority that is due and enabled.
    fn identify(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(ier::LINE_STATUS) && self.overrun {
            iir::LINE_STATUS
        } else if enabled(ier::RECEIVED) && self.count >= self.trigger_level() {
            iir::RECEIVED
        } else if enabled(ier::RECEIVED) && self.count > 0 {
            iir::TIMEOUT
        } else if enabled(ier::TRANSMITTER_EMPTY) && self.empty_due {
            iir::TRANSMITTER_EMPTY
        } else if enabled(ier::MODEM_STATUS) && self.modem_deltas != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn read_identification(&mut self) -> u8 {
        let source = self.identify();
        if source == iir::TRANSMITTER_EMPTY {
            self.empty_due = false;
        }
        if self.fifos_enabled() {
            source | iir::FIFOS_ENABLED
        } else {
            source
        }
    }

    fn read_line_status(&mut self) -> u8 {
        let mut status = lsr::TRANSMITTER_EMPTY;
        if self.count > 0 {
            status |= lsr::DATA_READY;
        }
        if core::mem::take(&mut self.overrun) {
            status |= lsr::OVERRUN;
        }
        status
    }

    fn read_modem_status(&mut self) -> u8 {
        self.modem_lines() | core::mem::take(&mut self.modem_deltas)
    }

    /// The modem's lines: a terminal that is there and listens; in loopback mode
    /// the UART's own outputs.
    fn modem_lines(&self) -> u8 {
        if self.mcr & mcr::LOOP == 0 {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        let mut lines = 0;
        for (output, input) in [
            (mcr::RTS, msr::CTS),
            (mcr::DTR, msr::DSR),
            (mcr::OUT1, msr::RI),
            (mcr::OUT2, msr::DCD),
        ] {
            if self.mcr & output != 0 {
                lines |= input;
            }
        }
        lines
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value;
        let now = self.modem_lines();
        let changed = before ^ now;
        for (line, delta) in [
            (msr::CTS, msr::DELTA_CTS),
            (msr::DSR, msr::DELTA_DSR),
            (msr::DCD, msr::DELTA_DCD),
        ] {
            if changed & line != 0 {
                self.modem_deltas |= delta;
            }
        }
        // The ring indicator reports its trailing edge only.
        if before & !now & msr::RI != 0 {
            self.modem_deltas |= msr::TRAILING_RI;
        }
        self.modem_deltas &= msr::DELTAS;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & fcr::ENABLE != 0;
        if toggled || value & fcr::CLEAR_RECEIVER != 0 {
            self.count = 0;
        }
        // With the FIFOs disabled the other bits cannot be set (PC16550D, 8.5).
        self.fcr = if value & fcr::ENABLE != 0 {
            value & 0xC1
        } else {
            0
        };
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.empty_due = true;
        if self.mcr & mcr::LOOP != 0 {
            self.push(byte);
            return None;
        }
        Some(byte)
    }

    fn push(&mut self, byte: u8) {
        if self.room() == 0 {
            self.overrun = true;
            return;
        }
        let next = (usize::from(self.first) + usize::from(self.count)) % FIFO_DEPTH;
        self.received[next] = byte;
        self.count += 1;
    }

    fn pop(&mut self) -> u8 {
        if self.count == 0 {
            return 0;
        }
        let byte = self.received[usize::from(self.first)];
        self.first = (self.first + 1) % FIFO_DEPTH as u8;
        self.count -= 1;
        byte
    }
}

#[cfg(test)]
mod tests;
