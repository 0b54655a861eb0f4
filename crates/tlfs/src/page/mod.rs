//! The pages that guest and hypervisor share: where each field lies.

pub mod assist;
pub mod reference_tsc;
