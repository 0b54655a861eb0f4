//! `vmm info`: what the KVM of this machine offers, and what this machine says
//! about the hypervisor under it.

use core::arch::x86_64::__cpuid;
use std::path::{Path, PathBuf};
use std::{fs, io};

use kvm_bindings::{
    KVM_CAP_ADJUST_CLOCK, KVM_CAP_HYPERV_CPUID, KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
    KVM_CAP_HYPERV_ENLIGHTENED_VMCS, KVM_CAP_HYPERV_SEND_IPI, KVM_CAP_HYPERV_SYNIC2,
    KVM_CAP_HYPERV_TLBFLUSH, KVM_CAP_NESTED_STATE, KVM_CAP_SYS_HYPERV_CPUID, KVM_CAP_TSC_CONTROL,
    KVM_CAP_TSC_DEADLINE_TIMER, kvm_cpuid_entry2,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::counters::CounterPort;
use crate::error::Result;
use crate::host::Host;
use crate::report::Report;

/// What `vmm info` was asked for.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
    /// Where it goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// The capabilities that matter to nested guests, by their names in the KVM API.
const CAPABILITIES: &[(&str, u32)] = &[
    ("KVM_CAP_TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER),
    ("KVM_CAP_TSC_CONTROL", KVM_CAP_TSC_CONTROL),
    ("KVM_CAP_ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK),
    ("KVM_CAP_NESTED_STATE", KVM_CAP_NESTED_STATE),
    ("KVM_CAP_HYPERV_CPUID", KVM_CAP_HYPERV_CPUID),
    ("KVM_CAP_SYS_HYPERV_CPUID", KVM_CAP_SYS_HYPERV_CPUID),
    ("KVM_CAP_HYPERV_SYNIC2", KVM_CAP_HYPERV_SYNIC2),
    ("KVM_CAP_HYPERV_TLBFLUSH", KVM_CAP_HYPERV_TLBFLUSH),
    ("KVM_CAP_HYPERV_SEND_IPI", KVM_CAP_HYPERV_SEND_IPI),
    (
        "KVM_CAP_HYPERV_ENLIGHTENED_VMCS",
        KVM_CAP_HYPERV_ENLIGHTENED_VMCS,
    ),
    (
        "KVM_CAP_HYPERV_DIRECT_TLBFLUSH",
        KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
    ),
];

/// Where kvm-intel and kvm-amd show their parameters (`enlightened_vmcs`, `ept`, ...).
const PARAMETERS: &[&str] = &[
    "/sys/module/kvm/parameters",
    "/sys/module/kvm_intel/parameters",
    "/sys/module/kvm_amd/parameters",
];

const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// First leaf of the hypervisor under this machine.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// The highest leaf that Hv#1 defines for nesting; asked for no further.
const HYPERVISOR_MAX: u32 = 0x4000_000C;

#[derive(Serialize, Debug)]
struct Info {
    event: &'static str,
    max_vcpus: usize,
    /// Value of each capability; 0 when KVM does not offer it.
    capabilities: Map<String, Value>,
    /// KVM's module parameters, `module.name`.
    parameters: Map<String, Value>,
    clocksource: Option<String>,
    /// Whether hynest is the hypervisor under this machine, by its counter port.
    on_hynest: bool,
    /// What the hypervisor under this machine shows to it.
    hypervisor: Vec<Leaf>,
    /// What KVM can show to its guests as an Hv#1 hypervisor.
    hyperv_for_guests: Vec<Leaf>,
}

/// One CPUID leaf, registers as hexadecimal text.
#[derive(Serialize, Debug, PartialEq)]
struct Leaf {
    leaf: String,
    eax: String,
    ebx: String,
    ecx: String,
    edx: String,
}

impl Leaf {
    fn new(leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> Self {
        let hex = |register| format!("{register:#010x}");
        Leaf {
            leaf: hex(leaf),
            eax: hex(eax),
            ebx: hex(ebx),
            ecx: hex(ecx),
            edx: hex(edx),
        }
    }

    fn of_kvm(entry: &kvm_cpuid_entry2) -> Self {
        Leaf::new(entry.function, [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }
}

/// Gathers and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = Report::open(arguments.report.as_deref())?;
    let info = gather(&Host::open()?)?;
    if arguments.json {
        return report.event(&info);
    }
    for line in lines(&info) {
        report.line(line.as_bytes())?;
    }
    Ok(())
}

fn gather(host: &Host) -> Result<Info> {
    let hyperv = host.hv_cpuid()?.unwrap_or_default();
    Ok(Info {
        event: "kvm",
        max_vcpus: host.max_vcpus(),
        capabilities: CAPABILITIES
            .iter()
            .map(|&(name, capability)| (name.to_owned(), host.offers(capability).into()))
            .collect(),
        parameters: PARAMETERS
            .iter()
            .flat_map(|folder| parameters(Path::new(folder)))
            .collect(),
        clocksource: fs::read_to_string(CLOCKSOURCE)
            .ok()
            .map(|text| text.trim().to_owned()),
        on_hynest: CounterPort::find().is_some(),
        hypervisor: leaves_under_us(),
        hyperv_for_guests: hyperv.iter().map(Leaf::of_kvm).collect(),
    })
}

/// The readable parameters of one module: none when it is not loaded.
fn parameters(folder: &Path) -> Vec<(String, Value)> {
    let module = folder
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    let mut found: Vec<(String, Value)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry: io::Result<_>| {
            let path = entry.ok()?.path();
            let value = fs::read_to_string(&path).ok()?;
            let name = path.file_name()?.to_string_lossy();
            Some((format!("{module}.{name}"), value.trim().into()))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The hypervisor leaves of this machine's own CPUID; none on bare metal.
fn leaves_under_us() -> Vec<Leaf> {
    const PRESENT: u32 = 1 << 31;
    if __cpuid(1).ecx & PRESENT == 0 {
        return Vec::new();
    }
    let last = __cpuid(HYPERVISOR_BASE)
        .eax
        .clamp(HYPERVISOR_BASE, HYPERVISOR_MAX);
    (HYPERVISOR_BASE..=last)
        .map(|leaf| {
            let registers = __cpuid(leaf);
            Leaf::new(
                leaf,
                [registers.eax, registers.ebx, registers.ecx, registers.edx],
            )
        })
        .collect()
}

fn lines(info: &Info) -> Vec<String> {
    let mut lines = vec![
        format!("on hynest: {}", if info.on_hynest { "yes" } else { "no" }),
        format!(
            "clocksource: {}",
            info.clocksource.as_deref().unwrap_or("unknown")
        ),
        format!("most vCPUs in a VM: {}", info.max_vcpus),
    ];
    let pairs = info.capabilities.iter().chain(&info.parameters);
    lines.extend(pairs.map(|(name, value)| match value {
        Value::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    }));
    let leaf = |what: &str, leaf: &Leaf| {
        let Leaf {
            leaf,
            eax,
            ebx,
            ecx,
            edx,
        } = leaf;
        format!("{what} {leaf}: eax {eax} ebx {ebx} ecx {ecx} edx {edx}")
    };
    lines.extend(info.hypervisor.iter().map(|l| leaf("hypervisor leaf", l)));
    lines.extend(
        info.hyperv_for_guests
            .iter()
            .map(|l| leaf("Hyper-V leaf for guests", l)),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_by_their_module() {
        let root = std::env::temp_dir().join(format!("vmm-info-{}", std::process::id()));
        let folder = root.join("kvm_intel/parameters");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("enlightened_vmcs"), "Y\n").unwrap();
        fs::write(folder.join("ept"), "N\n").unwrap();
        let found = parameters(&folder);
        fs::remove_dir_all(&root).unwrap();
        let expected = [("kvm_intel.enlightened_vmcs", "Y"), ("kvm_intel.ept", "N")];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.into()))
        );
        assert!(parameters(Path::new("/nowhere/kvm/parameters")).is_empty());
    }

    #[test]
    fn every_finding_is_a_line() {
        let info = Info {
            event: "kvm",
            max_vcpus: 1024,
            capabilities: Map::from_iter([("KVM_CAP_X".to_owned(), 1.into())]),
            parameters: Map::from_iter([("kvm.y".to_owned(), "N".into())]),
            clocksource: None,
            on_hynest: true,
            hypervisor: vec![Leaf::new(0x4000_0001, [0x3123_7648, 0, 0, 0])],
            hyperv_for_guests: vec![],
        };
        let lines = lines(&info);
        for expected in [
            "on hynest: yes",
            "KVM_CAP_X: 1",
            "kvm.y: N",
            "most vCPUs in a VM: 1024",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}");
        }
        assert!(lines.last().unwrap().contains("0x40000001: eax 0x31237648"));
    }
}
