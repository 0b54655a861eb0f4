//! PAE paging of an L2 for which L1 uses no EPT.
//!
//! VMCS 02 uses EPT in any case, and with EPT hardware takes the four PDPTEs
//! from the VMCS. Without EPT it reads them where CR3 points, at each entry
//! (SDM 27.3.2.4): for such an L1 L0 does it.

use addr::Gpa1;
use vmx::{EntryControls, Field};

use crate::access::Memory;
use crate::checks::{Failed, Rule, Violation};
use crate::cr::{CR0_PG, CR4_PAE};
use crate::state::Nested;
use crate::vmcs12::get;

/// Exit qualification of an entry that failed for a PDPTE (SDM 27.8).
const QUALIFICATION_PDPTE: u64 = 2;

/// Where the four PDPTEs lie (SDM table 4-7).
const CR3_PDPTES: u64 = 0xffff_ffe0;

/// P.
const PRESENT: u64 = 1 << 0;
/// Bits that are reserved whatever the address width: R/W, U/S, and 8:5.
const RESERVED: u64 = 0x1e6;

impl Nested {
    /// Reads and checks the PDPTEs that the entry will use, if L0 is to supply
    /// any. CR0, CR3 and CR4 of the copy are up to date.
    #[cold]
    pub(crate) fn load_pdptes<M: Memory>(&mut self, memory: &M) -> Result<(), Failed> {
        self.pdptes = None;
        let is_pae = get!(self.vmcs12, GUEST_CR0) & CR0_PG != 0
            && get!(self.vmcs12, GUEST_CR4) & CR4_PAE != 0
            && !self
                .entry_controls()
                .contains(EntryControls::IA32E_MODE_GUEST);
        if !is_pae || self.ept_pointer().is_some() {
            return Ok(());
        }
        let failed = |rule| {
            let field = Field::GUEST_CR3;
            (Violation { field, rule }, QUALIFICATION_PDPTE)
        };
        let table = Gpa1::new(get!(self.vmcs12, GUEST_CR3) & CR3_PDPTES);
        let mut bytes = [0; 32];
        memory
            .read(table, &mut bytes)
            .map_err(|_| failed(Rule::Unbacked))?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut pdptes = [0; 4];
        for (pdpte, word) in pdptes.iter_mut().zip(words) {
            *pdpte = u64::from_le_bytes(*word);
            let is_good = *pdpte & RESERVED == 0 && self.config.is_physical(*pdpte);
            if *pdpte & PRESENT != 0 && !is_good {
                return Err(failed(Rule::Reserved));
            }
        }
        self.pdptes = Some(pdptes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Dirty, EntryFailure};
    use vmx::ExitReason;

    const TABLE: usize = 0x2020;
    const PDPTES: [u64; 4] = [0x3001, 0x4001, 0xffff_0000_0000_1fe6, 0x7f_ffff_f019];
    const FIELDS: [Field; 4] = [
        Field::GUEST_PDPTE0,
        Field::GUEST_PDPTE1,
        Field::GUEST_PDPTE2,
        Field::GUEST_PDPTE3,
    ];

    fn store(scene: &mut Scene, pdptes: &[u64; 4]) {
        for (n, pdpte) in pdptes.iter().enumerate() {
            scene.memory.0[TABLE + 8 * n..][..8].copy_from_slice(&pdpte.to_le_bytes());
        }
    }

    fn pdptes02(scene: &Scene) -> [u64; 4] {
        FIELDS.map(|field| scene.vmcs02.peek(field))
    }

    /// An L1 without EPT, and an L2 in PAE paging.
    fn pae() -> Scene {
        let mut scene = Scene::new();
        scene.page.store(Field::SECONDARY_CONTROLS, 0x0010_1028);
        scene.page.store(Field::ENTRY_CONTROLS, 0x51ff);
        scene.page.store(Field::GUEST_CR3, TABLE as u64 | 0x18);
        for field in FIELDS {
            scene.page.store(field, 0x9001);
        }
        store(&mut scene, &PDPTES);
        scene
    }

    #[test]
    fn they_come_from_memory_at_every_entry() {
        let mut scene = pae();
        assert_eq!(scene.prepare(&LAUNCH), Ok(()));
        scene.merge();
        assert_eq!(pdptes02(&scene), PDPTES);
        scene.vmcs02.set(Field::ENTRY_CONTROLS, 0x51ff);
        scene.exit(10);
        // What VMCS 12 has for EPT is nobody's business.
        assert_eq!(scene.page.peek(Field::GUEST_PDPTE0), 0x9001);
        let changed = [0x5001, 0, 0, 0];
        store(&mut scene, &changed);
        assert_eq!(scene.prepare(&RESUME), Ok(()));
        assert!(scene.merge().groups.contains(Dirty::CRDR));
        assert_eq!(pdptes02(&scene), changed);
    }

    #[test]
    fn they_come_from_vmcs_12_with_ept() {
        let mut scene = pae();
        scene.page.store(Field::SECONDARY_CONTROLS, 0x0010_10aa);
        assert_eq!(scene.prepare(&LAUNCH), Ok(()));
        scene.merge();
        assert_eq!(pdptes02(&scene), [0x9001; 4]);
    }

    #[test]
    fn l1_may_stop_using_ept() {
        let primary = 0xb5a0_6dfa & !(1 << 31);
        for (field, value) in [
            (Field::SECONDARY_CONTROLS, 0x0010_1028),
            (Field::PRIMARY_CONTROLS, primary),
        ] {
            let mut scene = pae();
            scene.page.store(Field::SECONDARY_CONTROLS, 0x0010_10aa);
            scene.prepare(&LAUNCH).unwrap();
            scene.merge();
            scene.vmcs02.set(Field::ENTRY_CONTROLS, 0x51ff);
            scene.exit(10);
            scene.page.store(field, value);
            assert_eq!(scene.prepare(&RESUME), Ok(()), "{field:?}");
            scene.merge();
            assert_eq!(pdptes02(&scene), PDPTES, "{field:?}");
        }
    }

    #[test]
    fn no_pae_paging_no_pdptes() {
        for (field, value) in [(Field::ENTRY_CONTROLS, 0x53ff), (Field::GUEST_CR4, 0x26d0)] {
            let mut scene = pae();
            scene.page.store(field, value);
            store(&mut scene, &[u64::MAX; 4]);
            assert_eq!(scene.prepare(&LAUNCH), Ok(()), "{field:?}");
            scene.merge();
            assert_eq!(pdptes02(&scene), [0x9001; 4]);
        }
    }

    #[test]
    fn bad_ones_fail_the_entry() {
        let failure = |scene: &mut Scene| match scene.prepare(&LAUNCH) {
            Err(EntryFailure::Exit {
                reason,
                qualification,
                violation,
            }) => (reason, qualification, violation.rule),
            other => panic!("{other:?}"),
        };
        let reason = ExitReason::from_raw(0x8000_0021);
        for bit in [1, 2, 5, 6, 7, 8, 39, 51, 63] {
            let mut scene = pae();
            store(&mut scene, &[0, 0, 0, 1 | 1 << bit]);
            let expected = (reason, 2, Rule::Reserved);
            assert_eq!(failure(&mut scene), expected, "bit {bit}");
        }
        let mut scene = pae();
        scene.page.store(Field::GUEST_CR3, 0x10_0000);
        assert_eq!(failure(&mut scene), (reason, 2, Rule::Unbacked));
    }
}
