//! CPUID of L1.

use platform::apic::Mode;
use platform::cpuid::{Config, CpuidPolicy, VpView};
use tlfs::cpuid::{HYPERVISOR_RANGE_FIRST, HYPERVISOR_RANGE_LAST};
use vmx::{Field, SecondaryControls};

use super::vmcs::read;
use super::{Registers, Vp};
use crate::cpu::{register, xsave};

/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;

/// A name that CPUID spells out.
pub struct Name([u8; 48]);

impl Name {
    /// The name, without the zeroes behind it.
    pub fn text(&self) -> &str {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(48);
        core::str::from_utf8(&self.0[..end]).unwrap_or("")
    }
}

/// The processor's brand string.
pub fn brand() -> Name {
    let mut name = [0; 48];
    for (i, chunk) in name.chunks_exact_mut(16).enumerate() {
        let leaf = register::cpuid(0x8000_0002 + i as u32, 0);
        for (bytes, word) in chunk.chunks_exact_mut(4).zip(leaf) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
    Name(name)
}

/// The processor's vendor.
pub fn vendor() -> Name {
    let [_, b, c, d] = register::cpuid(0, 0);
    let mut name = [0; 48];
    for (bytes, word) in name.chunks_exact_mut(4).zip([b, d, c]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Name(name)
}

fn hardware(leaf: u32, subleaf: u32) -> platform::cpuid::Registers {
    let [eax, ebx, ecx, edx] = register::cpuid(leaf, subleaf);
    platform::cpuid::Registers { eax, ebx, ecx, edx }
}

/// What L1 sees of the CPUID of this processor, which is in root operation and runs no guest yet.
pub fn policy(vps: usize, secondary: SecondaryControls, tsc_hz: u64) -> CpuidPolicy {
    CpuidPolicy::new(
        hardware,
        &Config {
            vps: vps as u32,
            vmx: true,
            // Linux goes by the reference TSC page; a plain TSC would outrank it.
            invariant_tsc: false,
            rdtscp: secondary.contains(SecondaryControls::ENABLE_RDTSCP),
            invpcid: secondary.contains(SecondaryControls::ENABLE_INVPCID),
            xsaves: secondary.contains(SecondaryControls::ENABLE_XSAVES),
            xsavec: xsave::xsavec_is_sound(),
            tsc_hz,
        },
    )
}

/// CPUID.1.EAX: family, model, stepping.
pub fn signature() -> u32 {
    register::cpuid(1, 0)[0]
}

/// Physical address bits of the processor.
pub fn physical_address_bits() -> u8 {
    register::cpuid(0x8000_0008, 0)[0] as u8
}

impl Vp {
    /// CPUID of L1.
    #[inline]
    pub fn cpuid_exit(&mut self) {
        let leaf = self.registers.0[Registers::RAX] as u32;
        let subleaf = self.registers.0[Registers::RCX] as u32;
        let result = if (HYPERVISOR_RANGE_FIRST..=HYPERVISOR_RANGE_LAST).contains(&leaf) {
            self.partition.hyperv.cpuid(leaf).unwrap_or([0; 4])
        } else {
            // The VP's state shows in two leaves only; the others are spared its reading.
            let shows_state = matches!(leaf, 1 | 0xD);
            let view = VpView {
                apic_id: self.apic.id(),
                apic_enabled: self.apic.mode() != Mode::Disabled,
                osxsave: shows_state && read(Field::GUEST_CR4) & CR4_OSXSAVE != 0,
                xcr0: if shows_state {
                    // SAFETY: L0 has CR4.OSXSAVE set; XCR0 is L1's, which nothing else changes.
                    unsafe { register::xcr0() }
                } else {
                    0
                },
            };
            let r = self.partition.setup.cpuid.query(leaf, subleaf, &view);
            [r.eax, r.ebx, r.ecx, r.edx]
        };
        let registers = &mut self.registers.0;
        registers[Registers::RAX] = u64::from(result[0]);
        registers[Registers::RBX] = u64::from(result[1]);
        registers[Registers::RCX] = u64::from(result[2]);
        registers[Registers::RDX] = u64::from(result[3]);
        self.advance();
    }
}
