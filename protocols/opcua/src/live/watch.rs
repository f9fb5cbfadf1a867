//! Events: an item for each notifier that is configured, made anew when it was missing, and the asking for a refresh, so
//! that the conditions are known that were there before us.

use std::collections::HashMap;

use fieldgate_protocol::Event;
use fieldgate_types::DeviceId;
use opcua::types::{
    AttributeId, CallMethodRequest, EventFilter, EventFilterResult, ExtensionObject, MethodId,
    MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId, ObjectTypeId, ReadValueId, StatusCode,
    TimestampsToReturn, Variant,
};
use tracing::{debug, info, warn};

use super::{Ended, Live, Subscribed};
use crate::driver::Link;
use crate::event::{Asked, Context, EventConfig, Notice, asked, base_alone, kind, notice, standard, where_clause};
use crate::fault::{self, Fault};
use crate::node::written;
use crate::server::{Server, read_id};

/// Above the handles of points, so that no notification is taken for one of the other kind.
const HANDLES: u32 = 0x8000_0000;
/// Names of event types that are remembered; of further ones the id is told.
const MAX_KINDS: usize = 1000;

/// A notifier and its item.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) device: usize,
    wanted: EventConfig,
    node: Option<NodeId>,
    item: Option<u32>,
    /// Why there is no item.
    missing: Option<StatusCode>,
    asked: Vec<Asked>,
    granted: Vec<bool>,
    /// Whether the server filters as asked.
    filtered: bool,
    /// Between the beginning and the end of a refresh.
    refreshing: bool,
}

/// Names of event types that the specification doesn't have; `None` where the server tells none.
pub(crate) type Kinds = HashMap<NodeId, Option<String>>;

impl Watch {
    pub(super) fn new(device: usize, wanted: EventConfig) -> Self {
        Self {
            device,
            wanted,
            node: None,
            item: None,
            missing: None,
            asked: Vec::new(),
            granted: Vec::new(),
            filtered: true,
            refreshing: false,
        }
    }

    /// What the server does otherwise than asked, in words.
    pub(super) fn note(&self, device: &DeviceId) -> Vec<String> {
        let node = &self.wanted.node;
        if let Some(status) = self.missing {
            return vec![format!("{device}: the events of `{node}` can't be had: {}", fault::name(status))];
        }
        let refused = self.asked.iter().zip(&self.granted).filter(|(asked, granted)| asked.own && !**granted);
        let fields = refused.map(|(asked, _)| {
            format!("{device}: the server does not know the field `{}` of the events of `{node}`", asked.name)
        });
        let unfiltered = (!self.filtered).then(|| {
            format!("{device}: the server sends all events of `{node}`, those too low in severity are dropped here")
        });
        fields.chain(unfiltered).collect()
    }

    /// What is to be tried, the best first: servers refuse filters that they don't understand. The severity can be looked
    /// at here, the types can't: subtypes count.
    fn attempts(&self, types: &[NodeId], namespaces: &[String]) -> Vec<(Vec<Asked>, EventFilter)> {
        let all = asked(&self.wanted, types, namespaces);
        let base = base_alone(&all);
        let clause = where_clause(types, self.wanted.min_severity);
        let mut clauses = vec![clause.clone()];
        if types.is_empty() && clause.elements.is_some() {
            clauses.push(opcua::types::ContentFilter::default());
        }
        let pairs = [all, base].into_iter().flat_map(|asked| clauses.iter().map(move |clause| (asked.clone(), clause)));
        let filter = |(asked, clause): (Vec<Asked>, &opcua::types::ContentFilter)| {
            let select_clauses = Some(asked.iter().map(|asked| asked.operand.clone()).collect());
            (asked, EventFilter { select_clauses, where_clause: clause.clone() })
        };
        pairs.map(filter).collect()
    }

    /// Whether it has an item that works, as far as is known.
    fn works(&self) -> bool {
        self.item.is_some() && self.missing.is_none()
    }

