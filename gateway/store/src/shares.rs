//! Whose records give way first, and which stretches of the lanes were gone over for them. In memory, pure.
//!
//! Who holds more than its share of what waits is known to the ledger; where its records lie, among those of all others,
//! nobody knows without a look. So the lanes are gone over from their low end, and what was gone over for a device isn't
//! looked at again: records don't come to be among older ones. After a restart it is, once.

use crate::record::Lane;

/// Devices that are remembered, and that give way at a time: the heaviest of those above their share.
pub(crate) const MOST: usize = 32;
/// Stretches that are told apart, for each device and lane. They grow together as they meet; a rewind begins another.
const STRETCHES: usize = 64;

/// Stretches of ids, ascending and apart, their ends exclusive.
#[derive(Debug, Default)]
struct Stretches(Vec<(u64, u64)>);

impl Stretches {
    /// The first id from `from` on that is in none of them, and where the next of them begins.
    fn gap(&self, from: u64) -> (u64, u64) {
        let mut start = from;
        for (begin, end) in &self.0 {
            if *begin > start {
                return (start, *begin);
            }
            start = start.max(*end);
        }
        (start, u64::MAX)
    }

    fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut from, mut to) = (from, to);
        self.0.retain(|(begin, end)| {
            let apart = *end < from || *begin > to;
            if !apart {
                (from, to) = (from.min(*begin), to.max(*end));
            }
            apart
        });
        let at = self.0.partition_point(|(begin, _)| *begin < from);
        self.0.insert(at, (from, to));
        // Too many: what lies between the lowest two counts as gone over. It goes with the oldest of all in its turn.
        if self.0.len() > STRETCHES
            && let [(_, end), (_, second), ..] = self.0.as_mut_slice()
        {
            *end = *second;
            self.0.remove(1);
        }
    }

    fn take(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let old = std::mem::take(&mut self.0);
        let left = |(begin, end): (u64, u64)| [(begin, end.min(from)), (begin.max(to), end)];
        self.0 = old.into_iter().flat_map(left).filter(|(begin, end)| begin < end).collect();
    }
}

/// What was gone over for one device.
#[derive(Debug)]
struct Swept {
    row: usize,
    lanes: [Stretches; 3],
}

/// What was gone over, for whom.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Whoever was longest not asked for in front.
    swept: Vec<Swept>,
    /// For each lane: nothing was spared below, from where it was first gone over.
    bare: [u64; 3],
}

impl Shares {
    /// Where to go on for the devices at these rows, from `from` on: the first id that was not gone over for one of them, and an
    /// end beyond which it may have been for all.
    pub(crate) fn next(&self, rows: &[usize], lane: Lane, from: u64) -> (u64, u64) {
        let gap = |row: &usize| {
            let swept = self.swept.iter().find(|swept| swept.row == *row);
            swept.map_or((from, u64::MAX), |swept| lane.of(&swept.lanes).gap(from))
        };
        let gaps: Vec<_> = rows.iter().map(gap).collect();
        let start = gaps.iter().map(|(start, _)| *start).min().unwrap_or(u64::MAX);
        (start, gaps.iter().map(|(_, end)| *end).max().unwrap_or(u64::MAX))
    }

    /// It was gone over for the devices at these rows, of which there are [`MOST`] at most.
    pub(crate) fn add(&mut self, rows: &[usize], lane: Lane, from: u64, to: u64) {
        for row in rows {
            let known = self.swept.iter().position(|swept| swept.row == *row);
            let known = known.map(|at| self.swept.remove(at));
            let mut swept = known.unwrap_or_else(|| Swept { row: *row, lanes: Default::default() });
            lane.of_mut(&mut swept.lanes).add(from, to);
            self.swept.push(swept);
        }
        let forgotten = self.swept.len().saturating_sub(MOST);
        self.swept.drain(..forgotten);
    }

    /// What was done there was taken back.
    pub(crate) fn take(&mut self, lane: Lane, from: u64, to: u64) {
        for swept in &mut self.swept {
            lane.of_mut(&mut swept.lanes).take(from, to);
        }
        *lane.of_mut(&mut self.bare) = 0;
    }

    /// Whether nothing lies between `from`, where `lane` begins, and `start`.
    pub(crate) fn is_bare(&self, lane: Lane, from: u64, start: u64) -> bool {
        start == from || start == *lane.of(&self.bare)
    }

    /// Nothing was spared up to `to`.
    pub(crate) fn bare(&mut self, lane: Lane, to: u64) {
        *lane.of_mut(&mut self.bare) = to;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_device_is_looked_for_where_nobody_looked_for_it() {
        let mut shares = Shares::default();
        let next = |shares: &Shares, rows: &[usize], from| shares.next(rows, Lane::Live, from);
        assert_eq!(next(&shares, &[1], 10), (10, u64::MAX));
        shares.add(&[1], Lane::Live, 10, 50);
        assert_eq!(next(&shares, &[1], 10), (50, u64::MAX));
        assert_eq!(next(&shares, &[1, 2], 10), (10, u64::MAX), "nobody looked for the other");
        assert_eq!(next(&shares, &[1], 3), (3, 10), "a rewind gives back what lies before");
        shares.add(&[1], Lane::Live, 3, 10);
        assert_eq!(next(&shares, &[1], 3), (50, u64::MAX));
        assert_eq!(shares.next(&[1], Lane::Priority, 3), (3, u64::MAX));
        shares.take(Lane::Live, 20, 30);
        assert_eq!(next(&shares, &[1], 3), (20, 30));
    }

    #[test]
    fn only_so_many_devices_and_stretches_are_remembered() {
        let mut shares = Shares::default();
        for row in 0..2 * MOST {
            shares.add(&[row], Lane::Live, 0, 5);
        }
        assert_eq!(shares.swept.len(), MOST);
        assert_eq!(shares.next(&[0], Lane::Live, 0), (0, u64::MAX));
        let mut stretches = Stretches::default();
        for place in (0..10 * STRETCHES as u64).rev() {
            stretches.add(2 * place, 2 * place + 1);
        }
        assert_eq!(stretches.0.len(), STRETCHES);
    }

    proptest! {
        /// Against a set of ids.
        #[test]
        fn stretches_are_the_ids_that_were_added_and_not_taken(
            steps in vec((any::<bool>(), 0..40_u64, 0..12_u64), 0..30),
            from in 0..50_u64,
        ) {
            let (mut stretches, mut ids) = (Stretches::default(), std::collections::BTreeSet::new());
            for (add, begin, len) in steps {
                if add {
                    stretches.add(begin, begin + len);
                    ids.extend(begin..begin + len);
                } else {
                    stretches.take(begin, begin + len);
                    ids.retain(|id| !(begin..begin + len).contains(id));
                }
            }
            let start = (from..from + 100).find(|id| !ids.contains(id)).unwrap();
            let end = ids.range(start..).next().copied().unwrap_or(u64::MAX);
            prop_assert_eq!(stretches.gap(from), (start, end));
            prop_assert!(stretches.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
