//! Fills the gap of an outage from the server's history (OPC 10000-11).
//!
//! A point with `history = true` whose last value before the outage is known waits, after the reconnect, for its first
//! value: what lies between the two is read from history and handed on first, and what comes meanwhile is held back, so
//! that the order of the point holds. The reading is a task of its own, one request at a time, and bounded: values flow and
//! commands are answered meanwhile, and a server with a slow historian is not flooded.

use std::time::Duration;

use fieldgate_protocol::Sample;
use opcua::client::services::HistoryRead;
use opcua::client::{HistoryReadAction, UARequest};
use opcua::types::{
    AttributeId, ByteString, DataValue, DateTime, HistoryData, HistoryReadValueId, NodeId, ReadRawModifiedDetails,
    StatusCode, TimestampsToReturn, Variant,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Entry;
use crate::fault;
use crate::server::{Server, read_id};

/// Values in one answer at most.
const PAGE: u32 = 1000;
/// Values of one point at most; of a longer gap the oldest.
const MAX_VALUES: usize = 10_000;
/// How long all points of a session may take together.
const MAX_TIME: Duration = Duration::from_mins(1);
/// A historian stores a value some time after a subscription tells it: it is asked so long after the first new one.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a historian may take to answer.
const REQUEST: Duration = Duration::from_secs(20);
/// Live values that are held back at most, of all points together.
const MAX_HELD: usize = 65_536;
/// Bit 2 of the access level: HistoryRead (OPC 10000-3 section 8.57).
const HISTORY_READ: u8 = 4;

/// A point whose values of an outage are not known yet.
#[derive(Debug)]
pub(crate) enum Gap {
    /// This was the time of its last value; the first new one is awaited.
    Since(DateTime),
    /// They are being read; these came meanwhile, the last of them arose at this time.
    Reading(Vec<Sample>, Option<DateTime>),
}

/// What is to be read: values after `from` and before `until`.
#[derive(Debug)]
struct Order {
    place: usize,
    node: NodeId,
    from: DateTime,
    until: DateTime,
    /// Not to be read before.
    due: Instant,
}

/// What was read of one point.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) place: usize,
    pub(super) values: Vec<DataValue>,
    /// How it ended; absent while there is more to come.
    pub(super) end: Option<Result<(), Unfilled>>,
}

/// Why a gap stays, wholly or in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfilled {
    /// The server keeps no history of the node.
    NotKept,
    /// It said no.
    Refused(StatusCode),
    /// It didn't answer.
    Silent,
    /// There was more than may be read.
    TooMuch,
}

impl std::fmt::Display for Unfilled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotKept => f.write_str("the server keeps no history of it"),
            Self::Refused(status) => f.write_str(fault::name(*status)),
            Self::Silent => write!(f, "no answer within {} s", REQUEST.as_secs()),
            Self::TooMuch => f.write_str("there is more than may be read at once"),
        }
    }
}

