//! The guest's console: its bytes become lines, and lines tell how the guest ends.

use std::io::{self, Write};
use std::sync::Arc;

use crate::report::Report;

/// What a console line says about the guest's end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sign {
    /// Linux panics; with the reason it gives.
    Panic(String),
    /// Linux has stopped its processors: it has no other way to power off here.
    Halted,
}

/// Takes the serial port's bytes. Complete lines go to the report as `L2 NAME text`
/// when it is a file; otherwise bytes go to standard output as they are.
pub struct Console {
    name: String,
    report: Arc<Report>,
    line: Vec<u8>,
    sign: Option<Sign>,
}

/// A longer line is cut into pieces: a guest must not fill the vmm's memory.
const LINE_MAX: usize = 4096;

impl Console {
    /// A console of the guest `name`.
    pub fn new(name: &str, report: Arc<Report>) -> Self {
        Console {
            name: name.into(),
            report,
            line: Vec::new(),
            sign: None,
        }
    }

    /// The last sign of an end that was seen. A panic stays the reason whatever follows.
    pub fn sign(&self) -> Option<&Sign> {
        self.sign.as_ref()
    }

    /// Passes on what has no end of line yet.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            Ok(())
        } else {
            self.end_line()
        }
    }

    fn byte(&mut self, byte: u8) -> io::Result<()> {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => Ok(()),
            _ => {
                self.line.push(byte);
                if self.line.len() == LINE_MAX {
                    self.end_line()
                } else {
                    Ok(())
                }
            }
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if !matches!(self.sign, Some(Sign::Panic(_))) {
            self.sign = sign(&String::from_utf8_lossy(&line)).or(self.sign.take());
        }
        if !self.report.to_file() {
            return Ok(());
        }
        let line = [b"L2 ", self.name.as_bytes(), b" ", &line].concat();
        self.report.line(&line).map_err(io::Error::other)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.report.to_file() {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
        }
        for &byte in bytes {
            self.byte(byte)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What one line says. Only the kernel's own words at the start of a message
/// count, after its time stamp.
fn sign(line: &str) -> Option<Sign> {
    let message = match line.strip_prefix('[') {
        Some(rest) => rest.split_once("] ")?.1,
        None => line,
    };
    if let Some(reason) = message.strip_prefix("Kernel panic - not syncing: ") {
        return Some(Sign::Panic(reason.into()));
    }
    let halted = ["reboot: System halted", "reboot: Power down"];
    halted
        .iter()
        .any(|words| message.starts_with(words))
        .then_some(Sign::Halted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn console(test: &str) -> (Console, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("vmm-console-{}-{test}", std::process::id()));
        let report = Report::open(Some(&path)).unwrap();
        (Console::new("two", Arc::new(report)), path)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn each_line_carries_its_name_however_it_arrives(
            lines in proptest::collection::vec("[ -~]{0,40}", 1..8),
            chunk in 1usize..50,
        ) {
            let (mut console, path) = console("lines");
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            for bytes in text.as_bytes().chunks(chunk) {
                console.write_all(bytes).unwrap();
            }
            console.finish().unwrap();
            let seen = std::fs::read_to_string(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let expected: String = lines.iter().map(|line| format!("L2 two {line}\n")).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (mut console, path) = console("endless");
        console.write_all(&[b'x'; 3 * LINE_MAX]).unwrap();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(lines, 3);
        assert!(console.line.is_empty());
    }

    #[test]
    fn signs() {
        let panic = "[    1.234567] Kernel panic - not syncing: Attempted to kill init!";
        assert_eq!(
            sign(panic),
            Some(Sign::Panic("Attempted to kill init!".into()))
        );
        assert_eq!(
            sign("Kernel panic - not syncing: x"),
            Some(Sign::Panic("x".into()))
        );
        assert_eq!(sign("[    2.0] reboot: System halted"), Some(Sign::Halted));
        assert_eq!(sign("reboot: Power down"), Some(Sign::Halted));
        assert_eq!(sign("he said: Kernel panic - not syncing: x"), None);
        assert_eq!(sign("[no stamp"), None);
        assert_eq!(sign(""), None);
    }

    #[test]
    fn a_panic_outlasts_a_halt() {
        let (mut console, path) = console("panic");
        console
            .write_all(b"Kernel panic - not syncing: first\nreboot: Power down\n")
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(console.sign(), Some(&Sign::Panic("first".into())));
    }
}
