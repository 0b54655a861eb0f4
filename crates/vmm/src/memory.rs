//! Guest memory: its allocation, its slots, and writes into it.

use core::ptr;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress, MmapRegion,
};

use crate::error::{Error, Result, last_system_error, refused};

/// Anonymous memory for the guest-physical ranges `(address, bytes)`.
pub fn allocate(ranges: &[(u64, u64)]) -> Result<GuestMemoryMmap> {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|&(start, bytes)| (GuestAddress(start), bytes as usize))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).map_err(|e| Error::Memory(e.to_string()))
}

/// A huge page of x86.
const HUGE: usize = 2 << 20;

/// The same for a guest that stays as long as this process: it is never unmapped.
///
/// Guest-physical addresses that are multiples of 2 MiB are so here too, and the kernel
/// is asked for huge pages: then KVM maps 2 MiB of the guest by one EPT violation
/// instead of 512.
pub fn allocate_for_good(ranges: &[(u64, u64)]) -> Result<GuestMemoryMmap> {
    let regions = ranges.iter().map(|&(start, bytes)| {
        let region = map_for_good(bytes as usize)?;
        let region = GuestRegionMmap::new(region, GuestAddress(start));
        region.ok_or_else(|| Error::Memory("it ends beyond the address space".into()))
    });
    GuestMemoryMmap::from_regions(regions.collect::<Result<_>>()?)
        .map_err(|e| Error::Memory(e.to_string()))
}

fn map_for_good(bytes: usize) -> Result<MmapRegion> {
    const PROT: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
    const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, which touches none that is there.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), bytes + HUGE, PROT, FLAGS, -1, 0) };
    if mapping == libc::MAP_FAILED {
        return Err(last_system_error("allocate the guest's memory"));
    }
    let mapping = mapping.cast::<u8>();
    let start = mapping.wrapping_add(mapping.addr().next_multiple_of(HUGE) - mapping.addr());
    // SAFETY: the range is within the mapping just made. The answer does not matter: a
    // kernel that has no huge pages gives small ones.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
    // SAFETY: the range is within the mapping just made, which stays for good.
    unsafe { MmapRegion::build_raw(start, bytes, PROT, FLAGS) }
        .map_err(|e| Error::Memory(e.to_string()))
}

/// Makes `memory` the VM's memory: region n in slot n. It must live as long as the VM.
pub fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<()> {
    for (slot, region) in memory.iter().enumerate() {
        let address = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|e| Error::Memory(e.to_string()))?;
        // SAFETY: the region is a mapping that outlives the VM (the callers' structures
        // drop it after the VM), and this process only accesses it as volatile memory.
        unsafe {
            vm.set_user_memory_region(kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: address.addr() as u64,
            })
        }
        .map_err(refused("give the guest its memory"))?;
    }
    Ok(())
}

/// Writes bytes at a guest-physical address.
pub fn write(memory: &GuestMemoryMmap, address: u64, bytes: &[u8]) -> Result<()> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|e| Error::Memory(e.to_string()))
}

/// Writes 64-bit words at a guest-physical address.
pub fn write_words(memory: &GuestMemoryMmap, address: u64, words: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    write(memory, address, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_good_is_aligned_and_all_there() {
        let ranges = [(0, 3 << 20), (1 << 32, 4096)];
        let memory = allocate_for_good(&ranges).unwrap();
        for (start, bytes) in ranges {
            let host = memory.get_host_address(GuestAddress(start)).unwrap();
            assert_eq!(host.addr() % HUGE, 0);
            write(&memory, start + bytes - 1, &[7]).unwrap();
            assert!(write(&memory, start + bytes, &[7]).is_err());
        }
    }
}
