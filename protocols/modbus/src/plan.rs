//! The poll plan: which registers are asked for together. Pure.
//!
//! Points of one unit, table and interval whose addresses lie close together share a request: one request of 125
//! registers costs about as much as one of 2, which gained 83 to 156 times on the reference device (FINDINGS). Registers
//! in a gap are read and thrown away. A point is never divided between two requests.

use crate::address::{Address, Table};

/// The most bits that one request may ask for (application protocol V1.1b3, sections 6.1 and 6.2).
pub const MAX_BITS: u16 = 2_000;

/// What a request may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most registers in one request, 1 to 125. Of bits 16 times as many, 2,000 at most.
    pub max_block: u16,
    /// The most registers between two points that are read for nothing. Of bits 16 times as many.
    pub max_gap: u16,
}

impl Limits {
    fn block(self, table: Table) -> u16 {
        if table.is_bits() { self.max_block.saturating_mul(16).min(MAX_BITS) } else { self.max_block }
    }

    fn gap(self, table: Table) -> u16 {
        if table.is_bits() { self.max_gap.saturating_mul(16) } else { self.max_gap }
    }
}

/// Registers or bits that must not be read, not even for nothing between two points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skip {
    /// In which table.
    pub table: Table,
    /// The first of them.
    pub first: u16,
    /// The last of them.
    pub last: u16,
}

impl Skip {
    /// Whether one of these is among `from` to before `to`.
    pub fn touches(&self, table: Table, from: u32, to: u32) -> bool {
        self.table == table && u32::from(self.first) < to && from <= u32::from(self.last)
    }
}

/// Where a point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its first register or bit.
    pub at: Address,
    /// How many it takes; at + width does not exceed 65,536.
    pub width: u16,
}

impl Extent {
    /// Behind its last register or bit.
    pub fn end(self) -> u32 {
        u32::from(self.at.offset) + u32::from(self.width)
    }
}

/// One request, and the points that its answer serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Which table.
    pub table: Table,
    /// The first register or bit.
    pub start: u16,
    /// How many.
    pub count: u16,
    /// The points: whatever numbers the caller gave them, ordered by address.
    pub points: Vec<usize>,
}

/// Merges points of one unit and interval into requests. Each point is served by exactly one of them.
pub fn merge(points: impl IntoIterator<Item = (usize, Extent)>, limits: Limits, skip: &[Skip]) -> Vec<Read> {
    let mut points: Vec<_> = points.into_iter().collect();
    points.sort_by_key(|(number, extent)| (extent.at, extent.width, *number));
    let mut reads: Vec<Read> = Vec::new();
    for (number, extent) in points {
        let table = extent.at.table;
        if let Some(last) = reads.last_mut().filter(|last| last.table == table) {
            let last_end = u32::from(last.start) + u32::from(last.count);
            let together = extent.end().max(last_end) - u32::from(last.start);
            let near = u32::from(extent.at.offset) <= last_end + u32::from(limits.gap(table));
            let start = u32::from(extent.at.offset);
            let forbidden = last_end < start && skip.iter().any(|skip| skip.touches(table, last_end, start));
            if let Ok(count) = u16::try_from(together)
                && near
                && !forbidden
                && count <= limits.block(table)
            {
                last.count = count;
                last.points.push(number);
                continue;
            }
        }
        reads.push(Read { table, start: extent.at.offset, count: extent.width, points: vec![number] });
    }
    reads
}

