//! Whether what arrived is what was acknowledged: nothing lost, nothing out of order, what came twice.

use std::collections::BTreeSet;

/// A number of one device as the cloud received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The number that the device gave its message.
    pub n: u64,
    /// The gateway's boot counter.
    pub boot: u64,
    /// The gateway's sequence number.
    pub seq: u64,
    /// Marked as historical.
    pub historical: bool,
}

/// What became of one device's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged, and never arrived.
    pub lost: Vec<u64>,
    /// Messages whose (boot, seq) is not above the one before, where it is not a repetition of one already seen.
    pub disordered: Vec<Arrival>,
    /// Numbers that arrived for the first time after a higher one.
    pub late: Vec<u64>,
    /// The same (boot, seq) with different numbers: a sequence number given twice.
    pub ambiguous: Vec<Arrival>,
    /// Messages that the gateway sent again: (boot, seq) was there before.
    pub gateway_resends: usize,
    /// Messages that the device sent again: the number was there before, under another (boot, seq).
    pub device_resends: usize,
    /// Different numbers that arrived.
    pub delivered: usize,
    /// Messages marked as historical, repetitions left out.
    pub historical: usize,
}

impl Findings {
    /// Nothing lost, nothing out of order, no sequence number given twice.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.disordered.is_empty() && self.late.is_empty() && self.ambiguous.is_empty()
    }
}

/// Holds the `arrivals` of one device, in the order in which they came, against the numbers `acknowledged` to it.
pub fn check<'a>(acknowledged: impl IntoIterator<Item = &'a u64>, arrivals: &[Arrival]) -> Findings {
    let mut findings = Findings::default();
    let mut numbers: BTreeSet<u64> = BTreeSet::new();
    let mut messages: std::collections::BTreeMap<(u64, u64), u64> = std::collections::BTreeMap::new();
    let mut last = None;
    for arrival in arrivals {
        let key = (arrival.boot, arrival.seq);
        if let Some(n) = messages.get(&key) {
            if *n == arrival.n {
                findings.gateway_resends += 1;
            } else {
                findings.ambiguous.push(*arrival);
            }
            continue;
        }
        messages.insert(key, arrival.n);
        if last.is_some_and(|last| key <= last) {
            findings.disordered.push(*arrival);
        }
        last = Some(last.map_or(key, |last| key.max(last)));
        findings.historical += usize::from(arrival.historical);
        if numbers.contains(&arrival.n) {
            findings.device_resends += 1;
            continue;
        }
        if numbers.last().is_some_and(|highest| *highest > arrival.n) {
            findings.late.push(arrival.n);
        }
        numbers.insert(arrival.n);
    }
    findings.lost = acknowledged.into_iter().filter(|n| !numbers.contains(n)).copied().collect();
    findings.delivered = numbers.len();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(of: &[(u64, u64, u64)]) -> Vec<Arrival> {
        of.iter().map(|(n, boot, seq)| Arrival { n: *n, boot: *boot, seq: *seq, historical: false }).collect()
    }

    #[test]
    fn a_clean_history_is_clean() {
        let findings = check(&[1, 2, 3], &arrivals(&[(1, 1, 1), (2, 1, 2), (3, 2, 1)]));
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!((findings.delivered, findings.gateway_resends, findings.device_resends), (3, 0, 0));
        assert!(check(&[], &[]).is_clean());
    }

    #[test]
    fn sees_what_is_lost() {
        let findings = check(&[1, 2, 3], &arrivals(&[(1, 1, 1), (3, 1, 3)]));
        assert_eq!(findings.lost, [2]);
        assert!(!findings.is_clean());
    }

    #[test]
    fn what_was_not_acknowledged_may_be_missing_or_there() {
        let findings = check(&[1], &arrivals(&[(1, 1, 1), (2, 1, 2)]));
        assert!(findings.is_clean() && findings.delivered == 2, "{findings:?}");
    }

    #[test]
    fn tells_the_gateways_repetitions_from_the_devices() {
        // The gateway sends its window again after a lost connection; a device sends 3 again as a new message.
        let history = [(1, 1, 1), (2, 1, 2), (3, 1, 3), (2, 1, 2), (3, 1, 3), (3, 2, 1), (4, 2, 2)];
        let findings = check(&[1, 2, 3, 4], &arrivals(&history));
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!((findings.gateway_resends, findings.device_resends), (2, 1));
    }

    #[test]
    fn sees_disorder() {
        let findings = check(&[1, 2, 3], &arrivals(&[(1, 1, 1), (3, 1, 3), (2, 1, 2)]));
        assert_eq!(findings.disordered.len(), 1);
        assert_eq!(findings.late, [2]);
        // In order of sequence numbers, yet the device sent them otherwise.
        let swapped = check(&[1, 2], &arrivals(&[(2, 1, 1), (1, 1, 2)]));
        assert_eq!((swapped.disordered.len(), swapped.late.as_slice()), (0, &[1][..]));
        // An older boot after a newer one.
        assert_eq!(check(&[], &arrivals(&[(1, 2, 1), (2, 1, 9)])).disordered.len(), 1);
    }

    #[test]
    fn sees_a_sequence_number_given_twice() {
        let findings = check(&[1], &arrivals(&[(1, 1, 1), (2, 1, 1)]));
        assert_eq!(findings.ambiguous.len(), 1);
        assert!(!findings.is_clean());
    }
}
