//! VT-x as types: VMCS fields, controls, capability MSRs, exits, EPT entries; and the instructions.
//!
//! Everything here is a name for something in the SDM (Volume 3, "Introduction
//! to Virtual Machine Extensions" to "VMX Instruction Reference" and the
//! appendices on capability reporting, field encoding and exit reasons) and
//! holds no policy. Section and table numbers are those of the 2023-2024 editions.
#![no_std]
#![deny(unsafe_code)]

mod capability;
mod controls;
mod error;
mod event;
mod exit;
mod field;
mod instruction_info;
mod qualification;
mod segment;

pub use capability::{Allowed, Capabilities, CapabilityMissing, ept_vpid, msr};
pub use controls::{
    ActivityState, EntryControls, ExitControls, Interruptibility, PinControls, PrimaryControls,
    SecondaryControls,
};
pub use error::VmInstructionError;
pub use event::{EventType, InterruptionInfo};
pub use exit::{BasicExitReason, ExitReason};
pub use field::{Field, Kind, Width};
pub use instruction_info::{AddressSize, InstructionInfo, SegmentRegister};
pub use qualification::{CrAccess, DrAccess, EptViolation, IoAccess};
pub use segment::AccessRights;

pub mod ept;

pub mod instructions;

pub mod names;
