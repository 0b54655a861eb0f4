//! Runs of whole systems, each through the command that people use.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Kind, Tally};
use crate::exit::Ending;
use crate::kernel::{self, DebianKernel};
use crate::machine;
use crate::paths::{self, Paths};
use crate::report::Summary;

/// A run and what must come of it.
struct System {
    name: &'static str,
    /// Arguments of `run`.
    arguments: Vec<String>,
    /// What is expected.
    expected: Expected,
}

enum Expected {
    /// It runs, ends like this, and passes the check.
    End(Ending, fn(&Summary) -> Result<()>),
    /// It is refused with a line that contains this.
    Refusal(&'static str),
    /// It powers off, and a second run gives the same to the byte.
    SameTwice,
}

/// The ceilings for the figures: instructions of one operation, enlightened or plain, and exits to L0.
mod ceiling {
    pub const L2_CPUID_ENLIGHTENED: i64 = 4_000;
    pub const L2_CPUID_PLAIN: i64 = 9_000;
    pub const L1_CPUID: i64 = 250;
    pub const EXITS_OF_AN_L2_CPUID: f64 = 2.0;
}

/// No run takes longer than this on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the systems whose name contains `filter`, as many at a time as there are processors.
pub fn run(paths: &Paths, filter: &str, tally: &mut Tally) {
    let started = Instant::now();
    let systems = match prepare(paths) {
        Ok(systems) => systems,
        Err(error) => return tally.enter(Kind::System, "preparation", started, Err(error)),
    };
    let queue: Mutex<VecDeque<System>> = Mutex::new(
        systems
            .into_iter()
            .filter(|s| s.name.contains(filter))
            .collect(),
    );
    let next = || {
        queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop_front()
    };
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let sender = sender.clone();
            scope.spawn(move || {
                while let Some(system) = next() {
                    if machine::interrupted() {
                        return;
                    }
                    let started = Instant::now();
                    eprintln!("hynest: running {}", system.name);
                    let outcome = system.check(paths);
                    let _ = sender.send((system.name, started, outcome));
                }
            });
        }
        drop(sender);
        for (name, started, outcome) in results {
            tally.enter(Kind::System, name, started, outcome);
        }
    });
}

/// The runs. Some need files, which are made here.
fn prepare(paths: &Paths) -> Result<Vec<System>> {
    let debian = DebianKernel::get(paths)?;
    let prepared = kernel::prepare(paths, &debian.image())?;
    // Built here once, so that the runs need not wait for each other.
    crate::image::metal(paths, "hynest")?;
    crate::image::program(paths, "vmm")?;
    let files = paths.root.join("test");
    paths::create_dir(&files)?;
    let no_kernel = files.join("no-kernel");
    paths::write_whole(&no_kernel, b"not a kernel\n")?;
    let cut_short = files.join("cut-short");
    let image = paths::read(&debian.image())?;
    paths::write_whole(&cut_short, &image[..image.len() / 2])?;

    let end = |name, arguments: &str, ending, check| System {
        name,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        expected: Expected::End(ending, check),
    };
    let with_kernel = |mut system: System, kernel: &Path| {
        system
            .arguments
            .extend(["--kernel".to_owned(), kernel.display().to_string()]);
        system
    };
    let refusal = |name, arguments: &[&str], text| System {
        name,
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        expected: Expected::Refusal(text),
    };
    let no_kernel = no_kernel.display().to_string();
    let cut_short = cut_short.display().to_string();
    Ok(vec![
        end("default", "", Ending::PowerOff, default_run),
        end(
            "no enlightenments",
            "--no-enlightenments --do linux",
            Ending::PowerOff,
            without_enlightenments,
        ),
        end(
            "two VPs, two L2s at once",
            "--cpus 2 --do linux-pair",
            Ending::PowerOff,
            two_guests,
        ),
        end(
            "an L2 with two processors",
            "--cpus 2 --do linux-smp",
            Ending::PowerOff,
            an_smp_guest,
        ),
        System {
            name: "the same twice",
            arguments: vec!["--do".into(), "linux".into()],
            expected: Expected::SameTwice,
        },
        with_kernel(
            end(
                "a user's bzImage",
                "--do linux",
                Ending::PowerOff,
                one_guest,
            ),
            &debian.image(),
        ),
        with_kernel(
            end(
                "a user's vmlinux",
                "--do linux",
                Ending::PowerOff,
                one_guest,
            ),
            &prepared.elf,
        ),
        end("L1 panics", "--do panic", Ending::Panic, a_panic),
        end("L1 resets", "--do reset", Ending::Reset, |_| Ok(())),
        end(
            "the watchdog",
            "--do hang --watchdog 20",
            Ending::Watchdog,
            hangs,
        ),
        end(
            "the timeout",
            "--do hang --timeout 5",
            Ending::Timeout,
            |_| Ok(()),
        ),
        refusal(
            "a kernel that is none",
            &["--kernel", &no_kernel],
            "neither a bzImage nor an ELF",
        ),
        refusal("a kernel cut short", &["--kernel", &cut_short], "cut short"),
        refusal(
            "a kernel that is not there",
            &["--kernel", "/no/such/file"],
            "is not there",
        ),
        refusal("too little memory", &["--memory", "100M"], "too little"),
        refusal("too much memory", &["--memory", "4G"], "too much"),
        refusal("an unknown flag", &["--no-such-flag"], "--no-such-flag"),
        refusal(
            "an unknown enlightenment",
            &["--enlightenments", "warp drive"],
            "no list of enlightenments",
        ),
    ])
}

