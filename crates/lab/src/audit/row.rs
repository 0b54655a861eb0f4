//! What an auditing payload says, line by line (see `groups/audit/walk.rs` of the payloads).

use serde::{Deserialize, Serialize};

use super::names;

/// What bits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// L1 is shown the feature.
    Shown,
    /// L1 is not.
    Hidden,
    /// They are a number or a property.
    Fact,
}

impl Kind {
    /// The word for the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shown => "yes",
            Self::Hidden => "no",
            Self::Fact => "fact",
        }
    }
}

/// One thing that was put to the test.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Row {
    /// The register or leaf.
    pub register: String,
    /// One bit's number, or `high:low`.
    pub bits: String,
    /// The bit's name, if it has one.
    pub name: Option<String>,
    /// What the bits are.
    pub kind: Kind,
    /// What was done.
    pub how: String,
    /// Why it failed, if it did.
    pub problem: Option<String>,
}

impl Row {
    /// Reads a payload's line; none if it is another kind of line.
    pub fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix("audit\t")?.split('\t').collect();
        let [register, bits, kind, verdict, how, why] = words[..] else {
            return None;
        };
        let kind = match kind {
            "shown" => Kind::Shown,
            "hidden" => Kind::Hidden,
            "fact" => Kind::Fact,
            _ => return None,
        };
        let named = bits.parse().ok().and_then(|bit| names::name(register, bit));
        Some(Self {
            register: register.to_owned(),
            bits: bits.to_owned(),
            name: named.map(str::to_owned),
            kind,
            how: how.to_owned(),
            // Whatever is not plainly fine is not fine.
            problem: (verdict != "ok").then(|| why.to_owned()),
        })
    }

    /// The register, the bits and their name, for a line.
    pub fn title(&self) -> String {
        let name = self
            .name
            .as_deref()
            .map_or(String::new(), |name| format!(" ({name})"));
        format!("{} {}{name}", self.register, self.bits)
    }
}

/// A register's value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Word {
    /// The register or leaf.
    pub register: String,
    /// What it shows.
    pub value: u64,
}

impl Word {
    /// Reads a payload's line; none if it is another kind of line.
    pub fn read(line: &str) -> Option<Self> {
        let (register, value) = line.strip_prefix("audit-word\t")?.split_once('\t')?;
        Some(Self {
            register: register.to_owned(),
            value: u64::from_str_radix(value.trim().strip_prefix("0x")?, 16).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_named() {
        let row = Row::read("audit\tCPUID 1 ECX\t5\tshown\tok\tVMXON\t").unwrap();
        assert_eq!(row.title(), "CPUID 1 ECX 5 (VMX)");
        assert_eq!((row.kind, row.problem), (Kind::Shown, None));
        let row = Row::read("audit\tCPUID 1 EBX\t15:8\tfact\tFAIL\tline\tno: 1").unwrap();
        assert_eq!(row.title(), "CPUID 1 EBX 15:8");
        assert_eq!(row.problem.as_deref(), Some("no: 1"));
        assert_eq!(Row::read("ok x"), None);
        assert_eq!(Row::read("audit\tx\t1\tmaybe\tok\t\t"), None);
        let word = Word::read("audit-word\tIA32_VMX_MISC\t0x60").unwrap();
        assert_eq!(
            (word.register.as_str(), word.value),
            ("IA32_VMX_MISC", 0x60)
        );
        assert_eq!(Word::read("audit-word\tx\ty"), None);
    }
}
