//! What was measured: printed as a table and, where asked for, written as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value as Json, json};

/// What a figure is to reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Ours at least so many times the first peer's.
    Times(f64),
    /// Ours at most so many times the first peer's.
    Share(f64),
    /// Ours at least this.
    AtLeast(f64),
    /// Ours at most this.
    AtMost(f64),
    /// For information.
    None,
}

/// One figure of each broker, from all rounds.
#[derive(Debug, Clone)]
pub struct Row {
    pub bench: &'static str,
    pub what: String,
    pub unit: &'static str,
    pub goal: Goal,
    /// Ours first: name and one value per round.
    pub series: Vec<(&'static str, Vec<f64>)>,
}

impl Row {
    pub fn new(bench: &'static str, what: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self { bench, what: what.into(), unit, goal, series: Vec::new() }
    }

    /// One more round of one broker.
    pub fn add(&mut self, name: &'static str, value: f64) {
        match self.series.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.series.push((name, vec![value])),
        }
    }

    fn median(&self, index: usize) -> Option<f64> {
        self.series.get(index).and_then(|(_, values)| median(values))
    }

    /// Ours by the first peer's.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.median(0)? / self.median(1)?)
    }

    /// Whether the goal is reached; `None` without one.
    pub fn reached(&self) -> Option<bool> {
        match self.goal {
            Goal::Times(times) => Some(self.ratio()? >= times),
            Goal::Share(share) => Some(self.ratio()? <= share),
            Goal::AtLeast(least) => Some(self.median(0)? >= least),
            Goal::AtMost(most) => Some(self.series.first()?.1.iter().all(|value| *value <= most)),
            Goal::None => None,
        }
    }

    fn print(&self) {
        println!("{}: {}, {}", self.bench, self.what, self.unit);
        for (name, values) in &self.series {
            let (low, high) = range(values);
            let median = median(values).unwrap_or(f64::NAN);
            println!(
                "  {name:<10} {:>12}   range {} to {}, {} round(s)",
                number(median),
                number(low),
                number(high),
                values.len()
            );
        }
        let goal = match self.goal {
            Goal::Times(times) => format!("goal at least {times} x"),
            Goal::Share(share) => format!("goal at most {share} x"),
            Goal::AtLeast(least) => format!("goal at least {}", number(least)),
            Goal::AtMost(most) => format!("goal at most {}", number(most)),
            Goal::None => String::new(),
        };
        let mut line = String::new();
        if let Some(ratio) = self.ratio() {
            let rounds: Vec<f64> = self.round_ratios();
            let (low, high) = range(&rounds);
            let _written = write!(line, "  ratio {ratio:.2} (rounds {low:.2} to {high:.2})");
        }
        if let Some(reached) = self.reached() {
            let _written = write!(line, "  {goal}: {}", if reached { "reached" } else { "MISSED" });
        }
        if !line.is_empty() {
            println!("{line}");
        }
    }

    fn round_ratios(&self) -> Vec<f64> {
        let [ours, theirs, ..] = self.series.as_slice() else { return Vec::new() };
        ours.1.iter().zip(&theirs.1).map(|(ours, theirs)| ours / theirs).collect()
    }

    fn json(&self) -> Json {
        let series: serde_json::Map<String, Json> = self
            .series
            .iter()
            .map(|(name, values)| {
                let (low, high) = range(values);
                let figures = json!({ "rounds": values, "median": median(values), "low": low, "high": high });
                ((*name).to_owned(), figures)
            })
            .collect();
        let goal = match self.goal {
            Goal::Times(times) => json!({ "at_least_times": times }),
            Goal::Share(share) => json!({ "at_most_times": share }),
            Goal::AtLeast(least) => json!({ "at_least": least }),
            Goal::AtMost(most) => json!({ "at_most": most }),
            Goal::None => Json::Null,
        };
        json!({
            "bench": self.bench, "what": self.what, "unit": self.unit, "brokers": series,
            "ratio": self.ratio(), "goal": goal, "reached": self.reached(),
        })
    }
}

/// Everything of one run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    /// What makes the run a failure: something was lost, or out of order, or did not work.
    problems: Vec<String>,
}

impl Report {
    /// Takes a figure, and prints it.
    pub fn row(&mut self, row: Row) {
        row.print();
        self.rows.push(row);
    }

    /// Takes a remark, and prints it; once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            println!("note: {note}");
            self.notes.push(note);
        }
    }

    /// Takes what makes the run a failure.
    pub fn problem(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        println!("PROBLEM: {problem}");
        self.problems.push(problem);
    }

    pub fn failed(&self) -> bool {
        !self.problems.is_empty()
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let rows: Vec<Json> = self.rows.iter().map(Row::json).collect();
        let whole = json!({ "machine": machine(), "rows": rows, "notes": self.notes, "problems": self.problems });
        Ok(std::fs::write(path, serde_json::to_string_pretty(&whole)? + "\n")?)
    }
}

/// Cores, memory, kernel.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let line = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
        found.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({}), memory {}, Linux {}, load {}",
        line("/proc/cpuinfo", "model name"),
        line("/proc/meminfo", "MemTotal"),
        kernel.trim(),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    )
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (high, low) = (sorted.get(sorted.len() / 2)?, sorted.get((sorted.len().checked_sub(1)?) / 2)?);
    Some(f64::midpoint(*high, *low))
}

/// The value that `share` of all are not above.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as mebibytes.
#[expect(clippy::cast_precision_loss, reason = "memory sizes")]
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
