//! Checks on VM-execution, exit and entry controls (SDM 27.2.1).

use addr::Gpa1;
use vmx::{
    EntryControls, EventType, ExitControls, Field, InterruptionInfo, PinControls, PrimaryControls,
    SecondaryControls,
    ept::{EptCapabilities, Eptp},
};

use super::{Rule, Violation, require};
use crate::Vmcs12;
use crate::access::Memory;
use crate::cr::CR0_PE;
use crate::state::Config;
use crate::vmcs12::get;

/// Bytes of an entry of an MSR list.
const MSR_ENTRY_BYTES: u64 = 16;

/// The checks that end in VM-instruction error 7.
pub fn controls<M: Memory>(vmcs12: &Vmcs12, config: &Config, memory: &M) -> Result<(), Violation> {
    let caps = &config.caps;
    let pin = PinControls::from_bits_retain(get!(*vmcs12, PIN_BASED_CONTROLS) as u32);
    let primary = PrimaryControls::from_bits_retain(get!(*vmcs12, PRIMARY_CONTROLS) as u32);
    let exit = ExitControls::from_bits_retain(get!(*vmcs12, EXIT_CONTROLS) as u32);
    let entry = EntryControls::from_bits_retain(get!(*vmcs12, ENTRY_CONTROLS) as u32);
    let secondary = secondary(vmcs12, primary);

    require(
        caps.true_pin.permits(pin.bits()),
        Field::PIN_BASED_CONTROLS,
        Rule::AllowedBits,
    )?;
    require(
        caps.true_primary.permits(primary.bits()),
        Field::PRIMARY_CONTROLS,
        Rule::AllowedBits,
    )?;
    require(
        caps.secondary.permits(secondary.bits()),
        Field::SECONDARY_CONTROLS,
        Rule::AllowedBits,
    )?;
    // IA32_VMX_MISC bits 24:16: how many CR3-target values there are.
    require(
        get!(*vmcs12, CR3_TARGET_COUNT) <= (caps.misc >> 16) & 0x1ff,
        Field::CR3_TARGET_COUNT,
        Rule::TooLarge,
    )?;
    if primary.contains(PrimaryControls::USE_IO_BITMAPS) {
        let page = |address| config.is_page(address);
        require(
            page(get!(*vmcs12, IO_BITMAP_A)),
            Field::IO_BITMAP_A,
            Rule::Address,
        )?;
        require(
            page(get!(*vmcs12, IO_BITMAP_B)),
            Field::IO_BITMAP_B,
            Rule::Address,
        )?;
    }
    if primary.contains(PrimaryControls::USE_MSR_BITMAPS) {
        require(
            config.is_page(get!(*vmcs12, MSR_BITMAP)),
            Field::MSR_BITMAP,
            Rule::Address,
        )?;
    }
    apic(vmcs12, config, memory, primary, secondary)?;
    require(
        pin.contains(PinControls::NMI_EXITING) || !pin.contains(PinControls::VIRTUAL_NMIS),
        Field::PIN_BASED_CONTROLS,
        Rule::Requires(Field::PIN_BASED_CONTROLS),
    )?;
    nmi_window(pin, primary)?;
    translation(vmcs12, config, secondary)?;
    if secondary.contains(SecondaryControls::TSC_SCALING) {
        require(
            get!(*vmcs12, TSC_MULTIPLIER) != 0,
            Field::TSC_MULTIPLIER,
            Rule::Zero,
        )?;
    }
    require(
        caps.true_exit.permits(exit.bits()),
        Field::EXIT_CONTROLS,
        Rule::AllowedBits,
    )?;
    let limit = 512 * (1 + ((caps.misc >> 25) & 7));
    msr_list(
        config,
        get!(*vmcs12, EXIT_MSR_STORE_COUNT),
        get!(*vmcs12, EXIT_MSR_STORE_ADDRESS),
        Field::EXIT_MSR_STORE_ADDRESS,
        limit,
    )?;
    msr_list(
        config,
        get!(*vmcs12, EXIT_MSR_LOAD_COUNT),
        get!(*vmcs12, EXIT_MSR_LOAD_ADDRESS),
        Field::EXIT_MSR_LOAD_ADDRESS,
        limit,
    )?;
    require(
        caps.true_entry.permits(entry.bits()),
        Field::ENTRY_CONTROLS,
        Rule::AllowedBits,
    )?;
    event(vmcs12, config, secondary)?;
    msr_list(
        config,
        get!(*vmcs12, ENTRY_MSR_LOAD_COUNT),
        get!(*vmcs12, ENTRY_MSR_LOAD_ADDRESS),
        Field::ENTRY_MSR_LOAD_ADDRESS,
        limit,
    )
}