impl System {
    fn check(&self, paths: &Paths) -> Result<()> {
        match &self.expected {
            Expected::End(ending, check) => {
                let (summary, status, log) = self.run(paths, "")?;
                let tail = || tail(&log);
                ensure!(
                    summary.ending == Some(*ending) && status == i32::from(ending.status()),
                    "it ended otherwise (status {status}): {}: {}\n{}",
                    summary.ending.map_or("no end", Ending::sentence),
                    summary.message,
                    tail()
                );
                check(&summary).with_context(tail)
            }
            Expected::SameTwice => {
                let (first, status, first_log) = self.run(paths, "-1")?;
                ensure!(
                    status == 0,
                    "status {status}: {}\n{}",
                    first.message,
                    tail(&first_log)
                );
                let (second, _, second_log) = self.run(paths, "-2")?;
                ensure!(
                    paths::read(&first_log)? == paths::read(&second_log)?,
                    "the two logs differ: {} and {}",
                    first_log.display(),
                    second_log.display()
                );
                ensure!(
                    first.instructions == second.instructions,
                    "{:?} and {:?} instructions",
                    first.instructions,
                    second.instructions
                );
                ensure!(
                    first.instructions.is_some(),
                    "the instructions were not counted"
                );
                Ok(())
            }
            Expected::Refusal(text) => {
                let output = self
                    .command(None)?
                    .output()
                    .context("the lab does not start")?;
                ensure!(
                    matches!(output.status.code(), Some(1 | 2)),
                    "it was not refused: {}",
                    output.status
                );
                let error = String::from_utf8_lossy(&output.stderr);
                let line = error.lines().find(|line| line.contains("error:"));
                let line = line.with_context(|| format!("no error line in:\n{error}"))?;
                ensure!(
                    line.contains(text),
                    "the error line says something else: {line}"
                );
                Ok(())
            }
        }
    }

