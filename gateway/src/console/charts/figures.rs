//! Which figures are charted, and what two readings of the counters make of each.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::southbound::drivers::LinkKey;

/// What is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// So many a second.
    PerSecond,
    /// So many a minute.
    PerMinute,
    /// So many.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Millis,
    /// Percent, of one core.
    Percent,
}

impl Unit {
    /// A value in words, rounded for people.
    pub fn words(self, value: f32) -> String {
        match self {
            Self::PerSecond => format!("{} /s", short(value)),
            Self::PerMinute => format!("{} /min", short(value)),
            Self::Count => short(value),
            Self::Bytes => bytes(value),
            Self::Millis if value >= 1_000.0 => format!("{} s", short(value / 1_000.0)),
            Self::Millis => format!("{} ms", short(value)),
            Self::Percent => format!("{} %", short(value)),
        }
    }

    /// Where the axis ends for a highest value: a round number that is not below it.
    pub fn ceiling(self, highest: f32) -> f32 {
        let (least, base, steps): (f32, f32, &[f32]) = match self {
            Self::Bytes => (1024.0, 1024.0, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]),
            Self::Percent | Self::Count => (10.0, 10.0, &[1.0, 2.0, 5.0]),
            Self::PerSecond | Self::PerMinute | Self::Millis => (1.0, 10.0, &[1.0, 2.0, 5.0]),
        };
        let mut scale = least;
        // An f32 has fewer decades than this.
        for _ in 0..40 {
            if let Some(step) = steps.iter().find(|step| *step * scale >= highest) {
                return step * scale;
            }
            scale *= base;
        }
        highest
    }
}

/// Three digits, thousands as k and so on.
fn short(value: f32) -> String {
    let (value, suffix) = match value {
        value if value >= 999_500_000.0 => (value / 1e9, " G"),
        value if value >= 999_500.0 => (value / 1e6, " M"),
        value if value >= 9_995.0 => (value / 1e3, " k"),
        value => (value, ""),
    };
    format!("{}{suffix}", digits(value))
}

fn digits(value: f32) -> String {
    let text = match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn bytes(value: f32) -> String {
    let (mut value, mut unit) = (value, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", digits(value))
}

/// A figure of the whole gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// From MQTT clients.
    Published,
    /// To MQTT clients.
    Sent,
    /// Into the buffer.
    Stored,
    /// Out of it.
    Delivered,
    /// In the buffer.
    Waiting,
    /// Likewise, in bytes.
    WaitingBytes,
    /// From sending to the upstream's acknowledgement.
    Acknowledge,
    /// Leaf connections.
    Connections,
    /// What leaves were refused.
    Refusals,
    /// Processor time.
    Cpu,
    /// Resident memory.
    Memory,
}

impl Figure {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Published,
        Self::Sent,
        Self::Stored,
        Self::Delivered,
        Self::Waiting,
        Self::WaitingBytes,
        Self::Acknowledge,
        Self::Connections,
        Self::Refusals,
        Self::Cpu,
        Self::Memory,
    ];

    /// A word for addresses and ids of elements.
    pub fn word(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Sent => "sent",
            Self::Stored => "stored",
            Self::Delivered => "delivered",
            Self::Waiting => "waiting",
            Self::WaitingBytes => "waiting-bytes",
            Self::Acknowledge => "acknowledge",
            Self::Connections => "connections",
            Self::Refusals => "refusals",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// What stands above its chart.
    pub fn title(self) -> &'static str {
        match self {
            Self::Published => "Messages from MQTT devices",
            Self::Sent => "Messages to MQTT subscribers",
            Self::Stored => "Messages into the buffer",
            Self::Delivered => "Messages delivered upstream",
            Self::Waiting => "Messages waiting",
            Self::WaitingBytes => "Bytes waiting",
            Self::Acknowledge => "Upstream acknowledges after",
            Self::Connections => "MQTT connections",
            Self::Refusals => "Refusals",
            Self::Cpu => "Processor (of one core)",
            Self::Memory => "Memory",
        }
    }

    /// What it is counted in.
    pub fn unit(self) -> Unit {
        match self {
            Self::Published | Self::Sent | Self::Stored | Self::Delivered => Unit::PerSecond,
            Self::Waiting | Self::Connections => Unit::Count,
            Self::WaitingBytes | Self::Memory => Unit::Bytes,
            Self::Acknowledge => Unit::Millis,
            Self::Refusals => Unit::PerMinute,
            Self::Cpu => Unit::Percent,
        }
    }

    /// Its value between two readings; none where it can't be said.
    pub fn between(self, before: Option<&Reading>, now: &Reading) -> Option<f32> {
        let over = |count: fn(&Reading) -> Option<u64>, per: f64| {
            let before = before?;
            let elapsed = now.at.checked_sub(before.at)?.as_secs_f64();
            let came = count(now)?.checked_sub(count(before)?)?;
            (elapsed > 0.0).then(|| float(came) * per / elapsed)
        };
        let value = match self {
            Self::Published => over(|reading| Some(reading.published), 1.0),
            Self::Sent => over(|reading| Some(reading.sent), 1.0),
            Self::Stored => over(|reading| Some(reading.stored), 1.0),
            Self::Delivered => over(|reading| reading.delivered, 1.0),
            Self::Refusals => over(|reading| Some(reading.refusals), 60.0),
            Self::Cpu => over(|reading| Some(u64::try_from(reading.cpu?.as_micros()).unwrap_or(u64::MAX)), 100.0 / 1e6),
            Self::Waiting => Some(float(now.waiting)),
            Self::WaitingBytes => Some(float(now.waiting_bytes)),
            Self::Connections => Some(float(now.connections)),
            Self::Memory => now.memory.map(float),
            Self::Acknowledge => mean(before?.acknowledged?, now.acknowledged?),
        };
        value.map(narrow)
    }
}

