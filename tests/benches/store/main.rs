//! What the queue costs: bytes written to the disk per message, drain and append rates, memory. One crate alone, no broker.
//! Each figure of each round comes from a process of its own, so that its bytes and its memory are its own.
//!
//! `cargo bench -p fieldgate-store --bench store -- [--rounds 3] [--folder DIR] [--short] [NAME…]`

mod counters;
mod measure;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use measure::{Measure, Scale};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, folder, scale] = arguments.as_slice()
        && flag == "--one"
    {
        let measure = Measure::named(name).ok_or("no such measure")?;
        let scale = if scale == "short" { Scale::SHORT } else { Scale::FULL };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        for (what, value) in runtime.block_on(measure.run(Path::new(folder), scale))? {
            println!("{what}\t{value}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    all(&arguments)
}

fn all(arguments: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let mut rounds: usize = 3;
    let mut folder = std::env::temp_dir();
    let mut short = false;
    let mut wanted = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = words.next().ok_or("--rounds wants a number")?.parse()?,
            "--folder" => folder = PathBuf::from(words.next().ok_or("--folder wants a folder")?),
            "--short" => (short, rounds) = (true, 1),
            // Said by `cargo bench` itself.
            "--bench" => {}
            name => wanted.push(Measure::named(name).ok_or_else(|| format!("no such measure: `{name}`"))?),
        }
    }
    println!("machine: {}", counters::machine(&folder));
    if short {
        println!("a short run: it shows that everything works, its figures mean nothing");
    }
    let mut missed = false;
    for measure in Measure::ALL.into_iter().filter(|measure| wanted.is_empty() || wanted.contains(measure)) {
        let mut figures: Vec<(String, Vec<f64>)> = Vec::new();
        for round in 0..rounds.max(1) {
            let place = folder.join(format!("fieldgate-store-bench-{}-{round}", std::process::id()));
            std::fs::create_dir_all(&place)?;
            let found = one(measure, &place, short);
            std::fs::remove_dir_all(&place)?;
            for (what, value) in found? {
                match figures.iter_mut().find(|(known, _)| *known == what) {
                    Some((_, values)) => values.push(value),
                    None => figures.push((what, vec![value])),
                }
            }
        }
        for (what, values) in &figures {
            missed |= !print(measure, what, values) && !short;
        }
    }
    println!("machine: {}", counters::machine(&folder));
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One round in a process of its own.
fn one(measure: Measure, place: &Path, short: bool) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let scale = if short { "short" } else { "full" };
    // Steps see each other's files, and nothing else of each other.
    let mut found = Vec::new();
    for step in measure.steps() {
        let out = Command::new(std::env::current_exe()?)
            .args(["--one", step.name()])
            .arg(place)
            .arg(scale)
            .stderr(Stdio::inherit())
            .output()?;
        if !out.status.success() {
            return Err(format!("`{}` failed", step.name()).into());
        }
        for line in String::from_utf8(out.stdout)?.lines() {
            let (what, value) = line.split_once('\t').ok_or("an answer without a value")?;
            found.push((what.to_owned(), value.parse()?));
        }
    }
    Ok(found)
}

/// Median and range; `false` when the median misses its goal.
fn print(measure: Measure, what: &str, values: &[f64]) -> bool {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let median = f64::midpoint(at(sorted.len() / 2), at((sorted.len() - 1) / 2));
    let (low, high) = (at(0), at(sorted.len() - 1));
    let goal = measure.goal(what);
    let reached = goal.is_none_or(|most| median <= most);
    let verdict = match goal {
        Some(most) if reached => format!("  goal at most {most}: reached"),
        Some(most) => format!("  goal at most {most}: MISSED"),
        None => String::new(),
    };
    println!("{what:<58} {median:>10.0}  range {low:.0} to {high:.0}, {} round(s){verdict}", sorted.len());
    reached
}
