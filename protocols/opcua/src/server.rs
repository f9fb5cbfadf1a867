//! Requests to a server, each with a time limit, in pieces that the server takes.
//!
//! Owns chunk sizes (1,000 at most, less where the server says so or refuses) and the reading of results item by
//! item. The library counts on the server to send as many results as there were requests; here, one that is not
//! there is a failure of that item.

use std::sync::Arc;
use std::time::Duration;

use opcua::client::custom_types::DataTypeTreeBuilder;
use opcua::types::custom::{DataTypeTree, DynamicTypeLoader};
use opcua::types::{
    AttributeId, BrowsePath, BrowsePathResult, DataValue, MonitoredItemCreateRequest, MonitoringParameters, NodeId,
    ReadValueId, StatusCode, TimestampsToReturn, VariableId, Variant,
};
use tokio::sync::mpsc;

use crate::config::DeviceConfig;
use crate::connect::SharedSession;
use crate::fault::{self, Fault};
use crate::feed::{BATCH_VALUES, Batch, Feed, Signs};
use crate::filter;
use crate::live::{Entry, Granted, Subscribed};
use crate::node::{Located, NodeName};
use crate::value::Types;

/// Items in one request at most. Larger requests fail on common servers (FINDINGS).
const MAX_CHUNK: usize = 1000;
/// How long the definitions of data types may take.
const TYPES_LIMIT: Duration = Duration::from_secs(10);
/// How often a subscription without news shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How long the server keeps a subscription that nobody fetches from.
const LIFETIME: Duration = Duration::from_mins(1);
/// Whatever keep-alive the server has made of ours, silence beyond this is never waited out.
const MAX_PATIENCE: Duration = Duration::from_mins(10);
/// What the network may add before a keep-alive counts as missing.
const GRACE: Duration = Duration::from_secs(1);

/// What has been learned about the server, for this session.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    session: SharedSession,
    /// Its NamespaceArray.
    pub(crate) namespaces: Vec<String>,
    /// Items in one request at most.
    pub(crate) chunk: usize,
    /// Paths in one request at most.
    path_chunk: usize,
    /// Nodes to browse in one request at most.
    pub(crate) browse_chunk: usize,
    /// Its own structures, once a value has asked for them.
    types: Option<Arc<DataTypeTree>>,
}

/// A request to read one attribute.
pub(crate) fn read_id(node: NodeId, attribute: AttributeId) -> ReadValueId {
    ReadValueId::new(node, attribute)
}

/// The current values of `nodes`, in their order and number.
pub(crate) async fn read_values(
    session: &SharedSession,
    nodes: &[NodeId],
    chunk: usize,
) -> Result<Vec<DataValue>, Fault> {
    let mut values = Vec::with_capacity(nodes.len());
    for part in nodes.chunks(chunk) {
        let ids: Vec<ReadValueId> = part.iter().map(|node| read_id(node.clone(), AttributeId::Value)).collect();
        let mut read = session.ask("reading values", session.read(&ids, TimestampsToReturn::Both, 0.0)).await?;
        read.resize_with(part.len(), || DataValue {
            status: Some(StatusCode::BadUnexpectedError),
            ..DataValue::default()
        });
        values.extend(read);
    }
    Ok(values)
}

impl Server {
    /// Asks for namespaces and limits.
    pub(crate) async fn ask(session: SharedSession) -> Result<Self, Fault> {
        let limits = [
            VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
        ];
        let ids: Vec<ReadValueId> = limits.map(|id| read_id(id.into(), AttributeId::Value)).into();
        let read = session.read(&ids, TimestampsToReturn::Neither, 0.0);
        let read = session.ask("reading the server's limits", read).await?;
        let mut told = read.into_iter().map(|limit| match limit.value {
            Some(Variant::UInt32(limit @ 1..)) => usize::try_from(limit).unwrap_or(MAX_CHUNK).min(MAX_CHUNK),
            // Absent or 0: no limit is told.
            _ => MAX_CHUNK,
        });
        let mut next = || told.next().unwrap_or(MAX_CHUNK);
        let (items, reads, path_chunk, browse_chunk) = (next(), next(), next(), next());
        let chunk = items.min(reads);
        let mut server = Self { session, namespaces: Vec::new(), chunk, path_chunk, browse_chunk, types: None };
        server.refresh_namespaces().await?;
        Ok(server)
    }

