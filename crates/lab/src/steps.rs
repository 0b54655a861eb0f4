//! What L1's init can do: the words of `--do`, which guest/init understands.

use anyhow::{Result, bail};

/// The steps and what each is, in the order in which `--help` lists them.
const STEPS: &[(&str, &str)] = &[
    ("measure", "what L2's operations cost"),
    ("plain", "the same with KVM's enlightened_vmcs=0"),
    ("clock", "count the exits of an L2 that reads its clock"),
    (
        "clocks",
        "L1 and L2s compare their clocks with L0's; see --clock-changes",
    ),
    ("linux", "an L2 Linux"),
    ("linux-smp", "an L2 Linux with two vCPUs"),
    ("linux-pair", "two L2 Linuxes at once"),
    ("linux-smp-pair", "two at once, two vCPUs each"),
    (
        "churn",
        "L2s whose memory is changed under them, and verified",
    ),
    (
        "save",
        "L1 asks L0 to save it (--save), and goes on when it is restored",
    ),
    ("shell", "a shell; use --interactive"),
    ("boot", "nothing more: L1 boots and powers off"),
    ("panic", "L1's kernel panics"),
    ("reset", "L1 resets itself"),
    ("hang", "nothing happens, until the watchdog"),
];

/// The part of `--help` that names the steps.
pub fn help() -> String {
    let mut out = String::from("Steps of L1's init, for --do:");
    for (name, about) in STEPS {
        out += &format!("\n  {name:<16}{about}");
    }
    out
}

/// Refuses what L1's init would not know only after it has booted.
pub fn check(words: &[String]) -> Result<()> {
    let is_known = |word: &str| STEPS.iter().any(|&(name, _)| name == word);
    match words.iter().find(|word| !is_known(word)) {
        None => Ok(()),
        Some(word) => {
            let names: Vec<&str> = STEPS.iter().map(|&(name, _)| name).collect();
            bail!(
                "L1's init knows no step '{word}'; there are: {}",
                names.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The labels of the `case` in the function `run` of guest/init.
    fn labels() -> Vec<&'static str> {
        let script = include_str!("../../../guest/init");
        let body = script.split_once("\nrun() {\n").unwrap().1;
        let body = body.split_once("\n}\n").unwrap().0;
        body.lines()
            .filter_map(|line| line.strip_prefix("        "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
            .filter_map(|line| Some(line.split_once(')')?.0))
            .collect()
    }

    #[test]
    fn the_steps_are_those_of_the_script() {
        let mut names: Vec<&str> = STEPS.iter().map(|&(name, _)| name).collect();
        let mut labels = labels();
        names.sort_unstable();
        labels.sort_unstable();
        assert_eq!(names, labels);
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_known_ones() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        check(&words("measure,linux")).unwrap();
        let error = check(&words("measure,frob")).unwrap_err().to_string();
        assert!(
            error.contains("'frob'") && error.contains("linux-pair"),
            "{error}"
        );
        assert!(check(&words("")).is_err());
    }
}
