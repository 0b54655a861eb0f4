//! How a guest ends.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::stats::Stats;

/// The end of a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It asked for a reset, as Linux does for a reboot.
    Reset,
    /// It stopped for good.
    PowerOff,
    /// Linux panicked; why, in its words.
    Panic(String),
    /// A processor met a fault while it delivered a double fault.
    TripleFault,
    /// KVM or the vmm could not go on; why.
    Failed(String),
}

impl End {
    /// A panic also ends in a reset: it is the panic that counts.
    pub fn with_panic(self, panic: Option<&str>) -> Self {
        match panic {
            Some(reason) => End::Panic(reason.into()),
            None => self,
        }
    }

    /// The word for it in reports.
    pub fn reason(&self) -> &'static str {
        match self {
            End::Reset => "reset",
            End::PowerOff => "power-off",
            End::Panic(_) => "panic",
            End::TripleFault => "triple-fault",
            End::Failed(_) => "failed",
        }
    }

    /// More about it, where there is more.
    pub fn message(&self) -> Option<&str> {
        match self {
            End::Panic(message) | End::Failed(message) => Some(message),
            _ => None,
        }
    }

    /// A reset and a power-off are what guests are meant to do; the others are errors.
    pub fn verdict(&self) -> Result<()> {
        Err(Error::Guest(match self {
            End::Reset | End::PowerOff => return Ok(()),
            End::Panic(reason) => format!("it panicked: {reason}"),
            End::TripleFault => "triple fault".into(),
            End::Failed(why) => why.clone(),
        }))
    }
}

/// The report's line about a guest's end.
#[derive(Serialize, Debug)]
pub struct Ended<'a> {
    event: &'static str,
    name: &'a str,
    reason: &'static str,
    message: Option<&'a str>,
    vcpus: u8,
    hyperv: bool,
    /// By L1's clock, from the first entry on.
    seconds: f64,
    /// Pages that KVM had mapped for the guest at the end; `null` where it does not tell.
    #[serde(flatten)]
    pages: Pages,
}

/// Pages in a guest's EPT, by size.
#[derive(Clone, Copy, Default, Serialize, Debug)]
pub struct Pages {
    pages_4k: Option<u64>,
    pages_2m: Option<u64>,
}

impl Pages {
    /// As KVM counts them.
    pub fn count(stats: &Stats) -> Result<Self> {
        Ok(Pages {
            pages_4k: stats.read("pages_4k")?,
            pages_2m: stats.read("pages_2m")?,
        })
    }
}

impl<'a> Ended<'a> {
    /// Puts a line together.
    pub fn new(
        name: &'a str,
        end: &'a End,
        vcpus: u8,
        hyperv: bool,
        seconds: f64,
        pages: Pages,
    ) -> Self {
        Ended {
            event: "l2-end",
            name,
            reason: end.reason(),
            message: end.message(),
            vcpus,
            hyperv,
            seconds: (seconds * 1000.0).round() / 1000.0,
            pages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reset_and_power_off_are_success() {
        assert!(End::Reset.verdict().is_ok());
        assert!(End::PowerOff.verdict().is_ok());
        assert!(End::TripleFault.verdict().is_err());
        let panic = End::Reset.with_panic(Some("no init"));
        let message = panic.verdict().unwrap_err().to_string();
        assert!(message.contains("panicked: no init"), "{message}");
        assert_eq!(End::Reset.with_panic(None), End::Reset);
    }

    #[test]
    fn the_line_says_why() {
        let end = End::Panic("no init".into());
        let json = serde_json::to_value(Ended::new("a", &end, 2, true, 1.23456, Pages::default()))
            .unwrap();
        assert_eq!(json["event"], "l2-end");
        assert_eq!(json["reason"], "panic");
        assert_eq!(json["message"], "no init");
        assert_eq!(json["seconds"], 1.235);
        assert!(json["pages_4k"].is_null() && json["pages_2m"].is_null());
    }
}
