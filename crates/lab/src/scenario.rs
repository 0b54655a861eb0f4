//! What a run consists of: read from a TOML file, from the command line, or both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use hyperv::enlightenments::Set;
use serde::Deserialize;

use crate::snapshot::Contents;
use crate::{emulator, rate_changes};

mod values;

pub use values::{Count, Rate, Size, TscScaling, VmcsShadowing};

/// What a scenario file may hold; a flag on the command line goes before the file's word. Unknown keys are refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// L1's kernel; Debian's own when absent. A relative path starts at the scenario file's folder.
    pub kernel: Option<PathBuf>,
    /// L1's initramfs; when absent, the lab builds one with busybox, KVM's modules and the vmm.
    pub initrd: Option<PathBuf>,
    /// No initramfs at all, for a kernel that needs none.
    pub no_initrd: Option<bool>,
    /// L1's kernel command line.
    pub cmdline: Option<String>,
    /// L1's memory.
    pub memory: Option<Size>,
    /// Processors; L1 has one VP for each.
    pub cpus: Option<u32>,
    /// What L0 offers: `all`, `none` or names with commas between; a minus before a name takes it out of `all`.
    pub enlightenments: Option<String>,
    /// What L0 does not offer of that.
    pub without: Option<Vec<String>>,
    /// Whether L0 looks for fields that L1 changed although it declares their group clean.
    pub audit_clean_fields: Option<bool>,
    /// Whether hardware shadows a plain VMCS for L1: `auto` (where the processor can) or `off`.
    pub vmcs_shadowing: Option<VmcsShadowing>,
    /// Whether hardware hides changes of the TSC's rate from L1: `auto` (where the processor can) or `off`.
    pub tsc_scaling: Option<TscScaling>,
    /// When the machine's TSC takes on which rate: `AT=RATE`, in seconds of L1's reference clock and in Hz, or
    /// `random:SEED[:COUNT]`.
    pub tsc_rate_change: Option<Vec<String>>,
    /// Whether a guest may have it change, by the counter port.
    pub tsc_rate_port: Option<bool>,
    /// How often it changes in the step `clocks`, and at which points: `COUNT[:SEED]`.
    pub clock_changes: Option<String>,
    /// The rate of the machine's TSC, which counts instructions: Hz, or as `150M`.
    pub tsc_hz: Option<Rate>,
    /// The file that a saved partition is written to.
    pub save: Option<PathBuf>,
    /// After how many instructions it is saved without being asked.
    pub save_at: Option<Count>,
    /// The saved partition that is taken up in place of an L1 that boots.
    pub restore: Option<PathBuf>,
    /// What L1's init does, in this order (see guest/init).
    pub run: Option<Vec<String>>,
    /// The operations that are measured; all that apply when absent.
    pub operations: Option<Vec<String>>,
    /// L0's image; the workspace's own, freshly built, when absent.
    pub image: Option<PathBuf>,
    /// L1's vmm, for the lab's initramfs; the workspace's own when absent.
    pub vmm: Option<PathBuf>,
    /// Bochs's processor model.
    pub cpu_model: Option<String>,
    /// Seconds of the host's time after which the run is ended.
    pub timeout: Option<u64>,
    /// Seconds without any output after which the run is ended.
    pub watchdog: Option<u64>,
}

