//! What the bits of the audited registers are called, by the crates that define them.

use platform::cpuid::names as cpuid;
use tlfs::cpuid::names as hv;

type BitName = (u32, &'static str);

/// Registers and the tables of their bits.
const TABLES: &[(&str, &[BitName])] = &[
    ("CPUID 1 ECX", cpuid::LEAF_1_ECX),
    ("CPUID 1 EDX", cpuid::LEAF_1_EDX),
    ("CPUID 6 EAX", cpuid::LEAF_6_EAX),
    ("CPUID 7 EBX", cpuid::LEAF_7_EBX),
    ("CPUID 7 ECX", cpuid::LEAF_7_ECX),
    ("CPUID 7 EDX", cpuid::LEAF_7_EDX),
    ("CPUID 0xD EDX:EAX", cpuid::XCR0),
    ("CPUID 0xD.1 EAX", cpuid::LEAF_D_1_EAX),
    ("CPUID 0x80000001 ECX", cpuid::EXTENDED_1_ECX),
    ("CPUID 0x80000001 EDX", cpuid::EXTENDED_1_EDX),
    ("CPUID 0x80000007 EDX", cpuid::EXTENDED_7_EDX),
    ("CPUID 0x40000003 EBX:EAX", hv::PRIVILEGES),
    ("CPUID 0x40000003 EDX", hv::FEATURES),
    ("CPUID 0x40000004 EAX", hv::RECOMMENDATIONS),
    ("CPUID 0x40000006 EAX", hv::HARDWARE),
    ("CPUID 0x4000000A EBX:EAX", hv::NESTED),
    ("IA32_VMX_BASIC", vmx::names::BASIC),
    ("IA32_VMX_MISC", vmx::names::MISC),
    ("IA32_VMX_EPT_VPID_CAP", vmx::names::EPT_VPID),
    ("IA32_VMX_VMFUNC", vmx::names::VMFUNC),
    ("IA32_VMX_CR0_FIXED0", vmx::names::CR0),
    ("IA32_VMX_CR0_FIXED1", vmx::names::CR0),
    ("IA32_VMX_CR4_FIXED0", vmx::names::CR4),
    ("IA32_VMX_CR4_FIXED1", vmx::names::CR4),
];

/// The name of a register's bit, if it has one.
pub fn name(register: &str, bit: u32) -> Option<&'static str> {
    // What must be 1 of a control word has the word's names.
    match register.strip_suffix(", 1").unwrap_or(register) {
        "pin-based controls" => return vmx::names::pin(bit),
        "primary controls" => return vmx::names::primary(bit),
        "secondary controls" => return vmx::names::secondary(bit),
        "exit controls" => return vmx::names::exit(bit),
        "entry controls" => return vmx::names::entry(bit),
        _ => {}
    }
    let (_, table) = TABLES.iter().find(|(name, _)| *name == register)?;
    let (_, name) = table.iter().find(|(number, _)| *number == bit)?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_has_its_say() {
        assert_eq!(name("CPUID 1 ECX", 5), Some("VMX"));
        assert_eq!(name("CPUID 0x40000003 EBX:EAX", 6), Some("access_vp_index"));
        assert_eq!(
            name("pin-based controls", 0),
            Some("EXTERNAL_INTERRUPT_EXITING")
        );
        assert_eq!(name("entry controls, 1", 2), Some("LOAD_DEBUG_CONTROLS"));
        assert_eq!(name("CPUID 1 ECX", 16), None);
        assert_eq!(name("CPUID 99 ECX", 0), None);
    }
}
