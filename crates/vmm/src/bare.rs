//! A guest of nothing but memory and vCPUs, which runs one piece of code in 64-bit
//! mode.

use kvm_bindings::kvm_regs;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;

use crate::cpuid::{self, Vcpu};
use crate::error::{Error, Result, refused};
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
    create(host, vm, id, registers, false)
}

/// The same for a guest that may use KVM's Hyper-V interface.
pub fn create_hyperv_vcpu(
    host: &Host,
    vm: &VmFd,
    id: usize,
    registers: kvm_regs,
) -> Result<VcpuFd> {
    create(host, vm, id, registers, true)
}

fn create(
    host: &Host,
    vm: &VmFd,
    id: usize,
    registers: kvm_regs,
    has_hyperv: bool,
) -> Result<VcpuFd> {
    let vcpu = vm
        .create_vcpu(id as u64)
        .map_err(refused("create a vCPU"))?;
    let hyperv = match has_hyperv {
        true => Some(host.hv_cpuid_of(&vcpu)?),
        false => None,
    };
    let number = Vcpu {
        id: id as u32,
        tsc_deadline: false,
    };
    cpuid::set(
        &vcpu,
        &cpuid::leaves(&host.cpuid()?, hyperv.as_deref(), number),
    )?;
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

/// Runs a vCPU to its OUT to `end`.
pub fn run_to(vcpu: &mut VcpuFd, end: u16) -> Result<()> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, _)) if port == end => return Ok(()),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => {
                return Err(Error::Guest(format!("KVM ended it with {other:?}")));
            }
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => return Err(refused("run a vCPU")(errno)),
        }
    }
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
