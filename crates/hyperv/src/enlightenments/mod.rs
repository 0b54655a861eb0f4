//! What a partition is offered of Hv#1, switch by switch, so that the worth
//! of each enlightenment can be measured.
//!
//! A switch that is off is not there: its CPUID bits are clear, its MSRs give
//! #GP, its hypercalls are denied.

mod parse;

pub use parse::ParseError;

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! enlightenments {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $offer:ident, needs [$($needs:ident),*], $text:literal;)*) => {
        /// One switch.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Enlightenment {
            $($(#[$doc])* $variant,)*
        }

        impl Enlightenment {
            /// Every switch there is, offered or not.
            pub const EVERY: &'static [Enlightenment] = &[$(Enlightenment::$variant,)*];

            /// The name used on command lines and in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it does, in one line, for help texts.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The switches that must be on as well.
            pub const fn needs(self) -> &'static [Enlightenment] {
                match self { $(Self::$variant => &[$(Self::$needs),*],)* }
            }

            /// Whether hynest does all that this switch stands for. One that
            /// is not offered is no part of "all" and is refused by name: its
            /// side in this crate exists, the image's does not yet.
            pub const fn is_offered(self) -> bool {
                match self { $(Self::$variant => enlightenments!(@ $offer),)* }
            }
        }
    };
    (@ offered) => { true };
    (@ later) => { false };
}

enlightenments! {
    /// Everything without which there is no Hv#1: the identity leaves,
    /// GUEST_OS_ID, the hypercall page, VP_INDEX. Every other switch implies it.
    Base = "base", offered, needs [],
        "identity, hypercall page and VP index; implied by every other";
    /// TIME_REF_COUNT.
    RefCount = "ref-count", offered, needs [],
        "the reference time as an MSR";
    /// REFERENCE_TSC. Its reader falls back on TIME_REF_COUNT.
    TscPage = "tsc-page", offered, needs [RefCount],
        "a page by which L1 reads the reference time without an exit";
    /// TSC_FREQUENCY and APIC_FREQUENCY.
    FrequencyMsrs = "frequency-msrs", offered, needs [],
        "the frequencies of TSC and APIC timer, which L1 need not calibrate then";
    /// STIMER0 to STIMER3 in direct mode; deadlines are reference times.
    Stimer = "stimer", offered, needs [RefCount],
        "synthetic timers that assert an interrupt (direct mode)";
    /// CRASH_P0 to CRASH_P4 and CRASH_CTL.
    Crash = "crash", offered, needs [],
        "L1 reports its crash, with a message";
    /// GUEST_IDLE.
    GuestIdle = "guest-idle", offered, needs [],
        "an MSR whose reading waits for an interrupt";
    /// RESET.
    Reset = "reset", offered, needs [],
        "an MSR that resets the partition";
    /// VP_ASSIST_PAGE, and EOI, ICR and TPR, which its privilege also covers.
    VpAssist = "vp-assist", offered, needs [],
        "the page by which L1 enters enlightened VMCSs; the EOI, ICR and TPR MSRs";
    /// The recommendation to use the EOI, ICR and TPR MSRs, and with it EOI assist.
    ApicMsrs = "apic-msrs", offered, needs [VpAssist],
        "most EOIs without an exit, others, ICR and TPR by MSRs";
    /// The enlightened VMCS, version 1.
    Evmcs = "evmcs", offered, needs [VpAssist],
        "VMCSs in L1's memory, without VMREAD and VMWRITE";
    /// The enlightened MSR bitmap.
    MsrBitmap = "msr-bitmap", offered, needs [Evmcs],
        "L1 says when an L2's MSR bitmap changed";
    /// L2's flush hypercalls without an exit to L1.
    DirectFlush = "direct-flush", offered, needs [Evmcs],
        "L2's flush hypercalls end in L0";
    /// FlushGuestPhysicalAddressSpace and -List.
    GpaFlush = "gpa-flush", offered, needs [],
        "one hypercall rather than INVEPT on every processor";
    /// FlushVirtualAddressSpace, -List and their Ex forms.
    TlbFlush = "tlb-flush", offered, needs [],
        "one hypercall rather than IPIs to flush other VPs' TLBs";
    /// SendSyntheticClusterIpi and its Ex form.
    Ipi = "ipi", offered, needs [],
        "one hypercall rather than an ICR write for each target";
    /// Fast hypercalls whose input goes on in vector registers.
    XmmInput = "xmm-input", offered, needs [],
        "hypercall input of up to 112 bytes in registers";
    /// REENLIGHTENMENT_CONTROL, TSC_EMULATION_CONTROL and -STATUS.
    Reenlightenment = "reenlightenment", offered, needs [FrequencyMsrs],
        "L1 learns that it was moved and the TSC's frequency changed";
}