impl Scenario {
    /// Reads a scenario file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))?;
        let mut scenario = Self::parse(&text)
            .with_context(|| format!("the scenario {} is wrong", path.display()))?;
        let base = path.parent().unwrap_or(Path::new(""));
        for file in [
            &mut scenario.kernel,
            &mut scenario.initrd,
            &mut scenario.image,
            &mut scenario.vmm,
            &mut scenario.save,
            &mut scenario.restore,
        ]
        .into_iter()
        .flatten()
        {
            *file = base.join(&file);
        }
        Ok(scenario)
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!(
                "line {line}: {}",
                error.message().lines().next().unwrap_or_default()
            )
        })
    }

    /// This scenario with what `flags` names in place of its own.
    pub fn overridden_by(self, flags: Self) -> Self {
        Self {
            kernel: flags.kernel.or(self.kernel),
            initrd: flags.initrd.or(self.initrd),
            no_initrd: flags.no_initrd.or(self.no_initrd),
            cmdline: flags.cmdline.or(self.cmdline),
            memory: flags.memory.or(self.memory),
            cpus: flags.cpus.or(self.cpus),
            // A list on the command line is whole: what the file leaves out of its own does not count.
            without: match flags.enlightenments {
                Some(_) => flags.without,
                None => flags.without.or(self.without),
            },
            enlightenments: flags.enlightenments.or(self.enlightenments),
            audit_clean_fields: flags.audit_clean_fields.or(self.audit_clean_fields),
            vmcs_shadowing: flags.vmcs_shadowing.or(self.vmcs_shadowing),
            tsc_scaling: flags.tsc_scaling.or(self.tsc_scaling),
            tsc_rate_change: flags.tsc_rate_change.or(self.tsc_rate_change),
            tsc_hz: flags.tsc_hz.or(self.tsc_hz),
            save: flags.save.or(self.save),
            save_at: flags.save_at.or(self.save_at),
            restore: flags.restore.or(self.restore),
            tsc_rate_port: flags.tsc_rate_port.or(self.tsc_rate_port),
            clock_changes: flags.clock_changes.or(self.clock_changes),
            run: flags.run.or(self.run),
            operations: flags.operations.or(self.operations),
            image: flags.image.or(self.image),
            vmm: flags.vmm.or(self.vmm),
            cpu_model: flags.cpu_model.or(self.cpu_model),
            timeout: flags.timeout.or(self.timeout),
            watchdog: flags.watchdog.or(self.watchdog),
        }
    }

    /// This scenario for the machine of a saved partition.
    pub fn as_saved(&self, saved: &Contents) -> Self {
        Self {
            memory: Some(Size {
                mib: (saved.memory >> 20) as u32,
            }),
            cpus: Some(saved.vps),
            enlightenments: Some(saved.enlightenments.clone()),
            without: None,
            no_initrd: Some(true),
            ..self.clone()
        }
    }

    /// Whether the lab builds L1's initramfs.
    pub fn own_initramfs(&self) -> bool {
        self.initrd.is_none() && self.no_initrd != Some(true)
    }

    /// L1's memory in MiB.
    pub fn memory_mib(&self) -> Result<u32> {
        let asked = self.memory.map_or(DEFAULT_MEMORY_MIB, |size| size.mib);
        let (least, why) = match self.own_initramfs() {
            true => (384, "L1 with the lab's initramfs needs"),
            false => (64, "an L1 needs"),
        };
        if asked < least {
            bail!("{asked} MiB of memory are too little: {why} at least {least} MiB");
        }
        let most = emulator::LARGEST_MEMORY_MIB - L0_MEMORY_MIB;
        if asked > most {
            bail!("{asked} MiB of memory are too much: the emulator has at most {most} MiB for L1");
        }
        Ok(asked)
    }

    /// Processors.
    pub fn cpus(&self) -> Result<u32> {
        match self.cpus.unwrap_or(1) {
            cpus @ 1..=MOST_CPUS => Ok(cpus),
            other => {
                bail!("{other} processors cannot be had: the emulator offers 1 to {MOST_CPUS}")
            }
        }
    }

    /// What L0 offers, in its command line's words: `all`, `none`, or a list without blanks.
    pub fn enlightenments(&self) -> Result<String> {
        let mut list = self
            .enlightenments
            .clone()
            .unwrap_or_else(|| "all".to_owned());
        for name in self.without.iter().flatten() {
            list += &format!(",-{name}");
        }
        let offered = Set::parse(&list).map_err(|error| anyhow!("enlightenments: {error}"))?;
        Ok(match offered == Set::ALL {
            true => "all".to_owned(),
            false => offered.to_string(),
        })
    }

    /// Whether hardware shadows a plain VMCS for L1.
    pub fn vmcs_shadowing(&self) -> VmcsShadowing {
        self.vmcs_shadowing.unwrap_or_default()
    }

    /// Whether hardware hides changes of the TSC's rate from L1.
    pub fn tsc_scaling(&self) -> TscScaling {
        self.tsc_scaling.unwrap_or_default()
    }

    /// The changes of the TSC's rate, in the words of L0's command line.
    pub fn tsc_rate_changes(&self) -> Result<Option<String>> {
        let texts = self.tsc_rate_change.as_deref().unwrap_or_default();
        let changes = texts.iter().map(|text| rate_changes::parse(text));
        let changes = changes.collect::<Result<Vec<_>>>()?.concat();
        let words: Vec<String> = changes.iter().map(ToString::to_string).collect();
        Ok((!words.is_empty()).then(|| words.join(",")))
    }

    /// Whether a guest may have the TSC's rate change.
    pub fn has_tsc_rate_port(&self) -> bool {
        self.tsc_rate_port == Some(true) || self.clock_changes.is_some()
    }

    /// How often and at which points it changes in the step `clocks`, as L1's init is told.
    pub fn clock_changes(&self) -> Result<Option<String>> {
        let text = self.clock_changes.as_deref();
        text.map(rate_changes::of_step).transpose()
    }

    /// Ticks of the machine's TSC, which are instructions, in a second.
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
            .map_or(emulator::INSTRUCTIONS_PER_SECOND, |rate| rate.0.into())
    }

    /// The words for L1's init.
    pub fn run(&self) -> Vec<String> {
        self.run
            .clone()
            .unwrap_or_else(|| DEFAULT_RUN.iter().map(|&word| word.to_owned()).collect())
    }

    /// What L0 has to tell L1's init where it is restored, if it is to do other things than it was booted for: words as
    /// on the kernel command line, with semicolons between.
    pub fn orders(&self) -> Option<String> {
        let steps = self.run.as_ref().filter(|_| self.restore.is_some())?;
        let mut orders = format!("hynest.run={}", steps.join(","));
        if let Some(operations) = &self.operations {
            orders += &format!(";hynest.operations={}", operations.join(","));
        }
        Some(orders)
    }

    /// L1's kernel command line.
    pub fn command_line(&self) -> String {
        let mut line = self
            .cmdline
            .clone()
            .unwrap_or_else(|| DEFAULT_COMMAND_LINE.to_owned());
        if self.own_initramfs() {
            line += &format!(" hynest.run={}", self.run().join(","));
            if let Some(operations) = &self.operations {
                line += &format!(" hynest.operations={}", operations.join(","));
            }
            // The run's early checks have found it good.
            if let Ok(Some(changes)) = self.clock_changes() {
                line += &format!(" hynest.changes={changes}");
            }
        }
        line
    }
}

