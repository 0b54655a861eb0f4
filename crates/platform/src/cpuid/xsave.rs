//! Leaf 0xD: the XSAVE area, computed from what the hardware says of each
//! component, so that sizes agree with components whatever an emulator claims.
//! SDM vol. 1, chapter 13.

use super::{Config, Registers};
use crate::GeneralProtection;
use serde::{Deserialize, Serialize};

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// Opmask, ZMM_Hi256, Hi16_ZMM: enabled together or not at all.
const AVX512: u64 = 7 << 5;

/// The components L1 may have. MPX (3, 4), PKRU (9) and AMX (17, 18) go with features
/// that are hidden; supervisor components would need IA32_XSS.
const ALLOWED: u64 = X87 | SSE | AVX | AVX512;
/// Components looked at: up to the highest allowed one.
const COMPONENTS: usize = 8;

/// Bytes of the legacy region and the header.
const BASE_SIZE: u32 = 576;

const XSAVEC: u32 = 1 << 1;
const XSAVES: u32 = 1 << 3;
/// XSAVEOPT, XSAVEC, XGETBV with ECX = 1. Not XFD, which goes with AMX.
const INSTRUCTIONS: u32 = 1 | XSAVEC | 1 << 2;

/// What the partition has of XSAVE; nothing, by default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Xsave {
    supported: u64,
    instructions: u32,
    /// Sub-leaf i: size, offset, flags of component i.
    components: [Registers; COMPONENTS],
}

impl Xsave {
    /// What hardware with this leaf 0xD offers to L1.
    pub(super) fn new(host: impl Fn(u32) -> Registers, config: &Config) -> Self {
        let main = host(0);
        let mut supported = (u64::from(main.edx) << 32 | u64::from(main.eax)) & ALLOWED;
        if supported & AVX == 0 || supported & AVX512 != AVX512 {
            supported &= !AVX512;
        }
        let mut components = [Registers::default(); COMPONENTS];
        for (index, component) in components.iter_mut().enumerate().skip(2) {
            if supported & 1 << index != 0 {
                let Registers { eax, ebx, ecx, .. } = host(index as u32);
                *component = Registers {
                    eax,
                    ebx,
                    // Bit 1: starts at a multiple of 64 in the compacted form.
                    ecx: ecx & 2,
                    edx: 0,
                };
            }
        }
        let mut instructions = INSTRUCTIONS | XSAVES;
        if !config.xsaves {
            instructions &= !XSAVES;
        }
        if !config.xsavec {
            instructions &= !(XSAVEC | XSAVES);
        }
        Self {
            supported,
            instructions: host(1).eax & instructions,
            components,
        }
    }

    pub(super) const fn supported(&self) -> u64 {
        self.supported
    }

    pub(super) const fn has_avx(&self) -> bool {
        self.supported & AVX != 0
    }

    pub(super) const fn has_avx512(&self) -> bool {
        self.supported & AVX512 != 0
    }

    pub(super) const fn has_xsaves(&self) -> bool {
        self.instructions & XSAVES != 0
    }

    /// A sub-leaf of 0xD. Not inlined: it takes more registers than all other leaves, and each CPUID would save them.
    #[inline(never)]
    pub(super) fn leaf(&self, subleaf: u32, xcr0: u64) -> Registers {
        match subleaf {
            0 if self.supported == 0 => Registers::default(),
            0 => Registers {
                eax: self.supported as u32,
                ebx: self.standard_size(xcr0),
                ecx: self.standard_size(self.supported),
                edx: (self.supported >> 32) as u32,
            },
            1 => Registers {
                eax: self.instructions,
                ebx: if self.instructions & (XSAVEC | XSAVES) != 0 {
                    self.compacted_size(xcr0)
                } else {
                    0
                },
                // Supervisor components: none.
                ecx: 0,
                edx: 0,
            },
            _ => {
                let components = &self.components;
                components
                    .get(subleaf as usize)
                    .copied()
                    .unwrap_or_default()
            }
        }
    }

    /// Bytes of an area in the standard form with all components; of an FXSAVE area where there is
    /// none.
    pub(super) fn largest_size(&self) -> u32 {
        /// Bytes of an FXSAVE area.
        const LEGACY_SIZE: u32 = 512;
        if self.supported == 0 {
            LEGACY_SIZE
        } else {
            self.standard_size(self.supported)
        }
    }

    /// What of this `here` lacks: components, which lie elsewhere there too, and instructions.
    pub(super) fn missing(&self, here: &Self) -> (u64, u32) {
        let mut components = self.supported & !here.supported;
        for (index, pair) in self.components.iter().zip(&here.components).enumerate() {
            if self.supported >> index & 1 != 0 && pair.0 != pair.1 {
                components |= 1 << index;
            }
        }
        (components, self.instructions & !here.instructions)
    }

    pub(super) fn check_xcr0(&self, value: u64) -> Result<(), GeneralProtection> {
        let has = |bits| value & bits != 0;
        let legal = has(X87)
            && value & !self.supported == 0
            && (!has(AVX) || has(SSE))
            && (!has(AVX512) || has(AVX) && value & AVX512 == AVX512);
        if legal {
            Ok(())
        } else {
            Err(GeneralProtection)
        }
    }

    /// Whether XCR0 can have all the components at once.
    pub(super) fn is_possible(&self) -> bool {
        self.supported == 0 || self.check_xcr0(self.supported).is_ok()
    }

    fn enabled(&self, xcr0: u64) -> impl Iterator<Item = &Registers> {
        let components = self.components.iter().enumerate();
        components
            .filter(move |(index, _)| xcr0 & self.supported & 1 << index != 0)
            .map(|(_, component)| component)
    }

    /// Bytes of an area in the standard form with these components.
    fn standard_size(&self, xcr0: u64) -> u32 {
        let end = |component: &Registers| component.ebx.saturating_add(component.eax);
        self.enabled(xcr0).map(end).fold(BASE_SIZE, u32::max)
    }

    /// Bytes of an area in the compacted form with these components.
    fn compacted_size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0).fold(BASE_SIZE, |size, component| {
            let align = if component.ecx & 2 != 0 { 64 } else { 1 };
            size.checked_next_multiple_of(align)
                .unwrap_or(u32::MAX)
                .saturating_add(component.eax)
        })
    }
}
