//! The KVM of this machine: what it offers, and the one ioctl that
//! `kvm-ioctls` does not wrap.

use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV_CPUID, KVM_CAP_HYPERV_DIRECT_TLBFLUSH, KVM_CAP_SYS_HYPERV_CPUID,
    KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_cpuid_entry2, kvm_cpuid2, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::{errno, ioctl_iowr_nr};

use crate::error::{Error, Result, refused};

ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);

/// An open `/dev/kvm`.
pub struct Host {
    kvm: Kvm,
}

impl Host {
    /// Opens `/dev/kvm` and checks that it speaks the API version that all of
    /// today's kernels speak (12).
    pub fn open() -> Result<Self> {
        let kvm = Kvm::new().map_err(Error::NoKvm)?;
        if kvm.get_api_version() != 12 {
            return Err(Error::NotOffered("version 12 of the KVM API"));
        }
        Ok(Host { kvm })
    }

    /// The value of a capability; 0 when KVM does not know it.
    pub fn offers(&self, capability: u32) -> i32 {
        self.kvm.check_extension_raw(capability.into())
    }

    /// An empty VM.
    pub fn create_vm(&self) -> Result<VmFd> {
        self.kvm.create_vm().map_err(refused("create a VM"))
    }

    /// Lets L0 answer a vCPU's flush hypercalls, where KVM offers it; returns whether it does.
    ///
    /// KVM tells L0 so when it next makes the vCPU's VMCS current on a CPU (symptom: with the
    /// capability on and one vCPU that never leaves its CPU, L0 still hands every flush to KVM;
    /// cause: Linux 6.1 sets DirectHypercall in the VP assist page in `evmcs_load` alone). So another
    /// vCPU is made here, whose VMCS takes the CPU; if this thread changes CPUs in between, KVM
    /// loads the VMCS anew all the same.
    pub fn delegate_flushes(&self, vcpu: &VcpuFd) -> Result<bool> {
        if self.offers(KVM_CAP_HYPERV_DIRECT_TLBFLUSH) <= 0 {
            return Ok(false);
        }
        vcpu.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
            ..Default::default()
        })
        .map_err(refused("let L0 handle the guest's flush hypercalls"))?;
        let other = self.create_vm()?;
        other.create_vcpu(0).map_err(refused("create a vCPU"))?;
        Ok(true)
    }

    /// The CPUID leaves that KVM can show to a guest.
    pub fn cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        let leaves = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("list the CPUID leaves it supports"))?;
        Ok(leaves.as_slice().to_vec())
    }

    /// The Hyper-V CPUID leaves that KVM can show to a guest with such a vCPU.
    pub fn hv_cpuid_of(&self, vcpu: &VcpuFd) -> Result<Vec<kvm_cpuid_entry2>> {
        if self.offers(KVM_CAP_HYPERV_CPUID) <= 0 {
            return Err(Error::NotOffered(
                "a Hyper-V interface to guests (KVM_CAP_HYPERV_CPUID)",
            ));
        }
        supported_hv_cpuid(vcpu)
    }

    /// The Hyper-V CPUID leaves without regard to a vCPU; `None` where KVM has
    /// none or must be asked through a vCPU (before Linux 5.11).
    pub fn hv_cpuid(&self) -> Result<Option<Vec<kvm_cpuid_entry2>>> {
        if self.offers(KVM_CAP_SYS_HYPERV_CPUID) <= 0 {
            return Ok(None);
        }
        supported_hv_cpuid(&self.kvm).map(Some)
    }

    /// How many vCPUs a VM can have.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

/// `KVM_GET_SUPPORTED_HV_CPUID` on `/dev/kvm` or on a vCPU.
fn supported_hv_cpuid(file: &impl std::os::fd::AsRawFd) -> Result<Vec<kvm_cpuid_entry2>> {
    const WHAT: &str = "list the Hyper-V CPUID leaves it supports";
    let mut leaves = CpuId::new(KVM_MAX_CPUID_ENTRIES)
        .map_err(|_| refused(WHAT)(errno::Error::new(libc::ENOMEM)))?;
    // SAFETY: the pointer is to a kvm_cpuid2 with room for as many entries as its
    // `nent` says, which is all that the kernel writes.
    let answer = unsafe {
        ioctl_with_mut_ptr(
            file,
            KVM_GET_SUPPORTED_HV_CPUID(),
            leaves.as_mut_fam_struct_ptr(),
        )
    };
    if answer != 0 {
        return Err(refused(WHAT)(errno::Error::last()));
    }
    // `nent` is now the number of entries that the kernel filled in.
    Ok(leaves.as_slice().to_vec())
}