/// The same for an entry where primary controls changed that stand for
/// themselves (windows, single instructions) or an event is to be injected,
/// and nothing else: most entries that are not clean.
pub fn light_controls(vmcs12: &Vmcs12, config: &Config) -> Result<(), Violation> {
    let pin = PinControls::from_bits_retain(get!(*vmcs12, PIN_BASED_CONTROLS) as u32);
    let primary = PrimaryControls::from_bits_retain(get!(*vmcs12, PRIMARY_CONTROLS) as u32);
    require(
        config.caps.true_primary.permits(primary.bits()),
        Field::PRIMARY_CONTROLS,
        Rule::AllowedBits,
    )?;
    nmi_window(pin, primary)?;
    event(vmcs12, config, secondary(vmcs12, primary))
}

/// Whether [`light_controls`] finds nothing wrong, for nearly all that have no event or a simple
/// one: no call and few instructions. `false` where it takes more to say.
#[inline(always)]
pub fn simple_controls(vmcs12: &Vmcs12, config: &Config) -> bool {
    let pin = PinControls::from_bits_retain(get!(*vmcs12, PIN_BASED_CONTROLS) as u32);
    let primary = PrimaryControls::from_bits_retain(get!(*vmcs12, PRIMARY_CONTROLS) as u32);
    let event = InterruptionInfo::from_raw(get!(*vmcs12, ENTRY_INTERRUPTION_INFO) as u32);
    config.caps.true_primary.permits(primary.bits())
        && nmi_window(pin, primary).is_ok()
        && is_simple_event(event)
}

/// Whether it is an external interrupt, which may have any vector, or no event.
#[inline(always)]
pub const fn is_simple_event(info: InterruptionInfo) -> bool {
    // Type 0, no error code, nothing reserved.
    const INTERRUPT: u32 = InterruptionInfo::VALID | 0xff;
    !info.is_valid() || info.raw() & !INTERRUPT == 0
}

/// NMI-window exiting needs virtual NMIs.
#[inline]
fn nmi_window(pin: PinControls, primary: PrimaryControls) -> Result<(), Violation> {
    require(
        pin.contains(PinControls::VIRTUAL_NMIS)
            || !primary.contains(PrimaryControls::NMI_WINDOW_EXITING),
        Field::PRIMARY_CONTROLS,
        Rule::Requires(Field::PIN_BASED_CONTROLS),
    )
}

/// The secondary controls, as they are in force.
#[inline]
pub(super) fn secondary(vmcs12: &Vmcs12, primary: PrimaryControls) -> SecondaryControls {
    if primary.contains(PrimaryControls::ACTIVATE_SECONDARY) {
        SecondaryControls::from_bits_retain(get!(*vmcs12, SECONDARY_CONTROLS) as u32)
    } else {
        SecondaryControls::empty()
    }
}

fn apic<M: Memory>(
    vmcs12: &Vmcs12,
    config: &Config,
    memory: &M,
    primary: PrimaryControls,
    secondary: SecondaryControls,
) -> Result<(), Violation> {
    if !primary.contains(PrimaryControls::USE_TPR_SHADOW) {
        return require(
            !secondary.contains(SecondaryControls::VIRTUALIZE_X2APIC_MODE),
            Field::SECONDARY_CONTROLS,
            Rule::Requires(Field::PRIMARY_CONTROLS),
        );
    }
    let field = Field::VIRTUAL_APIC_ADDRESS;
    let page = get!(*vmcs12, VIRTUAL_APIC_ADDRESS);
    require(config.is_page(page), field, Rule::Address)?;
    let page = Gpa1::new(page);
    require(memory.machine_page(page).is_some(), field, Rule::Unbacked)?;
    let threshold = get!(*vmcs12, TPR_THRESHOLD) as u32;
    // Byte 0x80 of the page is the virtual TPR. Hardware compares it again,
    // when it enters.
    require(threshold >> 4 == 0, Field::TPR_THRESHOLD, Rule::Reserved)?;
    let vtpr = page.checked_add(0x80).map(|at| memory.read_u8(at));
    let Some(Ok(vtpr)) = vtpr else {
        return require(false, field, Rule::Unbacked);
    };
    require(
        threshold <= u32::from(vtpr >> 4),
        Field::TPR_THRESHOLD,
        Rule::TooLarge,
    )
}

