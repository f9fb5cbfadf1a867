//! One figure over time: a cell for each ten seconds of the last hour, and for each five minutes of the last day.
//!
//! A cell belongs to a slot, counted from the start of the process by its running time; cells of slots in which nothing
//! was written are gaps ([`f32::NAN`]). Nothing is allocated after the series is made.

/// Cells of the last hour, ten seconds each.
pub const FINE: usize = 360;
/// Cells of the last day, five minutes each.
pub const COARSE: usize = 288;
/// Slots of the first kind in one of the second.
pub const FINE_PER_COARSE: u64 = 30;

/// What five minutes were like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The mean of what was written.
    pub mean: f32,
    /// The highest of it.
    pub peak: f32,
}

const GAP: Summary = Summary { mean: f32::NAN, peak: f32::NAN };

/// Both resolutions of one figure.
#[derive(Debug)]
pub struct Series {
    fine: Ring<f32>,
    coarse: Ring<Summary>,
    /// Of the coarse slot that is being filled.
    sum: f64,
    count: u32,
}

impl Series {
    /// Nothing but gaps.
    pub fn new() -> Self {
        Self { fine: Ring::new(FINE, f32::NAN), coarse: Ring::new(COARSE, GAP), sum: 0.0, count: 0 }
    }

    /// The value of a slot; slots that were left out since the last one stay gaps. Older slots than the last are ignored.
    pub fn write(&mut self, slot: u64, value: Option<f32>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        let Some(()) = self.fine.write(slot, value) else { return };
        let coarse = slot / FINE_PER_COARSE;
        let before = self.coarse.at(coarse).filter(|summary| !summary.mean.is_nan());
        if before.is_none() {
            (self.sum, self.count) = (0.0, 0);
        }
        self.sum += f64::from(value);
        self.count += 1;
        #[allow(clippy::cast_possible_truncation)] // The mean of floats that fit.
        let mean = (self.sum / f64::from(self.count)) as f32;
        let peak = before.map_or(value, |before| before.peak.max(value));
        self.coarse.write(coarse, Summary { mean, peak });
    }

    /// The last hour up to and with `slot`, oldest first.
    pub fn hour(&self, slot: u64) -> Vec<f32> {
        self.fine.until(slot)
    }

    /// The last day up to and with the five minutes of `slot`, oldest first.
    pub fn day(&self, slot: u64) -> Vec<Summary> {
        self.coarse.until(slot / FINE_PER_COARSE)
    }
}

/// The last cells, each at its slot modulo their number.
#[derive(Debug)]
struct Ring<T> {
    cells: Box<[T]>,
    gap: T,
    last: Option<u64>,
}

impl<T: Copy> Ring<T> {
    fn new(length: usize, gap: T) -> Self {
        Self { cells: vec![gap; length].into_boxed_slice(), gap, last: None }
    }

    fn place(&self, slot: u64) -> usize {
        usize::try_from(slot % self.cells.len() as u64).unwrap_or_default()
    }

    /// Writes, unless the slot has passed.
    fn write(&mut self, slot: u64, value: T) -> Option<()> {
        let next = self.last.map_or(slot, |last| last.saturating_add(1));
        if self.last.is_some_and(|last| slot < last) {
            return None;
        }
        // What lies further back than the ring is long is overwritten anyhow.
        let oldest = slot.saturating_sub(self.cells.len() as u64 - 1);
        for missed in next.max(oldest)..slot {
            let place = self.place(missed);
            *self.cells.get_mut(place)? = self.gap;
        }
        let place = self.place(slot);
        *self.cells.get_mut(place)? = value;
        self.last = Some(slot);
        Some(())
    }

    fn at(&self, slot: u64) -> Option<T> {
        let last = self.last?;
        let held = slot <= last && last - slot < self.cells.len() as u64;
        held.then(|| self.cells.get(self.place(slot)).copied()).flatten()
    }

    fn until(&self, slot: u64) -> Vec<T> {
        let length = self.cells.len() as u64;
        (0..length)
            .map(|back| slot.checked_sub(length - 1 - back).and_then(|slot| self.at(slot)).unwrap_or(self.gap))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With gaps as none, so that it can be compared.
    fn seen(values: &[f32]) -> Vec<Option<f32>> {
        values.iter().map(|value| Some(*value).filter(|value| !value.is_nan())).collect()
    }

    #[test]
    fn what_was_not_measured_is_a_gap_and_what_is_older_than_an_hour_is_gone() {
        let mut series = Series::new();
        assert!(series.hour(7).iter().all(|value| value.is_nan()), "nothing yet");
        series.write(0, Some(1.0));
        series.write(1, Some(2.0));
        series.write(2, None);
        series.write(4, Some(5.0));
        let hour = seen(&series.hour(5));
        assert_eq!(hour.len(), FINE);
        assert_eq!(hour[FINE - 6..], [Some(1.0), Some(2.0), None, None, Some(5.0), None]);
        assert!(hour[..FINE - 6].iter().all(Option::is_none));
        // An hour without a word: only what came after it is left.
        series.write(4 + 361, Some(9.0));
        let hour = seen(&series.hour(4 + 361));
        assert_eq!(hour.iter().flatten().collect::<Vec<_>>(), [&9.0]);
        // Far beyond the ring's length, and back again: no cell of the past shows up.
        series.write(1_000_000, Some(3.0));
        assert_eq!(seen(&series.hour(1_000_000)).iter().flatten().count(), 1);
        series.write(12, Some(4.0));
        assert_eq!(seen(&series.hour(1_000_000)).iter().flatten().count(), 1, "a slot that has passed");
    }

    #[test]
    fn a_full_ring_holds_the_last_hour_in_order() {
        let mut series = Series::new();
        for slot in 0..1000_u16 {
            series.write(slot.into(), Some(slot.into()));
        }
        let expected: Vec<f32> = (640..1000_u16).map(f32::from).collect();
        assert_eq!(series.hour(999), expected);
    }

    #[test]
    fn five_minutes_are_summed_up_by_their_mean_and_their_peak_while_they_last() {
        let mut series = Series::new();
        series.write(30, Some(1.0));
        assert_eq!(series.day(30).last(), Some(&Summary { mean: 1.0, peak: 1.0 }));
        series.write(31, Some(5.0));
        series.write(59, Some(3.0));
        assert_eq!(series.day(59).last(), Some(&Summary { mean: 3.0, peak: 5.0 }));
        // The next five minutes begin anew, and five of them were missed.
        series.write(59 + 6 * 30, Some(8.0));
        let day = series.day(59 + 6 * 30);
        assert_eq!(day.len(), COARSE);
        assert_eq!(day[COARSE - 1], Summary { mean: 8.0, peak: 8.0 });
        assert!(day[COARSE - 6..COARSE - 1].iter().all(|summary| summary.mean.is_nan()));
        assert_eq!(day[COARSE - 7], Summary { mean: 3.0, peak: 5.0 });
    }
}
