//! Lists that are no longer than they can be: L0 has no memory for what a state file may claim.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Reads a list of at most `MOST` elements.
pub fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MOST} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut read = Vec::with_capacity(list.size_hint().unwrap_or(0).min(MOST));
            while let Some(element) = list.next_element()? {
                if read.len() == MOST {
                    return Err(A::Error::invalid_length(MOST + 1, &self));
                }
                read.push(element);
            }
            Ok(read)
        }
    }

    deserializer.deserialize_seq(List::<T, MOST>(PhantomData))
}
