//! How many messages each device sent in each minute of the last hour.
//!
//! Fed with the totals of the ledger once a minute. A device has cells from its first message on; before, it is one number.
//! Cells are 16 bits wide: a device with more than 65,535 messages in a minute has all of its cells halved, as often as it
//! takes, and is so much coarser.

use std::collections::HashMap;

use fieldgate_types::DeviceId;

/// Minutes that are kept.
pub const MINUTES: usize = 60;
/// Devices that have a chart; further ones have none.
pub const MOST: usize = 10_000;

/// Of all devices.
#[derive(Debug, Default)]
pub struct Minutes {
    rows: HashMap<DeviceId, Row>,
    /// The minute that was begun last.
    last: Option<u64>,
    /// Minutes, at their places, over which nothing was missed.
    known: Known,
}

#[derive(Debug)]
struct Known([bool; MINUTES]);

impl Default for Known {
    fn default() -> Self {
        Self([false; MINUTES])
    }
}

#[derive(Debug)]
struct Row {
    total: u64,
    /// Cells are to be shifted left by so much.
    shift: u8,
    cells: Option<Box<[u16; MINUTES]>>,
}

/// Where a minute stands.
fn place(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or_default()
}

impl Minutes {
    /// A minute has ended; the totals follow by [`Self::note`]. `false`: it had been ended before, and nothing is to be noted.
    pub fn end(&mut self, minute: u64) -> bool {
        if self.last.is_some_and(|last| minute <= last) {
            return false;
        }
        let consecutive = self.last.is_some_and(|last| last + 1 == minute);
        let missed = self.last.map_or(0, |last| minute - last).min(MINUTES as u64);
        for back in 0..missed.max(1) {
            let at = place(minute.saturating_sub(back));
            if let Some(known) = self.known.0.get_mut(at) {
                *known = false;
            }
            for cells in self.rows.values_mut().filter_map(|row| row.cells.as_mut()) {
                if let Some(cell) = cells.get_mut(at) {
                    *cell = 0;
                }
            }
        }
        if let Some(known) = self.known.0.get_mut(place(minute)) {
            *known = consecutive;
        }
        self.last = Some(minute);
        true
    }

    /// Totals of some devices at the end of that minute. In parts, so that nobody waits for all of it.
    pub fn note(&mut self, totals: &[(DeviceId, u64)]) {
        let Some(minute) = self.last else { return };
        let known = self.known.0.get(place(minute)).copied().unwrap_or_default();
        for (device, total) in totals {
            if let Some(row) = self.rows.get_mut(device) {
                let came = total.saturating_sub(row.total);
                row.total = *total;
                if known && came > 0 {
                    row.write(minute, came);
                }
            } else if self.rows.len() < MOST {
                // A device that is new has sent all of it in this minute, unless this is the first one.
                let mut row = Row { total: *total, shift: 0, cells: None };
                if known && *total > 0 {
                    row.write(minute, *total);
                }
                self.rows.insert(device.clone(), row);
            }
        }
    }

    /// Messages of a device in each of the last minutes, oldest first, gaps where nothing was measured. None for a device beyond
    /// [`MOST`].
    pub fn of(&self, device: &DeviceId) -> Option<Vec<f32>> {
        let row = self.rows.get(device);
        if row.is_none() && self.rows.len() >= MOST {
            return None;
        }
        let last = self.last.unwrap_or_default();
        let value = |minute: u64| {
            let at = place(minute);
            if !self.known.0.get(at).copied().unwrap_or_default() {
                return f32::NAN;
            }
            let count = row.and_then(|row| Some(u64::from(*row.cells.as_ref()?.get(at)?) << row.shift)).unwrap_or(0);
            #[allow(clippy::cast_precision_loss)] // For a line on a chart.
            let count = count as f32;
            count
        };
        let back = |back: u64| last.checked_sub(MINUTES as u64 - 1 - back).map_or(f32::NAN, value);
        Some((0..MINUTES as u64).map(back).collect())
    }
}