/// A figure of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFigure {
    /// How long an answer takes.
    Response,
    /// Answers, or notifications.
    Answers,
    /// Requests that failed.
    Failures,
}

impl LinkFigure {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Response, Self::Answers, Self::Failures];

    /// A word for ids of elements.
    pub fn word(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Answers => "answers",
            Self::Failures => "failures",
        }
    }

    /// What stands above its chart.
    pub fn title(self) -> &'static str {
        match self {
            Self::Response => "Response time",
            Self::Answers => "Answers",
            Self::Failures => "Failures",
        }
    }

    /// What it is counted in.
    pub fn unit(self) -> Unit {
        match self {
            Self::Response => Unit::Millis,
            Self::Answers => Unit::PerSecond,
            Self::Failures => Unit::PerMinute,
        }
    }

    /// Its value between two readings of one link that are `elapsed` apart.
    pub fn between(self, before: &LinkReading, now: &LinkReading, elapsed: Duration) -> Option<f32> {
        let seconds = elapsed.as_secs_f64();
        let rate = |before: u64, now: u64, per: f64| {
            let came = now.checked_sub(before).filter(|_| seconds > 0.0)?;
            Some(float(came) * per / seconds)
        };
        let value = match self {
            // Of a link that asks for nothing there is no time.
            Self::Response if now.response.is_zero() => None,
            Self::Response => mean((before.answers, before.response), (now.answers, now.response)),
            Self::Answers => rate(before.answers, now.answers, 1.0),
            Self::Failures => rate(before.failures, now.failures, 60.0),
        };
        value.map(narrow)
    }
}

/// One reading of the counters.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// When, in running time.
    pub at: Duration,
    /// PUBLISH packets received.
    pub published: u64,
    /// PUBLISH packets sent.
    pub sent: u64,
    /// Records that went into the buffer.
    pub stored: u64,
    /// Records that the upstream acknowledged.
    pub delivered: Option<u64>,
    /// Acknowledgements, and how long all of them took.
    pub acknowledged: Option<(u64, Duration)>,
    /// Records in the buffer.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Leaf connections.
    pub connections: u64,
    /// What leaves were refused.
    pub refusals: u64,
    /// Processor time of the process.
    pub cpu: Option<Duration>,
    /// Resident memory.
    pub memory: Option<u64>,
    /// Links that run.
    pub links: BTreeMap<LinkKey, LinkReading>,
}

/// Of a link.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkReading {
    /// Answers.
    pub answers: u64,
    /// Failures.
    pub failures: u64,
    /// How long all answers took together.
    pub response: Duration,
}

/// Milliseconds each; none where none came.
fn mean(before: (u64, Duration), now: (u64, Duration)) -> Option<f64> {
    let count = now.0.checked_sub(before.0).filter(|count| *count > 0)?;
    let took = now.1.checked_sub(before.1)?;
    Some(took.as_secs_f64() * 1_000.0 / float(count))
}

