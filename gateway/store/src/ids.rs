//! Sets and maps by record id. Ids are the store's own and ascend, so nobody can choose them to collide, and a hash that
//! holds against that would be half of what such a look-up costs.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Record ids.
pub(crate) type Ids = HashSet<u64, BuildHasherDefault<Spread>>;
/// Something for each of some record ids.
pub(crate) type ById<T> = HashMap<u64, T, BuildHasherDefault<Spread>>;

/// Neighbouring ids lie in neighbouring places, and their upper bits differ.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

/// 2^64 by the golden ratio (Knuth 6.4): odd, so that different ids stay different.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(GOLDEN);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
