//! The CPUID leaves that a guest is given: what KVM supports, made true for this
//! vCPU of this guest, with KVM's own hypervisor leaves or with Hyper-V's.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use crate::error::{Result, refused};

/// First leaf of the range that the processor leaves to hypervisors.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Last leaf that this vmm takes for one of a hypervisor.
const HYPERVISOR_LAST: u32 = 0x4000_FFFF;

/// CPUID.1:ECX.X2APIC\[21\].
const X2APIC: u32 = 1 << 21;
/// CPUID.1:ECX.TSC_DEADLINE\[24\].
const TSC_DEADLINE: u32 = 1 << 24;
/// CPUID.1:ECX\[31\]: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;

/// What the leaves must say beyond what KVM supports.
#[derive(Clone, Copy, Debug)]
pub struct Vcpu {
    /// The vCPU's number, which is its APIC id. Each is a package of one thread.
    pub id: u32,
    /// Whether the in-kernel local APIC has a TSC-deadline timer. (KVM leaves it
    /// to user space to show that.)
    pub tsc_deadline: bool,
}

/// The leaves for one vCPU, from those KVM supports. With `hyperv`, the leaves
/// that KVM supports as an Hv#1 hypervisor take the place of KVM's own: a guest
/// must not see both, as their hypercalls cannot be told apart.
pub fn leaves(
    supported: &[kvm_cpuid_entry2],
    hyperv: Option<&[kvm_cpuid_entry2]>,
    vcpu: Vcpu,
) -> Vec<kvm_cpuid_entry2> {
    let is_hypervisors = |leaf: u32| (HYPERVISOR_BASE..=HYPERVISOR_LAST).contains(&leaf);
    let mut leaves: Vec<_> = supported
        .iter()
        .filter(|leaf| hyperv.is_none() || !is_hypervisors(leaf.function))
        // Topology is made below.
        .filter(|leaf| !matches!(leaf.function, 0xB | 0x1F))
        .copied()
        .collect();
    for leaf in &mut leaves {
        match leaf.function {
            0x1 => identify(leaf, vcpu),
            // Cores in a package, minus one, and threads that share a cache.
            0x4 => leaf.eax &= 0x3FFF,
            _ => {}
        }
    }
    if supported
        .iter()
        .any(|leaf| leaf.function == 0 && leaf.eax >= 0xB)
    {
        leaves.extend(topology(vcpu));
    }
    leaves.extend(
        hyperv
            .unwrap_or_default()
            .iter()
            .map(|leaf| as_hyper_v(*leaf)),
    );
    leaves
}

/// Leaf 1: the APIC id, how many APIC ids the package takes, and what the APIC can do.
fn identify(leaf: &mut kvm_cpuid_entry2, vcpu: Vcpu) {
    leaf.ebx = leaf.ebx & 0x0000_FFFF | 1 << 16 | vcpu.id << 24;
    leaf.ecx |= X2APIC | HYPERVISOR;
    if vcpu.tsc_deadline {
        leaf.ecx |= TSC_DEADLINE;
    }
}

/// Leaf 0xB: each vCPU is the one thread of the one core of a package.
fn topology(vcpu: Vcpu) -> [kvm_cpuid_entry2; 3] {
    /// Level types of ECX\[15:8\].
    const INVALID: u32 = 0;
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    [(0, SMT, 1), (1, CORE, 1), (2, INVALID, 0)].map(|(index, level, threads)| kvm_cpuid_entry2 {
        function: 0xB,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        // How far to shift the APIC id to get the id of the next level: the id
        // names the package alone.
        eax: 0,
        ebx: threads,
        ecx: level << 8 | index,
        edx: vcpu.id,
        ..Default::default()
    })
}

/// KVM signs its Hv#1 leaves "Linux KVM Hv"; guests look for Microsoft's name.
fn as_hyper_v(mut leaf: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
    if leaf.function == HYPERVISOR_BASE {
        (leaf.ebx, leaf.ecx, leaf.edx) = MICROSOFT_HV;
    }
    leaf
}

