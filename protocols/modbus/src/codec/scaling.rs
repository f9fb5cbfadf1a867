//! Scale and offset.

/// A linear scale: value = raw × scale + offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scaling {
    pub(super) scale: f64,
    /// Of 0.1 it is 10: dividing by it gives 0.3 for a raw 3, where multiplying gives 0.30000000000000004.
    divisor: Option<f64>,
    pub(super) offset: f64,
}

impl Scaling {
    pub(super) fn new(scale: f64, offset: f64) -> Option<Self> {
        if scale.to_bits() == 1.0_f64.to_bits() && offset == 0.0 {
            return None;
        }
        let inverse = (1.0 / scale).round();
        let exact = scale.abs() < 1.0 && inverse.is_finite() && (1.0 / inverse).to_bits() == scale.to_bits();
        Some(Self { scale, divisor: exact.then_some(inverse), offset })
    }

    pub(super) fn apply(&self, raw: f64) -> f64 {
        self.divisor.map_or(raw * self.scale, |divisor| raw / divisor) + self.offset
    }

    pub(super) fn undo(&self, value: f64) -> f64 {
        let value = value - self.offset;
        self.divisor.map_or(value / self.scale, |divisor| value * divisor)
    }
}