/// L1's memory unless something else is asked for.
const DEFAULT_MEMORY_MIB: u32 = 768;

/// What the machine has beside L1's memory: for L0, for the modules as GRUB loads them, for the firmware.
pub const L0_MEMORY_MIB: u32 = 256;

/// Debian's Bochs is built for this many.
const MOST_CPUS: u32 = 8;

/// What L1 does by default: measure L2's operations with all enlightenments, count the exits of an L2 that reads its
/// clock, start an L2 Linux, measure again with KVM's enlightened VMCS off.
const DEFAULT_RUN: &[&str] = &["measure", "clock", "linux", "plain"];

/// L1's command line by default. Only what saves time in an emulator: no self-tests, no check that the timer ticks, a
/// quiet console (its log can be had by dmesg); an immediate reset after a panic; the same addresses in each run, and
/// no random numbers from the processor, which Bochs takes from its host; and no
/// mitigations of processor bugs that an emulator does not have, which would be most of what an L2 exit costs.
pub const DEFAULT_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check nokaslr mitigations=off \
     clearcpuid=rdrand,rdseed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_a_scenario_and_a_wrong_one_a_line() {
        let good = "memory = \"1G\"\ncpus = 2\nvmcs_shadowing = \"off\"\ntsc_scaling = \"off\"\nrun = [\"linux\"]\n";
        let scenario = Scenario::parse(good).unwrap();
        assert_eq!(
            (scenario.memory_mib().unwrap(), scenario.cpus().unwrap()),
            (1024, 2)
        );
        assert_eq!(scenario.vmcs_shadowing(), VmcsShadowing::Off);
        assert_eq!(scenario.tsc_scaling(), TscScaling::Off);
        assert_eq!(Scenario::default().vmcs_shadowing(), VmcsShadowing::Auto);
        assert_eq!(Scenario::default().tsc_scaling(), TscScaling::Auto);
        assert!(scenario.command_line().ends_with(" hynest.run=linux"));
        let error = Scenario::parse("cpus = 2\nmemroy = 1\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("line 2: ") && error.contains("memroy"),
            "{error}"
        );
        assert!(Scenario::parse("cpus = \"two\"").is_err());
    }

    #[test]
    fn a_restored_l1_is_told_its_steps_if_there_are_any() {
        let orders = |text| Scenario::parse(text).unwrap().orders();
        assert_eq!(orders("restore = \"x\""), None);
        assert_eq!(orders("run = [\"linux\"]"), None);
        assert_eq!(
            orders(
                "restore = \"x\"\nrun = [\"linux\", \"measure\"]\noperations = [\"out\", \"hlt\"]"
            ),
            Some("hynest.run=linux,measure;hynest.operations=out,hlt".to_owned())
        );
    }

    #[test]
    fn flags_go_before_the_file() {
        let file = Scenario {
            cpus: Some(2),
            memory: Some(Size { mib: 512 }),
            ..Scenario::default()
        };
        let flags = Scenario {
            cpus: Some(4),
            ..Scenario::default()
        };
        let both = file.overridden_by(flags);
        assert_eq!((both.cpus, both.memory), (Some(4), Some(Size { mib: 512 })));
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let memory = |mib| {
            Scenario {
                memory: Some(Size { mib }),
                ..Scenario::default()
            }
            .memory_mib()
        };
        assert!(memory(100).unwrap_err().to_string().contains("too little"));
        assert!(memory(2000).unwrap_err().to_string().contains("too much"));
        assert!(
            Scenario {
                cpus: Some(0),
                ..Scenario::default()
            }
            .cpus()
            .is_err()
        );
    }

    #[test]
    fn counts_and_rates_have_units() {
        let count = |text: &str| text.parse::<Count>().map(|count| count.0).ok();
        assert_eq!(count("1.5G"), Some(1_500_000_000));
        assert_eq!(count("800M"), Some(800_000_000));
        assert_eq!(count("7"), Some(7));
        for bad in ["", "G", "-1", "+1", "0", "1e99", "nan", "x", "1T"] {
            assert_eq!(count(bad), None, "{bad}");
        }
        let file = Scenario::parse("tsc_hz = \"150M\"\nsave_at = 5000\n").unwrap();
        assert_eq!(file.tsc_hz(), 150_000_000);
        assert_eq!(file.save_at, Some(Count(5000)));
        assert!(Scenario::parse("tsc_hz = 5").is_err());
        assert_eq!(Scenario::default().tsc_hz(), 100_000_000);
    }

    #[test]
    fn changes_of_the_tscs_rate_are_l0s_words() {
        let words = |file| Scenario::parse(file).unwrap().tsc_rate_changes();
        assert_eq!(words("").unwrap(), None);
        assert_eq!(
            words("tsc_rate_change = [\"1.5=150M\", \"2=80M\"]").unwrap(),
            Some("1.5000000=150000000,2.0000000=80000000".to_owned())
        );
        let error = words("tsc_rate_change = [\"1.5=5M\"]").unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("1.5=5M") && error.contains("10 MHz"),
            "{error}"
        );
        let drawn = words("tsc_rate_change = [\"random:3:5\", \"1=80M\"]").unwrap();
        assert_eq!(drawn.map(|words| words.split(',').count()), Some(6));
    }

    /// What a file with this text has L0 offer.
    fn offered(file: &str) -> Result<String> {
        Scenario::parse(file)?.enlightenments()
    }

    #[test]
    fn a_file_switches_enlightenments_one_by_one() {
        assert_eq!(offered("").unwrap(), "all");
        assert_eq!(offered("enlightenments = \"none\"").unwrap(), "none");
        assert_eq!(
            offered("enlightenments = \"vp-assist, evmcs\"").unwrap(),
            "base,vp-assist,evmcs"
        );
        let some = offered("without = [\"gpa-flush\", \"ipi\"]").unwrap();
        assert!(
            some.contains("evmcs,msr-bitmap,direct-flush,tlb-flush"),
            "{some}"
        );
        assert_eq!(
            offered("enlightenments = \"all,-gpa-flush,-ipi\"").unwrap(),
            some
        );
    }

    #[test]
    fn a_list_that_cannot_be_had_is_explained() {
        let why = |file| offered(file).unwrap_err().to_string();
        assert_eq!(
            why("without = [\"evmcs\", \"msr-bitmap\"]"),
            "enlightenments: direct-flush needs evmcs, which is off: switch both on or both off"
        );
        for (file, text) in [
            (
                "enlightenments = \"warp drive\"",
                "unknown enlightenment 'warp drive'",
            ),
            ("enlightenments = \"x=1\"", "unknown enlightenment 'x=1'"),
            ("enlightenments = \"\"", "name is empty"),
            (
                "enlightenments = \"reenlightenment\"",
                "reenlightenment needs",
            ),
            (
                "enlightenments = \"none\"\nwithout = [\"ipi\"]",
                "takes out what is not in",
            ),
        ] {
            assert!(why(file).contains(text), "{file}: {}", why(file));
        }
    }

    #[test]
    fn a_list_on_the_command_line_replaces_the_files() {
        let file = Scenario::parse("without = [\"ipi\"]").unwrap();
        let flags = |list: Option<&str>, without: Option<&str>| Scenario {
            enlightenments: list.map(str::to_owned),
            without: without.map(|name| vec![name.to_owned()]),
            ..Scenario::default()
        };
        let both = |flags| file.clone().overridden_by(flags).enlightenments().unwrap();
        assert_eq!(both(flags(Some("none"), None)), "none");
        assert!(!both(flags(None, None)).contains("ipi"));
        let other = both(flags(None, Some("stimer")));
        assert!(other.contains("ipi") && !other.contains("stimer"));
    }
}