    pub(crate) fn types(&self) -> Types<'_> {
        self.types.as_deref()
    }

    /// The same to be shared.
    pub(crate) fn known_types(&self) -> Option<&Arc<DataTypeTree>> {
        self.types.as_ref()
    }

    /// The same with the definitions of its own data types, where they are `needed`.
    pub(crate) async fn knowing(&self, needed: bool) -> Result<Self, Fault> {
        let mut server = self.clone();
        if needed && server.types.is_none() {
            server.load_types().await?;
        }
        Ok(server)
    }

    /// Reads the definitions of its own data types, so that structures are decoded from now on.
    pub(crate) async fn load_types(&mut self) -> Result<(), Fault> {
        let step = "reading the data types";
        let _asking = self.session.room.ask();
        let builder = DataTypeTreeBuilder::new(|id: &NodeId| id.namespace != 0).values_per_read(self.chunk);
        // Many requests, each with its own limit; all of them together with this one.
        let tree = match tokio::time::timeout(TYPES_LIMIT, builder.build(&self.session)).await {
            Ok(tree) => tree.map_err(|error| Fault::Status { step, status: error.status(), mend: None })?,
            Err(_) => return Err(Fault::Silent { step, limit: TYPES_LIMIT }),
        };
        let tree = Arc::new(tree);
        self.session.add_type_loader(Arc::new(DynamicTypeLoader::new(Arc::clone(&tree))));
        self.types = Some(tree);
        Ok(())
    }

    pub(crate) fn session(&self) -> &SharedSession {
        &self.session
    }

    /// Reads the NamespaceArray. (The library's own function panics on an empty answer.)
    pub(crate) async fn refresh_namespaces(&mut self) -> Result<(), Fault> {
        let id = read_id(VariableId::Server_NamespaceArray.into(), AttributeId::Value);
        let read = self.session.read(std::slice::from_ref(&id), TimestampsToReturn::Neither, 0.0);
        let read = self.session.ask("reading the namespaces", read).await?;
        self.namespaces = match read.into_iter().next().and_then(|value| value.value) {
            Some(Variant::Array(array)) => array.values.iter().map(ToString::to_string).collect(),
            // Then `nsu=` points are missing, and `ns=` points work.
            _ => Vec::new(),
        };
        Ok(())
    }

    /// Finds the nodes of the entries at `places`: `None` for one that the server doesn't have.
    pub(crate) async fn locate(&self, entries: &mut [Entry], places: &[usize]) -> Result<(), Fault> {
        let mut paths = Vec::new();
        for place in places {
            let Some(entry) = entries.get_mut(*place) else { continue };
            entry.node = None;
            match entry.name.locate(&self.namespaces) {
                Located::Id(id) => entry.node = Some(id),
                Located::Path(path) => paths.push((*place, path)),
                Located::Nowhere => {}
            }
        }
        let nodes = self.follow(paths.iter().map(|(_, path)| path.clone()).collect()).await?;
        for ((place, _), node) in paths.into_iter().zip(nodes) {
            if let Some(entry) = entries.get_mut(place) {
                entry.node = node;
            }
        }
        Ok(())
    }

    /// The node of this name, if the server has it.
    pub(crate) async fn resolve(&self, name: &NodeName) -> Result<Option<NodeId>, Fault> {
        match name.locate(&self.namespaces) {
            Located::Id(id) => Ok(Some(id)),
            Located::Path(path) => Ok(self.follow(vec![path]).await?.into_iter().next().flatten()),
            Located::Nowhere => Ok(None),
        }
    }

    /// The nodes at the ends of paths, in their order and number.
    pub(crate) async fn follow(&self, paths: Vec<BrowsePath>) -> Result<Vec<Option<NodeId>>, Fault> {
        let mut nodes = Vec::with_capacity(paths.len());
        let mut rest = paths.as_slice();
        let mut chunk = self.path_chunk;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(chunk.min(rest.len()));
            let followed = self.session.translate_browse_paths_to_node_ids(part);
            match self.session.ask("following paths", followed).await {
                Ok(results) => {
                    let target = |result: BrowsePathResult| {
                        let target = result.targets?.into_iter().next()?;
                        // A path that ends on another server ends nowhere here.
                        (result.status_code.is_good()
                            && target.target_id.server_index == 0
                            && target.remaining_path_index == u32::MAX)
                            .then_some(target.target_id.node_id)
                    };
                    let mut found: Vec<_> = results.into_iter().map(target).collect();
                    found.resize(part.len(), None);
                    nodes.extend(found);
                    rest = after;
                }
                Err(Fault::Status { status, .. }) if too_much(status) && part.len() > 1 => chunk = part.len() / 2,
                // A small server without this service: its other points are as good as ever.
                Err(Fault::Status { status: StatusCode::BadServiceUnsupported, .. }) => {
                    nodes.extend(part.iter().map(|_| None));
                    rest = after;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(nodes)
    }

    pub(crate) async fn create_subscription(
        &self,
        place: usize,
        device: &DeviceConfig,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Subscribed, Fault> {
        let step = "creating a subscription";
        let signs = Signs::new();
        let room = Arc::clone(&self.session.room);
        let feed = Feed { device: place, signs: signs.clone(), batches, room };
        let times = |span: Duration| {
            let times = span.as_millis().div_ceil(device.publishing.as_millis().max(1));
            u32::try_from(times).unwrap_or(u32::MAX).max(1)
        };
        let keep_alive = times(KEEP_ALIVE);
        // At least three times the keep-alive count (OPC 10000-4 section 5.14.2).
        let lifetime = times(LIFETIME).max(keep_alive.saturating_mul(3));
        let created =
            self.session.create_subscription(device.publishing, lifetime, keep_alive, BATCH_VALUES, 0, true, feed);
        let subscription = self.session.ask(step, created).await?;
        let revised = {
            let state = self.session.subscription_state().lock();
            state.get(subscription).map(|known| (known.publishing_interval(), known.max_keep_alive_count()))
        };
        let (publishing, keep_alives) =
            revised.ok_or(Fault::Status { step, status: StatusCode::BadSubscriptionIdInvalid, mend: None })?;
        let silent = publishing.saturating_mul(keep_alives);
        let mut granted = Granted::default();
        granted.publishes(device.publishing, publishing);
        Ok(Subscribed {
            device: device.id.clone(),
            subscription: Some(subscription),
            poll: None,
            granted,
            signs,
            patience: silent.saturating_mul(2).saturating_add(GRACE).min(MAX_PATIENCE),
            publishing,
        })
    }

    /// Makes monitored items for the entries at `places`, and notes for each whether it worked.
    pub(crate) async fn create_items(
        &self,
        devices: &mut [Subscribed],
        entries: &mut [Entry],
        places: &[usize],
    ) -> Result<(), Fault> {
        for (device_place, device) in devices.iter_mut().enumerate() {
            let (mut wanted, mut old) = (Vec::new(), Vec::new());
            for place in places {
                let Some(entry) = entries.get_mut(*place).filter(|entry| entry.device == device_place) else {
                    continue;
                };
                old.extend(entry.item.take());
                if entry.node.is_some() {
                    wanted.push(*place);
                } else {
                    entry.missing = Some(StatusCode::BadNodeIdUnknown);
                }
            }
            let Some(subscription) = device.subscription else {
                self.check_nodes(entries, &wanted).await?;
                continue;
            };
            self.delete_items(subscription, &old).await;
            // Those whose filter is refused are asked for once more with less of it: twice at most.
            while !wanted.is_empty() {
                wanted = self.create_all(subscription, &mut device.granted, entries, &wanted).await?;
            }
        }
        self.link(devices, entries).await
    }

    /// Makes items, in pieces that the server takes; gives the places of those that are to be asked for again.
    async fn create_all(
        &self,
        subscription: u32,
        granted: &mut Granted,
        entries: &mut [Entry],
        wanted: &[usize],
    ) -> Result<Vec<usize>, Fault> {
        let (mut rest, mut again) = (wanted, Vec::new());
        let mut chunk = self.chunk;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(chunk.min(rest.len()));
            match self.create_part(subscription, granted, entries, part).await {
                Ok(refused) => {
                    again.extend(refused);
                    rest = after;
                }
                // Servers with a limit that they don't tell.
                Err(Fault::Status { status, .. }) if too_much(status) && part.len() > 1 => chunk = part.len() / 2,
                Err(Fault::Status { status, .. }) if too_much(status) => {
                    set(entries, part, None, Some(status));
                    rest = after;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(again)
    }

    /// Whether the nodes of a polled device are there.
    async fn check_nodes(&self, entries: &mut [Entry], places: &[usize]) -> Result<(), Fault> {
        let node = |place: &usize| entries.get(*place)?.node.clone();
        let nodes: Vec<NodeId> = places.iter().filter_map(node).collect();
        let values = read_values(&self.session, &nodes, self.chunk).await?;
        for (place, data) in places.iter().zip(values) {
            let status = data.status.unwrap_or(StatusCode::Good);
            set(entries, &[*place], None, fault::gone(status).then_some(status));
        }
        Ok(())
    }

    async fn create_part(
        &self,
        subscription: u32,
        granted: &mut Granted,
        entries: &mut [Entry],
        part: &[usize],
    ) -> Result<Vec<usize>, Fault> {
        let request = |place: &usize| {
            let entry = entries.get(*place)?;
            Some(MonitoredItemCreateRequest {
                item_to_monitor: read_id(entry.node.clone()?, AttributeId::Value),
                monitoring_mode: entry.mode(),
                requested_parameters: MonitoringParameters {
                    client_handle: u32::try_from(place + 1).ok()?,
                    sampling_interval: entry.sampling.as_secs_f64() * 1000.0,
                    filter: entry.filter.asked(),
                    queue_size: entry.queue,
                    discard_oldest: true,
                },
            })
        };
        let requests: Vec<_> = part.iter().filter_map(request).collect();
        let created = self.session.create_monitored_items(subscription, TimestampsToReturn::Both, requests);
        let results = self.session.ask("creating monitored items", created).await?;
        set(entries, part, None, Some(StatusCode::BadUnexpectedError));
        let mut again = Vec::new();
        for (place, result) in part.iter().zip(results) {
            let status = result.result.status_code;
            let (item, missing) =
                if status.is_bad() { (None, Some(status)) } else { (Some(result.result.monitored_item_id), None) };
            if let Some(entry) = entries.get(*place).filter(|_| missing.is_none()) {
                // Negative and not numbers: the server doesn't say.
                let sampling = Duration::try_from_secs_f64(result.result.revised_sampling_interval / 1000.0);
                let sampling = sampling.unwrap_or(entry.sampling);
                granted.item((entry.sampling, entry.queue), sampling, result.result.revised_queue_size);
            }
            set(entries, &[*place], item, missing);
            if let (true, Some(entry)) = (filter::refused(status), entries.get_mut(*place))
                && let Some(weaker) = entry.filter.weaker()
            {
                granted.unfiltered(*place, status);
                entry.filter = weaker;
                again.push(*place);
            }
        }
        Ok(again)
    }

    /// Deletes items whose nodes went away. The server may have done so itself.
    pub(crate) async fn delete_items(&self, subscription: u32, items: &[u32]) {
        for part in items.chunks(self.chunk) {
            let deleted = self.session.delete_monitored_items(subscription, part);
            if let Err(fault) = self.session.ask("deleting monitored items", deleted).await {
                tracing::debug!(items = part.len(), %fault, "opcua items not deleted");
            }
        }
    }
}

fn set(entries: &mut [Entry], places: &[usize], item: Option<u32>, missing: Option<StatusCode>) {
    for place in places {
        if let Some(entry) = entries.get_mut(*place) {
            (entry.item, entry.missing) = (item, missing);
        }
    }
}

/// Refusals that a smaller request may mend.
pub(crate) fn too_much(status: StatusCode) -> bool {
    [
        StatusCode::BadTooManyOperations,
        StatusCode::BadTooManyMonitoredItems,
        StatusCode::BadEncodingLimitsExceeded,
        StatusCode::BadRequestTooLarge,
        StatusCode::BadResponseTooLarge,
        StatusCode::BadTcpMessageTooLarge,
    ]
    .contains(&status)
}
