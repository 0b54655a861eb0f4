//! Whole systems: Linux as L1 and as L2, the ways a run ends, what the lab refuses.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::runs::{self, Expected, Run};
use super::seed::Seed;
use super::{Kind, Tally};
use crate::exit::Ending;
use crate::kernel::{self, DebianKernel};
use crate::paths::{self, Paths};
use crate::programs::Programs;
use crate::proof::Verdict;
use crate::report::Summary;

/// The ceilings for the figures: instructions of one operation, enlightened or plain, and exits to L0.
mod ceiling {
    pub const L2_CPUID_ENLIGHTENED: i64 = 4_000;
    pub const L2_CPUID_PLAIN: i64 = 2_600;
    pub const L1_CPUID: i64 = 250;
    pub const EXITS_OF_AN_L2_CPUID: f64 = 2.0;
    pub const EXITS_OF_100_000_CLOCK_READS: u64 = 1_000;
}

/// Runs the systems whose name contains `filter`.
pub fn run(paths: &Paths, filter: &str, tally: &mut Tally) {
    let started = Instant::now();
    match systems(paths) {
        Ok((systems, seed)) => {
            runs::all(paths, Kind::System, systems, filter, tally);
            if let Some(worth) = seed.worth() {
                println!("{worth}");
            }
        }
        Err(error) => tally.enter(Kind::System, "preparation", started, Err(error)),
    }
}

/// The arguments by which a run boots them.
fn booting(programs: &Programs) -> [String; 4] {
    let path = |path: &Path| path.display().to_string();
    [
        "--image".to_owned(),
        path(&programs.image),
        "--vmm".to_owned(),
        path(&programs.vmm),
    ]
}

