//! From the library's network task to the driver: one batch for each notification.
//!
//! The library calls synchronously, while it holds its lock on all subscriptions: nothing here waits. The network task
//! stops reading before there is no room (see `room`). When even that didn't do, the batch is dropped and counted, and the
//! device is marked: its points are read where nothing more is heard of them, so that none stays at an old value. Events
//! can't be read again: they are counted one by one, and the loss is told as an event of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opcua::client::{MonitoredItemMap, OnSubscriptionNotificationCore};
use opcua::types::{
    DataChangeNotification, DataValue, EventFieldList, EventNotificationList, NotificationMessage,
    StatusChangeNotification, StatusCode, Variant,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::room::Room;

/// Values in a notification at most, as asked of the server. Not every server heeds it.
pub(crate) const BATCH_VALUES: u32 = 1000;

/// What one notification of one device brought.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The device, as its place in the configuration.
    pub(crate) device: usize,
    /// Client handles and values.
    pub(crate) values: Vec<(u32, DataValue)>,
    /// Client handles and the fields of events.
    pub(crate) events: Vec<(u32, Vec<Variant>)>,
    /// The room that they take, until the batch is dropped.
    _room: OwnedSemaphorePermit,
}

/// What is known of a subscription besides its values.
#[derive(Debug)]
pub(crate) struct Signs {
    alive: Mutex<Instant>,
    dropped: AtomicU64,
    lost_events: AtomicU64,
    /// Parts of notifications that are neither values nor events nor a status.
    unreadable: AtomicU64,
    stale: AtomicBool,
    /// The status with which the server ended the subscription; 0: it has not.
    ended: AtomicU32,
}

impl Signs {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            alive: Mutex::new(Instant::now()),
            dropped: AtomicU64::new(0),
            lost_events: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            stale: AtomicBool::new(false),
            ended: AtomicU32::new(0),
        })
    }

    /// When the subscription last showed a sign of life: values, or a keep-alive.
    pub(crate) fn alive(&self) -> Instant {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many batches were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// How many events were dropped since the last call.
    pub(crate) fn take_lost_events(&self) -> u64 {
        self.lost_events.swap(0, Ordering::Relaxed)
    }

    /// How many parts of notifications could not be read since the last call.
    pub(crate) fn take_unreadable(&self) -> u64 {
        self.unreadable.swap(0, Ordering::Relaxed)
    }

    /// Whether values were lost since the last call.
    pub(crate) fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::Relaxed)
    }

    /// With which status the server ended the subscription, if it did.
    pub(crate) fn ended(&self) -> Option<StatusCode> {
        match self.ended.load(Ordering::Relaxed) {
            0 => None,
            bits => Some(StatusCode::from(bits)),
        }
    }
}

/// Takes the notifications of one subscription.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) device: usize,
    pub(crate) signs: Arc<Signs>,
    pub(crate) batches: mpsc::Sender<Batch>,
    pub(crate) room: Arc<Room>,
}

impl Feed {
    /// Whether the driver has room for them.
    fn hand_over(&self, values: Vec<(u32, DataValue)>, events: Vec<(u32, Vec<Variant>)>) -> bool {
        let fields: usize = events.iter().map(|(_, fields)| fields.len()).sum();
        let Some(room) = self.room.take(values.len() + fields) else { return false };
        self.batches.try_send(Batch { device: self.device, values, events, _room: room }).is_ok()
    }
}

impl OnSubscriptionNotificationCore for Feed {
    fn on_subscription_notification(&mut self, notification: NotificationMessage, _: MonitoredItemMap<'_>) {
        self.take(notification);
    }
}

impl Feed {
    fn take(&self, notification: NotificationMessage) {
        *self.signs.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let (mut values, mut events) = (Vec::new(), Vec::new());
        for part in notification.notification_data.into_iter().flatten() {
            if let Some(change) = part.inner_as::<StatusChangeNotification>() {
                // Good: the subscription went to another session, which has not happened by our doing.
                let status = if change.status.is_bad() { change.status } else { StatusCode::BadSubscriptionIdInvalid };
                self.signs.ended.store(status.bits(), Ordering::Relaxed);
            } else if part.inner_is::<EventNotificationList>() {
                let list = part.into_inner_as::<EventNotificationList>().and_then(|list| list.events);
                let fields = |event: EventFieldList| (event.client_handle, event.event_fields.unwrap_or_default());
                events.extend(list.into_iter().flatten().map(fields));
            } else if let Some(data) = part.into_inner_as::<DataChangeNotification>() {
                let items = data.monitored_items.into_iter().flatten();
                values.extend(items.map(|item| (item.client_handle, item.value)));
            } else {
                self.signs.unreadable.fetch_add(1, Ordering::Relaxed);
            }
        }
        if values.is_empty() && events.is_empty() {
            return;
        }
        let (stale, lost) = (!values.is_empty(), events.len());
        if !self.hand_over(values, events) {
            self.signs.dropped.fetch_add(1, Ordering::Relaxed);
            self.signs.stale.fetch_or(stale, Ordering::Relaxed);
            self.signs.lost_events.fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use opcua::types::{ExtensionObject, MonitoredItemNotification};

    use super::*;
    use crate::room::BATCHES;

    fn events(count: usize) -> ExtensionObject {
        let event = EventFieldList { client_handle: 1, event_fields: Some(vec![Variant::from(true); 3]) };
        ExtensionObject::from_message(EventNotificationList { events: Some(vec![event; count]) })
    }

    fn message(parts: Vec<ExtensionObject>) -> NotificationMessage {
        NotificationMessage { notification_data: Some(parts), ..NotificationMessage::default() }
    }

    #[tokio::test]
    async fn events_without_room_are_counted_one_by_one_and_lost_values_are_marked() {
        let (batches, mut taken) = mpsc::channel(BATCHES);
        let (signs, room) = (Signs::new(), Room::new());
        let feed = Feed { device: 0, signs: Arc::clone(&signs), batches, room: Arc::clone(&room) };
        feed.take(message(vec![events(4), events(2)]));
        assert_eq!(taken.recv().await.unwrap().events.len(), 6);

        // Each batch takes as much as a thousand values at least: so many there can be.
        for _ in 0..BATCHES {
            feed.take(message(vec![events(1)]));
        }
        assert_eq!((taken.len(), signs.take_dropped()), (BATCHES, 0));
        feed.take(message(vec![events(7)]));
        assert_eq!((signs.take_lost_events(), signs.take_lost_events()), (7, 0));
        assert!(!signs.take_stale(), "no value was lost");
        let value = MonitoredItemNotification { client_handle: 1, value: DataValue::null() };
        let data = DataChangeNotification { monitored_items: Some(vec![value]), diagnostic_infos: None };
        feed.take(message(vec![events(2), ExtensionObject::from_message(data)]));
        assert_eq!((signs.take_lost_events(), signs.take_stale()), (2, true));
        assert_eq!(signs.take_unreadable(), 0);
        feed.take(message(vec![ExtensionObject::null()]));
        assert_eq!((signs.take_unreadable(), signs.take_dropped()), (1, 2));
        drop(taken.recv().await);
        assert!(room.take(1).is_some(), "the room of a batch is free when it is gone");
    }
}
