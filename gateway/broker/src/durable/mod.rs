//! Sessions that outlive the process: their rows, the writer of what no message's commit carries, and reading them
//! all back at start.
//!
//! A session is durable when its client asked for one that outlives its connection. Its key is a number that no
//! other session ever had. Rows, in [`Table::Sessions`]; numbers are big endian:
//! | key | value | written |
//! |---|---|---|
//! | `s`, session | client id, identity, expiry, will, whether and since when nobody is connected | before the CONNACK; at the end of the connection |
//! | `f`, session, filter | options of a subscription | before the SUBACK or UNSUBACK |
//! | `m`, message | a message that one or more sessions hold | with the publisher's commit |
//! | `q`, session, place | message, QoS, flags; whether its PUBREC came | with the publisher's commit; before the PUBREL |
//! | `r`, session, packet id | a QoS 2 id that the client has not released | with its message's commit; gone before the PUBCOMP |
//!
//! What a client acknowledges is deleted a little later ([`Scribe`]): a crash before that sends it again, with the
//! same packet id, which follows from the place. A `q` whose session is gone, or an `m` that nobody holds, was on its
//! way at a crash and is deleted at start.
//!
//! # Time
//! Expiries go on over a stop as far as the wall clock shows it and was plausible on both sides ([`stopped_for`]).

mod load;
mod rows;
mod scribe;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, Clock, UnixMillis};

pub(crate) use load::{LoadedSession, load, revived};
pub(crate) use rows::{Meta, StoredWill};
pub(crate) use scribe::Scribe;

use crate::inbox::Inbox;
use crate::session::{Queued, Saving, Session, SubscriptionOptions};
use crate::{Change, QoS};

/// A message in the store, held by one or more sessions.
#[derive(Debug)]
pub(crate) struct Kept {
    id: u64,
    holders: AtomicUsize,
}

impl Kept {
    /// Held by nobody yet.
    pub(crate) fn new(id: u64) -> Self {
        Self { id, holders: AtomicUsize::new(0) }
    }

    /// One more session holds it.
    pub(crate) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// One session less; true when it was the last one.
    fn let_go(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Gives every copy above QoS 0 for a durable session its hold on the message; the rows that must be committed
/// before anybody gets it.
/// All copies are of one message.
pub(crate) fn hold(scribe: &Scribe, copies: &mut [(Arc<Inbox>, Queued)]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut kept: Option<Arc<Kept>> = None;
    for (inbox, queued) in copies {
        if !inbox.durable || queued.qos == QoS::AtMostOnce {
            continue;
        }
        let kept = kept.get_or_insert_with(|| {
            let kept = Arc::new(Kept::new(scribe.next_message()));
            changes.push(rows::message(kept.id, &queued.routed.message));
            kept
        });
        kept.hold();
        queued.kept = Some(Arc::clone(kept));
        changes.push(rows::place(inbox.key, queued, kept.id, false));
    }
    changes
}

/// The row of a QoS 2 packet id that the session's client uses.
pub(crate) fn received(session: u64, packet_id: u16) -> Change {
    rows::received(session, packet_id, true)
}

/// What a step of QoS 2 changes.
pub(crate) fn saving(session: u64, saving: &Saving) -> Option<Change> {
    match saving {
        Saving::Received { packet_id } => Some(rows::received(session, *packet_id, false)),
        Saving::Sent { queued, .. } => Some(rows::place(session, queued, queued.kept.as_ref()?.id, true)),
    }
}

/// A subscription made (`Some`) or removed.
pub(crate) fn subscription(session: u64, filter: &str, options: Option<&SubscriptionOptions>) -> Change {
    rows::subscription(session, filter, options)
}

/// The session itself, as it is now.
pub(crate) fn session(session: u64, meta: &Meta) -> Change {
    rows::session(session, Some(meta))
}

/// A session has ended: all its rows go, but for those of messages that it held.
pub(crate) fn ended(key: u64, session: &Session) -> Vec<Change> {
    let filters = session.subscriptions.keys().map(|filter| rows::subscription(key, filter, None));
    let received = session.received().map(|packet_id| rows::received(key, packet_id, false));
    filters.chain(received).chain([rows::session(key, None)]).collect()
}

/// How long the process was not there since `then`, as far as can be told: a clock that was not plausible on both
/// sides, or a step of more than a year, counts as nothing. Then things are kept too long rather than lost.
pub(crate) fn stopped_for(clock: &dyn Clock, then: UnixMillis) -> Duration {
    const LONGEST: Duration = Duration::from_secs(365 * 86_400);
    if then < BUILD_FLOOR || !clock.plausible() {
        return Duration::ZERO;
    }
    let gap = clock.now().since(then);
    if gap > LONGEST { Duration::ZERO } else { gap }
}
