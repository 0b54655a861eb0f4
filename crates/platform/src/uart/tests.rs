use super::*;
use alloc::vec::Vec;

/// Enables the line and the interrupts in `enable`, with FIFOs on and a trigger level of 1.
fn ready(enable: u8) -> Uart {
    let mut uart = Uart::new();
    uart.write(IIR, fcr::ENABLE);
    uart.write(MCR, mcr::OUT2 | mcr::RTS | mcr::DTR);
    uart.read(MSR);
    uart.write(IER, enable);
    uart
}

/// The steps of Linux's 8250 autoconfiguration, as far as they are visible at the ports.
#[test]
fn is_detected_as_a_16550a() {
    let mut uart = Uart::new();
    uart.write(IER, 0);
    assert_eq!(uart.read(IER) & 0xF, 0);
    uart.write(IER, 0xF);
    assert_eq!(uart.read(IER), 0xF, "no UUE bit, no sleep bit");
    uart.write(IER, 0);
    uart.write(MCR, mcr::LOOP | mcr::OUT2 | mcr::RTS);
    assert_eq!(uart.read(MSR) & 0xF0, msr::DCD | msr::CTS, "loopback");
    uart.write(MCR, 0);
    uart.write(LCR, 0xBF);
    uart.write(IIR, 0);
    uart.write(LCR, 0);
    uart.write(IIR, fcr::ENABLE);
    assert_eq!(uart.read(IIR) >> 6, 3, "a FIFO that works");
    uart.write(LCR, DLAB);
    assert_ne!(uart.read(IIR), 0, "no EFR");
    uart.write(LCR, 0);
    uart.write(IIR, fcr::ENABLE | 0x20);
    assert_eq!(uart.read(IIR) & 0x20, 0, "no 64-byte FIFO");
    uart.write(SCR, 0x5A);
    assert_eq!(uart.read(SCR), 0x5A);
    uart.write(IIR, 0);
    assert_eq!(uart.read(IIR), iir::NONE, "a 16450 without FIFOs");
}

#[test]
fn divisor_hides_behind_dlab() {
    let mut uart = Uart::new();
    uart.write(LCR, DLAB | 3);
    assert_eq!(uart.write(DATA, 1), None);
    uart.write(IER, 2);
    assert_eq!((uart.read(DATA), uart.read(IER)), (1, 2));
    uart.write(LCR, 3);
    assert_eq!((uart.read(DATA), uart.read(IER)), (0, 0));
    assert_eq!(uart.write(DATA, b'x'), Some(b'x'));
}

/// Enabling the transmitter interrupt raises it each time, and reading IIR
/// ends it: what Linux tests for at startup (UART_BUG_THRE, UART_BUG_TXEN).
#[test]
fn enabling_the_transmitter_interrupt_raises_it() {
    let mut uart = ready(0);
    for _ in 0..2 {
        uart.write(IER, ier::TRANSMITTER_EMPTY);
        assert!(uart.interrupt());
        assert_eq!(uart.read(LSR), lsr::TRANSMITTER_EMPTY);
        assert_eq!(uart.read(IIR) & 0xF, iir::TRANSMITTER_EMPTY);
        assert!(!uart.interrupt());
        assert_eq!(uart.read(IIR) & 0xF, iir::NONE);
        uart.write(IER, 0);
    }
    uart.write(IER, ier::TRANSMITTER_EMPTY);
    uart.read(IIR);
    uart.write(IER, ier::TRANSMITTER_EMPTY);
    assert!(!uart.interrupt(), "it was enabled already");
}

/// A driver that sends only from its interrupt handler gets everything out.
#[test]
fn interrupt_driven_sending() {
    let mut uart = ready(0);
    let text: Vec<u8> = (0..100).collect();
    let mut queue = text.chunks(16);
    let mut out = Vec::new();
    uart.write(IER, ier::TRANSMITTER_EMPTY);
    let mut edges = 0;
    while uart.interrupt() {
        edges += 1;
        assert!(edges < 20, "the handler is called for ever");
        while uart.read(IIR) & 0xF == iir::TRANSMITTER_EMPTY {
            match queue.next() {
                Some(chunk) => out.extend(chunk.iter().filter_map(|&b| uart.write(DATA, b))),
                None => {
                    uart.write(IER, 0);
                }
            }
        }
    }
    assert_eq!(out, text);
}

