//! How the server reaches guest memory.

use addr::{Gpa1, Gpa2};

/// The guest has no memory of the wanted kind there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmapped;

/// Memory that can be read by guest addresses of type `A`.
pub trait ReadMemory<A> {
    /// Fills `into` from `at` on. The guest may change the bytes meanwhile:
    /// each is read once, and a naturally aligned word of 8 bytes as a whole.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] if any of the bytes is no memory of the guest; what `into`
    /// holds then is unspecified.
    fn read(&self, at: A, into: &mut [u8]) -> Result<(), Unmapped>;

    /// Fills `into` with the words from `at` on, a multiple of 8.
    ///
    /// # Errors
    ///
    /// As for [`ReadMemory::read`].
    #[inline]
    fn read_words(&self, at: A, into: &mut [u64]) -> Result<(), Unmapped>
    where
        A: GuestAddress,
    {
        let mut next = Some(at);
        for word in into {
            let at = next.ok_or(Unmapped)?;
            let mut bytes = [0; 8];
            self.read(at, &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
            next = at.checked_add(8);
        }
        Ok(())
    }
}

/// Memory that can be written by guest addresses of type `A`.
pub trait WriteMemory<A> {
    /// Stores `from` at `at` and after. A write of 4 or 8 bytes that is
    /// naturally aligned is one store, and writes become visible to the guest
    /// in the order in which they are made: the reference TSC page's protocol
    /// rests on both.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] if any of the bytes is no memory of the guest; nothing is
    /// written then.
    fn write(&self, at: A, from: &[u8]) -> Result<(), Unmapped>;
}

/// A partition's memory.
pub trait L1Memory: ReadMemory<Gpa1> + WriteMemory<Gpa1> {}

impl<M: ReadMemory<Gpa1> + WriteMemory<Gpa1>> L1Memory for M {}

/// A guest physical address of some level: hypercalls of L1 hold those of L1,
/// hypercalls of L2 those of L2, and both are decoded by the same code.
pub trait GuestAddress: Copy {
    /// Wraps a raw byte address.
    fn new(raw: u64) -> Self;
    /// The byte offset within the 4 KiB page.
    fn page_offset(self) -> u64;
    /// The address `bytes` further on; `None` past the end of the space.
    fn checked_add(self, bytes: u64) -> Option<Self>;
}

macro_rules! guest_address {
    ($($level:ty),*) => {$(
        impl GuestAddress for $level {
            #[inline]
            fn new(raw: u64) -> Self {
                Self::new(raw)
            }
            #[inline]
            fn page_offset(self) -> u64 {
                self.page_offset()
            }
            #[inline]
            fn checked_add(self, bytes: u64) -> Option<Self> {
                self.checked_add(bytes)
            }
        }
    )*};
}

guest_address!(Gpa1, Gpa2);
