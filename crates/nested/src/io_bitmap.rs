//! The I/O bitmaps of VMCS 12: which ports L1 wants to see.
//!
//! Source: SDM volume 3, "I/O-Bitmap Addresses". Bitmap A has a bit for each
//! port from 0 to 0x7FFF, bitmap B for each from 0x8000 to 0xFFFF. L0 never
//! gives these pages to hardware: L2's port accesses all exit to L0, which
//! asks here whose they are.

use crate::bitmap_page::BitmapPage;

/// L1's pair of bitmaps.
#[derive(Clone, Copy, Debug)]
pub struct IoBitmaps<'a, A, B> {
    /// Ports 0 to 0x7FFF.
    pub a: &'a A,
    /// Ports 0x8000 to 0xFFFF.
    pub b: &'a B,
}

impl<A: BitmapPage, B: BitmapPage> IoBitmaps<'_, A, B> {
    /// Whether an access of `bytes` (1, 2 or 4) at `port` exits to L1: if the
    /// bit of any port it touches is set, or if it passes the last port.
    pub fn intercepts(&self, port: u16, bytes: u8) -> bool {
        let Some(last) = port.checked_add(u16::from(bytes.max(1)) - 1) else {
            return true;
        };
        // All bits are in one word, unless the access straddles two.
        let first_word = self.word(port);
        let offset = port % 64;
        if last / 64 == port / 64 {
            let mask = u64::MAX >> (63 - (last - port)) << offset;
            return first_word & mask != 0;
        }
        let second = u64::MAX >> (63 - last % 64);
        first_word >> offset != 0 || self.word(last) & second != 0
    }

    /// The word that holds the bit of `port`.
    fn word(&self, port: u16) -> u64 {
        let index = usize::from(port & 0x7fff) / 64;
        if port < 0x8000 {
            self.a.word(index)
        } else {
            self.b.word(index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap_page::NoMemory;
    use alloc::boxed::Box;
    use proptest::prelude::*;

    struct Bits(Box<[u64; 512]>);

    impl BitmapPage for Bits {
        fn word(&self, index: usize) -> u64 {
            self.0[index]
        }
    }

    /// The pair with the bits of these ports set.
    fn bitmaps(ports: &[u16]) -> (Bits, Bits) {
        let mut a = Bits(Box::new([0; 512]));
        let mut b = Bits(Box::new([0; 512]));
        for port in ports {
            let page = if *port < 0x8000 { &mut a } else { &mut b };
            let bit = usize::from(port & 0x7fff);
            page.0[bit / 64] |= 1 << (bit % 64);
        }
        (a, b)
    }

    fn intercepts(ports: &[u16], port: u16, bytes: u8) -> bool {
        let (a, b) = bitmaps(ports);
        IoBitmaps { a: &a, b: &b }.intercepts(port, bytes)
    }

    #[test]
    fn a_clear_bitmap_intercepts_only_what_wraps() {
        for port in [0, 0x7ffc, 0x7ffd, 0x7fff, 0x8000, 0xfffc] {
            for bytes in [1, 2, 4] {
                assert!(!intercepts(&[], port, bytes), "{port:#x} {bytes}");
            }
        }
        assert!(!intercepts(&[], 0xffff, 1));
        assert!(intercepts(&[], 0xffff, 2));
        assert!(!intercepts(&[], 0xfffe, 2));
        assert!(intercepts(&[], 0xfffd, 4));
    }

    #[test]
    fn an_access_across_the_two_pages_sees_both() {
        assert!(intercepts(&[0x8000], 0x7fff, 2));
        assert!(intercepts(&[0x7fff], 0x7fff, 2));
        assert!(!intercepts(&[0x8000], 0x7fff, 1));
        assert!(!intercepts(&[0x7fff], 0x8000, 4));
        assert!(!intercepts(&[0x7ffe, 0x8001], 0x7fff, 2));
        assert!(intercepts(&[0x8002], 0x7fff, 4));
        assert!(!intercepts(&[0x8003], 0x7fff, 4));
    }

    #[test]
    fn pages_without_memory_intercept_everything() {
        let pair = IoBitmaps {
            a: &NoMemory,
            b: &NoMemory,
        };
        assert!(pair.intercepts(0x80, 1) && pair.intercepts(0xcf8, 4));
        assert!(pair.intercepts(0x8000, 1));
    }

    proptest! {
        #[test]
        fn any_byte_counts(
            ports in prop::collection::vec(any::<u16>(), 0..4),
            near in 0u16..8,
            bytes in prop::sample::select(alloc::vec![1u8, 2, 4]),
            port in any::<u16>(),
        ) {
            // Half of the accesses are close to a port that is intercepted.
            let port = match ports.first() {
                Some(first) if near < 4 => first.wrapping_sub(near),
                _ => port,
            };
            let touched = (0..u32::from(bytes)).map(|n| u32::from(port) + n);
            let want = touched
                .clone()
                .any(|p| p > 0xffff || ports.contains(&(p as u16)));
            prop_assert_eq!(intercepts(&ports, port, bytes), want);
        }
    }
}