    /// Makes the item, or says why there is none.
    async fn create(&mut self, server: &Server, subscription: u32, handle: u32) -> Result<(), Fault> {
        if let Some(old) = self.item.take() {
            server.delete_items(subscription, &[old]).await;
        }
        self.node = server.resolve(&self.wanted.node).await?;
        let mut types = Vec::new();
        for name in &self.wanted.types {
            types.extend(server.resolve(name).await?);
        }
        let Some(node) = self.node.clone().filter(|_| types.len() == self.wanted.types.len()) else {
            self.missing = Some(StatusCode::BadNodeIdUnknown);
            return Ok(());
        };
        let mut first = None;
        for (asked, filter) in self.attempts(&types, &server.namespaces) {
            let filtered = filter.where_clause.elements.is_some() || self.wanted.min_severity == 1;
            let request = MonitoredItemCreateRequest {
                item_to_monitor: read_id(node.clone(), AttributeId::EventNotifier),
                monitoring_mode: MonitoringMode::Reporting,
                requested_parameters: MonitoringParameters {
                    client_handle: handle,
                    sampling_interval: 0.0,
                    filter: ExtensionObject::from_message(filter),
                    queue_size: self.wanted.queue,
                    discard_oldest: true,
                },
            };
            let created =
                server.session().create_monitored_items(subscription, TimestampsToReturn::Both, vec![request]);
            let created = server.session().ask("monitoring events", created).await?.into_iter().next();
            let Some(result) = created.map(|created| created.result) else {
                first.get_or_insert(StatusCode::BadUnexpectedError);
                break;
            };
            if result.status_code.is_bad() {
                first.get_or_insert(result.status_code);
                if filter_refused(result.status_code) {
                    continue;
                }
                break;
            }
            let told = result.filter_result.inner_as::<EventFilterResult>();
            let told = told.and_then(|told| told.select_clause_results.as_ref());
            let granted =
                |place| told.and_then(|told| told.get(place)).is_none_or(|status: &StatusCode| !status.is_bad());
            self.granted = (0..asked.len()).map(granted).collect();
            (self.asked, self.filtered) = (asked, filtered);
            (self.item, self.missing, self.refreshing) = (Some(result.monitored_item_id), None, false);
            return Ok(());
        }
        // Why the best was refused says more than why the least was.
        self.missing = first.or(Some(StatusCode::BadUnexpectedError));
        Ok(())
    }
}

fn filter_refused(status: StatusCode) -> bool {
    [
        StatusCode::BadEventFilterInvalid,
        StatusCode::BadMonitoredItemFilterInvalid,
        StatusCode::BadMonitoredItemFilterUnsupported,
        StatusCode::BadContentFilterInvalid,
        StatusCode::BadFilterOperatorInvalid,
        StatusCode::BadFilterOperatorUnsupported,
        StatusCode::BadFilterOperandInvalid,
        StatusCode::BadFilterElementInvalid,
        StatusCode::BadTypeDefinitionInvalid,
        StatusCode::BadNodeIdUnknown,
    ]
    .contains(&status)
}

/// Makes the items that are missing.
pub(super) async fn create(server: &Server, devices: &[Subscribed], watches: &mut [Watch]) -> Result<(), Fault> {
    for (place, watch) in watches.iter_mut().enumerate().filter(|(_, watch)| !watch.works()) {
        let Some(subscription) = devices.get(watch.device).and_then(|device| device.subscription) else { continue };
        let handle = HANDLES | u32::try_from(place).unwrap_or(0);
        watch.create(server, subscription, handle).await?;
    }
    Ok(())
}

impl Live {
    /// Asks for the conditions that hold now. A server without conditions has no such method.
    pub(super) async fn refresh(&self, device: usize) -> Result<(), Fault> {
        let watched = self.watches.iter().any(|watch| watch.device == device && watch.works());
        let subscribed = self.devices.get(device).filter(|_| watched);
        let Some((name, subscription)) = subscribed.and_then(|device| Some((&device.device, device.subscription?)))
        else {
            return Ok(());
        };
        let request = CallMethodRequest {
            object_id: ObjectTypeId::ConditionType.into(),
            method_id: MethodId::ConditionType_ConditionRefresh.into(),
            input_arguments: Some(vec![Variant::from(subscription)]),
        };
        let step = "asking for conditions";
        let status = match self.server.session().ask(step, self.server.session().call(vec![request])).await {
            Ok(results) => results.first().map_or(StatusCode::BadUnexpectedError, |result| result.status_code),
            Err(Fault::Status { status, .. }) => status,
            Err(fault) => return Err(fault),
        };
        if status.is_bad() {
            debug!(device = %name, status = fault::name(status), "opcua server tells no conditions");
        }
        Ok(())
    }

