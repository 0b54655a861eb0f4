//! Keys from the user's terminal to L1's console.

use std::io::{IsTerminal, Read};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::emulator::Event;

/// The terminal in raw mode while this lives; a thread reads its keys.
pub struct Keys {
    before: Option<Termios>,
}

impl Keys {
    /// Starts reading keys. What is no terminal (a pipe, a file) is read as it is.
    pub fn start(events: Sender<Event>) -> Result<Self> {
        let mut before = None;
        if std::io::stdin().is_terminal() {
            let state =
                tcgetattr(std::io::stdin()).context("cannot ask the terminal for its state")?;
            let mut raw = state.clone();
            cfmakeraw(&mut raw);
            tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)
                .context("cannot switch the terminal to single keys")?;
            before = Some(state);
        }
        // The thread ends with the process: nothing can take it out of a read from a terminal.
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if events.send(Event::Keys(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { before })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

const CTRL_A: u8 = 1;

/// What L0 takes for an order where it follows once, and for itself where it follows itself.
const DLE: u8 = 0x10;

/// Finds the end key, Ctrl-A X, among the keys. Ctrl-A Ctrl-A passes one Ctrl-A, and Ctrl-A S asks L0 to save the
/// partition, where there is a place for it.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    after_ctrl_a: bool,
    saves: bool,
}

impl EscapeFilter {
    /// For a run that can save, or not.
    pub fn new(saves: bool) -> Self {
        Self {
            saves,
            ..Self::default()
        }
    }

    /// The keys to pass on, and whether the user wants the end.
    pub fn pass(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        for &key in keys {
            if std::mem::take(&mut self.after_ctrl_a) {
                match key {
                    b'x' | b'X' => return (out, true),
                    b's' | b'S' if self.saves => out.extend([DLE, b'S']),
                    CTRL_A => out.push(CTRL_A),
                    other => out.extend([CTRL_A, other]),
                }
            } else if key == CTRL_A {
                self.after_ctrl_a = true;
            } else if key == DLE {
                out.extend([DLE, DLE]);
            } else {
                out.push(key);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_ends_wherever_the_keys_are_cut() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.pass(b"ls\x01"), (b"ls".to_vec(), false));
        assert_eq!(filter.pass(b"x"), (vec![], true));
        let mut filter = EscapeFilter::default();
        assert_eq!(
            filter.pass(b"a\x01\x01b\x01c"),
            (b"a\x01b\x01c".to_vec(), false)
        );
        assert_eq!(filter.pass(b"d\x01Xe"), (b"d".to_vec(), true));
    }

    #[test]
    fn ctrl_a_s_saves_and_no_other_key_does() {
        let mut filter = EscapeFilter::new(true);
        assert_eq!(
            filter.pass(b"\x10S\x01s"),
            (b"\x10\x10S\x10S".to_vec(), false)
        );
        let mut filter = EscapeFilter::new(false);
        assert_eq!(filter.pass(b"\x01S"), (b"\x01S".to_vec(), false));
    }
}
