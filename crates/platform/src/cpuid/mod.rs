//! CPUID as L1 sees it: what the processor has, through an allow-list.
//!
//! A feature is shown only if the hardware has it (or L0 emulates it), L1 can use
//! it without L0's help, and its state is kept apart from L0's. A bit nobody has
//! thought about is not in the list, so it is hidden. Leaves 0x40000000 and up
//! belong to the Hv#1 interface and are answered elsewhere.
//!
//! The answers are computed once per partition; a query is a table look-up
//! and the few bits that depend on the VP.

use serde::{Deserialize, Serialize};

pub(crate) mod features;
mod fit;
pub mod names;
mod rate;
mod xsave;

#[cfg(test)]
mod tests;

use features::{EXTENDED_1_ECX, EXTENDED_1_EDX, LEAF_1_ECX, LEAF_1_EDX};
use features::{LEAF_7_EBX, LEAF_7_ECX, LEAF_7_EDX};
pub use fit::Missing;
use rate::TscRate;
use xsave::Xsave;

use crate::GeneralProtection;
use crate::msr::HostMsrs;

/// What CPUID leaves in the registers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What the partition offers beyond what the hardware decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Number of VPs; their APIC ids count from 0.
    pub vps: u32,
    /// Whether L1 gets nested VMX.
    pub vmx: bool,
    /// Whether the TSC ticks at one rate always, on all VPs alike.
    pub invariant_tsc: bool,
    /// Whether VMCS 01 has "enable RDTSCP": without it RDTSCP and RDPID are #UD.
    pub rdtscp: bool,
    /// Whether VMCS 01 has "enable INVPCID".
    pub invpcid: bool,
    /// Whether VMCS 01 has "enable XSAVES/XRSTORS".
    pub xsaves: bool,
    /// Whether XSAVEC and XSAVES store what XRSTOR restores, as an emulator's need not.
    pub xsavec: bool,
    /// The TSC's rate in Hz, which is the APIC timer's too: leaf 0x15.
    pub tsc_hz: u64,
}

/// The state of a VP that shows through CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpView {
    /// The APIC id.
    pub apic_id: u32,
    /// Whether IA32_APIC_BASE enables the APIC.
    pub apic_enabled: bool,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// Last basic leaf, the TSC's rate: what a kernel without the Hv#1 frequency MSRs goes by, as
/// there is no PIT to measure with. It is made here, since an emulator's own misinforms. Between 0xD
/// and it lies what L1 does not get (SGX, PT, AMX), above it what it needs not; leaf 0x1F would say
/// the same as 0xB, since there are no modules or dies.
const LAST_BASIC: u32 = TSC_RATE;
/// The TSC's rate as a multiple of the APIC timer's.
const TSC_RATE: u32 = 0x15;
const LAST_EXTENDED: u32 = 0x8000_0008;
/// Leaves that are kept as they are: those below the TSC's rate.
const BASIC_COUNT: usize = TSC_RATE as usize;
const EXTENDED_COUNT: usize = (LAST_EXTENDED - 0x8000_0000) as usize + 1;
/// Most caches that leaf 4 describes.
const CACHES: usize = 8;

const APIC: u32 = 1 << 9;
const OSXSAVE: u32 = 1 << 27;

/// CPUID of a partition.
#[derive(Debug, Serialize, Deserialize)]
pub struct CpuidPolicy {
    rate: TscRate,
    basic: [Registers; BASIC_COUNT],
    extended: [Registers; EXTENDED_COUNT],
    caches: [Registers; CACHES],
    xsave: Xsave,
    vps: u32,
    last_basic: u32,
    last_extended: u32,
}

impl CpuidPolicy {
    /// The policy for a partition on hardware whose CPUID is `host` (leaf, sub-leaf).
    pub fn new(host: impl Fn(u32, u32) -> Registers, config: &Config) -> Self {
        let last_host = host(0, 0).eax;
        let basic_host = |leaf: u32, subleaf| {
            if leaf <= last_host {
                host(leaf, subleaf)
            } else {
                Registers::default()
            }
        };
        let last_host_extended = host(0x8000_0000, 0).eax;
        let extended_host = |leaf: u32| {
            if (0x8000_0000..=last_host_extended).contains(&leaf) {
                host(leaf, 0)
            } else {
                Registers::default()
            }
        };
        let has_xsave = basic_host(1, 0).ecx & features::XSAVE != 0;
        let xsave = if has_xsave {
            Xsave::new(|subleaf| basic_host(0xD, subleaf), config)
        } else {
            Xsave::default()
        };
        let mut policy = Self {
            rate: TscRate::new(config.tsc_hz),
            basic: [Registers::default(); BASIC_COUNT],
            extended: [Registers::default(); EXTENDED_COUNT],
            caches: [Registers::default(); CACHES],
            xsave,
            vps: config.vps.max(1),
            last_basic: LAST_BASIC,
            last_extended: last_host_extended.clamp(0x8000_0000, LAST_EXTENDED),
        };
        policy.basic[0] = Registers {
            eax: policy.last_basic,
            ..basic_host(0, 0)
        };
        policy.basic[1] = policy.leaf_1(basic_host(1, 0), config);
        // Cache and TLB descriptors: facts that change nothing L1 can do.
        policy.basic[2] = basic_host(2, 0);
        policy.basic[6] = Registers {
            // ARAT: the APIC timer never stops. The rest is thermal and power
            // management, which is L0's.
            eax: 1 << 2,
            ..Registers::default()
        };
        policy.basic[7] = policy.leaf_7(basic_host(7, 0), config);
        for (index, cache) in policy.caches.iter_mut().enumerate() {
            *cache = leaf_4(basic_host(4, index as u32), policy.vps);
            // Type 0 ends the list.
            if cache.eax & 0x1F == 0 {
                *cache = Registers::default();
                break;
            }
        }
        for (index, leaf) in (0x8000_0000..=policy.last_extended).enumerate() {
            policy.extended[index] = policy.extended_leaf(leaf, extended_host(leaf), config);
        }
        policy
    }