#[allow(clippy::cast_precision_loss)] // For a line on a chart.
fn float(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_possible_truncation)] // For a line on a chart.
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time_and_a_counter_that_began_anew_is_a_gap() {
        let before = Reading {
            at: Duration::from_secs(100),
            published: 1_000,
            delivered: Some(500),
            acknowledged: Some((500, Duration::from_secs(5))),
            refusals: 3,
            cpu: Some(Duration::from_secs(1)),
            ..Reading::default()
        };
        let now = Reading {
            at: Duration::from_secs(110),
            published: 1_250,
            delivered: Some(600),
            acknowledged: Some((600, Duration::from_secs(7))),
            refusals: 4,
            waiting: 42,
            cpu: Some(Duration::from_millis(1_500)),
            ..Reading::default()
        };
        let value = |figure: Figure| figure.between(Some(&before), &now);
        assert_eq!(value(Figure::Published), Some(25.0));
        assert_eq!(value(Figure::Delivered), Some(10.0));
        assert_eq!(value(Figure::Acknowledge), Some(20.0));
        assert_eq!(value(Figure::Refusals), Some(6.0));
        assert_eq!(value(Figure::Cpu), Some(5.0));
        assert_eq!(value(Figure::Waiting), Some(42.0));
        assert_eq!(value(Figure::Memory), None);
        let anew = Reading { delivered: Some(2), acknowledged: Some((2, Duration::ZERO)), ..now.clone() };
        assert_eq!(Figure::Delivered.between(Some(&before), &anew), None);
        assert_eq!(Figure::Acknowledge.between(Some(&before), &anew), None);
        assert_eq!(Figure::Published.between(None, &now), None, "one reading makes no rate");
        assert_eq!(Figure::Waiting.between(None, &now), Some(42.0));
        assert_eq!(Figure::Acknowledge.between(Some(&now), &now), None, "nothing was acknowledged");
    }

    #[test]
    fn a_link_has_its_mean_response_and_its_rates() {
        let before = LinkReading { answers: 100, failures: 0, response: Duration::from_secs(1) };
        let now = LinkReading { answers: 120, failures: 1, response: Duration::from_millis(1_100) };
        let value = |figure: LinkFigure| figure.between(&before, &now, Duration::from_secs(10));
        assert_eq!(value(LinkFigure::Response), Some(5.0));
        assert_eq!(value(LinkFigure::Answers), Some(2.0));
        assert_eq!(value(LinkFigure::Failures), Some(6.0));
        let silent = LinkReading { response: Duration::ZERO, ..now };
        assert_eq!(LinkFigure::Response.between(&before, &silent, Duration::from_secs(10)), None);
    }

    #[test]
    fn values_are_said_shortly_and_with_their_unit() {
        let said = [
            (Unit::PerSecond, 0.0, "0 /s"),
            (Unit::PerSecond, 1.5, "1.5 /s"),
            (Unit::PerSecond, 12_345.0, "12.3 k /s"),
            (Unit::Count, 1_999_999.0, "2 M"),
            (Unit::Count, 9_994.0, "9994"),
            (Unit::Bytes, 1_023.0, "1023 B"),
            (Unit::Bytes, 1_536.0, "1.5 KiB"),
            (Unit::Bytes, 3.0 * 1024.0 * 1024.0 * 1024.0, "3 GiB"),
            (Unit::Millis, 0.25, "0.25 ms"),
            (Unit::Millis, 1_500.0, "1.5 s"),
            (Unit::Percent, 3.0, "3 %"),
        ];
        for (unit, value, words) in said {
            assert_eq!(unit.words(value), words);
        }
    }

    #[test]
    fn an_axis_ends_at_a_round_number_that_is_not_below_the_highest_value() {
        let ends = [
            (Unit::PerSecond, 0.0, 1.0),
            (Unit::PerSecond, 1.0, 1.0),
            (Unit::PerSecond, 1.1, 2.0),
            (Unit::PerSecond, 60.0, 100.0),
            (Unit::Count, 3.0, 10.0),
            (Unit::Bytes, 700.0, 1024.0),
            (Unit::Bytes, 1_500.0, 2048.0),
            (Unit::Bytes, 600.0 * 1024.0, 1024.0 * 1024.0),
        ];
        for (unit, highest, end) in ends {
            assert!((unit.ceiling(highest) - end).abs() < 0.001, "{unit:?} {highest}: {}", unit.ceiling(highest));
        }
        assert!(Unit::Count.ceiling(f32::MAX) >= f32::MAX);
    }
}
