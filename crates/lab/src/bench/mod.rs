//! `cargo hynest bench`: what every operation costs under every configuration, beside its goals.
//!
//! [`plan`] says what is run, [`goals`] what the figures are held against, [`results`] what comes of it, [`table`] and
//! [`compare`] how that is shown.

mod compare;
mod goals;
mod plan;
mod results;
mod saving;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cli::Bench as Options;
use crate::console;
use crate::deps;
use crate::exit::Ending;
use crate::image;
use crate::machine;
use crate::paths::{self, Paths};
use crate::pool;
use crate::programs::{self, Programs as Both};
use crate::progress::{self, Pieces};
use crate::report::Summary;

use compare::Comparison;
use plan::{CONFIGURATIONS, Configuration};
use results::Results;

/// Seconds that one boot may take on a machine that is not stuck.
const PATIENCE: u64 = 900;

/// The exit status when an operation got worse.
const WORSE: u8 = 3;

/// The part of `--help` that names the configurations.
pub fn help() -> String {
    let mut out = String::from("Configurations:");
    for one in CONFIGURATIONS {
        out += &format!("\n  {:<16}{}", one.name, one.about);
    }
    out += &format!("\n  {:<16}{}", saving::NAME, saving::ABOUT);
    out
}

/// Measures, or takes what was measured before, and shows it.
pub fn run(paths: &Paths, options: &Options) -> Result<u8> {
    let boots = plan::boots(&options.only)?;
    // What cannot be read had better be known before minutes of measuring.
    let baseline = match &options.compare {
        Some(path) => Some(Results::read(path)?),
        None => None,
    };
    let (results, failures) = match &options.show {
        Some(path) => (Results::read(path)?, Vec::new()),
        None => measure(paths, boots, plan::is_saving(&options.only), options.jobs)?,
    };
    let comparison = baseline
        .as_ref()
        .map(|before| Comparison::new(before, &results, options.tolerance));
    let mut out = if options.json {
        serde_json::to_string_pretty(&results).context("the figures cannot be written")? + "\n"
    } else if options.markdown {
        table::markdown(&results)
    } else {
        table::text(&results, console::has_colours())
    };
    if let (Some(comparison), Some(before)) = (&comparison, &baseline) {
        let text = comparison.text(before);
        // A program that reads JSON, or the README, has no use for a table after it.
        match options.json || options.markdown {
            true => eprint!("{text}"),
            false => out += &format!("\n{text}"),
        }
    }
    // A reader that has gone is no reason for an error message.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes());
    if let [first, ..] = &failures[..] {
        bail!(
            "{} of the boots failed; the first: {first:#}",
            failures.len()
        );
    }
    Ok(
        match comparison.is_some_and(|comparison| comparison.is_worse()) {
            true => WORSE,
            false => 0,
        },
    )
}

/// What the boots boot: copies, so that all of them boot the same whatever is edited meanwhile.
struct Programs {
    image: PathBuf,
    /// L0 that counts its accesses, if that is wanted.
    counting: Option<PathBuf>,
    vmm: PathBuf,
    folder: PathBuf,
}

impl Programs {
    fn build(paths: &Paths, counting: bool) -> Result<Self> {
        let folder = paths.root.join("bench");
        paths::create_dir(&folder)?;
        // The plain image last: it is what later runs find built.
        let counting = match counting {
            true => {
                let built = image::metal_with(paths, "hynest", &["count-accesses"])?;
                Some(programs::keep(&folder, &built, "hynest-counting")?)
            }
            false => None,
        };
        let Both { image, vmm } = Both::get(paths, &folder, None, None)?;
        Ok(Self {
            image,
            counting,
            vmm,
            folder,
        })
    }
}

