//! Test payloads as L1: tiny kernels that try the machine from inside and misbehave, with L2s of their own.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use tlfs::evmcs::{CleanFields, Group, TABLE};

use super::runs::{self, Expected, Run};
use super::{Kind, Tally};
use crate::audit;
use crate::exit::Ending;
use crate::paths::Paths;
use crate::report::Summary;
use crate::{image, machine};

/// Changes of the TSC's rate as the payload expects them.
const RATE_CHANGES: &[&str] = &[
    "--tsc-rate-change=0.2=150M",
    "--tsc-rate-change=0.5=40M",
    "--tsc-rate-change=1=400M",
    "--tsc-rate-change=1.2=99999989",
    "--tsc-rate-change=1.5=100M",
];

/// How often the payload's group `saving` has itself saved.
const SAVES: usize = 11;

/// Runs the payload with each way to describe an L2.
pub fn run(paths: &Paths, filter: &str, tally: &mut Tally) {
    let started = Instant::now();
    match payloads(paths) {
        Ok(payloads) => runs::all(paths, Kind::Machine, payloads, filter, tally),
        Err(error) => tally.enter(Kind::Machine, "preparation", started, Err(error)),
    }
    if "audit".contains(filter) && !machine::interrupted() {
        audit(paths, tally);
    }
}

/// What is advertised is implemented: each row of the audit's table is a test.
fn audit(paths: &Paths, tally: &mut Tally) {
    let started = Instant::now();
    let parts = match audit::perform(paths, false) {
        Ok(parts) => parts,
        Err(error) => return tally.enter(Kind::Machine, "audit", started, Err(error)),
    };
    for part in &parts {
        let rows = part.rows.len() - part.problems().count();
        tally.enter_passed(rows);
        for row in part.problems() {
            let name = format!("audit, {}: {}", part.name, row.title());
            let why = row.problem.clone().unwrap_or_default();
            tally.enter(
                Kind::Machine,
                &name,
                started,
                Err(anyhow!("{}: {why}", row.how)),
            );
        }
        let name = format!("audit, {}, {rows} things looked at", part.name);
        tally.enter(Kind::Machine, &name, started, Ok(()));
    }
}

fn payloads(paths: &Paths) -> Result<Vec<Run>> {
    let image = image::metal(paths, "hynest")?;
    let payload = image::metal(paths, "payloads")?;
    let run = |name: &str, command_line: &str, flags: &[&str], expected| {
        let (image, payload) = (image.display().to_string(), payload.display().to_string());
        let arguments = [
            ["--image", &image],
            ["--kernel", &payload],
            ["--cmdline", command_line],
            ["--cpus", "2"],
        ];
        let mut arguments: Vec<String> = arguments
            .as_flattened()
            .iter()
            .map(|&word| word.to_owned())
            .collect();
        if !flags.contains(&"--memory") {
            arguments.extend(["--memory", "256M"].map(str::to_owned));
        }
        arguments.push("--no-initrd".to_owned());
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        Run {
            name: name.to_owned(),
            arguments,
            begins_with: None,
            expected,
        }
    };
    let audited = |name: &str, command_line: &str, check| {
        run(
            name,
            command_line,
            &["--audit-clean-fields"],
            Expected::End(Ending::PowerOff, check),
        )
    };
    let triple_fault = || Expected::End(Ending::TripleFault, |_| Ok(()));
    Ok(vec![
        run("payload, plain VMCS", "door=plain", &[], Expected::Verdicts),
        run(
            "payload, plain VMCS without shadowing",
            "door=plain groups=vmx,entry,exits,ept,hostile",
            &["--vmcs-shadowing", "off"],
            Expected::Verdicts,
        ),
        run(
            "payload, enlightened VMCS",
            "door=enlightened",
            &[],
            Expected::Verdicts,
        ),
        audited(
            "clean fields, planted bugs",
            "groups=clean-fields test=planted",
            all_found,
        ),
        audited(
            "clean fields, what is no bug",
            "groups=clean-fields test=quiet",
            none_found,
        ),
        run(
            "payload, the TSC's rate changes and hardware hides it",
            "groups=time test=rates",
            RATE_CHANGES,
            Expected::End(Ending::PowerOff, hidden),
        ),
        run(
            "payload, the TSC's rate changes",
            "groups=time test=rates",
            &[&["--tsc-scaling", "off"], RATE_CHANGES].concat(),
            Expected::End(Ending::PowerOff, emulated),
        ),
        run(
            "payload, the TSC's rate changes at points of its own",
            "groups=time test=points",
            &["--tsc-rate-port", "--tsc-scaling", "off"],
            Expected::End(Ending::PowerOff, emulated),
        ),
        run(
            "payload, the TSC's rate changes at points of its own and hardware hides it",
            "groups=time test=points",
            &["--tsc-rate-port"],
            Expected::End(Ending::PowerOff, hidden),
        ),
        run(
            "payload, saved and restored",
            "groups=saving",
            &["--memory", "64M"],
            Expected::SavedTimes(SAVES),
        ),
        run(
            "L1 triple-faults",
            "groups=hostile test=last-triple-fault",
            &[],
            triple_fault(),
        ),
        run(
            "L1 causes a VMX abort",
            "groups=hostile test=last-vmx-abort",
            &[],
            triple_fault(),
        ),
    ])
}

