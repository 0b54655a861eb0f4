//! Sets as a person writes them.

use super::{Enlightenment, Set};
use core::fmt;

/// Why a text names no set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError<'a> {
    /// There is no switch of this name.
    Unknown(&'a str),
    /// hynest does not offer this switch yet.
    NotOffered(Enlightenment),
    /// A switch is on without another that it needs.
    Missing {
        /// The switch that is on.
        of: Enlightenment,
        /// The one it needs.
        needs: Enlightenment,
    },
    /// A switch was to be taken out that no word before had put in.
    NotIn(Enlightenment),
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown("") => f.write_str("an enlightenment's name is empty")?,
            Self::Unknown(name) => write!(f, "unknown enlightenment '{name}'")?,
            Self::NotOffered(one) => {
                return write!(f, "the enlightenment {} is not offered yet", one.name());
            }
            Self::Missing { of, needs } => {
                return write!(
                    f,
                    "{of} needs {needs}, which is off: switch both on or both off",
                    of = of.name(),
                    needs = needs.name()
                );
            }
            Self::NotIn(one) => {
                return write!(
                    f,
                    "-{one} takes out what is not in: write all,-{one}",
                    one = one.name()
                );
            }
        }
        f.write_str("; there are: all, none, or a list of (with a minus: all but) ")?;
        write!(f, "{}", Set::ALL)
    }
}

impl core::error::Error for ParseError<'_> {}

impl Set {
    /// Reads a list of words with commas between. "all" or "none" may come
    /// first; then a name puts a switch in, and a name with a minus before it
    /// takes one out: "all,-gpa-flush". Blanks around a word do not matter.
    ///
    /// # Errors
    /// The first word that is wrong, or a switch that is on without one that it
    /// needs.
    pub fn parse(text: &str) -> Result<Self, ParseError<'_>> {
        let mut set = Self::NONE;
        for (at, word) in text.split(',').map(str::trim).enumerate() {
            set = match word {
                "all" if at == 0 => Self::ALL,
                "none" if at == 0 => Self::NONE,
                _ => match word.strip_prefix('-') {
                    Some(name) => set.taking_out(known(name)?)?,
                    None => set.with(known(word)?),
                },
            };
        }
        match set.missing() {
            Some((of, needs)) => Err(ParseError::Missing { of, needs }),
            None => Ok(set),
        }
    }

    fn taking_out(self, one: Enlightenment) -> Result<Self, ParseError<'static>> {
        match self.has(one) {
            true => Ok(self.without(one)),
            false => Err(ParseError::NotIn(one)),
        }
    }
}

/// The switch of this name, if hynest offers it.
fn known(name: &str) -> Result<Enlightenment, ParseError<'_>> {
    match Enlightenment::EVERY.iter().find(|one| one.name() == name) {
        None => Err(ParseError::Unknown(name)),
        Some(one) if !one.is_offered() => Err(ParseError::NotOffered(*one)),
        Some(one) => Ok(*one),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn words_for_all_and_none() {
        assert_eq!(Set::parse("all"), Ok(Set::ALL));
        assert_eq!(Set::parse(" none "), Ok(Set::NONE));
    }

    #[test]
    fn a_list() {
        let set = Set::parse("vp-assist, evmcs,msr-bitmap").unwrap();
        assert!(set.has(Enlightenment::MsrBitmap) && set.has(Enlightenment::Base));
        assert!(!set.has(Enlightenment::TscPage));
    }

    #[test]
    fn all_but_some() {
        let without = Set::parse("all,-gpa-flush, -ipi").unwrap();
        let expected = Set::ALL
            .without(Enlightenment::GpaFlush)
            .without(Enlightenment::Ipi);
        assert_eq!(without, expected);
        assert_eq!(Set::parse("all,-base"), Ok(Set::NONE));
        assert_eq!(
            Set::parse("none,stimer,ref-count").unwrap().iter().count(),
            3
        );
    }

    #[test]
    fn what_others_need_cannot_be_taken_out_alone() {
        for one in Set::ALL.iter().filter(|one| *one != Enlightenment::Base) {
            let list = std::format!("all,-{}", one.name());
            let dependent = Set::ALL.iter().find(|other| other.needs().contains(&one));
            match (Set::parse(&list), dependent) {
                (Ok(set), None) => assert_eq!(set, Set::ALL.without(one)),
                (Err(error), Some(of)) => {
                    assert_eq!(error, ParseError::Missing { of, needs: one });
                    assert_eq!(
                        error.to_string(),
                        std::format!(
                            "{} needs {}, which is off: switch both on or both off",
                            of.name(),
                            one.name()
                        )
                    );
                }
                (other, dependent) => panic!("{list}: {other:?}, {dependent:?}"),
            }
        }
        assert_eq!(
            Set::parse("-ipi").unwrap_err().to_string(),
            "-ipi takes out what is not in: write all,-ipi"
        );
        assert_eq!(Set::parse("all,-evcms"), Err(ParseError::Unknown("evcms")));
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for set in [Set::ALL, Set::NONE, Set::NONE.with(Enlightenment::RefCount)] {
            assert_eq!(Set::parse(&set.to_string()), Ok(set));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let unknown = Set::parse("evcms").unwrap_err();
        assert_eq!(unknown, ParseError::Unknown("evcms"));
        let text = unknown.to_string();
        assert!(text.starts_with("unknown enlightenment 'evcms'; there are: all, none, or a list"));
        for one in Set::ALL.iter() {
            assert!(text.contains(one.name()), "{text}");
        }

        let missing = Set::parse("vp-assist,msr-bitmap").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "msr-bitmap needs evmcs, which is off: switch both on or both off"
        );
        assert_eq!(
            Set::parse("tsc-page,").unwrap_err(),
            ParseError::Unknown("")
        );
        assert_eq!(
            Set::parse("").unwrap_err().to_string().split(';').next(),
            Some("an enlightenment's name is empty")
        );
        assert_eq!(Set::parse("base,all"), Err(ParseError::Unknown("all")));
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        for one in Enlightenment::EVERY.iter().filter(|one| !one.is_offered()) {
            assert_eq!(Set::parse(one.name()), Err(ParseError::NotOffered(*one)));
        }
    }
}
