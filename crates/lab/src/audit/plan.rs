//! The runs that an audit consists of.

use hyperv::enlightenments::{Enlightenment, Set};

use crate::exit::Ending;

/// One run of the auditing payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is called.
    pub name: String,
    /// What L0 offers, as its command line has it.
    pub enlightenments: String,
    /// The payload's command line.
    pub command_line: String,
    /// What it is there for.
    pub aim: Aim,
}

/// What a run is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// That bits keep their promises.
    Walk,
    /// That what is switched off is gone, and nothing else is there instead.
    Off,
    /// That the partition ends like this, which the bit of this register promises.
    End(Ending, &'static str, u32),
}

fn step(name: &str, set: Set, command_line: &str, aim: Aim) -> Step {
    Step {
        name: name.to_owned(),
        enlightenments: set.to_string(),
        command_line: format!("groups=audit {command_line}"),
        aim,
    }
}

/// The run with everything on, which the others are compared with.
pub fn first() -> Step {
    step("all, plain VMCS", Set::ALL, "door=plain", Aim::Walk)
}

/// The runs after the first.
pub fn others() -> Vec<Step> {
    let mut steps = vec![
        step(
            "all, enlightened VMCS",
            Set::ALL,
            "door=enlightened test=vmx",
            Aim::Walk,
        ),
        step(
            "a reset",
            Set::ALL,
            "test=last-hv-reset",
            Aim::End(Ending::Reset, "CPUID 0x40000003 EBX:EAX", 7),
        ),
        step(
            "a crash",
            Set::ALL,
            "test=last-hv-crash",
            Aim::End(Ending::Panic, "CPUID 0x40000003 EDX", 10),
        ),
    ];
    for one in Set::ALL.iter() {
        let name = format!("without {}", one.name());
        steps.push(step(&name, without(one), "test=hv", Aim::Off));
    }
    steps
}

/// All but `one` and what needs it.
fn without(one: Enlightenment) -> Set {
    let mut set = Set::ALL.without(one);
    while let Some((needing, _)) = set.missing() {
        set = set.without(needing);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_is_off_once_and_what_is_left_can_be_offered() {
        let off: Vec<Step> = others()
            .into_iter()
            .filter(|step| step.aim == Aim::Off)
            .collect();
        assert_eq!(off.len(), Set::ALL.iter().count());
        for (step, one) in off.iter().zip(Set::ALL.iter()) {
            let set = Set::parse(&step.enlightenments).unwrap();
            assert!(!set.has(one), "{step:?}");
        }
        // Without the base there is nothing.
        assert_eq!(off[0].enlightenments, "none");
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<String> = others().into_iter().map(|step| step.name).collect();
        names.push(first().name);
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
