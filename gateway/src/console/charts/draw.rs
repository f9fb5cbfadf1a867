//! A chart as SVG, and its words. Pure.
//!
//! The picture holds lines alone and is stretched to the width there is; numbers and times stand beside it as text, which
//! keeps its size on a telephone. Colours come from the style sheet by class. What the picture shows is said in words to
//! who can't see it.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::figures::Unit;
use super::sampler::{Span, Values};

/// Height of the picture in its own units; its width is the number of cells.
const HEIGHT: f32 = 100.0;

/// What is drawn.
#[derive(Debug)]
pub struct Chart<'a> {
    /// Of the element, unique on its page: letters, digits, `-`.
    pub id: &'a str,
    /// What stands above it.
    pub title: &'a str,
    /// What it is counted in.
    pub unit: Unit,
    /// The beginning, the middle and the end of the time axis.
    pub times: [&'a str; 3],
    /// Oldest first.
    pub values: &'a Values,
}

/// What stands below the time axis.
pub fn times(span: Span) -> [&'static str; 3] {
    match span {
        Span::Hour => ["60 min ago", "30 min ago", "now"],
        Span::Day => ["24 h ago", "12 h ago", "now"],
    }
}

impl Chart<'_> {
    /// The figure: title, picture, axes, and its lowest, highest and last value.
    pub fn render(&self) -> Markup {
        let (line, peaks) = match self.values {
            Values::Each(values) => (values.clone(), None),
            Values::Summed(summed) => {
                let part = |part: fn(&super::ring::Summary) -> f32| summed.iter().map(part).collect::<Vec<_>>();
                (part(|summary| summary.mean), Some(part(|summary| summary.peak)))
            }
        };
        let facts = Facts::of(&line, peaks.as_deref());
        let highest = facts.as_ref().map_or(0.0, |facts| facts.highest);
        let top = self.unit.ceiling(highest);
        let words = self.words(facts.as_ref(), &line);
        let last = facts.as_ref().map_or_else(|| "no data".to_owned(), |facts| self.unit.words(facts.last));
        let (title_id, text_id) = (format!("{}-title", self.id), format!("{}-text", self.id));
        let [from, middle, to] = self.times;
        let width = line.len().saturating_sub(1).max(1);
        html! {
            figure.chart id=(self.id) {
                figcaption { span.chart-title { (self.title) } " " span.chart-last { (last) } }
                div.chart-plot {
                    div.chart-y aria-hidden="true" {
                        span { (self.unit.words(top)) } span { (self.unit.words(top / 2.0)) } span { (self.unit.words(0.0)) }
                    }
                    svg viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                        aria-labelledby={ (title_id) " " (text_id) } {
                        title id=(title_id) { (self.title) }
                        desc id=(text_id) { (words) }
                        path.chart-grid d={ "M0 0H" (width) "M0 50H" (width) "M0 100H" (width) } vector-effect="non-scaling-stroke" {}
                        @if let Some(peaks) = &peaks {
                            path.chart-peak d=(path(peaks, top)) vector-effect="non-scaling-stroke" {}
                        }
                        path.chart-line d=(path(&line, top)) vector-effect="non-scaling-stroke" {}
                    }
                    div.chart-x aria-hidden="true" { span { (from) } span { (middle) } span { (to) } }
                }
                p.chart-words aria-hidden="true" { (words) }
            }
        }
    }

    fn words(&self, facts: Option<&Facts>, line: &[f32]) -> String {
        let Some(Facts { lowest, highest, last, .. }) = facts else {
            return "nothing was measured in this time".to_owned();
        };
        let say = |value: &f32| self.unit.words(*value);
        let mut words = format!("lowest {}, highest {}, last {}", say(lowest), say(highest), say(last));
        let missing = gaps_within(line);
        if missing > 0 {
            let _written = write!(words, "; {missing} gap{} without data", if missing == 1 { "" } else { "s" }).is_ok();
        }
        words
    }
}

struct Facts {
    lowest: f32,
    highest: f32,
    last: f32,
}

impl Facts {
    fn of(line: &[f32], peaks: Option<&[f32]>) -> Option<Self> {
        let known = || line.iter().copied().filter(|value| !value.is_nan());
        let last = known().next_back()?;
        let highest = peaks.unwrap_or(line).iter().copied().filter(|value| !value.is_nan()).fold(last, f32::max);
        Some(Self { lowest: known().fold(last, f32::min), highest, last })
    }
}

