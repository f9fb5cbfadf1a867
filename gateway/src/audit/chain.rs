//! The chain: each line has its number `n` and, in `prev`, the SHA-256 of the line before, without its line feed.
//!
//! ```text
//! {"n":7,"prev":"<SHA-256 of line 6>","ts":1793491200000,"event":"device_revoked","device":"press-1"}
//! ```
//! Line 1 has zeros, or the last line of a log from before there was a chain. Numbers and hashes go on over files and
//! restarts.

use fieldgate_certs::Fingerprint;
use fieldgate_types::UnixMillis;
use serde::{Deserialize, Serialize};

use super::Event;

/// What line 1 has for a line before it, where there is none.
pub(super) const NOTHING_BEFORE: Fingerprint = Fingerprint([0; 32]);

/// Where a chain ends: the last line's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its number, counted from 1.
    pub n: u64,
    /// SHA-256 of the line without its line feed.
    pub hash: Fingerprint,
}

#[derive(Serialize)]
struct Line<'a> {
    n: u64,
    prev: Fingerprint,
    ts: UnixMillis,
    #[serde(flatten)]
    event: &'a Event,
}

/// The line with number `n` after the one of hash `prev`, with its line feed; and where the chain ends then.
pub(super) fn line(n: u64, prev: Fingerprint, ts: UnixMillis, event: &Event) -> serde_json::Result<(Vec<u8>, End)> {
    let mut line = serde_json::to_vec(&Line { n, prev, ts, event })?;
    let end = End { n, hash: Fingerprint::of(&line) };
    line.push(b'\n');
    Ok((line, end))
}

/// What a line says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It is in the chain.
    Chained { n: u64, prev: Fingerprint, ts: UnixMillis },
    /// Of a log from before there was a chain.
    Unchained,
    /// It is no line of this log.
    Unreadable,
}

#[derive(Deserialize)]
struct Fields {
    n: Option<u64>,
    prev: Option<Fingerprint>,
    ts: UnixMillis,
}

impl Head {
    /// Of `line`, without its line feed.
    pub(super) fn of(line: &[u8]) -> Self {
        match serde_json::from_slice(line) {
            Ok(Fields { n: Some(n), prev: Some(prev), ts }) => Self::Chained { n, prev, ts },
            Ok(Fields { n: None, prev: None, .. }) => Self::Unchained,
            Ok(_) | Err(_) => Self::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_its_place_and_its_hash_is_that_of_its_text() {
        let (line, end) = line(7, NOTHING_BEFORE, UnixMillis(5), &Event::Stopped).unwrap();
        let text = format!(r#"{{"n":7,"prev":"{}","ts":5,"event":"stopped"}}"#, "0".repeat(64));
        assert_eq!(String::from_utf8(line).unwrap(), format!("{text}\n"));
        assert_eq!(end, End { n: 7, hash: Fingerprint::of(text.as_bytes()) });
        let head = Head::Chained { n: 7, prev: NOTHING_BEFORE, ts: UnixMillis(5) };
        assert_eq!(Head::of(text.as_bytes()), head);
    }

    #[test]
    fn tells_old_lines_from_what_is_none() {
        assert_eq!(Head::of(br#"{"ts":5,"event":"stopped"}"#), Head::Unchained);
        for none in
            [&b""[..], b"\0\0\0", b"{\"n\":7,\"pr", br#"{"n":7,"ts":5}"#, br#"{"n":7,"prev":"0","ts":5}"#, b"[]"]
        {
            assert_eq!(Head::of(none), Head::Unreadable, "{none:?}");
        }
    }
}
