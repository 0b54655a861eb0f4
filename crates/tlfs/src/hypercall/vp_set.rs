//! The sparse set of virtual processors (HV_VP_SET): a format word, a mask of
//! the banks that follow, and the banks in ascending order, each a mask of 64
//! VPs. All are 8 bytes wide.

/// VPs of a bank: bank `n` holds the VPs `64 * n` to `64 * n + 63`.
pub const VPS_PER_BANK: u32 = 64;
/// Banks of a sparse set.
pub const SPARSE_BANKS: u32 = 64;

/// How a VP set is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum VpSetFormat {
    /// By up to 64 banks of 64 VPs.
    Sparse4K = 0,
    /// All VPs of the partition.
    All = 1,
}

impl VpSetFormat {
    /// The format that a word stands for, if it is one.
    pub const fn from_word(word: u64) -> Option<Self> {
        match word {
            0 => Some(Self::Sparse4K),
            1 => Some(Self::All),
            _ => None,
        }
    }
}