impl Row {
    fn write(&mut self, minute: u64, count: u64) {
        let cells = self.cells.get_or_insert_with(|| Box::new([0; MINUTES]));
        while count >> self.shift > u64::from(u16::MAX) {
            cells.iter_mut().for_each(|cell| *cell >>= 1);
            self.shift += 1;
        }
        if let Some(cell) = cells.get_mut(place(minute)) {
            *cell = u16::try_from(count >> self.shift).unwrap_or(u16::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    fn seen(minutes: &Minutes, device: &str) -> Vec<Option<f32>> {
        let of = minutes.of(&id(device)).unwrap();
        of.into_iter().map(|value| Some(value).filter(|value| !value.is_nan())).collect()
    }

    fn minute(minutes: &mut Minutes, at: u64, totals: &[(&str, u64)]) {
        assert!(minutes.end(at));
        minutes.note(&totals.iter().map(|(device, total)| (id(device), *total)).collect::<Vec<_>>());
    }

    #[test]
    fn each_minute_holds_what_came_in_it_and_a_missed_one_is_a_gap() {
        let mut minutes = Minutes::default();
        assert!(seen(&minutes, "a").iter().all(Option::is_none));
        minute(&mut minutes, 10, &[("a", 1_000)]);
        minute(&mut minutes, 11, &[("a", 1_005)]);
        minute(&mut minutes, 12, &[("a", 1_005), ("b", 7)]);
        assert!(!minutes.end(12), "the same minute again");
        assert_eq!(
            seen(&minutes, "a")[MINUTES - 3..],
            [None, Some(5.0), Some(0.0)],
            "what came before the start is nobody's minute"
        );
        assert_eq!(seen(&minutes, "b")[MINUTES - 3..], [None, Some(0.0), Some(7.0)]);
        minute(&mut minutes, 14, &[("a", 1_100), ("b", 7)]);
        minute(&mut minutes, 15, &[("a", 1_101), ("b", 7)]);
        assert_eq!(seen(&minutes, "a")[MINUTES - 4..], [Some(0.0), None, None, Some(1.0)]);
        assert_eq!(seen(&minutes, "nobody")[MINUTES - 1], Some(0.0));
    }

    #[test]
    fn an_hour_later_nothing_of_the_hour_before_shows() {
        let mut minutes = Minutes::default();
        for at in 0..200 {
            minute(&mut minutes, at, &[("a", at * at)]);
        }
        let expected: Vec<Option<f32>> = (140..200_u16).map(|at| Some(f32::from(2 * at - 1))).collect();
        assert_eq!(seen(&minutes, "a"), expected);
        minute(&mut minutes, 500, &[("a", 1_000_000)]);
        assert!(seen(&minutes, "a").iter().all(Option::is_none));
        minute(&mut minutes, 501, &[("a", 1_000_001)]);
        assert_eq!(seen(&minutes, "a").iter().flatten().collect::<Vec<_>>(), [&1.0]);
    }

    #[test]
    fn a_busy_device_is_coarser_and_not_cut_off() {
        let mut minutes = Minutes::default();
        minute(&mut minutes, 0, &[("a", 0)]);
        minute(&mut minutes, 1, &[("a", 1_000)]);
        minute(&mut minutes, 2, &[("a", 1_001_000)]);
        let seen = seen(&minutes, "a");
        let (first, second) = (seen[MINUTES - 2].unwrap(), seen[MINUTES - 1].unwrap());
        assert!((first - 1_000.0).abs() <= 16.0, "{first}");
        assert!((second - 1_000_000.0).abs() <= 16.0, "{second}");
    }

    #[test]
    fn devices_beyond_the_most_have_no_chart_and_take_nothing() {
        let mut minutes = Minutes::default();
        let totals: Vec<_> = (0..MOST + 5).map(|n| (id(&format!("d{n}")), 0)).collect();
        assert!(minutes.end(0));
        minutes.note(&totals);
        assert_eq!(minutes.rows.len(), MOST);
        assert!(minutes.rows.values().all(|row| row.cells.is_none()), "no cells before the first message");
        assert!(minutes.of(&id("d0")).is_some());
        assert!(minutes.of(&id(&format!("d{}", MOST + 1))).is_none());
        assert!(size_of::<(DeviceId, Row)>() <= 40);
    }
}
