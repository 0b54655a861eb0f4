//! A payload that is saved again and again, each time from the run that restored the last save.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::damage;
use super::runs::{self, Expected, Outcome, Run};
use crate::exit::Ending;
use crate::paths::Paths;

impl Run {
    /// The run until L1 has been saved `times` times and powers off.
    pub(super) fn chain(&self, paths: &Paths, times: usize) -> Result<Outcome> {
        let dir = tempfile::tempdir_in(runs::folder(paths)?)?;
        let file = |number: usize| dir.path().join(number.to_string());
        let mut cases = Vec::new();
        for number in 0..=times {
            let mut arguments = match number.checked_sub(1) {
                None => self.arguments.clone(),
                // The image that was saved goes on, not another one.
                Some(last) => [
                    only(&self.arguments, "--image"),
                    words("--restore", &file(last)),
                ]
                .concat(),
            };
            arguments.extend(words("--save", &file(number)));
            let run = Run {
                name: format!("{}, {number}", self.name),
                arguments,
                begins_with: None,
                expected: Expected::SavedTimes(times),
            };
            let ended = run.run(paths, "")?;
            if let Some(older) = number.checked_sub(2) {
                // Only the last one is used again.
                let _ = std::fs::remove_file(file(older));
            }
            let ending = match number < times {
                true => Ending::Saved,
                false => Ending::PowerOff,
            };
            let outcome = ended.as_expected(ending).and_then(|()| {
                let verdicts = ended.summary.cases.iter();
                cases.extend(verdicts.cloned());
                match ended.summary.sums {
                    // The payload counts in its memory: all that it said was heard.
                    Some((passed, failed)) => {
                        ensure!(passed + failed == cases.len(), "verdicts are lost");
                        ensure!(passed > 0, "the payload looked at nothing");
                        Ok(())
                    }
                    None if number < times => Ok(()),
                    None => bail!("the payload did not come to its end"),
                }
            });
            if let Err(error) = outcome {
                return Ok((Err(ended.explain(&error)), cases));
            }
        }
        let last = file(times.saturating_sub(1));
        Ok((damage::is_refused(paths, self, &last), cases))
    }

    /// What the argument `name` says.
    pub(super) fn argument(&self, name: &str) -> Option<PathBuf> {
        only(&self.arguments, name).get(1).map(PathBuf::from)
    }
}

fn words(name: &str, file: &Path) -> Vec<String> {
    vec![name.to_owned(), file.display().to_string()]
}

/// The argument `name` with its value.
fn only(arguments: &[String], name: &str) -> Vec<String> {
    let at = arguments.iter().position(|word| word == name);
    at.and_then(|at| arguments.get(at..at + 2))
        .map(<[String]>::to_vec)
        .unwrap_or_default()
}
