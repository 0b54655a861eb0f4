//! `cargo hynest run`: from a scenario to a machine, its run and its summary.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::console::{Console, Style};
use crate::disk::{self, Content, Module};
use crate::emulator::{self, Hardware};
use crate::events::Step;
use crate::exit::Ending;
use crate::kernel::{self, DebianKernel, Kernel};
use crate::machine::{self, Limits};
use crate::paths::{self, Paths};
use crate::report::{Saved, Setup, Summary};
use crate::scenario::{L0_MEMORY_MIB, Scenario, TscScaling, VmcsShadowing};
use crate::state_disk::StateDisk;
use crate::{deps, early, image, initramfs, progress, proof, snapshot};

/// How a run is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Keys go to L1's console.
    pub interactive: bool,
    /// Consoles are not shown (the log has them).
    pub silent: bool,
    /// Where everything is written to.
    pub log: Option<PathBuf>,
}

/// What boots: the files GRUB loads and what describes them.
#[derive(Clone, Debug)]
pub struct Boot {
    /// L0.
    pub image: PathBuf,
    /// Its modules.
    pub modules: Vec<Module>,
    /// L1's kernel by name.
    pub kernel: String,
}

/// Where the disk for a saved partition is attached, in L0's words.
const STATE_DISK: &str = "ata0-slave";

/// A scenario without L1's seconds of silence gets this much patience.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs a scenario.
pub fn run(paths: &Paths, scenario: &Scenario, view: &View) -> Result<Summary> {
    early::check(scenario, view.log.as_deref())?;
    deps::ensure(deps::FOR_A_RUN)?;
    if let Some(model) = &scenario.cpu_model {
        emulator::check_model(model)?;
    }
    let (scenario, boot) = match &scenario.restore {
        // The saved partition has its own processors and memory.
        Some(file) => {
            let saved = progress::step("reading the saved partition", || snapshot::read(file))?;
            let scenario = scenario.as_saved(&saved);
            let boot = Boot {
                image: l0(paths, &scenario)?,
                modules: Vec::new(),
                kernel: String::new(),
            };
            (scenario, boot)
        }
        None => (scenario.clone(), prepare(paths, scenario)?),
    };
    start(paths, &scenario, &boot, view)
}

/// Gets and builds everything that boots.
fn prepare(paths: &Paths, scenario: &Scenario) -> Result<Boot> {
    let debian = match &scenario.kernel {
        None => Some(DebianKernel::get(paths)?),
        Some(_) => DebianKernel::cached(paths),
    };
    let kernel = match (&scenario.kernel, &debian) {
        (Some(path), _) => kernel::prepare(paths, path)?,
        (None, Some(debian)) => kernel::prepare(paths, &debian.image())?,
        (None, None) => bail!("there is no kernel"),
    };
    let initrd = match &scenario.initrd {
        Some(path) => Some(path.clone()),
        None if scenario.own_initramfs() => {
            Some(build_initramfs(paths, scenario, &kernel, debian.as_ref())?)
        }
        None => None,
    };
    let mut modules = vec![Module {
        string: format!("l1-kernel {}", scenario.command_line()),
        path: kernel.packed.clone(),
    }];
    modules.extend(initrd.map(|path| Module {
        string: "l1-initrd".to_owned(),
        path,
    }));
    Ok(Boot {
        image: l0(paths, scenario)?,
        modules,
        kernel: kernel.version,
    })
}

/// L0's image.
fn l0(paths: &Paths, scenario: &Scenario) -> Result<PathBuf> {
    match &scenario.image {
        Some(path) => Ok(path.clone()),
        None => image::metal(paths, "hynest"),
    }
}

/// The lab's initramfs; with Debian's modules where they are of the same version as the kernel.
fn build_initramfs(
    paths: &Paths,
    scenario: &Scenario,
    kernel: &Kernel,
    debian: Option<&DebianKernel>,
) -> Result<PathBuf> {
    let fitting = debian.filter(|debian| {
        debian
            .version()
            .is_some_and(|version| version == kernel.version)
    });
    let vmm = match &scenario.vmm {
        Some(path) => path.clone(),
        None => image::program(paths, "vmm")?,
    };
    initramfs::build(paths, kernel, fitting, &vmm)
}