/// The runs, and the saved L1 that some of them begin with. Some need files, which are made here.
fn systems(paths: &Paths) -> Result<(Vec<Run>, Arc<Seed>)> {
    let debian = DebianKernel::get(paths)?;
    let prepared = kernel::prepare(paths, &debian.image())?;
    let folder = runs::folder(paths)?;
    let programs = Programs::get(paths, &folder, None, None)?;
    let no_kernel = folder.join("no-kernel");
    paths::write_whole(&no_kernel, b"not a kernel\n")?;
    let cut_short = folder.join("cut-short");
    let whole = paths::read(&debian.image())?;
    paths::write_whole(&cut_short, &whole[..whole.len() / 2])?;

    let system = |name: &str, arguments: &str, expected| {
        let mut all = booting(&programs).to_vec();
        all.extend(arguments.split_whitespace().map(str::to_owned));
        Run {
            name: name.to_owned(),
            arguments: all,
            begins_with: None,
            expected,
        }
    };
    let seed = system(
        "",
        "--do measure,save,linux --operations cpuid --watchdog 300",
        Expected::SameTwice,
    );
    let seed = Seed::new(paths, "saving an L1 between two steps", seed.arguments)?;
    let seed = Arc::new(seed);
    let image = programs.image.display().to_string();
    let from_saved = |name: &str, arguments: &str, expected| {
        let mut all = vec!["--image".to_owned(), image.clone()];
        all.extend(arguments.split_whitespace().map(str::to_owned));
        Run {
            name: name.to_owned(),
            arguments: all,
            begins_with: Some(Arc::clone(&seed)),
            expected,
        }
    };
    let with_kernel = |mut run: Run, kernel: &Path| {
        run.arguments
            .extend(["--kernel".to_owned(), kernel.display().to_string()]);
        run
    };
    let refusal = |name: &str, arguments: &[&str], text| Run {
        name: name.to_owned(),
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        begins_with: None,
        expected: Expected::Refusal(text),
    };
    let end = Expected::End;
    let no_kernel = no_kernel.display().to_string();
    let cut_short = cut_short.display().to_string();
    let vmlinux = with_kernel(system("", "--do boot", Expected::SameTwice), &prepared.elf);
    // The longest come first: what is left at the end is shared out among the processors.
    let runs = vec![
        system(
            "Linux and its L2s move and the TSC's rate changes",
            "--seed 1 --changes 20 --moves 5",
            Expected::Soaks,
        ),
        system(
            "two VPs, an L2 with two processors",
            "--cpus 2 --do clock,linux-smp",
            end(Ending::PowerOff, two_processors),
        ),
        system(
            "four VPs, an L2 of two processors, memory changed under L2s",
            "--cpus 4 --do clock,churn --watchdog 600 --timeout 1200",
            end(Ending::PowerOff, four_processors),
        ),
        system(
            "Linux with two L2s at once, audited for stale fields",
            "--audit-clean-fields --cpus 2 --do measure,linux-pair",
            end(Ending::PowerOff, an_audited_linux),
        ),
        system("default", "", end(Ending::PowerOff, default_run)),
        system(
            "no enlightenments",
            "--no-enlightenments --do linux",
            end(Ending::PowerOff, with_shadowing),
        ),
        system(
            "no enlightenments, no shadowing",
            "--no-enlightenments --vmcs-shadowing off --do linux",
            end(Ending::PowerOff, without_shadowing),
        ),
        from_saved(
            "saved between two steps, restored beside a TSC that is hidden",
            "",
            Expected::GoesOn(&["--tsc-hz", "150M", "--watchdog", "300"], did_not_notice),
        ),
        with_kernel(
            system(
                "a user's bzImage, and the same to the byte its vmlinux",
                "--do boot",
                Expected::SameAs(vmlinux.arguments, up),
            ),
            &debian.image(),
        ),
        from_saved(
            "restored with another step, the same twice",
            "--do measure --operations cpuid,out,ept-fresh --watchdog 300",
            Expected::SameTwice,
        ),
        system(
            "a processor that lacks something",
            "--cpu-model core2_penryn_t9600 --do boot",
            end(Ending::L0Stop, lacks_x2apic),
        ),
        from_saved("L1 panics", "--do panic", end(Ending::Panic, a_panic)),
        from_saved("L1 resets", "--do reset", end(Ending::Reset, resets)),
        from_saved(
            "the watchdog",
            "--do hang --watchdog 25",
            end(Ending::Watchdog, hangs),
        ),
        system(
            "the timeout",
            "--do hang --timeout 3",
            end(Ending::Timeout, |_| Ok(())),
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
        refusal("a step that is none", &["--do", "frob"], "no step 'frob'"),
        refusal(
            "a processor model that is none",
            &["--cpu-model", "frob"],
            "no processor model 'frob'",
        ),
        refusal(
            "an image that is none",
            &["--image", &no_kernel],
            "not in the ELF format",
        ),
        refusal(
            "a log in no folder",
            &["--log", "/no/such/folder/log"],
            "there is no folder /no/such/folder",
        ),
        refusal(
            "a saved partition that is none",
            &["--restore", &no_kernel],
            "not a saved partition",
        ),
        refusal(
            "a save that would never be",
            &["--save", "x", "--do", "linux"],
            "--save needs to be told when",
        ),
        refusal("too little memory", &["--memory", "100M"], "too little"),
        refusal("too much memory", &["--memory", "4G"], "too much"),
        refusal("an unknown flag", &["--no-such-flag"], "--no-such-flag"),
        refusal(
            "a list that is none",
            &["--enlightenments", "warp drive"],
            "unknown enlightenment 'warp drive'",
        ),
        refusal(
            "an enlightenment without what it needs",
            &["--without", "evmcs,msr-bitmap"],
            "direct-flush needs evmcs",
        ),
        refusal(
            "a step that is none, for a saved partition",
            &["--restore", &no_kernel, "--do", "frob"],
            "no step 'frob'",
        ),
        refusal(
            "operations for a saved partition that has its own steps",
            &["--restore", &no_kernel, "--operations", "cpuid"],
            "--operations with --restore needs --do",
        ),
    ];
    Ok((runs, seed))
}

/// L1 and its L2 have come to their end, and no read of the TSC was anything but hardware's.
fn did_not_notice(summary: &Summary) -> Result<()> {
    one_guest_goes_on(summary)?;
    let emulated = summary.total("emulated-tsc-reads");
    ensure!(
        emulated == 0,
        "{emulated} reads of the TSC were emulated where hardware can scale it"
    );
    Ok(())
}

/// The L2 Linux of a restored L1 has run to its end with a clock that never went back.
fn one_guest_goes_on(summary: &Summary) -> Result<()> {
    let (name, l2) = summary.l2.iter().next().context("there was no L2")?;
    let clock = l2.clock.as_deref().unwrap_or_default();
    ensure!(clock.contains(" 0 backwards"), "{name}'s clock: {clock}");
    let failed = summary.steps.iter().find(|step| step.state == "failed");
    ensure!(failed.is_none(), "a step failed: {failed:?}");
    Ok(())
}

fn up(summary: &Summary) -> Result<()> {
    ensure!(summary.l1.is_some(), "L1 did not reach its user space");
    Ok(())
}

/// It does, and says what it is, though it does not boot.
fn resets(summary: &Summary) -> Result<()> {
    up(summary)?;
    proved(summary, &["base", "tsc-page"])?;
    is_at(summary, "reset")
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
    steps_done(summary, &["measure", "clock", "linux", "plain"])?;
    guests(summary, &["l2"], 1)?;
    proved(
        summary,
        &[
            "base",
            "tsc-page",
            "frequency-msrs",
            "stimer",
            "vp-assist",
            "evmcs",
            "msr-bitmap",
            "direct-flush",
            "gpa-flush",
        ],
    )?;
    clocks(summary, 1)?;
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

/// These enlightenments are proved, and none that is offered is refuted.
fn proved(summary: &Summary, names: &[&str]) -> Result<()> {
    for proof in &summary.proofs {
        let name = proof.enlightenment.as_str();
        let said = format!("{name}: L1 {}, L0 {}", proof.linux, proof.l0);
        ensure!(proof.verdict != Verdict::Failed, "refuted: {said}");
        ensure!(
            proof.verdict == Verdict::Proved || !names.contains(&name),
            "not proved: {said}"
        );
    }
    let is_there = |name: &&str| summary.proofs.iter().any(|p| p.enlightenment == *name);
    match names.iter().find(|name| !is_there(name)) {
        Some(name) => bail!("nothing is said of {name}"),
        None => Ok(()),
    }
}

fn one_guest(summary: &Summary) -> Result<()> {
    steps_done(summary, &["linux"])?;
    guests(summary, &["l2"], 1)
}

/// Whether hardware shadows plain VMCSs, and what share of L1's exits its VMREADs and VMWRITEs are.
fn shadowing(summary: &Summary) -> Result<(bool, f64)> {
    let l0 = summary.l0.as_ref().context("L0 reported nothing")?;
    let counters = summary.counters.as_ref().context("L0 counted nothing")?;
    let sum = |name: &str| -> u64 { counters.vps.iter().filter_map(|vp| vp.get(name)).sum() };
    let accesses = sum("vmreads") + sum("vmwrites");
    Ok((l0.vmcs_shadowing, accesses as f64 / sum("reflected") as f64))
}

fn with_shadowing(summary: &Summary) -> Result<()> {
    let (shadowed, accesses) = shadowing(summary)?;
    ensure!(shadowed, "the processor's VMCS shadowing is not used");
    ensure!(
        accesses < 1.0,
        "{accesses:.1} VMREADs and VMWRITEs exit for each exit of L2, in spite of shadowing"
    );
    without_enlightenments(summary)
}

fn without_shadowing(summary: &Summary) -> Result<()> {
    let (shadowed, accesses) = shadowing(summary)?;
    ensure!(!shadowed, "VMCS shadowing is on though it was switched off");
    ensure!(
        accesses > 3.0,
        "only {accesses:.1} VMREADs and VMWRITEs exit for each exit of L2"
    );
    without_enlightenments(summary)
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

fn processors(summary: &Summary, count: u32) -> Result<()> {
    let cpus = summary.l1.as_ref().map(|l1| l1.cpus);
    ensure!(cpus == Some(count), "L1 has {cpus:?} processors");
    Ok(())
}

fn two_processors(summary: &Summary) -> Result<()> {
    processors(summary, 2)?;
    no_warnings(summary)?;
    steps_done(summary, &["clock", "linux-smp"])?;
    clocks(summary, 2)?;
    guests(summary, &["l2"], 2)?;
    let flushes = |line: &String| line.contains("Using hypercall for remote TLB flush");
    ensure!(
        summary
            .l2
            .get("l2")
            .is_some_and(|l2| l2.log.iter().any(flushes)),
        "L2 does not flush by hypercalls"
    );
    proved(
        summary,
        &[
            "evmcs",
            "msr-bitmap",
            "gpa-flush",
            "tlb-flush",
            "ipi",
            "direct-flush",
        ],
    )
}

fn four_processors(summary: &Summary) -> Result<()> {
    processors(summary, 4)?;
    no_warnings(summary)?;
    steps_done(summary, &["clock", "churn"])?;
    clocks(summary, 4)?;
    churned(summary, &[("one", 1), ("two", 2)])
}

/// Whether KVM gives L2 a clock that all its vCPUs read alike and without an exit.
fn clocks(summary: &Summary, vcpus: usize) -> Result<()> {
    let clock = summary.clocks.first().context("no clock was read")?;
    ensure!(
        clock.vcpus.len() == vcpus && clock.is_stable(),
        "{}",
        clock.line()
    );
    // KVM's own words, where it was traced: `masterclock 1 hostclock ...`.
    let traced = clock.master_clock.as_deref();
    ensure!(
        traced.is_none_or(|words| words.starts_with("masterclock 1 ")),
        "KVM's master clock: {traced:?}"
    );
    summary.l2.iter().try_for_each(|(name, l2)| {
        let read = l2.clock.as_deref();
        let read = read.with_context(|| format!("the L2 '{name}' did not read its clock"))?;
        ensure!(
            read.contains(" 0 by system call, 0 backwards"),
            "the L2 '{name}': {read}"
        );
        let exits = l2.clock_exits.as_ref().map(|exits| exits.exits);
        // Its own timer's ticks are among them.
        ensure!(
            exits.is_some_and(|exits| exits <= ceiling::EXITS_OF_100_000_CLOCK_READS),
            "the L2 '{name}' left {exits:?} times while it read its clock"
        );
        Ok(())
    })
}

/// Whether the memory of these L2s was changed under them and is as it must be.
fn churned(summary: &Summary, guests: &[(&str, u32)]) -> Result<()> {
    for &(name, vcpus) in guests {
        let churn = summary.churns.iter().find(|churn| churn.name == name);
        let churn = churn.with_context(|| format!("nothing was heard of the L2 '{name}'"))?;
        ensure!(churn.failure.is_none(), "{}", churn.line());
        let done = churn.done.as_ref().context("nothing was done")?;
        let counts = [
            done.zapped,
            done.replaced,
            done.swapped,
            done.protected,
            done.checked,
        ];
        ensure!(
            churn.vcpus == vcpus && counts.iter().all(|&count| count > 0),
            "too little was done: {}",
            churn.line()
        );
    }
    Ok(())
}

fn lacks_x2apic(summary: &Summary) -> Result<()> {
    ensure!(
        summary.message.contains("lacks x2APIC"),
        "the message does not say what is missing: {}",
        summary.message
    );
    Ok(())
}

fn an_audited_linux(summary: &Summary) -> Result<()> {
    steps_done(summary, &["measure", "linux-pair"])?;
    guests(summary, &["a", "b"], 1)?;
    clean_under_audit(summary)
}

/// The clean-field auditor looked and found nothing.
pub fn clean_under_audit(summary: &Summary) -> Result<()> {
    let entries = summary.total("audited-entries");
    ensure!(entries > 0, "no entry was audited");
    let stale = &summary.stale_fields;
    ensure!(stale.is_empty(), "stale fields: {stale:?}");
    Ok(())
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
    is_at(summary, "hang")
}

/// The step that L1's init has begun last.
fn is_at(summary: &Summary, name: &str) -> Result<()> {
    let step = summary
        .steps
        .last()
        .context("L1 did not reach its user space")?;
    ensure!(
        step.name == name && step.state == "begin",
        "L1 stood elsewhere: {step:?}"
    );
    Ok(())
}