/// Boots everything, as many at a time as there are jobs. What failed is told beside what came of the rest.
fn measure(
    paths: &Paths,
    boots: Vec<Vec<&'static Configuration>>,
    is_saving: bool,
    jobs: Option<usize>,
) -> Result<(Results, Vec<anyhow::Error>)> {
    deps::ensure(deps::FOR_A_RUN)?;
    let counting = boots.iter().flatten().any(|one| one.counts_accesses);
    let programs = Programs::build(paths, counting)?;
    let total = boots.len();
    let mut summaries: Vec<Option<(Vec<&Configuration>, Summary)>> = Vec::new();
    summaries.resize_with(total, || None);
    let mut failures = Vec::new();
    let progress = Pieces::new(total);
    let work = |(at, boot): (usize, Vec<&'static Configuration>)| {
        let names: Vec<&str> = boot.iter().map(|one| one.name).collect();
        let names = names.join(", ");
        progress.say(&format!("[{}/{total}] measuring {names}", at + 1));
        let started = Instant::now();
        let outcome = start(&programs, &boot);
        let seconds = started.elapsed().as_secs();
        let how = match &outcome {
            Ok(_) => format!("done after {seconds} s"),
            Err(error) => format!("failed: {error:#}"),
        };
        progress.say(&format!("[{}/{total}] {names}: {how}", at + 1));
        progress.done();
        (at, boot, outcome)
    };
    pool::each(
        boots.into_iter().enumerate(),
        jobs.unwrap_or_else(pool::processors),
        work,
        |(at, boot, outcome)| match outcome {
            Ok(summary) => summaries[at] = Some((boot, summary)),
            Err(error) => failures.push(error),
        },
    );
    drop(progress);
    ensure!(!machine::interrupted(), "interrupted");
    let mut results = Results {
        date: results::today(),
        ..Results::default()
    };
    if is_saving {
        // One at a time: they are measured in seconds, too.
        for (steps, about) in saving::HISTORIES {
            let what = format!("saving and restoring: {about}");
            let measured = progress::step(&what, || saving::measure(&programs, steps, about));
            match measured {
                Ok((one, setup)) => {
                    results.describe(&setup);
                    results.saving.push(one);
                }
                Err(error) => failures.push(error),
            }
        }
    }
    for (boot, summary) in summaries.into_iter().flatten() {
        for one in boot {
            results.enter(one, &summary);
            if !summary.step_done(one.step) {
                failures.push(anyhow!("{}: L1 could not measure everything", one.name));
            }
        }
    }
    Ok((results, failures))
}

/// One boot: a `cargo hynest run` of its own.
fn start(programs: &Programs, boot: &[&Configuration]) -> Result<Summary> {
    let first = boot.first().context("a boot without a configuration")?;
    let image = match (first.counts_accesses, &programs.counting) {
        (true, Some(counting)) => counting,
        _ => &programs.image,
    };
    let log = programs.folder.join(format!("{}.log", first.name));
    let steps: Vec<&str> = boot.iter().map(|one| one.step).collect();
    let mut command = Command::new(std::env::current_exe().context("the lab cannot find itself")?);
    command
        .args(["run", "--json", "--do", &steps.join(",")])
        .args(["--cpus", &first.cpus.to_string()])
        .args(["--enlightenments", &first.enlightenments()])
        .args(["--timeout", &PATIENCE.to_string()])
        .arg("--image")
        .arg(image)
        .arg("--vmm")
        .arg(&programs.vmm)
        .arg("--log")
        .arg(&log)
        .args(first.arguments)
        .stdin(Stdio::null());
    if !first.operations.is_empty() {
        command.args(["--operations", &first.operations.join(",")]);
    }
    let output = command.output().context("the lab does not start")?;
    let summary: Summary = serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow!("{}", said.lines().last().unwrap_or("no summary came"))
    })?;
    check(&summary, &log)?;
    Ok(summary)
}

/// A boot that did not end as it should measured nothing that can be relied on.
fn check(summary: &Summary, log: &Path) -> Result<()> {
    if summary.ending == Some(Ending::PowerOff) {
        return Ok(());
    }
    let sentence = summary.ending.map_or("it did not end", Ending::sentence);
    bail!("{sentence}: {} (see {})", summary.message, log.display())
}
