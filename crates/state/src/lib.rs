//! The state of a partition whose VPs are stopped, as plain data: all of it but L1's memory.
//!
//! What is here is what a partition *is*. What L0 keeps beside it to be fast (VMCS 02, merged MSR
//! bitmaps, shadow EPTs, copies of enlightened VMCSs) is no part of it and starts cold on the
//! machine that takes the state up. [`encode`] gives the bytes that stand in a state file;
//! [`Machine::decode`] takes them back if they can be the state of a partition at all: a state file
//! is a person's input, and L0 trusts none.
//!
//! Whether *this* machine can be that partition's is [`Setup::fits`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bounded;
mod setup;
mod vmcs01;
mod vp;

#[cfg(test)]
mod tests;

pub use setup::{Setup, Unfit};
pub use vmcs01::{FIELDS as VMCS01, Vmcs01};
pub use vp::{Activity, Processor, Vp};

use alloc::vec::Vec;
use core::fmt;

use hyperv::PartitionState;
use hyperv::clock::{TooSlow, Tsc, TscSource};
use nested::saved::BadState;
use platform::ioapic::Ioapic;
use platform::rtc::Rtc;
use platform::uart::Uart;
use serde::{Deserialize, Serialize};

/// The number of the form that states have in bytes: nothing in these says what stands where. It is
/// another one whenever the bytes of the same state are, or the same bytes say something else. The
/// first form had no number.
pub const FORM: u32 = 2;

/// The whole state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// What the partition was created with.
    pub setup: Setup,
    /// What its VPs share.
    pub partition: Partition,
    /// Its VPs, by index.
    #[serde(deserialize_with = "bounded::at_most::<_, _, { hyperv::MAX_VPS as usize }>")]
    pub vps: Vec<Vp>,
}

/// What VPs share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Partition {
    /// The partition's TSC when it was stopped; it goes on from there.
    pub tsc: Tsc,
    /// The rate at which it ran, in Hz.
    pub tsc_hz: u64,
    /// The Hv#1 server's state.
    pub hyperv: PartitionState,
    /// The IOAPIC.
    pub ioapic: Ioapic,
    /// The two UARTs.
    pub uarts: [Uart; 2],
    /// The clock chip.
    pub rtc: Rtc,
}

/// Why bytes are no state of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// They are of a state in a form of another number.
    Version(u32),
    /// They are not in the form that states have.
    Form,
    /// No processor's CPUID is so.
    Cpuid,
    /// So many VPs there cannot be, or not for this number of states.
    Vps(u32),
    /// The TSC cannot have run at this rate.
    Rate(TooSlow),
    /// Something of a device cannot be.
    Device(&'static str),
    /// Something of a VP cannot be.
    Vp(usize, &'static str),
    /// A VP's nested VMX cannot be so.
    Nested(usize, BadState),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(number) => write!(
                f,
                "the partition's state is in form {number}, and this hynest reads form {FORM}"
            ),
            Self::Form => write!(
                f,
                "the partition's state is not in the form of its number, {FORM}"
            ),
            Self::Cpuid => f.write_str("what the partition was told by CPUID cannot be"),
            Self::Vps(vps) => write!(f, "the state is not that of {vps} VPs"),
            Self::Rate(slow) => slow.fmt(f),
            Self::Device(what) => write!(f, "the state of the {what} cannot be"),
            Self::Vp(index, what) => write!(f, "the state of VP {index} cannot be: its {what}"),
            Self::Nested(index, bad) => write!(f, "the state of VP {index} cannot be: {bad}"),
        }
    }
}

impl core::error::Error for Bad {}

/// The state of a partition in bytes, which [`Machine::decode`] reads.
pub fn encode(setup: &Setup, partition: &Partition, vps: &[Vp]) -> Vec<u8> {
    // The fields of a `Machine`, in their order. Nothing in a state has a length that is not known,
    // the one way to fail there is.
    postcard::to_allocvec(&(FORM, setup, partition, vps)).unwrap_or_default()
}

impl Machine {
    /// The state in bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.setup, &self.partition, &self.vps)
    }

    /// The state that `bytes` say, all of them.
    ///
    /// # Errors
    ///
    /// [`Bad`], with what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let (form, bytes) = postcard::take_from_bytes(bytes).map_err(|_| Bad::Form)?;
        if form != FORM {
            return Err(Bad::Version(form));
        }
        let (mut machine, rest) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|_| Bad::Form)?;
        if !rest.is_empty() {
            return Err(Bad::Form);
        }
        machine.check()?;
        Ok(machine)
    }

    /// Whether a partition can be in this state. Fills in what follows from the rest.
    fn check(&mut self) -> Result<(), Bad> {
        let vps = self.setup.vps;
        if !(1..=hyperv::MAX_VPS).contains(&vps) || self.vps.len() != vps as usize {
            return Err(Bad::Vps(vps));
        }
        if !self.setup.cpuid.is_possible() {
            return Err(Bad::Cpuid);
        }
        TscSource::new(0, self.partition.tsc_hz).map_err(Bad::Rate)?;
        if !self.partition.uarts.iter().all(Uart::is_possible) {
            return Err(Bad::Device("UARTs"));
        }
        for (index, vp) in self.vps.iter_mut().enumerate() {
            vp.check(index, &self.setup)?;
        }
        Ok(())
    }
}
