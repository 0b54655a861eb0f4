//! L1's VP as the tests have it.

use super::*;

/// A VP whose linear addresses are its physical ones, up to a page that faults.
pub struct Vp {
    pub memory: FakeMemory,
    pub gprs: [u64; 16],
    pub cr0: u64,
    pub cr4: u64,
    pub cpl: u8,
    pub is_long: bool,
    pub conforming: bool,
    pub segment: Segment,
    pub feature_control: u64,
    pub info: InstructionInfo,
    pub displacement: u64,
    pub enlightened: Option<Gpa1>,
    pub shadow: Option<FakeShadow>,
}

/// Where the tests' memory operand lies.
pub const OPERAND: u64 = 0x800;
/// The linear page that raises #PF.
pub const HOLE: u64 = 0xe000;
pub const VMXON_REGION: u64 = 0x1000;
pub const REGION: u64 = 0x2000;
pub const OTHER: u64 = 0x3000;

impl Vp {
    pub fn new() -> Self {
        let mut vp = Self {
            memory: FakeMemory::new(0x1_0000),
            gprs: [0; 16],
            cr0: 0x8005_0033,
            cr4: 0x26f0,
            cpl: 0,
            is_long: true,
            conforming: false,
            segment: Segment {
                base: 0,
                limit: u32::MAX,
                rights: AccessRights::DATA,
            },
            feature_control: 5,
            // No base, no index, 64-bit address, DS; register 2 is RBX.
            info: InstructionInfo::from_raw(3 << 28 | 1 << 27 | 1 << 22 | 3 << 15 | 2 << 7),
            displacement: OPERAND,
            enlightened: None,
            shadow: None,
        };
        for region in [VMXON_REGION, REGION, OTHER] {
            vp.poke(region, &REVISION.to_le_bytes());
        }
        vp
    }

    pub fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.memory.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn word(&self, at: u64) -> u64 {
        self.memory.read_u64(Gpa1::new(at)).unwrap()
    }

    pub fn with_pointer(&mut self, pointer: u64) -> &mut Self {
        self.poke(OPERAND, &pointer.to_le_bytes());
        self
    }

    /// Register form: register 1 is RAX, register 2 is RBX.
    pub fn with_registers(&mut self, rax: u64, rbx: u64) -> &mut Self {
        self.info = InstructionInfo::from_raw(3 << 28 | 1 << 10);
        self.gprs[0] = rax;
        self.gprs[3] = rbx;
        self
    }
}

impl Memory for Vp {
    fn read(&self, at: Gpa1, into: &mut [u8]) -> Result<(), Unbacked> {
        self.memory.read(at, into)
    }

    fn write(&mut self, at: Gpa1, from: &[u8]) -> Result<(), Unbacked> {
        self.memory.write(at, from)
    }

    fn machine_page(&self, at: Gpa1) -> Option<Spa> {
        self.memory.machine_page(at)
    }
}

impl L1Vp for Vp {
    fn gpr(&self, number: u8) -> u64 {
        self.gprs[usize::from(number)]
    }

    fn set_gpr(&mut self, number: u8, value: u64) {
        self.gprs[usize::from(number)] = value;
    }

    fn cr0(&self) -> u64 {
        self.cr0
    }

    fn cr4(&self) -> u64 {
        self.cr4
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn code_rights(&self) -> AccessRights {
        let code = if self.is_long {
            AccessRights::CODE64
        } else {
            AccessRights::CODE32
        };
        AccessRights::from_raw(
            code.raw() | u32::from(self.cpl) << 5 | u32::from(self.conforming) << 2,
        )
    }

    fn is_long_mode(&self) -> bool {
        self.is_long
    }

    fn blocked_by_mov_ss(&self) -> bool {
        false
    }

    fn segment(&self, _: SegmentRegister) -> Segment {
        self.segment
    }

    fn feature_control(&self) -> u64 {
        self.feature_control
    }

    fn instruction_info(&self) -> InstructionInfo {
        self.info
    }

    fn displacement(&self) -> u64 {
        self.displacement
    }

    fn read_pair(&self, at: Gva) -> Option<[u64; 2]> {
        if at.raw() & 15 != 0 || at.raw() >= HOLE {
            return None;
        }
        let word = |n: u64| self.memory.read_u64(Gpa1::new(at.raw() + 8 * n)).ok();
        Some([word(0)?, word(1)?])
    }

    fn read_linear(&mut self, at: Gva, into: &mut [u8]) -> Result<(), Fault> {
        if at.raw() >= HOLE {
            return Err(page_fault(at));
        }
        self.memory
            .read(Gpa1::new(at.raw()), into)
            .map_err(|_| page_fault(at))
    }

    fn write_linear(&mut self, at: Gva, from: &[u8]) -> Result<(), Fault> {
        if at.raw() >= HOLE {
            return Err(page_fault(at));
        }
        self.memory
            .write(Gpa1::new(at.raw()), from)
            .map_err(|_| page_fault(at))
    }

    fn enlightened_vmcs(&self) -> Option<Gpa1> {
        self.enlightened
    }

    type Shadow = FakeShadow;

    fn shadow_vmcs(&mut self) -> Option<&mut FakeShadow> {
        self.shadow.as_mut()
    }
}
