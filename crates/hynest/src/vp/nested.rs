//! Nested VMX: not wired up yet; L1 is shown no VMX.
use super::Vp;
use addr::*;
use vmx::ept::{TableFrames, TableMemory};
use vmx::*;
pub struct Shadows;
impl Shadows {
    pub fn for_partition(_: &Capabilities, _: u8, _: usize) -> Self {
        Shadows
    }
}
pub struct NestedVp {
    l: bool,
}
impl NestedVp {
    pub fn new(_: &Capabilities, _: u64) -> Self {
        NestedVp { l: false }
    }
    pub fn is_in_l2(&self) -> bool {
        false
    }
    pub fn launched(&mut self) -> &mut bool {
        &mut self.l
    }
    pub fn entry_withdrawn(&mut self) {}
    pub fn set_assist_page(&mut self, _: Option<Gpa1>) {}
}
pub struct TableAccess;
impl TableMemory for TableAccess {
    fn load(&self, at: Spa) -> u64 {
        unsafe { crate::memory::pointer::<u64>(at).read_volatile() }
    }
    fn store(&self, at: Spa, v: u64) {
        unsafe { crate::memory::pointer::<u64>(at).write_volatile(v) }
    }
}
pub struct TableSource;
impl TableFrames for TableSource {
    fn alloc(&mut self) -> Option<Spa> {
        crate::memory::frames::allocate()
    }
    fn free(&mut self, f: Spa) {
        unsafe { crate::memory::frames::free(f) }
    }
}
pub fn current_cpl() -> u8 {
    (super::vmcs::read(Field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3) as u8
}
impl Vp {
    pub fn l2_exit(&mut self, _: ExitReason) {}
    pub fn l2_entry_failed(&mut self, _: u32) -> bool {
        false
    }
    pub fn interrupt_l2(&mut self) {}
    pub fn l1_vm_entry(&mut self, _: BasicExitReason) {
        self.inject_ud()
    }
    pub fn l1_vmx_instruction(&mut self, _: BasicExitReason) {
        self.inject_ud()
    }
    pub fn init_is_blocked(&self) -> bool {
        false
    }
    pub fn leave_nested_operation(&mut self) {}
    pub fn nested_allows_cr0(&self, _: u64) -> bool {
        true
    }
    pub fn nested_allows_cr4(&self, _: u64) -> bool {
        true
    }
}