    fn run(&self, paths: &Paths, suffix: &str) -> Result<(Summary, i32, PathBuf)> {
        let log = paths
            .root
            .join("test")
            .join(format!("{}{suffix}.log", self.name.replace(' ', "-")));
        let output = self
            .command(Some(&log))?
            .output()
            .context("the lab does not start")?;
        let Some(status) = output.status.code() else {
            bail!("the lab ended by {}", output.status)
        };
        let summary = serde_json::from_slice(&output.stdout);
        let summary = summary.with_context(|| {
            format!(
                "no summary; it said: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok((summary, status, log))
    }

    fn command(&self, log: Option<&Path>) -> Result<Command> {
        let mut command =
            Command::new(std::env::current_exe().context("the lab cannot find itself")?);
        command
            .arg("run")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(log) = log {
            command.arg("--json").arg("--log").arg(log);
            if !self
                .arguments
                .iter()
                .any(|argument| argument == "--timeout")
            {
                command.arg("--timeout").arg(PATIENCE.as_secs().to_string());
            }
        }
        Ok(command)
    }
}

/// The end of a run's log, to show with a failure.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&paths::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    format!(
        "{} ends with:\n{}",
        log.display(),
        lines[lines.len().saturating_sub(12)..].join("\n")
    )
}

fn no_warnings(summary: &Summary) -> Result<()> {
    ensure!(
        summary.warnings.is_empty(),
        "L1's log has warnings: {}",
        summary.warnings.join("; ")
    );
    Ok(())
}

fn steps_done(summary: &Summary, steps: &[&str]) -> Result<()> {
    match steps.iter().find(|step| !summary.step_done(step)) {
        Some(step) => bail!("the step '{step}' was not done"),
        None => Ok(()),
    }
}

fn guests(summary: &Summary, names: &[&str], processors: u32) -> Result<()> {
    for name in names {
        let l2 = summary
            .l2
            .get(*name)
            .with_context(|| format!("nothing was heard of the L2 '{name}'"))?;
        ensure!(
            l2.uname.is_some() && l2.uptime.is_some(),
            "the L2 '{name}' did not reach its user space"
        );
        ensure!(
            l2.processors == Some(processors),
            "the L2 '{name}' has {:?} processors",
            l2.processors
        );
    }
    Ok(())
}

fn default_run(summary: &Summary) -> Result<()> {
    let l1 = summary
        .l1
        .as_ref()
        .context("L1 did not reach its user space")?;
    for proof in [
        "Hypervisor detected: Microsoft Hyper-V",
        "KVM: vmx: using Hyper-V Enlightened VMCS",
    ] {
        ensure!(
            l1.dmesg.iter().any(|line| line.contains(proof)),
            "L1's log has no '{proof}'"
        );
    }
    ensure!(
        l1.clocksource == "hyperv_clocksource_tsc_page",
        "the clocksource is {}",
        l1.clocksource
    );
    ensure!(
        l1.clockevent.starts_with("Hyper-V clockevent"),
        "the clockevent is {}",
        l1.clockevent
    );
    ensure!(
        l1.enlightened_vmcs == "Y",
        "KVM's enlightened_vmcs is {}",
        l1.enlightened_vmcs
    );
    no_warnings(summary)?;
    steps_done(summary, &["measure", "linux", "plain"])?;
    guests(summary, &["l2"], 1)?;
    let ceilings = [
        ("enlightened", "cpuid", ceiling::L2_CPUID_ENLIGHTENED),
        ("plain", "cpuid", ceiling::L2_CPUID_PLAIN),
        ("enlightened", "l1-cpuid", ceiling::L1_CPUID),
    ];
    for (label, operation, most) in ceilings {
        let ticks = summary
            .figure(label, operation)
            .and_then(|figure| figure.ticks);
        let ticks = ticks.with_context(|| format!("{operation} was not measured {label}"))?;
        ensure!(
            ticks <= most,
            "{label} {operation} takes {ticks} instructions, {most} are allowed"
        );
    }
    let exits = summary
        .figure("enlightened", "cpuid")
        .and_then(|figure| figure.exits_l0);
    let exits = exits.context("the exits of an L2 CPUID were not counted")?;
    ensure!(
        exits.round() <= ceiling::EXITS_OF_AN_L2_CPUID,
        "an enlightened L2 CPUID exits {exits} times to L0"
    );
    Ok(())
}

fn one_guest(summary: &Summary) -> Result<()> {
    steps_done(summary, &["linux"])?;
    guests(summary, &["l2"], 1)
}

fn without_enlightenments(summary: &Summary) -> Result<()> {
    let l1 = summary
        .l1
        .as_ref()
        .context("L1 did not reach its user space")?;
    ensure!(
        !l1.dmesg.iter().any(|line| line.contains("Hyper-V")),
        "L1 knows Hyper-V: {}",
        l1.dmesg.join("; ")
    );
    no_warnings(summary)?;
    one_guest(summary)
}

fn two_guests(summary: &Summary) -> Result<()> {
    ensure!(
        summary.l1.as_ref().is_some_and(|l1| l1.cpus == 2),
        "L1 does not have two processors"
    );
    no_warnings(summary)?;
    steps_done(summary, &["linux-pair"])?;
    guests(summary, &["a", "b"], 1)
}

fn an_smp_guest(summary: &Summary) -> Result<()> {
    no_warnings(summary)?;
    steps_done(summary, &["linux-smp"])?;
    guests(summary, &["l2"], 2)
}

fn a_panic(summary: &Summary) -> Result<()> {
    ensure!(
        summary.message.contains("sysrq"),
        "the panic's message is not L1's: {}",
        summary.message
    );
    Ok(())
}

fn hangs(summary: &Summary) -> Result<()> {
    let step = summary
        .steps
        .last()
        .context("L1 did not reach its user space")?;
    ensure!(
        step.name == "hang" && step.state == "begin",
        "L1 stood elsewhere: {step:?}"
    );
    Ok(())
}
