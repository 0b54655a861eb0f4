//! An L1 that is saved once for all runs that do not test its boot.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::runs::{self, Expected, Run};
use crate::exit::Ending;
use crate::paths::Paths;

/// A saved L1, made when the first run wants it.
pub struct Seed {
    /// What it is called.
    name: String,
    /// Arguments of the run that saves it.
    arguments: Vec<String>,
    file: PathBuf,
    /// How long that run took, or what went wrong.
    made: OnceLock<Result<Duration, String>>,
    /// How long the runs took that began with it.
    used: Mutex<Vec<Duration>>,
}

impl Seed {
    /// The L1 that a run with these arguments saves.
    pub fn new(paths: &Paths, name: &str, arguments: Vec<String>) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            arguments,
            file: runs::folder(paths)?.join("saved-l1"),
            made: OnceLock::new(),
            used: Mutex::default(),
        })
    }

    /// Its file. Whoever comes while another run makes it waits.
    pub fn file(&self, paths: &Paths) -> Result<&Path> {
        let make = || {
            let started = Instant::now();
            let file = self.file.display().to_string();
            let arguments = [self.arguments.clone(), vec!["--save".to_owned(), file]].concat();
            let run = Run {
                name: self.name.clone(),
                arguments,
                begins_with: None,
                expected: Expected::SameTwice,
            };
            run.ends(paths, Ending::Saved)
                .map_err(|error| format!("{error:#}"))?;
            Ok(started.elapsed())
        };
        match self.made.get_or_init(make) {
            Ok(_) => Ok(&self.file),
            Err(error) => Err(anyhow!("{}: {error}", self.name)),
        }
    }

    /// A run that began with it took so long.
    pub fn enter(&self, time: Duration) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.push(time);
    }

    /// What it has saved, if any run began with it. No run takes less than to restore it, so that this is the least.
    pub fn worth(&self) -> Option<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Ok(made)) = self.made.get() else {
            return None;
        };
        let shortest = used.iter().min()?;
        let runs = used.len();
        let boots = made.saturating_mul(u32::try_from(runs).ok()?);
        let restores = shortest.saturating_mul(u32::try_from(runs).ok()?);
        // One boot was to make it.
        let saved = boots.as_secs_f64() - restores.as_secs_f64() - made.as_secs_f64();
        Some(format!(
            "{runs} runs began with an L1 that was saved in {:.0} s, the shortest of them took {:.0} s: {:.0} s {} than with boots",
            made.as_secs_f64(),
            shortest.as_secs_f64(),
            saved.abs(),
            if saved < 0.0 { "more" } else { "less" },
        ))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
