//! Points of subtrees: looked for when a session begins, and again where that is wanted.
//!
//! Looking is a task of its own, one device at a time: values flow and commands are answered meanwhile. What is found is added
//! behind the points that are there, each under a name that stays for as long as the driver runs, also over reconnects; nothing is
//! taken away. A node that is gone is a missing one, like any other. A subtree that can't be looked at costs its own points
//! alone, and that is said.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use opcua::types::NodeId;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::{Ended, Entry, Live};
use crate::browse::{BrowseError, Extent, Tree, below};
use crate::config::{DeviceConfig, OpcuaConfig, PointConfig};
use crate::driver::Link;
use crate::node::Located;
use crate::server::Server;
use crate::subtree::{Names, SubtreeConfig};

/// After this the first node of a subtree is looked for again.
const MISSING: Duration = Duration::from_secs(5);
/// After this a subtree is tried again that could not be looked at.
const FAILED: Duration = Duration::from_mins(1);
/// How long looking at one may take; it is some hundred bytes of memory for each node.
const BROWSE_LIMIT: Duration = Duration::from_mins(1);
/// Nodes of a subtree that are looked at, its objects included.
const MAX_NODES: usize = 20_000;
/// Levels, where nothing is said.
const DEPTH: usize = 10;

/// The subtrees of a device.
#[derive(Debug)]
struct Explorer {
    device: usize,
    /// When they are looked at next.
    due: Option<Instant>,
    /// Whether the gateway has been told in this session.
    told: bool,
    /// What is not as asked.
    notes: Vec<String>,
}

/// Those of a session.
#[derive(Debug)]
pub(super) struct Explorers {
    each: Vec<Explorer>,
    running: JoinSet<Explored>,
}

/// What was seen of a device's subtrees, in their order.
#[derive(Debug)]
pub(super) struct Explored {
    device: usize,
    namespaces: Option<Vec<String>>,
    trees: Vec<Result<Tree, BrowseError>>,
}

impl Explorers {
    /// All due.
    pub(super) fn new(config: &OpcuaConfig) -> Self {
        let grows = config.devices.iter().enumerate().filter(|(_, device)| !device.subtrees.is_empty());
        let explorer = |(device, _)| Explorer { device, due: Some(Instant::now()), told: false, notes: Vec::new() };
        Self { each: grows.map(explorer).collect(), running: JoinSet::new() }
    }

    /// Begins with the next one that is due, unless another is being looked at.
    pub(super) fn start(&mut self, server: &Server, config: &OpcuaConfig) {
        let now = Instant::now();
        let due = self.each.iter_mut().find(|explorer| explorer.due.is_some_and(|due| due <= now));
        let Some(explorer) = due.filter(|_| self.running.is_empty()) else { return };
        // Where the task ends without a word.
        explorer.due = Some(now + FAILED);
        let Some(device) = config.devices.get(explorer.device) else { return };
        self.running.spawn(look(server.clone(), explorer.device, device.subtrees.clone()));
    }

    /// What was seen next; waits for ever where nothing is looked at.
    pub(super) async fn next(&mut self) -> Result<Explored, JoinError> {
        match self.running.join_next().await {
            Some(seen) => seen,
            None => std::future::pending().await,
        }
    }

    /// What is not as asked, in words.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.each.iter().flat_map(|explorer| explorer.notes.iter().cloned())
    }
}

async fn look(mut server: Server, device: usize, subtrees: Vec<SubtreeConfig>) -> Explored {
    let mut trees = Vec::with_capacity(subtrees.len());
    // A namespace may have come since.
    let namespaces = match server.refresh_namespaces().await {
        Ok(()) => Some(server.namespaces.clone()),
        Err(fault) => {
            debug!(%fault, "opcua namespaces not read");
            None
        }
    };
    for subtree in subtrees {
        let extent = Extent { depth: subtree.depth.unwrap_or(DEPTH), nodes: MAX_NODES };
        let tree = timeout(BROWSE_LIMIT, below(&server, Some(&subtree.node), extent)).await;
        let late = |_| BrowseError::Session(format!("it takes longer than {} s", BROWSE_LIMIT.as_secs()));
        trees.push(tree.map_err(late).flatten());
    }
    Explored { device, namespaces, trees }
}

impl Live {
    /// Makes points of what was found and is none yet, and tells the gateway.
    pub(super) async fn adopt(&mut self, link: &mut Link, seen: Result<Explored, JoinError>) -> Result<(), Ended> {
        let Explored { device, namespaces, trees } = match seen {
            Ok(explored) => explored,
            Err(error) => {
                debug!(link = link.name(), %error, "opcua subtree not looked at");
                link.failed();
                return Ok(());
            }
        };
        self.server.namespaces = namespaces.unwrap_or_else(|| std::mem::take(&mut self.server.namespaces));
        // One that is configured by its path may be there only now: it shall not become a point twice.
        let nowhere = self.places(|entry| entry.device == device && entry.node.is_none());
        self.server.locate(&mut self.entries, &nowhere).await?;
        let (found, left_out) = self.found(device, &trees);
        let first = self.entries.len();
        if !found.is_empty() {
            self.entries.extend(found.iter().map(|point| Entry::new(device, point, None, None)));
            if let Some(device) = Arc::make_mut(&mut self.config).devices.get_mut(device) {
                info!(device = %device.id, points = found.len(), "opcua points found");
                device.points.extend(found);
            }
        }
        let Some(config) = self.config.devices.get(device) else { return Ok(()) };
        let notes = notes(config, &trees, &left_out);
        let due = due(&config.subtrees, &trees);
        let explorer = self.explorers.each.iter_mut().find(|explorer| explorer.device == device);
        let told = explorer.map(|explorer| {
            (explorer.due, explorer.notes) = (due, notes);
            std::mem::replace(&mut explorer.told, true)
        });
        let places: Vec<usize> = (first..self.entries.len()).collect();
        if told == Some(false) || !places.is_empty() {
            link.points(&config.id, config.declared()).await?;
        }
        link.notes(self.notes());
        self.server.locate(&mut self.entries, &places).await?;
        self.server.create_items(&mut self.devices, &mut self.entries, &places).await?;
        let missing: Vec<usize> =
            places.into_iter().filter(|place| self.entries.get(*place).is_some_and(|e| e.missing.is_some())).collect();
        self.report_missing(link, &missing).await
    }

