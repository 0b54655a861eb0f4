//! A Linux guest's vCPUs: how they start and what their exits mean.

use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_CAP_HYPERV_SYNIC2, KVM_CAP_TSC_DEADLINE_TIMER, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_enable_cap, kvm_regs,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::boot::Entry;
use super::devices::{Devices, Request};
use super::end::End;
use super::marks::{self, Marks};
use crate::cpuid::{self, Vcpu};
use crate::error::{Result, refused};
use crate::host::Host;
use crate::long_mode;

/// Creates vCPU `id`. The first will enter the kernel; the others wait for
/// their INIT and SIPI inside KVM.
pub fn create(host: &Host, vm: &VmFd, id: u8, hyperv: bool, entry: Entry) -> Result<VcpuFd> {
    let vcpu = vm
        .create_vcpu(id.into())
        .map_err(refused("create a vCPU"))?;
    let hv_leaves = match hyperv {
        false => None,
        true => {
            enlighten(host, &vcpu)?;
            Some(host.hv_cpuid_of(&vcpu)?)
        }
    };
    let leaves = cpuid::leaves(
        &host.cpuid()?,
        hv_leaves.as_deref(),
        Vcpu {
            id: id.into(),
            tsc_deadline: host.offers(KVM_CAP_TSC_DEADLINE_TIMER) > 0,
        },
    );
    cpuid::set(&vcpu, &leaves)?;
    if id == 0 {
        let mut sregs = vcpu
            .get_sregs()
            .map_err(refused("read a vCPU's system registers"))?;
        long_mode::enter(&mut sregs, entry.cr3, entry.gdt, None);
        vcpu.set_sregs(&sregs)
            .map_err(refused("set a vCPU's system registers"))?;
        let regs = kvm_regs {
            rip: entry.rip,
            rsi: entry.rsi,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs)
            .map_err(refused("set a vCPU's registers"))?;
    }
    Ok(vcpu)
}

/// Switches on what a Hyper-V guest finds in its leaves and KVM gives only on
/// request: the SynIC with its timers, and flushes by L0 where L0 has them.
fn enlighten(host: &Host, vcpu: &VcpuFd) -> Result<()> {
    if host.offers(KVM_CAP_HYPERV_SYNIC2) > 0 {
        vcpu.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_HYPERV_SYNIC2,
            ..Default::default()
        })
        .map_err(refused("give a vCPU a SynIC"))?;
    }
    host.delegate_flushes(vcpu)?;
    Ok(())
}

/// Runs a vCPU until the guest ends.
pub fn run(mut vcpu: VcpuFd, devices: &Arc<Mutex<Devices>>, mut marks: Marks) -> Result<End> {
    // A thread that panicked while it held the lock has left a device in a state
    // that a guest could have made.
    let lock = || {
        devices
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    };
    loop {
        let end = match vcpu.run() {
            Ok(VcpuExit::IoOut(marks::PORT, &[value])) => {
                marks.out(value)?;
                continue;
            }
            Ok(VcpuExit::IoOut(port, data)) => match lock().write(port, data) {
                None => continue,
                Some(Request::Reset) => End::Reset,
                Some(Request::PowerOff) => End::PowerOff,
                Some(Request::ConsoleFailed(why)) => End::Failed(why),
            },
            Ok(VcpuExit::IoIn(port, data)) => {
                lock().read(port, data);
                continue;
            }
            Ok(VcpuExit::MmioRead(_, data)) => {
                data.fill(0xFF);
                continue;
            }
            Ok(VcpuExit::MmioWrite(..) | VcpuExit::Intr) => continue,
            Ok(VcpuExit::Shutdown) => End::TripleFault,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => End::PowerOff,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => End::Reset,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => {
                End::Panic("the guest reported a crash by its Hyper-V crash MSRs".into())
            }
            Ok(other) => {
                let exit = format!("{other:?}");
                let at = vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default();
                End::Failed(format!("KVM ended the guest with {exit} at {at:#x}"))
            }
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(errno) => return Err(refused("run a vCPU")(errno)),
        };
        return Ok(end);
    }
}
