//! The tests, in groups.

mod audit;
mod clean_fields;
mod entry;
mod ept;
mod evmcs;
mod exits;
mod hostile;
mod hypercalls;
mod platform;
mod saving;
mod time;
mod vmx;

use crate::rt::harness::Group;

/// Every group, in the order in which they run.
pub const ALL: &[Group] = &[
    platform::GROUP,
    vmx::GROUP,
    entry::GROUP,
    exits::GROUP,
    ept::GROUP,
    evmcs::GROUP,
    clean_fields::GROUP,
    hypercalls::GROUP,
    hostile::GROUP,
    time::GROUP,
    saving::GROUP,
    audit::GROUP,
];
