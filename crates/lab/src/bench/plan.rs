//! What is measured: configurations, the boots that serve them, and which pairs of them show an enlightenment's worth.

use anyhow::{Result, bail};
use hyperv::enlightenments::{Enlightenment, Set};

use super::saving;

/// A way to run hynest and its L1, under which operations are measured.
#[derive(Debug)]
pub struct Configuration {
    /// Its name in tables, in JSON and for `--only`.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// L1's processors.
    pub cpus: u32,
    /// What L0 does not offer.
    pub without: &'static [Enlightenment],
    /// More arguments of `cargo hynest run`.
    pub arguments: &'static [&'static str],
    /// The step of L1's init that measures.
    pub step: &'static str,
    /// The label that the step gives to its figures.
    pub label: &'static str,
    /// What is measured; everything that can be when empty.
    pub operations: &'static [&'static str],
    /// Whether L0 is built to count its own accesses, which its figures in instructions do not survive.
    pub counts_accesses: bool,
}

/// All enlightenments, KVM's enlightened VMCS in use.
const ENLIGHTENED: Configuration = Configuration {
    name: "enlightened",
    about: "all enlightenments",
    cpus: 1,
    without: &[],
    arguments: &[],
    step: "measure",
    label: "enlightened",
    operations: &[],
    counts_accesses: false,
};

/// The same L1, its KVM told not to use the enlightened VMCS: as good as plain can honestly be.
const SHADOWED: Configuration = Configuration {
    name: "shadowed",
    about: "KVM's enlightened_vmcs=0, its VMCS shadowed by hardware",
    step: "plain",
    label: "plain",
    ..ENLIGHTENED
};

/// The same where hardware cannot help.
const PLAIN: Configuration = Configuration {
    name: "plain",
    about: "KVM's enlightened_vmcs=0: VMREAD and VMWRITE exit",
    arguments: &["--vmcs-shadowing", "off"],
    step: "plain",
    label: "plain",
    ..ENLIGHTENED
};

/// Operations that show what L0 touches on the way of an exit.
const ACCESSES: &[&str] = &["cpuid", "vmcall", "out", "hlt"];

