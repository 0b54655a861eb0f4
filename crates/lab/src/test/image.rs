//! The bare-metal image, taken apart: no instruction of it may touch vector registers, for they are the guest's while
//! L0 runs, and nothing saves them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

use super::{Kind, Tally};
use crate::paths::{self, Paths};

/// Functions whose very duty is with these registers: `store_guest_xmm` reads a guest's for a fast hypercall,
/// `try_xsavec` tries the processor's XSAVEC, and `zero_chunks` looks at the memory of a partition that is to be
/// restored, before there is a guest.
const ALLOWED: &[&str] = &["store_guest_xmm", "try_xsavec", "zero_chunks"];

/// Builds the image and checks it.
pub fn run(paths: &Paths, tally: &mut Tally) {
    let started = Instant::now();
    let outcome = crate::image::metal(paths, "hynest").and_then(|image| check(&image));
    tally.enter(Kind::Image, "no vector registers in L0", started, outcome);
}

fn check(image: &Path) -> Result<()> {
    let bytes = paths::read(image)?;
    let found = vector_uses(&bytes)
        .with_context(|| format!("{} cannot be taken apart", image.display()))?;
    let bad: Vec<String> = found
        .iter()
        .filter(|(name, _)| !ALLOWED.contains(&name.as_str()))
        .map(|(name, at)| format!("{name} at {at:#x}"))
        .collect();
    if !bad.is_empty() {
        bail!(
            "{} instructions with vector registers, the first ones in:\n{}",
            bad.len(),
            bad[..bad.len().min(10)].join("\n")
        );
    }
    Ok(())
}

/// The instructions of an ELF file that name an MMX, x87, SSE or AVX register: the symbol before each, and its address.
fn vector_uses(file: &[u8]) -> Result<Vec<(String, u64)>> {
    let elf: ElfFile64 = ElfFile64::parse(file)?;
    let mut symbols: Vec<(u64, &str)> = elf
        .symbols()
        .filter_map(|s| Some((s.address(), s.name().ok()?)))
        .collect();
    symbols.sort_unstable();
    let mut found = Vec::new();
    let mut decoded = 0;
    for section in elf
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let code = section.data()?;
        for instruction in Decoder::with_ip(64, code, section.address(), DecoderOptions::NONE) {
            decoded += 1;
            if uses_vectors(&instruction) {
                let before = symbols.partition_point(|(address, _)| *address <= instruction.ip());
                let name = before.checked_sub(1).map_or("?", |index| symbols[index].1);
                found.push((name.to_owned(), instruction.ip()));
            }
        }
    }
    if decoded == 0 {
        bail!("it has no code");
    }
    Ok(found)
}

fn uses_vectors(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .filter(|&n| instruction.op_kind(n) == OpKind::Register)
        .any(|n| {
            let register: Register = instruction.op_register(n);
            register.is_vector_register() || register.is_mm() || register.is_st()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(code: &[u8]) -> bool {
        Decoder::new(64, code, DecoderOptions::NONE)
            .iter()
            .any(|instruction| uses_vectors(&instruction))
    }

    #[test]
    fn vector_registers_are_seen_and_others_are_not() {
        assert!(uses(&[0x0F, 0x28, 0xC1])); // movaps xmm0, xmm1
        assert!(uses(&[0xF3, 0x0F, 0x7F, 0x07])); // movdqu [rdi], xmm0
        assert!(uses(&[0xC5, 0xFC, 0x28, 0xC1])); // vmovaps ymm0, ymm1
        assert!(uses(&[0x0F, 0x6F, 0xC1])); // movq mm0, mm1
        assert!(uses(&[0xD9, 0xC1])); // fld st(1)
        assert!(!uses(&[0x48, 0x89, 0xC8])); // mov rax, rcx
        assert!(!uses(&[0x0F, 0xAE, 0x07])); // fxsave [rdi]
        assert!(!uses(&[0x0F, 0x01, 0xD1])); // xsetbv
    }

    #[test]
    fn this_very_program_uses_them() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!vector_uses(&own).unwrap().is_empty());
        assert!(vector_uses(b"no ELF").is_err());
    }
}