/// The two halves of a request that the device refused, without the gap between them. `None` for a single point:
/// then it is the one that is refused.
pub fn halve(read: &Read, extent: impl Fn(usize) -> Option<Extent>) -> Option<[Read; 2]> {
    let (left, right) = read.points.split_at_checked(read.points.len() / 2)?;
    let half = |points: &[usize]| {
        let extents = || points.iter().filter_map(|point| extent(*point));
        let start = extents().map(|extent| extent.at.offset).min()?;
        let end = extents().map(Extent::end).max()?;
        let count = u16::try_from(end - u32::from(start)).ok()?;
        Some(Read { table: read.table, start, count, points: points.to_vec() })
    };
    Some([half(left)?, half(right)?])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(offset: u16, width: u16) -> Extent {
        Extent { at: Address { table: Table::Holding, offset }, width }
    }

    #[test]
    fn merges_up_to_the_gap_and_the_block() {
        let limits = Limits { max_block: 10, max_gap: 2 };
        let points = [holding(0, 2), holding(4, 2), holding(9, 1), holding(10, 1), holding(19, 1), holding(12, 1)];
        let reads = merge(points.into_iter().enumerate(), limits, &[]);
        let seen: Vec<_> = reads.iter().map(|read| (read.start, read.count, read.points.as_slice())).collect();
        assert_eq!(seen, [(0, 6, &[0, 1][..]), (9, 4, &[2, 3, 5]), (19, 1, &[4])]);
    }

    #[test]
    fn never_reads_what_is_forbidden() {
        let limits = Limits { max_block: 125, max_gap: 124 };
        let points = [holding(0, 2), holding(4, 2), holding(20, 1)];
        let skip = |first, last| [Skip { table: Table::Holding, first, last }];
        let reads = |skip: &[Skip]| {
            let reads = merge(points.into_iter().enumerate(), limits, skip);
            reads.iter().map(|read| (read.start, read.count)).collect::<Vec<_>>()
        };
        assert_eq!(reads(&[]), [(0, 21)]);
        assert_eq!(reads(&skip(6, 6)), [(0, 6), (20, 1)]);
        assert_eq!(reads(&skip(19, 19)), [(0, 6), (20, 1)]);
        assert_eq!(reads(&skip(2, 3)), [(0, 2), (4, 17)]);
        assert_eq!(reads(&skip(21, 99)), [(0, 21)]);
        assert_eq!(reads(&[Skip { table: Table::Input, first: 0, last: 99 }]), [(0, 21)]);
    }

    #[test]
    fn halves_until_one_point_is_left() {
        let points = [holding(0, 2), holding(4, 2), holding(9, 1)];
        let [read] =
            merge(points.into_iter().enumerate(), Limits { max_block: 125, max_gap: 8 }, &[]).try_into().unwrap();
        let [left, right] = halve(&read, |point| points.get(point).copied()).unwrap();
        assert_eq!((left.start, left.count), (0, 2));
        assert_eq!((right.start, right.count, right.points.len()), (4, 6, 2));
        assert_eq!(halve(&left, |point| points.get(point).copied()), None);
    }

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let table = prop::sample::select(vec![Table::Coil, Table::Discrete, Table::Input, Table::Holding]);
        let near = prop_oneof![0_u16..600, 65_000_u16..=65_532];
        let extent = (table, near, prop::sample::select(vec![1_u16, 2, 4])).prop_map(|(table, offset, width)| Extent {
            at: Address { table, offset },
            width: if table.is_bits() { 1 } else { width },
        });
        prop::collection::vec(extent, 0..120)
    }

    proptest! {
        #[test]
        fn covers_every_point_once_within_the_limits(points in extents(), max_block in 4_u16..=125, max_gap in 0_u16..=124) {
            let limits = Limits { max_block, max_gap };
            let reads = merge(points.iter().copied().enumerate(), limits, &[]);
            let mut served: Vec<usize> = reads.iter().flat_map(|read| read.points.clone()).collect();
            served.sort_unstable();
            prop_assert_eq!(served, (0..points.len()).collect::<Vec<_>>());
            for read in &reads {
                prop_assert!(read.count <= limits.block(read.table));
                let end = u32::from(read.start) + u32::from(read.count);
                prop_assert!(end <= 65_536);
                let mut covered = u32::from(read.start);
                for point in &read.points {
                    let extent = &points[*point];
                    prop_assert_eq!(extent.at.table, read.table);
                    prop_assert!(extent.at.offset >= read.start && extent.end() <= end);
                    prop_assert!(u32::from(extent.at.offset) <= covered + u32::from(limits.gap(read.table)));
                    covered = covered.max(extent.end());
                }
                prop_assert_eq!(covered, end, "no register beyond the last point");
            }
        }

        #[test]
        fn halving_ends_in_single_points(points in extents()) {
            for read in merge(points.iter().copied().enumerate(), Limits { max_block: 125, max_gap: 8 }, &[]) {
                let mut open = vec![read.clone()];
                let mut single = Vec::new();
                while let Some(read) = open.pop() {
                    match halve(&read, |point| points.get(point).copied()) {
                        Some(halves) => open.extend(halves),
                        None => single.push(read),
                    }
                }
                prop_assert_eq!(single.len(), read.points.len());
                for alone in single {
                    let extent = points[alone.points[0]];
                    prop_assert_eq!((alone.start, alone.count), (extent.at.offset, extent.width));
                }
            }
        }
    }
}
