//! Runs of the machine as tests: each through the command that people use, several at a time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::seed::Seed;
use super::{Kind, Tally};
use crate::exit::Ending;
use crate::machine;
use crate::paths::{self, Paths};
use crate::pool;
use crate::report::{Case, Summary};

/// A run and what must come of it.
pub struct Run {
    /// What it is called.
    pub name: String,
    /// Arguments of `cargo hynest run`.
    pub arguments: Vec<String>,
    /// The saved L1 that it goes on with, rather than with a boot.
    pub begins_with: Option<Arc<Seed>>,
    /// What is expected.
    pub expected: Expected,
}

/// What must come of a run.
pub enum Expected {
    /// It ends like this, and passes the check.
    End(Ending, fn(&Summary) -> Result<()>),
    /// L1 is a test payload: each of its verdicts is a test.
    Verdicts,
    /// L1 is a test payload that is saved so often, restored each time, and then powers off: each of
    /// its verdicts is a test, and what was saved last is used to see how damage to it is refused.
    SavedTimes(usize),
    /// It is refused with a line that contains this.
    Refusal(&'static str),
    /// It powers off, and a second run gives the same to the byte.
    SameTwice,
    /// The same of a second run with these arguments; both pass the check.
    SameAs(Vec<String>, fn(&Summary) -> Result<()>),
    /// It is saved, or has been; a second run, with these arguments, goes on, powers off and passes the check.
    GoesOn(&'static [&'static str], fn(&Summary) -> Result<()>),
    /// These are arguments of `cargo hynest soak`, and all is right.
    Soaks,
}

/// No run takes longer than this on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of a run: its own verdict, and those of a payload.
pub(super) type Outcome = (Result<()>, Vec<Case>);

/// Does the runs whose name contains `filter`, as many at a time as there are processors.
pub fn all(paths: &Paths, kind: Kind, runs: Vec<Run>, filter: &str, tally: &mut Tally) {
    let runs = runs.into_iter().filter(|run| run.name.contains(filter));
    let work = |run: Run| {
        let started = Instant::now();
        eprintln!("hynest: running {}", run.name);
        let outcome = run.check(paths);
        (run.name, started, outcome)
    };
    pool::each(
        runs,
        pool::processors(),
        work,
        |(name, started, (outcome, cases))| {
            let passed = cases.iter().filter(|case| case.failure.is_none()).count();
            tally.enter_passed(passed);
            for case in &cases {
                if let Some(why) = &case.failure {
                    tally.enter(
                        kind,
                        &format!("{name}: {}", case.name),
                        started,
                        Err(anyhow!("{why}")),
                    );
                }
            }
            let name = if passed > 0 {
                format!("{name}, {passed} things looked at")
            } else {
                name
            };
            tally.enter(kind, &name, started, outcome);
        },
    );
}

impl Run {
    fn check(&self, paths: &Paths) -> Outcome {
        match self.try_check(paths) {
            Ok(outcome) => outcome,
            Err(error) => (Err(error), Vec::new()),
        }
    }

    fn try_check(&self, paths: &Paths) -> Result<Outcome> {
        match &self.expected {
            Expected::End(ending, check) => {
                let ended = self.run(paths, "")?;
                let outcome = ended
                    .as_expected(*ending)
                    .and_then(|()| check(&ended.summary));
                Ok((outcome.map_err(|error| ended.explain(&error)), Vec::new()))
            }
            Expected::Verdicts => {
                let ended = self.run(paths, "")?;
                let outcome =
                    ended
                        .as_expected(Ending::PowerOff)
                        .and_then(|()| match ended.summary.sums {
                            Some((0, 0)) => bail!("the payload looked at nothing"),
                            Some(_) => Ok(()),
                            None => bail!("the payload did not come to its end"),
                        });
                Ok((
                    outcome.map_err(|error| ended.explain(&error)),
                    ended.summary.cases,
                ))
            }
            Expected::SameTwice => {
                let (first, second) = (self.run(paths, "-1")?, self.run(paths, "-2")?);
                let outcome = first
                    .as_expected(Ending::PowerOff)
                    .and_then(|()| first.same_as(&second));
                Ok((outcome.map_err(|error| first.explain(&error)), Vec::new()))
            }
            Expected::SameAs(arguments, check) => {
                let other = Self {
                    name: self.name.clone(),
                    arguments: arguments.clone(),
                    begins_with: None,
                    expected: Expected::SameTwice,
                };
                let (first, second) = (self.run(paths, "-1")?, other.run(paths, "-2")?);
                let outcome = first
                    .as_expected(Ending::PowerOff)
                    .and_then(|()| check(&first.summary))
                    .and_then(|()| first.same_as(&second));
                Ok((outcome.map_err(|error| first.explain(&error)), Vec::new()))
            }
            Expected::GoesOn(arguments, check) => {
                Ok((self.goes_on(paths, arguments, *check), Vec::new()))
            }
            Expected::SavedTimes(times) => self.chain(paths, *times),
            Expected::Soaks => Ok((self.soaks(), Vec::new())),
            Expected::Refusal(text) => Ok((self.is_refused(text), Vec::new())),
        }
    }