/// Every configuration. Neighbours that differ in their step alone share a boot.
pub const CONFIGURATIONS: &[Configuration] = &[
    ENLIGHTENED,
    SHADOWED,
    PLAIN,
    Configuration {
        name: "no-msr-bitmap",
        about: "all but msr-bitmap",
        without: &[Enlightenment::MsrBitmap],
        operations: &["cpuid", "vmcall", "out"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "no-gpa-flush",
        about: "all but gpa-flush",
        without: &[Enlightenment::GpaFlush],
        operations: &["zap"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "no-tsc-page",
        about: "all but tsc-page",
        without: &[Enlightenment::TscPage],
        operations: &["l1-clock", "hlt"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "no-stimer",
        about: "all but stimer",
        without: &[Enlightenment::Stimer],
        operations: &["tsc-deadline"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "another-rate",
        about: "all enlightenments; the TSC's rate changes, L0 emulates",
        arguments: &["--tsc-rate-port", "--tsc-scaling", "off"],
        operations: &["rdtsc-emulated", "rdtsc"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "two-vps",
        about: "all enlightenments, two VPs",
        cpus: 2,
        operations: &["l1-tlb-flush", "l1-ipi", "zap"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "no-tlb-flush",
        about: "all but tlb-flush, two VPs",
        cpus: 2,
        without: &[Enlightenment::TlbFlush],
        operations: &["l1-tlb-flush"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "no-ipi",
        about: "all but ipi, two VPs",
        cpus: 2,
        without: &[Enlightenment::Ipi],
        operations: &["l1-ipi"],
        ..ENLIGHTENED
    },
    Configuration {
        name: "accesses",
        about: "all enlightenments; L0 counts its accesses",
        operations: ACCESSES,
        counts_accesses: true,
        ..ENLIGHTENED
    },
    Configuration {
        name: "accesses-plain",
        about: "plain; L0 counts its accesses",
        operations: ACCESSES,
        counts_accesses: true,
        ..PLAIN
    },
];

/// The same operation with an enlightenment and without it.
pub struct Worth {
    /// The enlightenment.
    pub enlightenment: Enlightenment,
    /// A configuration and an operation in it.
    pub with: (&'static str, &'static str),
    /// What the same takes without the enlightenment.
    pub without: (&'static str, &'static str),
}

/// Which figures show what each enlightenment is worth.
pub const WORTH: &[Worth] = &[
    same(Enlightenment::Evmcs, "cpuid", "enlightened", "plain"),
    same(Enlightenment::Evmcs, "out", "enlightened", "plain"),
    same(Enlightenment::Evmcs, "tsc-deadline", "enlightened", "plain"),
    same(
        Enlightenment::MsrBitmap,
        "cpuid",
        "enlightened",
        "no-msr-bitmap",
    ),
    same(
        Enlightenment::MsrBitmap,
        "out",
        "enlightened",
        "no-msr-bitmap",
    ),
    Worth {
        enlightenment: Enlightenment::DirectFlush,
        with: ("enlightened", "hv-flush-direct"),
        without: ("enlightened", "hv-flush"),
    },
    same(
        Enlightenment::GpaFlush,
        "zap",
        "enlightened",
        "no-gpa-flush",
    ),
    same(
        Enlightenment::TscPage,
        "l1-clock",
        "enlightened",
        "no-tsc-page",
    ),
    same(Enlightenment::TscPage, "hlt", "enlightened", "no-tsc-page"),
    same(
        Enlightenment::Stimer,
        "tsc-deadline",
        "enlightened",
        "no-stimer",
    ),
    Worth {
        enlightenment: Enlightenment::Reenlightenment,
        with: ("another-rate", "rdtsc"),
        without: ("another-rate", "rdtsc-emulated"),
    },
    same(
        Enlightenment::TlbFlush,
        "l1-tlb-flush",
        "two-vps",
        "no-tlb-flush",
    ),
    same(Enlightenment::Ipi, "l1-ipi", "two-vps", "no-ipi"),
];

const fn same(
    enlightenment: Enlightenment,
    operation: &'static str,
    with: &'static str,
    without: &'static str,
) -> Worth {
    Worth {
        enlightenment,
        with: (with, operation),
        without: (without, operation),
    }
}

impl Configuration {
    /// What L0 is asked to offer, in its command line's words.
    pub fn enlightenments(&self) -> String {
        let mut set = Set::ALL;
        for one in self.without {
            set = set.without(*one);
        }
        match set == Set::ALL {
            true => "all".to_owned(),
            false => set.to_string(),
        }
    }

    /// Whether one boot can serve both.
    fn shares_a_boot_with(&self, other: &Self) -> bool {
        self.cpus == other.cpus
            && self.without == other.without
            && self.arguments == other.arguments
            && self.operations == other.operations
            && self.counts_accesses == other.counts_accesses
    }
}

/// The configurations that `only` names (all of them when it names none), boot by boot.
pub fn boots(only: &[String]) -> Result<Vec<Vec<&'static Configuration>>> {
    for name in only.iter().filter(|name| *name != saving::NAME) {
        if !CONFIGURATIONS.iter().any(|known| known.name == name) {
            let mut names: Vec<&str> = CONFIGURATIONS.iter().map(|known| known.name).collect();
            names.push(saving::NAME);
            bail!(
                "there is no configuration '{name}'; there are: {}",
                names.join(", ")
            );
        }
    }
    let mut boots: Vec<Vec<&Configuration>> = Vec::new();
    for one in CONFIGURATIONS {
        if !only.is_empty() && !only.iter().any(|name| name == one.name) {
            continue;
        }
        match boots.last_mut() {
            Some(boot) if boot[0].shares_a_boot_with(one) => boot.push(one),
            _ => boots.push(vec![one]),
        }
    }
    Ok(boots)
}

/// Whether saving is measured, too.
pub fn is_saving(only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|name| name == saving::NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> &'static Configuration {
        CONFIGURATIONS
            .iter()
            .find(|one| one.name == name)
            .unwrap_or_else(|| panic!("no configuration {name}"))
    }

    #[test]
    fn every_configuration_can_be_had_and_has_a_name_of_its_own() {
        for (at, one) in CONFIGURATIONS.iter().enumerate() {
            assert!(Set::parse(&one.enlightenments()).is_ok(), "{}", one.name);
            assert!(
                CONFIGURATIONS[..at]
                    .iter()
                    .all(|other| other.name != one.name)
            );
        }
    }

    #[test]
    fn what_is_compared_is_measured() {
        for worth in WORTH {
            for (configuration, operation) in [worth.with, worth.without] {
                let operations = named(configuration).operations;
                assert!(
                    operations.is_empty() || operations.contains(&operation),
                    "{configuration} {operation}"
                );
            }
            let without = named(worth.without.0);
            let is_off = without.without.contains(&worth.enlightenment)
                || without.step == "plain"
                || worth.with.1 != worth.without.1;
            assert!(
                is_off,
                "{:?} is on in {}",
                worth.enlightenment, without.name
            );
        }
    }

    #[test]
    fn boots_are_shared_and_chosen() {
        let names = |only: &[&str]| -> Vec<Vec<&str>> {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            let boots = boots(&only).unwrap();
            boots
                .iter()
                .map(|boot| boot.iter().map(|one| one.name).collect())
                .collect()
        };
        let all = names(&[]);
        assert_eq!(all[0], ["enlightened", "shadowed"]);
        assert_eq!(all[1], ["plain"]);
        assert_eq!(all.concat().len(), CONFIGURATIONS.len());
        assert_eq!(names(&["no-ipi", "plain"]), [vec!["plain"], vec!["no-ipi"]]);
        let error = boots(&["warp".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("'warp'; there are: enlightened, shadowed, plain"),
            "{error}"
        );
    }
}