#[test]
fn receiving() {
    let mut uart = ready(ier::RECEIVED);
    assert!(!uart.interrupt());
    uart.receive(b'a');
    assert!(uart.interrupt());
    assert_eq!(uart.read(IIR) & 0xF, iir::RECEIVED);
    assert!(uart.interrupt(), "reading IIR does not end it");
    assert_eq!(uart.read(LSR) & lsr::DATA_READY, lsr::DATA_READY);
    assert_eq!(uart.read(DATA), b'a');
    assert!(!uart.interrupt());
    assert_eq!(uart.read(LSR), lsr::TRANSMITTER_EMPTY);
}

#[test]
fn trigger_levels_and_timeout() {
    let mut uart = ready(ier::RECEIVED);
    for (code, level) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
        uart.write(IIR, fcr::ENABLE | fcr::CLEAR_RECEIVER | code << 6);
        assert!(!uart.interrupt());
        for count in 1..=14 {
            uart.receive(count);
            let expected = if count < level {
                iir::TIMEOUT
            } else {
                iir::RECEIVED
            };
            assert_eq!(uart.read(IIR) & 0xF, expected, "{count} of {level}");
        }
    }
}

#[test]
fn a_full_fifo_overruns_and_keeps_the_oldest() {
    let mut uart = ready(ier::LINE_STATUS);
    for byte in 0..FIFO_DEPTH as u8 {
        uart.receive(byte);
    }
    assert_eq!(uart.room(), 0);
    assert!(!uart.interrupt());
    uart.receive(99);
    assert_eq!(uart.read(IIR) & 0xF, iir::LINE_STATUS);
    assert_eq!(uart.read(LSR) & lsr::OVERRUN, lsr::OVERRUN);
    assert!(!uart.interrupt(), "reading LSR ends it");
    let bytes: Vec<u8> = (0..FIFO_DEPTH).map(|_| uart.read(DATA)).collect();
    assert_eq!(bytes, (0..FIFO_DEPTH as u8).collect::<Vec<_>>());
    uart.write(IIR, 0);
    assert_eq!(uart.room(), 1, "without FIFOs there is one buffer");
}

#[test]
fn priorities() {
    let mut uart = ready(0xF);
    uart.write(DATA, b'x');
    uart.write(MCR, mcr::OUT2 | mcr::LOOP);
    uart.write(MCR, mcr::OUT2);
    uart.receive(1);
    assert_eq!(uart.read(IIR) & 0xF, iir::RECEIVED);
    uart.read(DATA);
    assert_eq!(uart.read(IIR) & 0xF, iir::TRANSMITTER_EMPTY);
    assert_eq!(uart.read(IIR) & 0xF, iir::MODEM_STATUS);
    assert_ne!(uart.read(MSR) & msr::DELTAS, 0);
    assert_eq!(uart.read(IIR) & 0xF, iir::NONE);
}

#[test]
fn loopback_stays_inside() {
    let mut uart = ready(ier::RECEIVED);
    uart.write(MCR, mcr::LOOP | mcr::OUT2);
    assert_eq!(uart.write(DATA, b'z'), None);
    uart.receive(b'!');
    assert!(!uart.interrupt(), "OUT2 is disconnected");
    assert_eq!(uart.read(DATA), b'z');
    assert_eq!(uart.read(LSR) & lsr::DATA_READY, 0);
}

#[test]
fn out2_gates_the_line() {
    let mut uart = ready(ier::TRANSMITTER_EMPTY);
    assert!(uart.interrupt());
    uart.write(MCR, 0);
    assert!(!uart.interrupt());
    assert_eq!(uart.read(IIR) & 0xF, iir::TRANSMITTER_EMPTY);
}
