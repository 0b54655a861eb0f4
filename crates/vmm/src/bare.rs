//! A guest of nothing but memory and vCPUs, which runs one piece of code in 64-bit
//! mode.

use kvm_bindings::kvm_regs;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;

use crate::cpuid::{self, Vcpu};
use crate::error::{Result, refused};
use crate::host::Host;
use crate::{long_mode, memory, paging};

const GDT: u64 = 0x1000;
const PAGE_TABLES: u64 = 0x1_0000;

/// Where the code is. Below it are tables; what is above the code is the caller's.
pub const CODE: u64 = 0x2_0000;

/// Writes what every such guest has: tables and `code`.
pub fn write(memory: &GuestMemoryMmap, code: &[u8]) -> Result<()> {
    memory::write_words(memory, GDT, &long_mode::GDT)?;
    let tables = paging::identity_map(PAGE_TABLES);
    memory::write_words(memory, PAGE_TABLES, &tables)?;
    memory::write(memory, CODE, code)
}

/// Creates vCPU `id`, which starts at [`CODE`] with these registers and interrupts
/// disabled. The first 4 GiB are mapped to themselves, and any exception is a triple
/// fault. In a VM without interrupt controllers each vCPU is ready to run.
pub fn create_vcpu(host: &Host, vm: &VmFd, id: usize, registers: kvm_regs) -> Result<VcpuFd> {
    let vcpu = vm
        .create_vcpu(id as u64)
        .map_err(refused("create a vCPU"))?;
    let number = Vcpu {
        id: id as u32,
        tsc_deadline: false,
    };
    cpuid::set(&vcpu, &cpuid::leaves(&host.cpuid()?, None, number))?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(refused("read a vCPU's system registers"))?;
    long_mode::enter(&mut sregs, PAGE_TABLES, GDT, None);
    vcpu.set_sregs(&sregs)
        .map_err(refused("set a vCPU's system registers"))?;
    vcpu.set_regs(&kvm_regs {
        rip: CODE,
        rflags: 2,
        ..registers
    })
    .map_err(refused("set a vCPU's registers"))?;
    Ok(vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_end_below_the_code() {
        const {
            assert!(GDT + long_mode::GDT.len() as u64 * 8 <= PAGE_TABLES);
            assert!(PAGE_TABLES + paging::PAGES * paging::PAGE_SIZE <= CODE);
        }
    }
}
