//! The hypervisor CPUID leaves, 0x40000000 to 0x4000000A (TLFS, "Feature and
//! Interface Discovery").
//!
//! A leaf is four words, in the order EAX, EBX, ECX, EDX; the words that hold
//! flags are bitfields of their own so that a mask reads as names.

pub mod names;
mod nested;
mod privileges;
mod recommendations;

pub use nested::NestedFeatures;
pub use privileges::{Features, Privileges};
pub use recommendations::{HardwareFeatures, NEVER_NOTIFY_LONG_SPIN, Recommendations};

/// The leaf numbers.
pub mod leaf {
    /// Highest leaf (EAX) and the vendor string (EBX, ECX, EDX).
    pub const VENDOR_AND_MAX: u32 = 0x4000_0000;
    /// The interface signature (EAX).
    pub const INTERFACE: u32 = 0x4000_0001;
    /// The hypervisor's version, see [`super::Version`].
    pub const VERSION: u32 = 0x4000_0002;
    /// [`super::Privileges`] (EAX, EBX) and [`super::Features`] (EDX).
    pub const FEATURES: u32 = 0x4000_0003;
    /// [`super::Recommendations`] (EAX), spin retries before
    /// NotifyLongSpinWait (EBX), physical address bits (ECX 6:0).
    pub const RECOMMENDATIONS: u32 = 0x4000_0004;
    /// Most virtual processors (EAX) and logical processors (EBX).
    pub const LIMITS: u32 = 0x4000_0005;
    /// [`super::HardwareFeatures`] (EAX).
    pub const HARDWARE: u32 = 0x4000_0006;
    /// [`super::NestedFeatures`] (EAX, EBX).
    pub const NESTED: u32 = 0x4000_000A;
}

/// First leaf number of the range that CPUID reserves for hypervisors.
pub const HYPERVISOR_RANGE_FIRST: u32 = 0x4000_0000;
/// Last leaf number of that range.
pub const HYPERVISOR_RANGE_LAST: u32 = 0x4FFF_FFFF;

/// "Microsoft Hv" as EBX, ECX and EDX of leaf 0x40000000. The TLFS calls the
/// string diagnostic, but Linux recognises the interface by nothing else.
pub const VENDOR: [u32; 3] = [0x7263_694D, 0x666F_736F, 0x7648_2074];
/// "Hv#1" as EAX of leaf 0x40000001: the interface these types describe.
pub const INTERFACE: u32 = 0x3123_7648;

/// The hypervisor's version, leaf 0x40000002.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// Major version, EBX 31:16.
    pub major: u16,
    /// Minor version, EBX 15:0.
    pub minor: u16,
    /// Build number, EAX.
    pub build: u32,
}

impl Version {
    /// The leaf's four words; service pack and service branch are zero.
    pub const fn words(self) -> [u32; 4] {
        [
            self.build,
            (self.major as u32) << 16 | self.minor as u32,
            0,
            0,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_spell_their_names() {
        let mut vendor = [0; 12];
        for (word, bytes) in VENDOR.iter().zip(vendor.chunks_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(&vendor, b"Microsoft Hv");
        assert_eq!(&INTERFACE.to_le_bytes(), b"Hv#1");
    }

    #[test]
    fn version_words() {
        let version = Version {
            major: 10,
            minor: 1,
            build: 20348,
        };
        assert_eq!(version.words(), [20348, 0x000A_0001, 0, 0]);
    }
}
