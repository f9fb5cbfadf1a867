//! The same harness without a fuzzer: the seeds of the repository, and mutants of them from a seeded generator.

use std::path::Path;

use super::{run_v5, run_v311};

/// xorshift64*: the same mutants on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % most.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next() >> 56).unwrap()
    }
}

fn seeds(version: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(version);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A few changes: bits, bytes, cuts, repetitions, and pieces of another seed.
fn mutant(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, b'+', b'#', b'/'][random.below(8)],
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.byte()),
            5 if at < bytes.len() => drop(bytes.remove(at)),
            6 => {
                let end = at + random.below(bytes.len() - at + 1);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

fn mutants(version: &str, run: fn(&[u8]), count: usize) {
    let seeds = seeds(version);
    assert!(seeds.len() >= 24, "seeds of {version} are missing");
    for seed in &seeds {
        run(seed);
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for number in 0..count {
        let bytes = mutant(&mut random, &seeds);
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "mutant {number} of {version} breaks a promise: {bytes:02x?}");
    }
}

#[test]
fn twenty_thousand_mutants_of_3_1_1_break_no_promise() {
    mutants("v311", run_v311, 20_000);
}

#[test]
fn twenty_thousand_mutants_of_5_break_no_promise() {
    mutants("v5", run_v5, 20_000);
}