    /// What CPUID answers at `leaf` and `subleaf`. As on Intel's processors, leaves
    /// beyond the last one answer as the last basic leaf does.
    #[inline]
    pub fn query(&self, leaf: u32, subleaf: u32, vp: &VpView) -> Registers {
        if leaf & 0x8000_0000 != 0 && leaf <= self.last_extended {
            return self.extended[(leaf & 0xF) as usize];
        }
        match leaf.min(self.last_basic) {
            1 => self.leaf_1_of(vp),
            4 => {
                let caches = &self.caches;
                caches.get(subleaf as usize).copied().unwrap_or_default()
            }
            7 if subleaf != 0 => Registers::default(),
            0xB => self.topology(subleaf, vp),
            0xD => self.xsave.leaf(subleaf, vp.xcr0),
            TSC_RATE => self.rate.leaf(),
            leaf => self.basic[leaf as usize],
        }
    }

    /// Whether a processor can have led to this one, which was read: the leaves that it says are there
    /// are, and XCR0 can have all the components at once.
    pub fn is_possible(&self) -> bool {
        self.last_basic == LAST_BASIC
            && (0x8000_0000..=LAST_EXTENDED).contains(&self.last_extended)
            && self.xsave.is_possible()
    }

    /// Bits of IA32_ARCH_CAPABILITIES by which an L1 that was told `saved` by this policy is more
    /// vulnerable on hardware with `here` than it takes itself to be.
    pub fn open_here(&self, saved: &HostMsrs, here: &HostMsrs) -> u64 {
        match self.leaf_7_0().edx & features::ARCH_CAPABILITIES {
            0 => 0,
            _ => saved.open_on(here),
        }
    }

    /// The TSC's rate is another one from now on, in Hz; the APIC timer's stays.
    pub fn set_tsc_hz(&self, tsc_hz: u64) {
        self.rate.set(tsc_hz);
    }

    /// The rate of the APIC timer that leaf 0x15 tells, in Hz.
    pub fn apic_hz(&self) -> u64 {
        self.rate.apic_hz().into()
    }

    /// Bytes of an XSAVE area of the standard form with all components that L1 may enable, or of
    /// an FXSAVE area where it has no XSAVE.
    pub fn extended_state_size(&self) -> usize {
        self.xsave.largest_size() as usize
    }

    /// Whether a machine that would show L1 `here` can go on showing it this.
    ///
    /// # Errors
    ///
    /// The first thing that it lacks.
    pub fn fits(&self, here: &Self) -> Result<(), Missing> {
        fit::fits(self, here)
    }

    /// The state components that L1 may enable in XCR0.
    pub fn xcr0_supported(&self) -> u64 {
        self.xsave.supported()
    }

    /// Whether XSETBV may set XCR0 to `value` (SDM vol. 1, 13.3).
    ///
    /// # Errors
    ///
    /// #GP for components L1 does not have, and for combinations that do not exist.
    pub fn check_xcr0(&self, value: u64) -> Result<(), GeneralProtection> {
        self.xsave.check_xcr0(value)
    }

    /// The bits of leaf 1, ECX, that every VP shows.
    pub(crate) fn leaf_1_ecx(&self) -> u32 {
        self.basic[1].ecx
    }

    /// Leaf 7, sub-leaf 0.
    pub(crate) fn leaf_7_0(&self) -> Registers {
        self.basic[7]
    }

    /// Whether L1 has RDTSCP or RDPID, and so IA32_TSC_AUX.
    pub(crate) fn has_tsc_aux(&self) -> bool {
        self.extended[1].edx & features::RDTSCP != 0 || self.basic[7].ecx & features::RDPID != 0
    }