/// Gaps between values that are known: what lies before the first of them, or after the last, is none.
fn gaps_within(line: &[f32]) -> usize {
    let known = |value: &f32| !value.is_nan();
    let (Some(first), Some(last)) = (line.iter().position(known), line.iter().rposition(known)) else { return 0 };
    let within = line.get(first..=last).unwrap_or_default();
    within.windows(2).filter(|pair| matches!(pair, [one, next] if known(one) && !known(next))).count()
}

/// The line through the values; gaps part it, a value between two gaps is a dot, points on a level stretch are left out.
fn path(values: &[f32], top: f32) -> String {
    let y = |value: f32| (HEIGHT - (value / top).clamp(0.0, 1.0) * HEIGHT).to_string_short();
    let mut path = String::new();
    let mut before: Option<String> = None;
    for (x, value) in values.iter().enumerate() {
        if value.is_nan() {
            before = None;
            continue;
        }
        let height = y(*value);
        let next = values.get(x + 1).copied().filter(|next| !next.is_nan()).map(y);
        let level = before.as_ref() == Some(&height) && next.as_ref() == Some(&height);
        let written = match (&before, &next) {
            _ if level => Ok(()),
            (None, None) => write!(path, "M{x} {height}h0"),
            (None, Some(_)) => write!(path, "M{x} {height}"),
            (Some(_), _) => write!(path, "L{x} {height}"),
        };
        debug_assert!(written.is_ok(), "a text takes everything");
        before = Some(height);
    }
    path
}

trait Short {
    fn to_string_short(&self) -> String;
}

impl Short for f32 {
    /// To a tenth.
    fn to_string_short(&self) -> String {
        let text = format!("{self:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::Summary;
    use super::*;

    const GAP: f32 = f32::NAN;

    fn drawn(values: &Values) -> String {
        let chart =
            Chart { id: "chart-waiting", title: "A <b>title</b>", unit: Unit::Count, times: times(Span::Hour), values };
        chart.render().into_string()
    }

    #[test]
    fn the_line_is_parted_by_gaps_and_short_where_it_is_level() {
        assert_eq!(path(&[0.0, 5.0, 10.0], 10.0), "M0 100L1 50L2 0");
        assert_eq!(path(&[5.0, 5.0, 5.0, 5.0, 10.0], 10.0), "M0 50L3 50L4 0");
        assert_eq!(path(&[5.0, GAP, 2.0, GAP, GAP, 1.0, 1.0], 10.0), "M0 50h0M2 80h0M5 90L6 90");
        assert_eq!(path(&[GAP, GAP], 10.0), "");
        assert_eq!(path(&[20.0, 20.0], 10.0), "M0 0L1 0", "never beyond the picture");
    }

    #[test]
    fn a_chart_says_what_it_shows_in_words_with_units_and_escapes_its_title() {
        let text = drawn(&Values::Each(vec![GAP, 3.0, GAP, 12.0, 6.0]));
        assert!(text.contains("lowest 3, highest 12, last 6; 1 gap without data"), "{text}");
        assert!(text.contains("A &lt;b&gt;title&lt;/b&gt;") && !text.contains("<b>"), "{text}");
        assert!(text.contains("role=\"img\"") && text.contains("<desc id=\"chart-waiting-text\">"), "{text}");
        assert!(text.contains("<span>20</span><span>10</span><span>0</span>"), "{text}");
        assert!(!text.contains("style="), "the policy of the pages forbids it");
    }

    #[test]
    fn nothing_measured_is_said_and_draws_no_line() {
        let text = drawn(&Values::Each(vec![GAP; 360]));
        assert!(text.contains("no data") && text.contains("nothing was measured in this time"), "{text}");
        assert!(text.contains("d=\"\""), "{text}");
    }

    #[test]
    fn a_day_shows_its_peaks_beside_the_means() {
        let summed = vec![Summary { mean: 1.0, peak: 9.0 }, Summary { mean: 2.0, peak: 3.0 }];
        let text = drawn(&Values::Summed(summed));
        assert!(text.contains("lowest 1, highest 9, last 2"), "{text}");
        assert!(text.contains("chart-peak"), "{text}");
    }

    #[test]
    fn a_full_chart_is_small() {
        let wild = (0..360_u16).map(|n| f32::from(n.wrapping_mul(7919) % 1000)).collect();
        let size = drawn(&Values::Each(wild)).len();
        assert!(size < 6_000, "{size}");
    }
}