    /// Points for the variables that are none yet, up to the limit of each subtree; and how many of each are left out.
    fn found(&self, device: usize, trees: &[Result<Tree, BrowseError>]) -> (Vec<PointConfig>, Vec<usize>) {
        let (mut found, mut left_out) = (Vec::new(), Vec::new());
        let Some(config) = self.config.devices.get(device) else { return (found, left_out) };
        let entries = self.entries.iter().filter(|entry| entry.device == device);
        let nodes = entries.filter_map(|entry| match (&entry.node, entry.name.locate(&self.server.namespaces)) {
            (Some(node), _) => Some(node.clone()),
            (None, Located::Id(id)) => Some(id),
            (None, Located::Path(_) | Located::Nowhere) => None,
        });
        let mut known: HashSet<NodeId> = nodes.collect();
        let mut names = Names::of(config.points.iter().map(|point| &point.point.name));
        for (place, (subtree, tree)) in config.subtrees.iter().zip(trees).enumerate() {
            let mut room = subtree.limit.saturating_sub(of_subtree(config, place).count());
            let mut beyond = 0;
            for variable in tree.iter().flat_map(Tree::variables) {
                if known.contains(&variable.id) {
                    continue;
                }
                if room == 0 {
                    beyond += 1;
                } else if let Some(point) = subtree.point(variable, place, &mut names) {
                    room -= 1;
                    known.insert(variable.id.clone());
                    found.push(point);
                }
            }
            left_out.push(beyond);
        }
        (found, left_out)
    }
}

/// Points that came of the subtree at this place, and whether their names have a number.
fn of_subtree(config: &DeviceConfig, place: usize) -> impl Iterator<Item = bool> {
    let origins = config.points.iter().filter_map(|point| point.origin);
    origins.filter(move |origin| origin.subtree == place).map(|origin| origin.numbered)
}

/// What is not as asked, in words.
fn notes(config: &DeviceConfig, trees: &[Result<Tree, BrowseError>], left_out: &[usize]) -> Vec<String> {
    let mut notes = Vec::new();
    for (place, ((subtree, tree), left_out)) in config.subtrees.iter().zip(trees).zip(left_out).enumerate() {
        let (id, node, limit) = (&config.id, &subtree.node, subtree.limit);
        let tree = match tree {
            Ok(tree) => tree,
            Err(BrowseError::NoNode(_)) => {
                let every = MISSING.as_secs();
                notes.push(format!(
                    "{id}: the server has no node `{node}`, whose variables are to be points: it is looked for every {every} s"
                ));
                continue;
            }
            Err(BrowseError::Session(why)) => {
                notes.push(format!("{id}: the variables below `{node}` can't be looked for: {why}"));
                continue;
            }
        };
        if *left_out > 0 {
            notes.push(format!(
                "{id}: {left_out} variables below `{node}` are left out, limit = {limit} is reached: raise it, or name a node further down"
            ));
        }
        if tree.nodes.len() >= MAX_NODES {
            notes.push(format!(
                "{id}: below `{node}` there are more than {MAX_NODES} nodes, the others are not looked at: name a node further down"
            ));
        } else if tree.cut && subtree.depth.is_none() {
            notes.push(format!(
                "{id}: below `{node}` there is more than {DEPTH} levels down: say how many with `depth`"
            ));
        }
        if of_subtree(config, place).count() + left_out == 0 {
            notes.push(format!("{id}: there are no variables below `{node}` that aren't points already"));
        }
        let numbered = of_subtree(config, place).filter(|numbered| *numbered).count();
        if numbered > 0 {
            notes.push(format!(
                "{id}: {numbered} points below `{node}` have a number in their name, because others are called the same: after a \
                 restart it may be another one; {{path}} in `name` tells them apart"
            ));
        }
    }
    notes
}

fn due(subtrees: &[SubtreeConfig], trees: &[Result<Tree, BrowseError>]) -> Option<Instant> {
    let failed = trees.iter().map(|tree| match tree {
        Ok(_) => None,
        Err(BrowseError::NoNode(_)) => Some(MISSING),
        Err(BrowseError::Session(_)) => Some(FAILED),
    });
    let wanted = subtrees.iter().map(|subtree| subtree.every);
    failed.chain(wanted).flatten().min().map(|wait| Instant::now() + wait)
}
