//! Guest memory: its allocation, its slots, and writes into it.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use crate::error::{Error, Result, refused};

/// Anonymous memory for the guest-physical ranges `(address, bytes)`.
pub fn allocate(ranges: &[(u64, u64)]) -> Result<GuestMemoryMmap> {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|&(start, bytes)| (GuestAddress(start), bytes as usize))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).map_err(|e| Error::Memory(e.to_string()))
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