/// A set of [`Enlightenment`]s. Without any of them there is no Hv#1: no
/// leaves, no MSRs, no hypercalls.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Set(u32);

impl Set {
    /// No Hv#1 at all.
    pub const NONE: Set = Set(0);

    /// All that hynest does: what "all" means.
    pub const ALL: Set = {
        let mut set = Set::NONE;
        let mut at = 0;
        while at < Enlightenment::EVERY.len() {
            if Enlightenment::EVERY[at].is_offered() {
                set = set.with(Enlightenment::EVERY[at]);
            }
            at += 1;
        }
        set
    };

    /// The set with `one` in it, and [`Enlightenment::Base`], which it implies.
    #[must_use]
    pub const fn with(self, one: Enlightenment) -> Self {
        Self(self.0 | 1 << one as u8 | 1 << Enlightenment::Base as u8)
    }

    /// The set without `one`; without [`Enlightenment::Base`], nothing is left.
    #[must_use]
    pub const fn without(self, one: Enlightenment) -> Self {
        match one {
            Enlightenment::Base => Self::NONE,
            _ => Self(self.0 & !(1 << one as u8)),
        }
    }

    /// Whether `one` is in the set.
    #[inline]
    pub const fn has(self, one: Enlightenment) -> bool {
        self.0 & 1 << one as u8 != 0
    }

    /// Whether there is no Hv#1.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The switches that are on, in the order of their definition.
    pub fn iter(self) -> impl Iterator<Item = Enlightenment> {
        Enlightenment::EVERY
            .iter()
            .copied()
            .filter(move |one| self.has(*one))
    }

    /// A switch that is on and one that it needs but is off, if there are such.
    pub fn missing(self) -> Option<(Enlightenment, Enlightenment)> {
        self.iter().find_map(|one| {
            one.needs()
                .iter()
                .find(|needed| !self.has(**needed))
                .map(|needed| (one, *needed))
        })
    }
}

/// "none", or the names joined by commas: what [`Set::parse`] reads.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (at, one) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(one.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_words() {
        for (at, one) in Enlightenment::EVERY.iter().enumerate() {
            assert!(
                one.name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{one:?}"
            );
            assert!(
                Enlightenment::EVERY[..at]
                    .iter()
                    .all(|other| other.name() != one.name())
            );
            assert!(!["all", "none"].contains(&one.name()));
        }
    }

    #[test]
    fn everything_that_is_offered_has_what_it_needs() {
        assert_eq!(Set::ALL.missing(), None);
        assert!(Set::ALL.has(Enlightenment::Evmcs));
        assert!(!Set::ALL.is_empty());
    }

    #[test]
    fn every_switch_implies_the_base() {
        for one in Enlightenment::EVERY {
            assert!(Set::NONE.with(*one).has(Enlightenment::Base), "{one:?}");
        }
        assert_eq!(Set::ALL.without(Enlightenment::Base), Set::NONE);
    }

    #[test]
    fn a_missing_dependency_is_named() {
        let set = Set::ALL
            .without(Enlightenment::ApicMsrs)
            .without(Enlightenment::VpAssist);
        assert_eq!(
            set.missing(),
            Some((Enlightenment::Evmcs, Enlightenment::VpAssist))
        );
    }
}