fn translation(
    vmcs12: &Vmcs12,
    config: &Config,
    secondary: SecondaryControls,
) -> Result<(), Violation> {
    if secondary.contains(SecondaryControls::ENABLE_VPID) {
        require(get!(*vmcs12, VPID) != 0, Field::VPID, Rule::Zero)?;
    }
    if secondary.contains(SecondaryControls::ENABLE_EPT) {
        let offered = EptCapabilities::from_msr(config.caps.ept_vpid, config.physical_bits);
        let pointer = Eptp::from_raw(get!(*vmcs12, EPT_POINTER));
        require(
            pointer.check(&offered).is_ok(),
            Field::EPT_POINTER,
            Rule::Reserved,
        )
    } else {
        require(
            !secondary.contains(SecondaryControls::UNRESTRICTED_GUEST),
            Field::SECONDARY_CONTROLS,
            Rule::Requires(Field::SECONDARY_CONTROLS),
        )
    }
}

fn msr_list(
    config: &Config,
    count: u64,
    address: u64,
    field: Field,
    limit: u64,
) -> Result<(), Violation> {
    if count == 0 {
        return Ok(());
    }
    require(count <= limit, field, Rule::TooLarge)?;
    let last = address.checked_add(count * MSR_ENTRY_BYTES - 1);
    let fits = address & 15 == 0 && last.is_some_and(|last| config.is_physical(last));
    require(fits, field, Rule::Address)
}

/// The event to inject (SDM 27.2.1.3).
fn event(vmcs12: &Vmcs12, config: &Config, secondary: SecondaryControls) -> Result<(), Violation> {
    let info = InterruptionInfo::from_raw(get!(*vmcs12, ENTRY_INTERRUPTION_INFO) as u32);
    if !info.is_valid() {
        return Ok(());
    }
    let field = Field::ENTRY_INTERRUPTION_INFO;
    let vector = info.vector();
    let fits = match info.event_type() {
        // A pending MTF exit needs the monitor trap flag, which is not offered.
        EventType::Reserved | EventType::Other => false,
        EventType::Nmi => vector == 2,
        EventType::HardwareException => vector <= 31,
        _ => true,
    };
    require(fits, field, Rule::Reserved)?;
    require(
        info.raw() & InterruptionInfo::ENTRY_RESERVED == 0,
        field,
        Rule::Reserved,
    )?;
    let unrestricted = secondary.contains(SecondaryControls::UNRESTRICTED_GUEST);
    let is_protected = !unrestricted || get!(*vmcs12, GUEST_CR0) & CR0_PE != 0;
    let expects_code = info.event_type() == EventType::HardwareException
        && is_protected
        && InterruptionInfo::vector_has_error_code(vector);
    require(
        info.has_error_code() == expects_code,
        field,
        Rule::Requires(Field::GUEST_CR0),
    )?;
    if info.has_error_code() {
        require(
            get!(*vmcs12, ENTRY_EXCEPTION_ERROR_CODE) & 0xffff_8000 == 0,
            Field::ENTRY_EXCEPTION_ERROR_CODE,
            Rule::Reserved,
        )?;
    }
    if info.event_type().is_software() {
        let length = get!(*vmcs12, ENTRY_INSTRUCTION_LENGTH);
        let zero_allowed = config.caps.misc & (1 << 30) != 0;
        require(
            length <= 15 && (length != 0 || zero_allowed),
            Field::ENTRY_INSTRUCTION_LENGTH,
            Rule::Reserved,
        )?;
    }
    Ok(())
}
