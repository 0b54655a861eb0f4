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
    /// A switch was named without another that it needs.
    Missing {
        /// The switch that was named.
        of: Enlightenment,
        /// The one it needs.
        needs: Enlightenment,
    },
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
                    "{} needs {}: name both or neither",
                    of.name(),
                    needs.name()
                );
            }
        }
        f.write_str("; there are: all, none, or a list of ")?;
        write!(f, "{}", Set::ALL)
    }
}

impl core::error::Error for ParseError<'_> {}

impl Set {
    /// Reads "all", "none", or names separated by commas; blanks around a
    /// name do not matter.
    pub fn parse(text: &str) -> Result<Self, ParseError<'_>> {
        match text.trim() {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut set = Self::NONE;
        for name in text.split(',').map(str::trim) {
            let one = Enlightenment::EVERY.iter().find(|one| one.name() == name);
            match one {
                None => return Err(ParseError::Unknown(name)),
                Some(one) if !one.is_offered() => return Err(ParseError::NotOffered(*one)),
                Some(one) => set = set.with(*one),
            }
        }
        match set.missing() {
            Some((of, needs)) => Err(ParseError::Missing { of, needs }),
            None => Ok(set),
        }
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
            "msr-bitmap needs evmcs: name both or neither"
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