    /// Whether L1 has XSAVES, and so IA32_XSS.
    pub(crate) fn has_xsaves(&self) -> bool {
        self.xsave.has_xsaves()
    }

    fn leaf_1(&self, host: Registers, config: &Config) -> Registers {
        let mut ecx = host.ecx & LEAF_1_ECX | features::EMULATED_LEAF_1_ECX;
        if config.vmx {
            ecx |= features::VMX;
        }
        if !self.xsave.has_avx() {
            ecx &= !features::NEEDS_AVX_LEAF_1_ECX;
        }
        let mut edx = host.edx & LEAF_1_EDX;
        if self.vps > 1 {
            edx |= features::HTT;
        }
        let ids = self.vps.next_power_of_two().min(0xFF);
        Registers {
            eax: host.eax,
            // CLFLUSH line size; how many ids the package has.
            ebx: host.ebx & 0xFF00 | ids << 16,
            ecx,
            edx,
        }
    }

    #[inline]
    fn leaf_1_of(&self, vp: &VpView) -> Registers {
        let mut leaf = self.basic[1];
        leaf.ebx |= vp.apic_id << 24;
        if vp.osxsave {
            leaf.ecx |= OSXSAVE;
        }
        if vp.apic_enabled {
            leaf.edx |= APIC;
        }
        leaf
    }

    fn leaf_7(&self, host: Registers, config: &Config) -> Registers {
        let mut ebx = host.ebx & LEAF_7_EBX | features::EMULATED_LEAF_7_EBX;
        let mut ecx = host.ecx & LEAF_7_ECX;
        let mut edx = host.edx & LEAF_7_EDX;
        if !config.invpcid {
            ebx &= !features::INVPCID;
        }
        if !config.rdtscp {
            ecx &= !features::RDPID;
        }
        if !self.xsave.has_avx() {
            ebx &= !features::AVX2;
            ecx &= !features::NEEDS_AVX_LEAF_7_ECX;
        }
        if !self.xsave.has_avx512() {
            ebx &= !features::AVX512_LEAF_7_EBX;
            ecx &= !features::AVX512_LEAF_7_ECX;
            edx &= !features::AVX512_LEAF_7_EDX;
        }
        // EAX, the last sub-leaf: 0.
        Registers {
            eax: 0,
            ebx,
            ecx,
            edx,
        }
    }

    /// Leaf 0xB: one package of `vps` cores with one thread each.
    fn topology(&self, subleaf: u32, vp: &VpView) -> Registers {
        const SMT: u32 = 1 << 8;
        const CORE: u32 = 2 << 8;
        let (shift, count, kind) = match subleaf {
            0 => (0, 1, SMT),
            1 => (id_bits(self.vps), self.vps, CORE),
            _ => (0, 0, 0),
        };
        Registers {
            eax: shift,
            ebx: count,
            ecx: subleaf & 0xFF | kind,
            edx: vp.apic_id,
        }
    }

    fn extended_leaf(&self, leaf: u32, host: Registers, config: &Config) -> Registers {
        match leaf {
            0x8000_0000 => Registers {
                eax: self.last_extended,
                ..Registers::default()
            },
            0x8000_0001 => {
                let mut edx = host.edx & EXTENDED_1_EDX;
                if !config.rdtscp {
                    edx &= !features::RDTSCP;
                }
                Registers {
                    eax: 0,
                    ebx: 0,
                    ecx: host.ecx & EXTENDED_1_ECX,
                    edx,
                }
            }
            // The brand string.
            0x8000_0002..=0x8000_0004 => host,
            // L2 cache, as leaf 4 has it.
            0x8000_0006 => Registers {
                ecx: host.ecx,
                ..Registers::default()
            },
            0x8000_0007 => Registers {
                edx: u32::from(config.invariant_tsc) << 8,
                ..Registers::default()
            },
            0x8000_0008 => {
                // Linear addresses have 48 bits, since LA57 is hidden.
                let (physical, linear) = (host.eax & 0xFF, (host.eax >> 8 & 0xFF).min(48));
                Registers {
                    eax: physical | linear << 8,
                    ..Registers::default()
                }
            }
            _ => Registers::default(),
        }
    }
}

/// Bits that APIC ids of `vps` VPs take.
fn id_bits(vps: u32) -> u32 {
    vps.next_power_of_two().trailing_zeros()
}

/// Leaf 4: the hardware's caches, shared as the partition's topology says: each VP
/// is a core with its own L1 and L2, the last level is the package's.
fn leaf_4(host: Registers, vps: u32) -> Registers {
    let package_ids = vps.next_power_of_two() - 1;
    let level = host.eax >> 5 & 7;
    let sharing = if level >= 3 { package_ids } else { 0 };
    let eax = host.eax & 0x3FFF | sharing.min(0xFFF) << 14 | package_ids.min(0x3F) << 26;
    Registers { eax, ..host }
}
