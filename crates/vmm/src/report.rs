//! Where findings go: JSON objects and guest console lines, one a line.
//!
//! Each line is handed to the kernel in a single `write`, so that the lines of
//! several vmms that share one UART do not interleave.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;

use crate::error::{Error, Result};

enum Sink {
    Stdout,
    File(File),
}

/// A line-wise report, shared by all threads of the vmm.
pub struct Report {
    sink: Mutex<Sink>,
    to_file: bool,
}

impl Report {
    /// Reports to `path` (appending: it is often a UART), or to standard output.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let sink = match path {
            None => Sink::Stdout,
            Some(path) => Sink::File(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    // A UART must not become this process's controlling terminal.
                    .custom_flags(libc::O_NOCTTY)
                    .open(path)
                    .map_err(|cause| Error::File {
                        path: path.into(),
                        cause,
                    })?,
            ),
        };
        Ok(Report {
            to_file: matches!(sink, Sink::File(_)),
            sink: Mutex::new(sink),
        })
    }

    /// Whether lines go to a file of their own rather than to standard output.
    pub fn to_file(&self) -> bool {
        self.to_file
    }

    /// Writes one line of bytes; the newline is added here.
    pub fn line(&self, text: &[u8]) -> Result<()> {
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text);
        line.push(b'\n');
        // A thread that panicked while it held the lock left at worst a partial line.
        let mut sink = self
            .sink
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match &mut *sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&line).and_then(|()| out.flush())
            }
            Sink::File(file) => file.write_all(&line),
        }
        .map_err(Error::Report)
    }

    /// Writes one event as a JSON object.
    pub fn event(&self, event: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(event).map_err(|e| Error::Report(e.into()))?;
        self.line(&json)
    }
}