/// The gaps of a session.
#[derive(Debug)]
pub(super) struct Fill {
    orders: mpsc::Sender<Order>,
    filled: mpsc::Receiver<Filled>,
    held: usize,
    reader: AbortHandle,
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Fill {
    /// For so many points that have a gap; nothing where there is none.
    pub(super) fn start(server: &Server, gaps: usize) -> Option<Self> {
        if gaps == 0 {
            return None;
        }
        // One order of each point: never full.
        let (orders, ordered) = mpsc::channel(gaps);
        // Full: the reader waits, and the server with it.
        let (up, filled) = mpsc::channel(4);
        let reader = tokio::spawn(read_all(server.clone(), ordered, up)).abort_handle();
        Some(Self { orders, filled, held: 0, reader })
    }

    /// The next that was read; cancel-safe.
    pub(super) async fn next(fill: &mut Option<Self>) -> Filled {
        match fill {
            Some(fill) => match fill.filled.recv().await {
                Some(filled) => filled,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// What of a sample with this source time may be handed on now.
    pub(super) fn pass(
        &mut self,
        place: usize,
        entry: &mut Entry,
        at: Option<DateTime>,
        sample: Sample,
    ) -> Vec<Sample> {
        match &mut entry.gap {
            // It says nothing about the time between.
            Some(Gap::Since(_)) if !sample.quality.usable() => vec![sample],
            Some(Gap::Since(from)) => {
                let order = at.filter(|until| *until > *from).zip(entry.node.clone());
                let order =
                    order.map(|(until, node)| Order { place, node, from: *from, until, due: Instant::now() + SETTLE });
                if order.is_some_and(|order| self.orders.try_send(order).is_ok()) {
                    self.held += 1;
                    entry.gap = Some(Gap::Reading(vec![sample], at));
                    return Vec::new();
                }
                // The same value as before the outage, or one without a time: there is nothing between.
                entry.close(at);
                vec![sample]
            }
            Some(Gap::Reading(held, newest)) if self.held < MAX_HELD => {
                self.held += 1;
                held.push(sample);
                *newest = at.or(*newest);
                Vec::new()
            }
            Some(Gap::Reading(..)) => {
                let mut all = self.release(entry);
                all.push(sample);
                entry.close(at);
                all
            }
            None => vec![sample],
        }
    }

    /// What was held back of a point, whose gap is none any more.
    pub(super) fn release(&mut self, entry: &mut Entry) -> Vec<Sample> {
        match entry.gap.take() {
            Some(Gap::Reading(held, newest)) => {
                self.held -= held.len();
                entry.close(newest);
                held
            }
            Some(Gap::Since(_)) | None => Vec::new(),
        }
    }
}

/// Reads what is ordered, one after the other.
async fn read_all(server: Server, mut orders: mpsc::Receiver<Order>, up: mpsc::Sender<Filled>) {
    let mut left = MAX_TIME;
    while let Some(order) = orders.recv().await {
        tokio::time::sleep_until(order.due).await;
        let began = Instant::now();
        let end = if left.is_zero() { Err(Unfilled::TooMuch) } else { read_one(&server, &order, &up, left).await };
        left = left.saturating_sub(began.elapsed());
        let filled = Filled { place: order.place, values: Vec::new(), end: Some(end) };
        if up.send(filled).await.is_err() {
            return;
        }
    }
}

async fn read_one(server: &Server, order: &Order, up: &mpsc::Sender<Filled>, left: Duration) -> Result<(), Unfilled> {
    if !kept(server, &order.node).await? {
        return Err(Unfilled::NotKept);
    }
    let deadline = Instant::now() + left;
    let (mut from, mut newest, mut read) = (order.from, order.from, 0);
    let mut more = ByteString::null();
    loop {
        let (values, next) = page(server, order, from, more.clone()).await?;
        let full = values.len() >= PAGE as usize;
        // Asked by time for what follows, a server gives the last value once more.
        let floor = if more.is_null() { newest } else { order.from };
        let mut between: Vec<DataValue> = values
            .into_iter()
            .filter(|data| data.source_timestamp.is_some_and(|at| at > floor && at < order.until))
            .collect();
        between.sort_by_key(|data| data.source_timestamp);
        let grew = between.last().and_then(|data| data.source_timestamp);
        read += between.len();
        newest = grew.unwrap_or(newest);
        let some = !between.is_empty();
        if some && up.send(Filled { place: order.place, values: between, end: None }).await.is_err() {
            return Ok(());
        }
        let last = next.is_null() && !(full && some);
        if last {
            return Ok(());
        }
        if read >= MAX_VALUES || Instant::now() >= deadline {
            if !next.is_null() {
                release(server, order, next).await;
            }
            return Err(Unfilled::TooMuch);
        }
        // asyncua 2.1.0 gives as many values as it was asked for, and doesn't say that there are more.
        if next.is_null() {
            from = newest;
        }
        more = next;
    }
}

/// Whether the server keeps history that we may read.
async fn kept(server: &Server, node: &NodeId) -> Result<bool, Unfilled> {
    let id = read_id(node.clone(), AttributeId::UserAccessLevel);
    let read = server.session().read(std::slice::from_ref(&id), TimestampsToReturn::Neither, 0.0);
    let read = server.session().ask("reading the access level", read).await.map_err(|_| Unfilled::Silent)?;
    let level = read.into_iter().next().and_then(|data| data.value);
    Ok(matches!(level, Some(Variant::Byte(level)) if level & HISTORY_READ != 0))
}

/// One answer, and where the next begins.
async fn page(
    server: &Server,
    order: &Order,
    from: DateTime,
    more: ByteString,
) -> Result<(Vec<DataValue>, ByteString), Unfilled> {
    let details = ReadRawModifiedDetails {
        is_read_modified: false,
        start_time: from,
        end_time: order.until,
        num_values_per_node: PAGE,
        return_bounds: false,
    };
    let request = HistoryRead::new(HistoryReadAction::ReadRawModifiedDetails(details), server.session())
        .timestamps_to_return(TimestampsToReturn::Both)
        .node(HistoryReadValueId {
            node_id: order.node.clone(),
            continuation_point: more,
            ..HistoryReadValueId::default()
        })
        .timeout(REQUEST);
    let answer = request.send(server.session().channel()).await.map_err(|error| match error.status() {
        StatusCode::BadTimeout => Unfilled::Silent,
        status => Unfilled::Refused(status),
    })?;
    let Some(result) = answer.results.into_iter().flatten().next() else {
        return Err(Unfilled::Refused(StatusCode::BadUnexpectedError));
    };
    if result.status_code.is_bad() {
        return Err(Unfilled::Refused(result.status_code));
    }
    let values = result.history_data.into_inner_as::<HistoryData>().and_then(|data| data.data_values);
    Ok((values.unwrap_or_default(), result.continuation_point))
}

/// Tells the server that the rest is not wanted. Whether it heard that makes no difference to us.
async fn release(server: &Server, order: &Order, point: ByteString) {
    let details = ReadRawModifiedDetails { num_values_per_node: PAGE, ..ReadRawModifiedDetails::default() };
    let node =
        HistoryReadValueId { node_id: order.node.clone(), continuation_point: point, ..HistoryReadValueId::default() };
    let request = HistoryRead::new(HistoryReadAction::ReadRawModifiedDetails(details), server.session())
        .release_continuation_points(true)
        .node(node)
        .timeout(REQUEST);
    if let Err(error) = request.send(server.session().channel()).await {
        tracing::debug!(%error, "opcua continuation point not released");
    }
}
