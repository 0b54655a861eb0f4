//! Trace points of this machine's kernel.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel's tracing is mounted, where it is.
const TRACING: &str = "/sys/kernel/tracing";

/// A trace point that is on while this lives.
pub struct TracePoint {
    folder: PathBuf,
    name: String,
    enable: PathBuf,
}

impl TracePoint {
    /// Switches on a trace point, named as in `kvm/kvm_update_master_clock`. `None`
    /// where there is no such, or no right to it.
    pub fn on(name: &str) -> Option<Self> {
        Self::on_in(Path::new(TRACING), name)
    }

    fn on_in(folder: &Path, name: &str) -> Option<Self> {
        let enable = folder.join("events").join(name).join("enable");
        // It must be there: a file of that name is not to be made.
        if !enable.exists() {
            return None;
        }
        fs::write(&enable, "1").ok()?;
        let name = name.rsplit('/').next().unwrap_or(name).to_owned();
        Some(TracePoint {
            folder: folder.into(),
            name,
            enable,
        })
    }

    /// What it said last, without time and place. `None` if it said nothing.
    pub fn last(&self) -> Option<String> {
        let trace = fs::read_to_string(self.folder.join("trace")).ok()?;
        let mark = format!(": {}: ", self.name);
        let said = trace.lines().rev().find_map(|line| line.split_once(&mark));
        said.map(|(_, text)| text.trim().to_owned())
    }
}

impl Drop for TracePoint {
    fn drop(&mut self) {
        // It was there and could be written.
        let _ = fs::write(&self.enable, "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_point_counts() {
        let root = std::env::temp_dir().join(format!("vmm-trace-{}", std::process::id()));
        let point = root.join("events/kvm/kvm_x");
        fs::create_dir_all(&point).unwrap();
        fs::write(point.join("enable"), "0").unwrap();
        fs::write(
            root.join("trace"),
            "# tracer: nop\n vmm-9 [000] d..1. 5.1: kvm_x: a 1\n vmm-9 [001] d..1. 5.2: kvm_x: a 2\n \
             vmm-9 [001] d..1. 5.3: kvm_y: a 3\n",
        )
        .unwrap();
        let on = TracePoint::on_in(&root, "kvm/kvm_x").unwrap();
        assert_eq!(fs::read_to_string(point.join("enable")).unwrap(), "1");
        assert_eq!(on.last().as_deref(), Some("a 2"));
        drop(on);
        assert_eq!(fs::read_to_string(point.join("enable")).unwrap(), "0");
        assert!(TracePoint::on_in(&root, "kvm/kvm_z").is_none());
        fs::remove_dir_all(&root).unwrap();
    }
}