    /// Hands events on.
    pub(super) async fn pass_events(
        &mut self,
        link: &mut Link,
        device: usize,
        events: Vec<(u32, Vec<Variant>)>,
    ) -> Result<(), Ended> {
        if events.is_empty() {
            return Ok(());
        }
        self.learn_kinds(&events).await?;
        let received = self.clock.now();
        let (mut told, mut unreadable, mut required) = (Vec::new(), 0_u64, false);
        for (handle, fields) in events {
            let place = usize::try_from(handle & !HANDLES).unwrap_or(usize::MAX);
            let Some(watch) = self.watches.get_mut(place).filter(|watch| watch.device == device) else {
                unreadable += 1;
                continue;
            };
            let name = kind(&fields).and_then(|kind| self.kinds.get(kind)).and_then(|name| name.as_deref());
            let formless = fields.iter().any(|field| matches!(field, Variant::ExtensionObject(_)));
            let about = Context {
                asked: &watch.asked,
                granted: &watch.granted,
                min_severity: watch.wanted.min_severity,
                refresh: watch.refreshing,
                received,
                namespaces: &self.server.namespaces,
                types: self.server.types(),
            };
            match notice(fields, name, about) {
                Notice::RefreshStart => watch.refreshing = true,
                Notice::RefreshEnd => watch.refreshing = false,
                Notice::RefreshRequired => required = true,
                Notice::Overflow(event) => {
                    link.overrun(1);
                    told.push(event);
                }
                Notice::Event(event) => {
                    self.types.want_for(formless);
                    told.push(event);
                }
                Notice::Unwanted => {}
                Notice::Unreadable => unreadable += 1,
            }
        }
        if unreadable > 0 {
            link.overrun(unreadable);
            told.push(Event::Lost { received, count: unreadable, reason: "they could not be read" });
        }
        if let Some(subscribed) = self.devices.get(device).filter(|_| !told.is_empty()) {
            link.events(&subscribed.device, told).await?;
        }
        if required {
            self.refresh(device).await?;
        }
        Ok(())
    }

    /// Tells of events that were lost on the way to here.
    pub(super) async fn report_lost(&mut self, link: &mut Link) -> Result<(), Ended> {
        let received = self.clock.now();
        for device in &self.devices {
            let dropped = (device.signs.take_lost_events(), "the gateway could not take them as fast as they came");
            let unreadable = (device.signs.take_unreadable(), "they could not be read");
            for (count, reason) in [dropped, unreadable].into_iter().filter(|(count, _)| *count > 0) {
                warn!(device = %device.device, count, reason, "opcua events lost");
                link.overrun(count);
                link.events(&device.device, vec![Event::Lost { received, count, reason }]).await?;
            }
        }
        Ok(())
    }

    /// Reads the names of event types that were not seen before.
    async fn learn_kinds(&mut self, events: &[(u32, Vec<Variant>)]) -> Result<(), Fault> {
        let mut unknown: Vec<NodeId> = Vec::new();
        for kind in events.iter().filter_map(|(_, fields)| kind(fields)) {
            let room = self.kinds.len() + unknown.len() < MAX_KINDS;
            if room && standard(kind).is_none() && !self.kinds.contains_key(kind) && !unknown.contains(kind) {
                unknown.push(kind.clone());
            }
        }
        for part in unknown.chunks(self.server.chunk) {
            let ids: Vec<ReadValueId> = part.iter().map(|id| read_id(id.clone(), AttributeId::BrowseName)).collect();
            let read = self.server.session().read(&ids, TimestampsToReturn::Neither, 0.0);
            let mut read = self.server.session().ask("reading the names of event types", read).await?.into_iter();
            for id in part {
                let name = match read.next().and_then(|data| data.value) {
                    Some(Variant::QualifiedName(name)) => Some(name.name.as_ref().to_owned()),
                    _ => None,
                };
                debug!(kind = written(id, &self.server.namespaces), ?name, "opcua event type");
                self.kinds.insert(id.clone(), name);
            }
        }
        Ok(())
    }

    /// Whether the notifiers are still there; the items of those that were missing are made.
    pub(super) async fn look_at_notifiers(&mut self, link: &mut Link) -> Result<(), Ended> {
        if self.watches.is_empty() {
            return Ok(());
        }
        let ids: Vec<ReadValueId> = self
            .watches
            .iter()
            .filter(|watch| watch.works())
            .filter_map(|watch| Some(read_id(watch.node.clone()?, AttributeId::EventNotifier)))
            .collect();
        if !ids.is_empty() {
            let read = self.server.session().read(&ids, TimestampsToReturn::Neither, 0.0);
            let read = self.server.session().ask("looking at the notifiers", read).await?;
            for (watch, data) in self.watches.iter_mut().filter(|watch| watch.works()).zip(read) {
                let status = data.status.unwrap_or(StatusCode::Good);
                if fault::gone(status) {
                    warn!(link = %link.name(), node = %watch.wanted.node, status = fault::name(status), "opcua notifier is gone");
                    watch.missing = Some(status);
                }
            }
        }
        let missing: Vec<usize> =
            self.watches.iter().filter(|watch| !watch.works()).map(|watch| watch.device).collect();
        if !missing.is_empty() {
            create(&self.server, &self.devices, &mut self.watches).await?;
            let left = self.watches.iter().filter(|watch| !watch.works()).count();
            if left < missing.len() {
                info!(link = %link.name(), found = missing.len() - left, "opcua notifiers are there again");
                for device in missing {
                    self.refresh(device).await?;
                }
            }
        }
        link.notes(self.notes());
        Ok(())
    }
}
