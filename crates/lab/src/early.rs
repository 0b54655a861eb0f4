//! What can be refused at once is, before anything is downloaded or built.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::scenario::Scenario;
use crate::{disk, steps};

/// Looks at everything about a run that needs neither package nor build.
///
/// # Errors
///
/// The first thing that the run would fail by later.
pub fn check(scenario: &Scenario, log: Option<&Path>) -> Result<()> {
    scenario.memory_mib()?;
    scenario.cpus()?;
    scenario.enlightenments()?;
    scenario.tsc_rate_changes()?;
    scenario.clock_changes()?;
    limit("timeout", scenario.timeout)?;
    limit("watchdog", scenario.watchdog)?;
    what_init_does(scenario)?;
    disk::quote_words(&scenario.command_line())?;
    for (what, path, is_program) in [
        ("kernel", &scenario.kernel, false),
        ("initrd", &scenario.initrd, false),
        ("image", &scenario.image, true),
        ("vmm", &scenario.vmm, true),
    ] {
        if let Some(path) = path {
            file(what, path, is_program)?;
        }
    }
    if let Some(saved) = &scenario.restore {
        file("saved partition", saved, false)?;
        what_is_told(scenario)?;
    }
    if let Some(to) = &scenario.save {
        writable("saved partition", to)?;
        is_saved_ever(scenario)?;
    }
    log.map_or(Ok(()), |log| writable("log", log))
}

/// Zero seconds are over before anything happens.
fn limit(what: &str, seconds: Option<u64>) -> Result<()> {
    ensure!(
        seconds != Some(0),
        "a {what} of 0 seconds ends the run before it begins; leave it out for none"
    );
    Ok(())
}

/// The lab's init takes steps; an initramfs of the user's, or none, has never heard of them.
fn what_init_does(scenario: &Scenario) -> Result<()> {
    if scenario.own_initramfs() {
        return steps::check(&scenario.run());
    }
    // `--interactive` says 'shell', and keys are of use to any L1.
    let steps = scenario.run.iter().flatten();
    let in_vain = [
        ("do", steps.into_iter().any(|step| step != "shell")),
        ("operations", scenario.operations.is_some()),
        ("vmm", scenario.vmm.is_some()),
    ];
    match in_vain.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => bail!(
            "--{option} is for the lab's own initramfs, and L1 gets another or none: leave one of them out"
        ),
        None => Ok(()),
    }
}

/// What a restored L1 is told goes through L0's command line, as one word.
fn what_is_told(scenario: &Scenario) -> Result<()> {
    ensure!(
        scenario.operations.is_none() || scenario.run.is_some(),
        "--operations with --restore needs --do: without, L1 goes on with what it was booted for"
    );
    let orders = scenario.orders().unwrap_or_default();
    let is_one_word = orders.chars().all(|c| c.is_ascii_graphic());
    ensure!(
        is_one_word && orders.matches(';').count() <= 1,
        "a restored L1 cannot be told '{orders}': no blanks and semicolons in names"
    );
    disk::quote_words(&orders)?;
    Ok(())
}

/// A run that saves nothing has no use for a file.
fn is_saved_ever(scenario: &Scenario) -> Result<()> {
    let steps = scenario.run();
    let has_step = steps.iter().any(|step| step == "save" || step == "shell");
    let knows_steps = scenario.own_initramfs() && scenario.restore.is_none();
    ensure!(
        has_step || scenario.save_at.is_some() || !knows_steps,
        "--save needs to be told when: the step 'save' in --do, --save-at, or --interactive"
    );
    Ok(())
}

/// A file that somebody named: there, readable, and of the right kind where that shows.
fn file(what: &str, path: &Path, is_program: bool) -> Result<()> {
    let shown = path.display();
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("the {what} {shown} is not there")
        }
        other => other.with_context(|| format!("the {what} {shown} cannot be read"))?,
    };
    ensure!(
        file.metadata().is_ok_and(|data| data.is_file()),
        "the {what} {shown} is no file"
    );
    let mut magic = [0; 4];
    let is_elf = file.read_exact(&mut magic).is_ok() && magic == *b"\x7FELF";
    ensure!(
        is_elf || !is_program,
        "the {what} {shown} is no program: it is not in the ELF format"
    );
    Ok(())
}

/// Whether a log can be written here, without writing it: a run that fails leaves the log of the last one alone.
fn writable(what: &str, file: &Path) -> Result<()> {
    let shown = file.display();
    ensure!(
        !file.is_dir(),
        "cannot write the {what} {shown}: it is a folder"
    );
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    ensure!(
        folder.is_dir(),
        "cannot write the {what} {shown}: there is no folder {}",
        folder.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> String {
        let scenario: Scenario = toml::from_str(text).unwrap();
        let error = check(&scenario, None).unwrap_err();
        let line = format!("{error:#}");
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn the_default_is_fine() {
        check(&Scenario::default(), Some(Path::new("a-log"))).unwrap();
    }

    #[test]
    fn each_mistake_has_a_line_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "text").unwrap();
        let (dir, text) = (dir.path().display(), text.display());
        for (scenario, expected) in [
            (
                "kernel = \"/no/such/file\"".to_owned(),
                "the kernel /no/such/file is not there",
            ),
            (
                "initrd = \"/no/such/file\"".to_owned(),
                "the initrd /no/such/file is not there",
            ),
            (format!("kernel = \"{dir}\""), "is no file"),
            (format!("image = \"{text}\""), "not in the ELF format"),
            (format!("vmm = \"{text}\""), "not in the ELF format"),
            ("cpus = 9".to_owned(), "9 processors"),
            ("timeout = 0".to_owned(), "a timeout of 0 seconds"),
            ("watchdog = 0".to_owned(), "a watchdog of 0 seconds"),
            ("run = [\"frob\"]".to_owned(), "no step 'frob'"),
            ("cmdline = 'a\"b'".to_owned(), "the character '\"'"),
            (
                format!("initrd = \"{text}\"\nrun = [\"linux\"]"),
                "--do is for the lab's own initramfs",
            ),
            (
                format!("restore = \"{text}\"\nrun = [\"frob\"]"),
                "no step 'frob'",
            ),
            (
                format!("restore = \"{text}\"\noperations = [\"cpuid\"]"),
                "--operations with --restore needs --do",
            ),
            (
                format!("restore = \"{text}\"\nrun = [\"measure\"]\noperations = [\"a b\"]"),
                "cannot be told",
            ),
            (
                "no_initrd = true\noperations = [\"cpuid\"]".to_owned(),
                "--operations is for",
            ),
        ] {
            let line = why(&scenario);
            assert!(line.contains(expected), "{scenario}: {line}");
        }
    }

    #[test]
    fn an_initrd_of_the_users_may_have_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd");
        std::fs::write(&path, "").unwrap();
        let scenario = Scenario {
            initrd: Some(path),
            run: Some(vec!["shell".to_owned()]),
            ..Scenario::default()
        };
        check(&scenario, None).unwrap();
    }

    #[test]
    fn a_log_needs_a_folder_and_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let default = Scenario::default();
        check(&default, Some(&log)).unwrap();
        assert!(!log.exists());
        assert!(check(&default, Some(dir.path())).is_err());
        assert!(check(&default, Some(&log.join("log"))).is_err());
    }
}
