//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use hyperv::enlightenments::Set;

use crate::scenario::{Count, Rate, Scenario, Size, TscScaling, VmcsShadowing};
use crate::{exit, steps};

/// The lab of hynest: boots it with a Linux as L1 and guests of that Linux's KVM as L2, shows and measures.
#[derive(Debug, Parser)]
#[command(
    name = "cargo hynest",
    bin_name = "cargo hynest",
    version,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot hynest, L1 on it and L2s on that; show their consoles and what things cost
    #[command(after_help = [RUN_EXAMPLES, &steps::help(), &switches(), exit::HELP].join("\n\n"))]
    Run(Box<Run>),
    /// Measure every operation with and without each enlightenment, beside its goal
    #[command(after_help = format!("{BENCH_EXAMPLES}\n\n{}\n\n{BENCH_STATUS}", crate::bench::help()))]
    Bench(Bench),
    /// Put every bit that L1 is shown to the test, and show the table
    #[command(after_help = AUDIT_HELP)]
    Audit(Audit),
    /// Save and restore L1 again and again while the TSC's rate changes, and compare its and its L2s' clocks and memory
    #[command(after_help = SOAK_HELP)]
    Soak(Soak),
    /// Run all tests: on the host, of the image, in the machine
    #[command(after_help = TEST_HELP)]
    Test(Test),
    /// Remove what runs have left under target/hynest
    #[command(after_help = CLEAN_HELP)]
    Clean(Clean),
}

const RUN_EXAMPLES: &str = "\
Examples:
  cargo hynest run                                  measure, run an L2 Linux
  cargo hynest run --do linux --cpus 2              two processors, one L2 Linux
  cargo hynest run --interactive                    a shell in L1; Ctrl-A X ends it
  cargo hynest run --no-enlightenments              L1 sees no Hv#1 interface
  cargo hynest run --without gpa-flush,ipi          all enlightenments but these
  cargo hynest run --audit-clean-fields --do linux  does L1 ever forget to clear a clean bit?
  cargo hynest run --do clock --tsc-rate-change 20=150M --tsc-rate-change 25=80M
                                                    L1 is moved, as it were, to machines with other TSCs
  cargo hynest run --do save,linux --save booted    an L1 with KVM up, saved before it runs its L2
  cargo hynest run --restore booted                 goes on from there, as often as you like
  cargo hynest run --restore booted --do measure    goes on with other steps than those it was booted with
  cargo hynest run --kernel bzImage --cmdline 'console=ttyS0 quiet'
  cargo hynest run --json > summary.json            the summary for programs";

/// The part of `--help` that names the enlightenments.
fn switches() -> String {
    let mut out = String::from("Enlightenments:");
    for one in Set::ALL.iter() {
        out += &format!("\n  {:<16}{}", one.name(), one.description());
        let needs: Vec<&str> = one.needs().iter().map(|needed| needed.name()).collect();
        if !needs.is_empty() {
            out += &format!(" (needs {})", needs.join(", "));
        }
    }
    out
}

const BENCH_EXAMPLES: &str = "\
Examples:
  cargo hynest bench                            everything: some ten boots of Linux, a minute or two each
  cargo hynest bench --only enlightened,plain   one boot
  cargo hynest bench --only enlightened,no-gpa-flush
                                                what that enlightenment is worth
  cargo hynest bench --only saving              what it costs to save and to restore an L1
  cargo hynest bench --json > before.json       the figures, to keep
  cargo hynest bench --compare before.json      what has become better or worse since
  cargo hynest bench --show before.json         the tables again, without measuring
  cargo hynest bench --show before.json --markdown
                                                the same as the README has them";

const BENCH_STATUS: &str = "\
Exit status: 0 measured; 1 something could not be measured; 3 worse than what --compare names.
A goal that is missed is marked '!' and does not change the exit status.";

const TEST_HELP: &str = "\
Examples:
  cargo hynest test                 everything
  cargo hynest test --only host     what needs no emulator
  cargo hynest test --only system   the runs of whole systems
  cargo hynest test --filter panic  those whose name has 'panic' in it

The last line is 'N passed, N failed'; the exit status is 0 only if none failed.";

const SOAK_HELP: &str = "\
An L1 Linux with two processors and three kinds of L2s, which all read their clocks without pause or check their memory,
is saved at random moments, within an L2's run, too, and goes on beside TSCs of other rates, which hardware hides or L1
learns of; and the rate changes under it in place. All of that is drawn by the seed. No clock may go back, step, or
deviate from L0's by more than 200 ppm; L1 is to be told of each move.

