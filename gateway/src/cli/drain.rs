//! `fieldgate buffer status --watch`: how far the buffer has been emptied, how fast that goes and how long it takes yet.

use std::collections::VecDeque;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use fieldgate_types::{Clock, SystemClock, UnixMillis};
use serde_json::json;

use super::client::Client;
use super::screen::Rounds;
use super::show::{bytes, date};
use crate::admin::Status;
use crate::config::Config;

/// Looks over which the rate is an average.
const LOOKS: usize = 10;
/// Characters of the bar.
const BAR: u64 = 40;

/// Shows it again and again: on a terminal in place and with a bar, else a line for each look; with `json` a document in
/// each line.
pub async fn watch(config: &Config, rounds: Rounds, json: bool) -> anyhow::Result<ExitCode> {
    let clock = SystemClock::new();
    let bar = stdout().is_terminal() && !json;
    let mut drain = Drain::default();
    let look = async || {
        let status: Status = Client::required(&config.data_dir).await?.get("/api/v1/status").await?;
        let progress = drain.look(clock.now(), status.buffer.messages);
        Ok(if json { document(&status, progress) } else { text(&status, progress, bar) })
    };
    rounds.show(!bar, look).await?;
    Ok(ExitCode::SUCCESS)
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Drain {
    looks: VecDeque<(UnixMillis, u64)>,
    /// The most that waited since nothing did.
    most: u64,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    left: u64,
    most: u64,
    /// Messages a second by which it becomes less; none while it doesn't.
    rate: Option<u64>,
}

impl Drain {
    fn look(&mut self, now: UnixMillis, left: u64) -> Progress {
        self.most = if left == 0 { 0 } else { self.most.max(left) };
        self.looks.push_back((now, left));
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
        let rate = self.looks.front().and_then(|(since, before)| {
            let took = u64::try_from(now.since(*since).as_millis()).ok().filter(|took| *took > 0)?;
            Some(before.saturating_sub(left).saturating_mul(1000) / took).filter(|rate| *rate > 0)
        });
        Progress { left, most: self.most, rate }
    }
}

impl Progress {
    /// Seconds, rounded up.
    fn to_go(self) -> Option<u64> {
        self.rate.filter(|_| self.left > 0).map(|rate| self.left.div_ceil(rate))
    }

    /// Hundredths of the most that have left.
    fn done(self) -> u64 {
        (self.most - self.left.min(self.most)).saturating_mul(100).checked_div(self.most).unwrap_or(100)
    }
}

fn text(status: &Status, progress: Progress, bar: bool) -> String {
    let waits = format!("{} messages waiting, {}", progress.left, bytes(status.buffer.bytes));
    let upstream = status.upstream.as_ref().map_or("none", |upstream| upstream.state.as_str());
    let goes = match (progress.rate, progress.to_go()) {
        _ if progress.left == 0 => "all has gone".to_owned(),
        (Some(rate), Some(seconds)) => format!("{rate} fewer each second, {} to go", clock_face(seconds)),
        _ if upstream == "up" => "no fewer than before".to_owned(),
        _ => format!("nothing leaves: the upstream is {upstream}"),
    };
    if !bar {
        return format!("{} {waits}; {goes}\n", date(status.now));
    }
    let done = progress.done();
    let filled = "#".repeat(usize::try_from(done * BAR / 100).unwrap_or_default());
    let width = usize::try_from(BAR).unwrap_or_default();
    format!("{waits}\n[{filled:.<width$}] {done} % of {}\n{goes}\n", progress.most)
}

fn document(status: &Status, progress: Progress) -> String {
    let upstream = status.upstream.as_ref().map(|upstream| &upstream.state);
    let Progress { left, most, rate } = progress;
    let (bytes, seconds) = (status.buffer.bytes, progress.to_go());
    let document = json!({ "ts": status.now, "messages": left, "bytes": bytes, "most": most, "fewer_per_second": rate, "seconds_to_go": seconds, "upstream": upstream });
    document.to_string() + "\n"
}

/// `h:mm:ss`
fn clock_face(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(1_793_491_200_000 + seconds * 1000)
    }

    #[test]
    fn the_rate_and_the_time_to_go_follow_what_was_seen_last() {
        let mut drain = Drain::default();
        let first = drain.look(at(0), 10_000);
        assert_eq!((first.rate, first.to_go(), first.done()), (None, None, 0));
        assert_eq!(drain.look(at(2), 12_000).rate, None, "it grows");
        let progress = drain.look(at(4), 6_000);
        assert_eq!((progress.rate, progress.to_go(), progress.done()), (Some(1_000), Some(6), 50));
        for second in 5..30 {
            drain.look(at(second), 6_000 - second * 100);
        }
        let progress = drain.look(at(30), 3_000);
        assert_eq!((progress.rate, progress.done()), (Some(100), 75), "the beginning is forgotten");
        let end = drain.look(at(31), 0);
        assert_eq!((end.to_go(), end.done()), (None, 100));
        assert_eq!(drain.look(at(32), 50).most, 50, "another drain");
        assert_eq!(clock_face(3_725), "1:02:05");
    }
}