/// Puts the boot disk together, runs the machine and says what came of it.
pub fn start(paths: &Paths, scenario: &Scenario, boot: &Boot, view: &View) -> Result<Summary> {
    let dir = run_folder(paths)?;
    let l1_memory_mib = scenario.memory_mib()?;
    let (cpus, enlightenments) = (scenario.cpus()?, scenario.enlightenments()?);
    let input = if view.interactive { "com1" } else { "none" };
    let is_audited = scenario.audit_clean_fields == Some(true);
    // An older image, given by --image, knows no such words.
    let audit = if is_audited {
        " audit=clean-fields"
    } else {
        ""
    };
    let shadowing = match scenario.vmcs_shadowing() {
        VmcsShadowing::Auto => "",
        VmcsShadowing::Off => " vmcs-shadowing=off",
    };
    let scaling = match scenario.tsc_scaling() {
        TscScaling::Auto => "",
        TscScaling::Off => " tsc-scaling=off",
    };
    let tsc_hz = scenario.tsc_hz();
    let mut command_line = format!(
        "out=e9 in={input} memory={l1_memory_mib}M tsc_hz={tsc_hz} \
         enlightenments={enlightenments}{audit}{shadowing}{scaling}"
    );
    let memory = u64::from(l1_memory_mib) << 20;
    let state = match (&scenario.restore, &scenario.save) {
        (Some(file), save) => {
            command_line += &format!(" restore={STATE_DISK}");
            let saves = save.as_ref().map(|_| memory);
            Some(StateDisk::for_restoring(dir.path(), file, saves)?)
        }
        (None, Some(_)) => Some(StateDisk::for_saving(dir.path(), memory)?),
        (None, None) => None,
    };
    if scenario.save.is_some() {
        command_line += &format!(" save={STATE_DISK}");
    }
    if let Some(count) = scenario.save_at {
        command_line += &format!(" save_at={}", count.0);
    }
    if let Some(orders) = scenario.orders() {
        command_line += &format!(" text={orders}");
    }
    if let Some(changes) = scenario.tsc_rate_changes()? {
        command_line += &format!(" tsc_rate_change={changes}");
    }
    if scenario.has_tsc_rate_port() {
        command_line += " tsc_rate_port=on";
    }
    let disk = dir.path().join("disk.img");
    let content = Content {
        image: &boot.image,
        command_line: &command_line,
        modules: &boot.modules,
    };
    let geometry = progress::step("writing the boot disk", || {
        disk::build(&content, dir.path(), &disk)
    })?;
    let hardware = Hardware {
        cpu: scenario
            .cpu_model
            .clone()
            .unwrap_or_else(|| emulator::DEFAULT_CPU.to_owned()),
        cpus,
        memory_mib: l1_memory_mib + L0_MEMORY_MIB,
        disk,
        geometry,
        state,
        saves: scenario.save.is_some(),
        ips: tsc_hz,
        keys: view.interactive,
    };
    let mut summary = Summary {
        setup: Setup {
            emulator: emulator::version()?,
            cpu_model: hardware.cpu.clone(),
            cpus,
            memory_mib: hardware.memory_mib,
            l1_memory_mib,
            tsc_hz,
            kernel: boot.kernel.clone(),
            command_line: scenario.command_line(),
            enlightenments,
            is_audited,
            restored: scenario.restore.clone(),
        },
        ..Summary::default()
    };
    let style = machine::style(view.interactive, view.silent);
    if style != Style::Silent {
        println!("{}", summary.setup.header());
        if view.interactive {
            let save = match hardware.saves {
                true => " Ctrl-A S saves L1 and ends it, too.",
                false => "",
            };
            println!("Keys go to L1's console. Ctrl-A X ends the run.{save}\n");
        }
    }
    let mut console = Console::new(style, view.log.as_deref())?;
    let limits = Limits {
        timeout: scenario.timeout.map(Duration::from_secs),
        watchdog: match scenario.watchdog {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None if view.interactive => None,
            None => Some(WATCHDOG),
        },
    };
    machine::run(&hardware, limits, dir.path(), &mut console, &mut summary)?;
    if scenario.orders().is_some() {
        insist_on_steps(scenario, &mut summary);
    }
    if let (Some(Ending::Saved), Some(disk), Some(to)) =
        (summary.ending, &hardware.state, &scenario.save)
    {
        let contents = progress::step("writing the saved partition", || disk.keep(to))?;
        summary.saved = Some(Saved {
            file: to.clone(),
            bytes: contents.bytes,
            memory_bytes: contents.stored,
            in_l2: contents.in_l2,
            seconds: contents.seconds,
        });
    }
    summary.proofs = proof::proofs(&summary);
    if matches!(summary.ending, Some(Ending::Watchdog | Ending::Timeout)) {
        eprint!("{}", machine::standstill(&console, &summary));
    }
    Ok(summary)
}

/// A restored L1 that powers off without having begun its first step has not done what it was to do.
fn insist_on_steps(scenario: &Scenario, summary: &mut Summary) {
    let steps = scenario.run();
    let Some(first) = steps.first() else {
        return;
    };
    let is_begun = summary.steps.iter().any(|step| step.name == *first);
    if summary.ending == Some(Ending::PowerOff) && !is_begun {
        eprintln!(
            "hynest: L1 has not asked for its steps: what was saved has no init of the lab, or one that does not ask"
        );
        summary.steps.push(Step {
            name: first.clone(),
            state: "failed".to_owned(),
        });
    }
}

/// A folder for this run's files. It goes away with the run; those of runs that were killed go now.
fn run_folder(paths: &Paths) -> Result<tempfile::TempDir> {
    let runs = paths.runs();
    paths::create_dir(&runs)?;
    for entry in std::fs::read_dir(&runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().unwrap_or_default();
        if !pid.is_empty() && !paths::is_running(pid) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&runs);
    dir.with_context(|| {
        format!(
            "cannot create a folder in {} (is the disk full?)",
            runs.display()
        )
    })
}