Examples:
  cargo hynest soak                             200 changes of the rate, 50 moves
  cargo hynest soak --seed 7 --changes 20 --moves 5
  cargo hynest soak --json                      what came of it, for programs

The exit status is 0 only if all is right. The logs are in target/hynest/soak.";

const AUDIT_HELP: &str = "\
A payload as L1 goes through CPUID, the VMX capability MSRs and the Hv#1 leaves, exercises what each bit that is shown
promises, and tries whether what is not shown is refused. It does so with L2s by VMPTRLD and by the enlightened VMCS,
and with each enlightenment off. A bit that is shown and for which there is no exercise fails.

Examples:
  cargo hynest audit                 the table
  cargo hynest audit --problems      what fails, alone
  cargo hynest audit --quick         all enlightenments on, one run
  cargo hynest audit --json          the table for programs

Columns: the register or leaf; bits; name; whether L1 is shown it (a fact is a number, checked for consistency); what was
done; the result. The exit status is 0 only if nothing failed.";

const CLEAN_HELP: &str = "\
Examples:
  cargo hynest clean        what was built, and leftovers of killed runs
  cargo hynest clean --all  the downloaded kernel, too: the next run takes Debian's newest";

/// Options of `soak`.
#[derive(Args, Debug)]
pub struct Soak {
    /// What draws moments and rates
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How often the rate changes in place
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub changes: u32,
    /// How often L1 is saved and restored
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub moves: u32,
    /// Print what came of it as JSON
    #[arg(long)]
    pub json: bool,
    /// An image of L0 to boot in place of the one of this tree
    #[arg(long, value_name = "PATH", hide = true)]
    pub image: Option<PathBuf>,
    /// A vmm to run in place of the one of this tree
    #[arg(long, value_name = "PATH", hide = true)]
    pub vmm: Option<PathBuf>,
}

/// Options of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// L1's kernel: a bzImage or a vmlinux [default: Debian's own, downloaded]
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// L1's initramfs [default: busybox, KVM's modules and hynest's vmm]
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// Boot L1 without an initramfs
    #[arg(long, conflicts_with_all = ["initrd", "run", "interactive"])]
    no_initrd: bool,
    /// L1's kernel command line, in place of the default one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// L1's memory, such as 512M or 1G [default: 768M]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory: Option<Size>,
    /// Processors; L1 gets one VP for each [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpus: Option<u32>,
    /// Offer L1 these alone: names with commas between, or all [default: all]
    #[arg(
        long,
        value_name = "LIST",
        conflicts_with = "no_enlightenments",
        allow_hyphen_values = true
    )]
    enlightenments: Option<String>,
    /// Offer L1 all but these: names with commas between
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "no_enlightenments"
    )]
    without: Option<Vec<String>>,
    /// Offer L1 no enlightenment at all
    #[arg(long)]
    no_enlightenments: bool,
    /// Find fields of enlightened VMCSs that L1 changes while it declares their group clean; figures mean nothing then
    #[arg(long)]
    audit_clean_fields: bool,
    /// Let hardware shadow a plain VMCS for L1, where the processor can: auto or off [default: auto]
    #[arg(long, value_name = "WHEN")]
    vmcs_shadowing: Option<VmcsShadowing>,
    /// Let hardware hide changes of the TSC's rate from L1, where the processor can: auto or off, by which L1 learns of each [default: auto]
    #[arg(long, value_name = "WHEN")]
    tsc_scaling: Option<TscScaling>,
    /// From this second on, the machine's TSC is taken to run at this rate, in Hz or as 150M; again for each change.
    /// Or random:SEED, or random:SEED:COUNT: changes at random, from second 10 on [default COUNT: 20]
    #[arg(long, value_name = "AT=RATE")]
    tsc_rate_change: Option<Vec<String>>,
    /// A guest may have the TSC's rate change: by a 32-bit OUT of the rate in Hz to port 0x5C4
    #[arg(long)]
    tsc_rate_port: bool,
    /// How often the rate changes in the step 'clocks', at points that the seed chooses [default SEED: 1].
    /// MOVES: it is saved and restored so often meanwhile, and goes on until then
    #[arg(long, value_name = "COUNT[:SEED[:MOVES]]")]
    clock_changes: Option<String>,
    /// The rate of the machine's TSC, in Hz or as 150M; it counts instructions [default: 100M]
    #[arg(long, value_name = "RATE")]
    tsc_hz: Option<Rate>,
    /// Save L1 with its L2s to this file and end: at the step 'save', at Ctrl-A S, or at --save-at
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Save after so many instructions of the machine, such as 1.5G; with --restore, from where L1 goes on
    #[arg(long, value_name = "COUNT", requires = "save")]
    save_at: Option<Count>,
    /// Go on with what --save has saved, in place of booting an L1; with --do, when its step ends, with those steps
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["kernel", "initrd", "no_initrd", "cmdline", "memory", "cpus", "enlightenments", "without",
            "no_enlightenments", "vmm"]
    )]
    restore: Option<PathBuf>,
    /// What L1's init does, in this order: steps, which are named below [default: measure,clock,linux,plain]
    #[arg(
        long = "do",
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "interactive"
    )]
    run: Option<Vec<String>>,
    /// Measure only these operations (see `vmm measure --help` in L1) [default: all that apply]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    operations: Option<Vec<String>>,
    /// A shell in L1, keys both ways; Ctrl-A X ends it
    #[arg(long, short)]
    pub interactive: bool,
    /// A TOML file with what the options above say; an option goes before the file's word
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Boot this image of hynest [default: this workspace's, built afresh]
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Put this vmm into L1's initramfs [default: this workspace's, built afresh]
    #[arg(long, value_name = "PATH")]
    vmm: Option<PathBuf>,
    /// The emulator's processor model [default: corei7_skylake_x]
    #[arg(long, value_name = "NAME")]
    cpu_model: Option<String>,
    /// End the run after this time
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<u64>,
    /// End the run after this time without output [default: 120; none with --interactive]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    watchdog: Option<u64>,
    /// Write the summary as JSON to standard output, and the consoles nowhere but to --log
    #[arg(long, conflicts_with = "interactive")]
    pub json: bool,
    /// Write all consoles and reports to this file, too
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

