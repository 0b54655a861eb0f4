//! EPT 12's translation and L1's memory map, composed into a leaf of EPT 02.

use addr::Gpa2;
use vmx::ept::Access;

use super::tables::NewLeaf;
use super::walk::Walker;
use super::{Fill, L1Space, Policy, WalkError};

/// The leaf by which L2 may be given `access` to `at`; an empty `access` asks
/// for what there is.
///
/// # Errors
/// What [`Fill`] says of an address that L2 cannot be given.
#[inline]
pub(super) fn compose<L: L1Space, const TRAILS: usize>(
    policy: &Policy,
    walker: &mut Walker<'_, L, TRAILS>,
    l1: &L,
    at: Gpa2,
    access: Access,
) -> Result<NewLeaf, Fill> {
    let (to, source) = walker
        .translate(at, access)
        .map_err(|refusal| match refusal {
            WalkError::Violation(violation) => Fill::Violation(violation),
            WalkError::Misconfigured(what) => Fill::Misconfigured(what),
        })?;
    let region = l1.region(to.address).ok_or(Fill::NotBacked(to.address))?;
    let backing = region
        .translate(to.address)
        .ok_or(Fill::NotBacked(to.address))?;
    let hardware = &policy.hardware;
    let permitted = (to.access & region.access).expressible(hardware.execute_only);
    if permitted.is_empty() || !permitted.contains(access) {
        return Err(Fill::Protected(to.address));
    }
    Ok(NewLeaf {
        at,
        to: backing,
        largest: region.page_size(to.address, to.size, hardware),
        access: permitted,
        memory_type: policy.memory_type,
        ignore_pat: policy.ignore_pat,
        source,
    })
}