/// "Microsoft Hv" in EBX, ECX and EDX (TLFS, leaf 0x40000000).
const MICROSOFT_HV: (u32, u32, u32) = (
    u32::from_le_bytes(*b"Micr"),
    u32::from_le_bytes(*b"osof"),
    u32::from_le_bytes(*b"t Hv"),
);

/// Gives a vCPU its leaves.
pub fn set(vcpu: &VcpuFd, leaves: &[kvm_cpuid_entry2]) -> Result<()> {
    let leaves = CpuId::from_entries(leaves)
        .map_err(|_| refused(WHAT_SET)(errno::Error::new(libc::E2BIG)))?;
    vcpu.set_cpuid2(&leaves).map_err(refused(WHAT_SET))
}

const WHAT_SET: &str = "take a vCPU's CPUID leaves";

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    fn supported() -> Vec<kvm_cpuid_entry2> {
        let mut zero = leaf(0, 0);
        zero.eax = 0x16;
        let mut one = leaf(1, 0);
        one.ebx = 0x1234_0800;
        let mut host_topology = leaf(0xB, 1);
        host_topology.edx = 77;
        let mut kvm = leaf(0x4000_0000, 0);
        kvm.ebx = u32::from_le_bytes(*b"KVMK");
        vec![
            zero,
            one,
            host_topology,
            kvm,
            leaf(0x4000_0001, 0),
            leaf(0x8000_0000, 0),
        ]
    }

    fn hyperv() -> Vec<kvm_cpuid_entry2> {
        let mut base = leaf(0x4000_0000, 0);
        base.eax = 0x4000_000A;
        base.ebx = u32::from_le_bytes(*b"Linu");
        vec![base, leaf(0x4000_0001, 0), leaf(0x4000_0003, 0)]
    }

    const SECOND: Vcpu = Vcpu {
        id: 1,

        tsc_deadline: true,
    };

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> Vec<kvm_cpuid_entry2> {
        leaves
            .iter()
            .filter(|l| l.function == function && l.index == index)
            .copied()
            .collect()
    }

    #[test]
    fn apic_id_is_the_vcpus_wherever_it_is_shown() {
        let leaves = leaves(&supported(), None, SECOND);
        let one = find(&leaves, 1, 0)[0];
        assert_eq!(one.ebx, 0x0101_0800);
        for index in 0..=2 {
            let level = find(&leaves, 0xB, index);
            assert_eq!(level.len(), 1, "the host's own topology must not show");
            assert_eq!(level[0].edx, 1);
        }
    }

    #[test]
    fn tsc_deadline_only_where_the_apic_has_it() {
        let with = leaves(&supported(), None, SECOND);
        assert_ne!(find(&with, 1, 0)[0].ecx & TSC_DEADLINE, 0);
        let without = leaves(
            &supported(),
            None,
            Vcpu {
                tsc_deadline: false,
                ..SECOND
            },
        );
        assert_eq!(find(&without, 1, 0)[0].ecx & TSC_DEADLINE, 0);
    }

    #[test]
    fn hyper_v_leaves_replace_kvms() {
        let plain = leaves(&supported(), None, SECOND);
        assert_eq!(
            find(&plain, 0x4000_0000, 0)[0].ebx,
            u32::from_le_bytes(*b"KVMK")
        );
        let enlightened = leaves(&supported(), Some(&hyperv()), SECOND);
        let base = find(&enlightened, 0x4000_0000, 0);
        assert_eq!(base.len(), 1);
        let name: Vec<u8> = [base[0].ebx, base[0].ecx, base[0].edx]
            .iter()
            .flat_map(|r| r.to_le_bytes())
            .collect();
        assert_eq!(name, b"Microsoft Hv");
        assert_eq!(base[0].eax, 0x4000_000A);
        assert_eq!(find(&enlightened, 0x4000_0001, 0).len(), 1);
        assert_eq!(
            find(&enlightened, 0x8000_0000, 0).len(),
            1,
            "other leaves stay"
        );
    }
}
