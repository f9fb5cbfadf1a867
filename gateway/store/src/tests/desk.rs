//! What the desk hands out while an open transaction takes records away, its consumer leasing, settling and rewinding meanwhile.

use fieldgate_types::UnixMillis;

use crate::desk::{Ask, Candidate, Desk, Exit};
use crate::entry::Entry;
use crate::{Lane, RecordId};

use super::append;

const END: u64 = i64::MAX.unsigned_abs();

/// Live records 1 to 6, all in memory.
fn desk() -> Desk {
    let mut desk = Desk::new(0, u64::MAX, usize::MAX, 0);
    for id in 1..=6 {
        desk.committed(Entry::new(&append("a", vec![b'x'; 10]), id, (0, 1, id), 0, false));
    }
    desk
}

fn take(desk: &mut Desk, most: usize) -> Vec<u64> {
    let ask = Ask { max_messages: most, max_bytes: usize::MAX, now: 0 };
    desk.take(Lane::Live, ask).records.iter().map(|record| record.id.0).collect()
}

fn candidates(ids: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
    ids.into_iter().map(|id| Candidate { id, row: 0, bytes: 10, time: UnixMillis(0) }).collect()
}

fn ids(candidates: &[Candidate]) -> Vec<u64> {
    candidates.iter().map(|candidate| candidate.id).collect()
}

#[test]
fn what_was_leased_or_settled_since_it_was_looked_for_stays() {
    let mut desk = desk();
    assert_eq!(take(&mut desk, 3), [1, 2, 3]);
    assert!(desk.release(RecordId(2), Exit::Delivered));
    let mut struck = candidates([1, 2, 4, 6]);
    desk.strike(Lane::Live, &mut struck);
    assert_eq!(ids(&struck), [4, 6]);
    desk.lift();
    desk.rewind();
    let mut all = candidates(1..=6);
    assert_eq!(desk.claim(Lane::Live, 1, &mut all), Some(1));
    assert_eq!(ids(&all), [1, 3, 4, 5, 6], "what is leaving is on its way already");
}

#[test]
fn nobody_passes_what_an_open_transaction_takes_away() {
    let mut desk = desk();
    let mut struck = candidates([3, 5]);
    desk.strike(Lane::Live, &mut struck);
    assert_eq!(take(&mut desk, 9), [1, 2]);
    desk.lift();
    assert_eq!(take(&mut desk, 9), [4, 6], "what lies between is leased in its turn");

    let mut desk = self::desk();
    let mut oldest = candidates(1..=2);
    assert_eq!(desk.claim(Lane::Live, 0, &mut oldest), Some(0));
    assert_eq!(take(&mut desk, 9), []);
    desk.lift();
    assert_eq!(take(&mut desk, 9), [3, 4, 5, 6]);
}

#[test]
fn a_transaction_that_fails_gives_back_every_record_in_its_place() {
    let mut desk = desk();
    assert_eq!(take(&mut desk, 1), [1]);
    let mut struck = candidates([3, 5]);
    desk.strike(Lane::Live, &mut struck);
    assert_eq!(take(&mut desk, 9), [2]);
    desk.unstrike(Lane::Live, 6);
    desk.lift();
    assert_eq!(take(&mut desk, 9), [], "they are on the disk alone now");
    assert_eq!(desk.unleased(Lane::Live), [(3, END)]);
    let (stretches, _) = desk.wanted();
    let read = (3..=5).map(|id| Entry::new(&append("a", vec![b'x'; 10]), id, (0, 1, id), 0, false));
    desk.filled(stretches[0], 6, read.collect());
    assert_eq!(take(&mut desk, 9), [3, 4, 5, 6]);
}

#[test]
fn a_transaction_that_fails_gives_back_nothing_on_the_road_that_is_not_there() {
    let history = |desk: &mut Desk| {
        let (stretches, _) = desk.wanted();
        for stretch in stretches {
            let read = (stretch.from.max(1)..stretch.to.min(7))
                .map(|id| Entry::new(&append("a", vec![b'x'; 10]), id, (0, 1, id), 0, false));
            desk.filled(stretch, stretch.to, read.collect());
        }
        let ask = Ask { max_messages: 9, max_bytes: usize::MAX, now: 0 };
        desk.take(Lane::History, ask).records.iter().map(|record| record.id.0).collect::<Vec<_>>()
    };
    let mut desk = desk();
    let mut struck = candidates([3, 5]);
    desk.strike(Lane::Live, &mut struck);
    desk.unstrike(Lane::Live, 6);
    desk.lift();
    assert_eq!(history(&mut desk), [], "all of the lane is live");
    assert_eq!(take(&mut desk, 9), [1, 2, 3, 4, 5, 6]);

    // Parted at 5: what was struck is given back on both sides of it, each side on its own road.
    let mut desk = Desk::new(0, u64::MAX, usize::MAX, 0);
    let entry = |id| Entry::new(&append("a", vec![b'x'; 10]), id, (0, 1, id), 0, false);
    (1..=4).for_each(|id| desk.committed(entry(id)));
    desk.part();
    (5..=6).for_each(|id| desk.committed(entry(id)));
    let mut struck = candidates([2, 5]);
    desk.strike(Lane::Live, &mut struck);
    desk.unstrike(Lane::Live, 6);
    desk.lift();
    assert_eq!(history(&mut desk), [1, 2, 3, 4]);
    assert_eq!(take(&mut desk, 9), [5, 6]);
}

#[test]
fn a_rewind_between_the_look_and_the_claim_has_it_look_again() {
    let mut desk = desk();
    assert_eq!(take(&mut desk, 3), [1, 2, 3]);
    let [(begin, _)] = desk.unleased(Lane::Live)[..] else { panic!("one run") };
    desk.rewind();
    let mut oldest = candidates([4, 5]);
    assert_eq!(desk.claim(Lane::Live, begin, &mut oldest), None, "1 to 3 are older");
    // A rewind while the transaction is open: what was claimed is gone, what was leased is leased again.
    let mut oldest = candidates(1..=2);
    assert_eq!(desk.claim(Lane::Live, 1, &mut oldest), Some(1));
    desk.rewind();
    desk.unclaim(Lane::Live, 1);
    desk.lift();
    assert_eq!(desk.unleased(Lane::Live), [(1, END)]);
}
