//! What it costs to save an L1 and to restore it, by what it has done before.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::table::{Column, grid};
use super::{PATIENCE, Programs};
use crate::costs::thousands;
use crate::exit::Ending;
use crate::report::{Setup, Summary};

/// What `--only` calls it.
pub const NAME: &str = "saving";
/// What it is, for people.
pub const ABOUT: &str = "an L1 is saved and restored";

/// What L1 has done before it is saved: the steps of its init, and what they are for people.
pub const HISTORIES: &[(&str, &str)] =
    &[("save", "L1 booted"), ("linux,save", "and an L2 Linux run")];

/// The figures of one L1.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Saving {
    /// What it has done.
    pub about: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Instructions that saving took, the disk's time among them.
    pub save_instructions: u64,
    /// Instructions that loading took, the disk's time among them.
    pub load_instructions: u64,
    /// Seconds of the host from the machine's start to L1's init, by a boot.
    pub boot_seconds: f64,
    /// The same by a restore.
    pub restore_seconds: f64,
}

/// Boots an L1, saves it and restores it.
pub fn measure(programs: &Programs, steps: &str, about: &str) -> Result<(Saving, Setup)> {
    let dir = tempfile::tempdir_in(&programs.folder).context("no folder for a saved L1")?;
    let file = dir.path().join("saved").display().to_string();
    let vmm = programs.vmm.display().to_string();
    let saving = ["--do", steps, "--save", &file, "--vmm", &vmm];
    let saved = run(programs, "saving", &saving, Ending::Saved)?;
    let restoring = ["--restore", &file, "--do", "boot"];
    let restored = run(programs, "restoring", &restoring, Ending::PowerOff)?;
    let seconds = |summary: &Summary| summary.up_after.context("L1's init was never at a step");
    let one = Saving {
        about: about.to_owned(),
        bytes: saved.saved.as_ref().map_or(0, |saved| saved.bytes),
        save_instructions: saved
            .save_ticks
            .context("L0 did not say how long it saved")?,
        load_instructions: restored.l0.as_ref().map_or(0, |l0| l0.load_ticks),
        boot_seconds: seconds(&saved)?,
        restore_seconds: seconds(&restored)?,
    };
    Ok((one, saved.setup))
}

fn run(programs: &Programs, name: &str, arguments: &[&str], ending: Ending) -> Result<Summary> {
    let log = programs.folder.join(format!("{name}.log"));
    let mut command = Command::new(std::env::current_exe().context("the lab cannot find itself")?);
    command.args(["run", "--json", "--watchdog", "300"]);
    command.args(["--timeout", &PATIENCE.to_string()]);
    command.arg("--image").arg(&programs.image);
    command.arg("--log").arg(&log);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().context("the lab does not start")?;
    let summary: Summary = serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow!("{}", said.lines().last().unwrap_or("no summary came"))
    })?;
    ensure!(
        summary.ending == Some(ending),
        "{name}: it ended otherwise: {} (see {})",
        summary.message,
        Path::new(&log).display()
    );
    Ok(summary)
}

/// The table.
pub fn text(savings: &[Saving]) -> String {
    if savings.is_empty() {
        return String::new();
    }
    let columns = [
        Column::left("saved after"),
        Column::right("file, MiB"),
        Column::right("save"),
        Column::right("load"),
        Column::right("up by a boot, s"),
        Column::right("by a restore, s"),
    ];
    let millions = |count: u64| format!("{} M", thousands((count / 1_000_000) as i64));
    let rows: Vec<Vec<String>> = savings
        .iter()
        .map(|one| {
            vec![
                one.about.clone(),
                (one.bytes >> 20).to_string(),
                millions(one.save_instructions),
                millions(one.load_instructions),
                format!("{:.1}", one.boot_seconds),
                format!("{:.1}", one.restore_seconds),
            ]
        })
        .collect();
    let mut out = String::from(
        "Saving an L1: the file, instructions of saving and loading (the disk's time among them), and seconds of the host\n\
         from the machine's start to L1's first step (this includes firmware and boot loader).\n",
    );
    out += &grid(&columns, &rows);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each() {
        let one = Saving {
            about: "L1 booted".into(),
            bytes: 96 << 20,
            save_instructions: 363_379_477,
            load_instructions: 301_000_000,
            boot_seconds: 31.26,
            restore_seconds: 6.0,
        };
        let table = text(&[one]);
        let row = table.lines().last().unwrap_or_default();
        let cells: Vec<&str> = row.split_whitespace().collect();
        let expected = ["L1", "booted", "96", "363", "M", "301", "M", "31.3", "6.0"];
        assert_eq!(cells, expected);
        assert_eq!(text(&[]), "");
    }
}