impl Run {
    /// The scenario that the options and their file describe.
    pub fn scenario(&self) -> Result<Scenario> {
        let file = match &self.scenario {
            Some(path) => Scenario::read(path)?,
            None => Scenario::default(),
        };
        let flags = Scenario {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            no_initrd: self.no_initrd.then_some(true),
            cmdline: self.cmdline.clone(),
            memory: self.memory,
            cpus: self.cpus,
            enlightenments: match self.no_enlightenments {
                true => Some("none".to_owned()),
                false => self.enlightenments.clone(),
            },
            without: self.without.clone(),
            audit_clean_fields: self.audit_clean_fields.then_some(true),
            vmcs_shadowing: self.vmcs_shadowing,
            tsc_scaling: self.tsc_scaling,
            tsc_rate_change: self.tsc_rate_change.clone(),
            tsc_hz: self.tsc_hz,
            save: self.save.clone(),
            save_at: self.save_at,
            restore: self.restore.clone(),
            tsc_rate_port: self.tsc_rate_port.then_some(true),
            clock_changes: self.clock_changes.clone(),
            run: match self.interactive && self.restore.is_none() {
                true => Some(vec!["shell".to_owned()]),
                false => self.run.clone(),
            },
            operations: self.operations.clone(),
            image: self.image.clone(),
            vmm: self.vmm.clone(),
            cpu_model: self.cpu_model.clone(),
            timeout: self.timeout,
            watchdog: self.watchdog,
        };
        Ok(file.overridden_by(flags))
    }
}

/// Options of `bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Only these configurations, which are named below
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How many boots at a time; instructions are counted, so that figures stay the same [default: one per processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Write the figures as JSON to standard output
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Write the README's tables to standard output
    #[arg(long)]
    pub markdown: bool,
    /// Show what differs from the figures in this file, which --json wrote
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// How many percent worse is not yet worse
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    pub tolerance: f64,
    /// Measure nothing: show the figures in this file, which --json wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "jobs"])]
    pub show: Option<PathBuf>,
}

/// Options of `audit`.
#[derive(Args, Debug)]
pub struct Audit {
    /// Show what fails, alone
    #[arg(long)]
    pub problems: bool,
    /// One run: everything on, L2s by VMPTRLD
    #[arg(long)]
    pub quick: bool,
    /// Write the table as JSON to standard output
    #[arg(long)]
    pub json: bool,
}

/// Options of `test`.
#[derive(Args, Debug)]
pub struct Test {
    /// One kind of test alone
    #[arg(long, value_name = "KIND")]
    pub only: Option<crate::test::Kind>,
    /// Only tests whose name contains this text (of the image's and the machine's tests)
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
}

/// Options of `clean`.
#[derive(Args, Debug)]
pub struct Clean {
    /// The cache of downloads, too
    #[arg(long)]
    pub all: bool,
}