/// The auditor found each planted bug once: the lowest bit of every field that a clean bit covers, and the MSR bitmap.
fn all_found(summary: &Summary) -> Result<()> {
    no_case_failed(summary)?;
    let mut found = summary.stale_fields.clone();
    let covered =
        |group: Group| group.clean_bit() != CleanFields::NONE || group == Group::Ungrouped;
    for slot in TABLE.iter().filter(|slot| covered(slot.group)) {
        let place = found
            .iter()
            .position(|stale| stale.field == slot.name)
            .with_context(|| format!("{} was not found", slot.name))?;
        let stale = found.swap_remove(place);
        let value = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
        let flipped = value(&stale.known)? ^ 1 == value(&stale.found)?;
        let is_right = stale.group == slot.group.name() && stale.offset == slot.offset && flipped;
        ensure!(is_right, "{} was found as {stale:?}", slot.name);
    }
    let names: Vec<&str> = found.iter().map(|stale| stale.field.as_str()).collect();
    ensure!(
        names == ["MsrBitmap (contents)"],
        "found beside the planted fields: {found:?}"
    );
    Ok(())
}

/// The auditor looked and found nothing.
fn none_found(summary: &Summary) -> Result<()> {
    no_case_failed(summary)?;
    super::system::clean_under_audit(summary)
}

/// No read of the TSC had to be emulated.
fn hidden(summary: &Summary) -> Result<()> {
    no_case_failed(summary)?;
    let reads = emulated_reads(summary)?;
    ensure!(reads == 0, "{reads} reads of the TSC were emulated");
    Ok(())
}

/// Reads of the TSC were.
fn emulated(summary: &Summary) -> Result<()> {
    no_case_failed(summary)?;
    let reads = emulated_reads(summary)?;
    ensure!(reads != 0, "no read of the TSC was emulated");
    Ok(())
}

fn emulated_reads(summary: &Summary) -> Result<u64> {
    let counters = summary.counters.as_ref().context("L0 counted nothing")?;
    let reads = |vp: &BTreeMap<String, u64>| vp.get("emulated-tsc-reads").copied();
    Ok(counters.vps.iter().filter_map(reads).sum())
}

fn no_case_failed(summary: &Summary) -> Result<()> {
    ensure!(!summary.cases.is_empty(), "the payload looked at nothing");
    let failed = summary.cases.iter().find(|case| case.failure.is_some());
    ensure!(failed.is_none(), "the payload failed: {failed:?}");
    Ok(())
}