    fn goes_on(
        &self,
        paths: &Paths,
        arguments: &[&str],
        check: fn(&Summary) -> Result<()>,
    ) -> Result<()> {
        let dir = tempfile::tempdir_in(folder(paths)?)?;
        let file = dir.path().join("saved").display().to_string();
        let with = |suffix: &str, arguments: Vec<String>| Self {
            name: format!("{}{suffix}", self.name),
            arguments,
            begins_with: None,
            expected: Expected::SameTwice,
        };
        let words = |first: &[&str], rest: &[&str]| {
            let all = first.iter().chain(rest);
            all.map(|&word| word.to_owned()).collect::<Vec<_>>()
        };
        let file = match &self.begins_with {
            Some(seed) => seed.file(paths)?.display().to_string(),
            None => {
                let save = [self.arguments.clone(), words(&["--save", &file], &[])].concat();
                with(", saving", save).ends(paths, Ending::Saved)?;
                file
            }
        };
        let restored = with(", restoring", words(&["--restore", &file], arguments));
        let ended = restored.run(paths, "")?;
        ended
            .as_expected(Ending::PowerOff)
            .and_then(|()| check(&ended.summary))
            .map_err(|error| ended.explain(&error))?;
        // The file has not changed, and a part of it is refused.
        let bytes = paths::read(Path::new(&file))?;
        let part = dir.path().join("part");
        paths::write_whole(&part, &bytes[..bytes.len() / 2])?;
        let part = part.display().to_string();
        with(", of a part", words(&["--restore", &part], &[])).is_refused("truncated")
    }

    /// Runs it, for nothing but its end.
    pub fn ends(&self, paths: &Paths, ending: Ending) -> Result<()> {
        let ended = self.run(paths, "")?;
        ended
            .as_expected(ending)
            .map_err(|error| ended.explain(&error))
    }

    fn soaks(&self) -> Result<()> {
        let output = self.command()?.output().context("the lab does not start")?;
        ensure!(
            output.status.success(),
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn is_refused(&self, text: &str) -> Result<()> {
        let output = self.command()?.output().context("the lab does not start")?;
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

    /// Does the run; its log has this at the end of its name.
    pub(super) fn run(&self, paths: &Paths, suffix: &str) -> Result<Ended> {
        ensure!(!machine::interrupted(), "interrupted");
        let file: String = self
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let log = folder(paths)?.join(format!("{file}{suffix}.log"));
        let mut command = self.command()?;
        command.arg("--json").arg("--log").arg(&log);
        let seed = self.begins_with.as_ref();
        if let Some(seed) = seed {
            command.arg("--restore").arg(seed.file(paths)?);
        }
        let started = Instant::now();
        if !self
            .arguments
            .iter()
            .any(|argument| argument == "--timeout")
        {
            command.arg("--timeout").arg(PATIENCE.as_secs().to_string());
        }
        let output = command.output().context("the lab does not start")?;
        if let Some(seed) = seed {
            seed.enter(started.elapsed());
        }
        let Some(status) = output.status.code() else {
            bail!("the lab ended by {}", output.status)
        };
        let summary = serde_json::from_slice(&output.stdout);
        let said = || {
            format!(
                "no summary; the lab said: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        };
        Ok(Ended {
            summary: summary.with_context(said)?,
            status,
            log,
        })
    }

    fn command(&self) -> Result<Command> {
        let mut command =
            Command::new(std::env::current_exe().context("the lab cannot find itself")?);
        command
            .arg(match self.expected {
                Expected::Soaks => "soak",
                _ => "run",
            })
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// Where logs of test runs, and what they boot, are kept.
pub fn folder(paths: &Paths) -> Result<PathBuf> {
    let folder = paths.root.join("test");
    paths::create_dir(&folder)?;
    Ok(folder)
}

/// A run that has ended.
pub(super) struct Ended {
    pub(super) summary: Summary,
    status: i32,
    log: PathBuf,
}

impl Ended {
    /// Whether it ended so.
    pub(super) fn as_expected(&self, ending: Ending) -> Result<()> {
        let as_expected =
            self.summary.ending == Some(ending) && self.status == i32::from(self.summary.status());
        let sentence = self
            .summary
            .ending
            .map_or("it did not end", Ending::sentence);
        ensure!(
            as_expected,
            "{sentence}: {} (status {})",
            self.summary.message,
            self.status
        );
        Ok(())
    }

    fn same_as(&self, other: &Self) -> Result<()> {
        let (one, two) = (paths::read(&self.log)?, paths::read(&other.log)?);
        let same = one
            .split(|&byte| byte == b'\n')
            .zip(two.split(|&byte| byte == b'\n'))
            .take_while(|(a, b)| a == b);
        let line = same.count() + 1;
        ensure!(
            one == two,
            "{} and {} differ from line {line} on",
            self.log.display(),
            other.log.display()
        );
        let (one, two) = (self.summary.instructions, other.summary.instructions);
        ensure!(
            one.is_some() && one == two,
            "{one:?} and {two:?} instructions"
        );
        Ok(())
    }

    /// The error, and under it what the machine said last.
    pub(super) fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{error:#}\n{} ends with:\n{}",
            self.log.display(),
            tail(&self.log)
        )
    }
}

/// The last lines of a log, without reports, which are long.
fn tail(log: &Path) -> String {
    let text = paths::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("report |"))
        .collect();
    lines.drain(..lines.len().saturating_sub(12));
    lines.join("\n")
}
