//! Interprocessor interrupts.

use super::abi::Input;
use super::vp_set::VpSet;
use tlfs::hypercall::Status;

/// Lowest vector that a call can send.
const LOWEST_VECTOR: u8 = 0x10;

/// SendSyntheticClusterIpi and its Ex form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendIpi {
    /// The vector, at least 0x10, of a fixed, edge-triggered interrupt.
    pub vector: u8,
    /// The VPs to interrupt. Those that the partition has not are none of its
    /// business.
    pub targets: VpSet,
}

pub(super) fn send<A>(input: &Input<A>) -> Result<SendIpi, Status> {
    let [word, mask, ..] = input.header;
    // After the vector come the target's trust level, of which there is only
    // the lowest, and padding.
    if word >> 32 != 0 {
        return Err(Status::INVALID_HYPERCALL_INPUT);
    }
    let vector = u8::try_from(word).or(Err(Status::INVALID_PARAMETER))?;
    if vector < LOWEST_VECTOR {
        return Err(Status::INVALID_PARAMETER);
    }
    Ok(SendIpi {
        vector,
        targets: input.set.unwrap_or(VpSet::mask(mask)),
    })
}
