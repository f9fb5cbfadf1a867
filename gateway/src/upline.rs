//! The upstream connection with all that hangs on it: it is replaced as a whole when its configuration changes. What waits
//! in the queue is not its matter: the next one sends it.

use std::sync::{Arc, Mutex, PoisonError};

use fieldgate_broker::Broker;
use fieldgate_store::Queue;
use fieldgate_types::{Clock, Current, DeviceId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::command::Router;
use crate::northbound::{Down, Gaps, Replay, Upstream, UpstreamConfig, UpstreamHandle};
use crate::southbound::fetch::Fetch;
use crate::southbound::{Links, Presence};

/// What every connection is made with.
pub struct Upline {
    /// Whose.
    pub gateway: DeviceId,
    /// What goes up.
    pub queue: Queue,
    /// Where commands go.
    pub router: Router,
    /// Where fetched messages go.
    pub broker: Broker,
    /// How the devices are.
    pub presence: Arc<Presence>,
    /// What field devices have.
    pub links: Arc<Links>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where its tasks run, until when.
    pub tasks: TaskTracker,
    /// Ends the connection: what waits is sent as far as there is time.
    pub stop: CancellationToken,
    /// Ends what must not store anything new once the end has begun.
    pub quiet: CancellationToken,
    /// The one that runs.
    pub running: Running,
}

/// The connection that runs, if one does.
#[derive(Default)]
pub struct Running {
    handle: Current<Option<UpstreamHandle>>,
    line: Mutex<Option<Line>>,
}

struct Line {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Upline {
    /// How it is; `None` for a local-only gateway.
    pub fn handle(&self) -> Option<UpstreamHandle> {
        Option::clone(&self.running.handle.get())
    }

    /// Begins, where none runs.
    pub fn begin(&self, upstream: UpstreamConfig, replay: Replay) {
        // Full: the subscriber waits, and the upstream keeps what is not acknowledged.
        let (commands, downward) = mpsc::channel(64);
        // The same. A local subscriber that doesn't keep up holds it up for `full_queue_wait`, once.
        let (messages, fetched) = mpsc::channel(64);
        let stop = self.stop.child_token();
        let (upstream, handle) = Upstream::new(
            upstream,
            self.gateway.clone(),
            self.queue.clone(),
            Down { commands, messages },
            replay,
            Arc::clone(&self.clock),
            stop.clone(),
        );
        let tasks = TaskTracker::new();
        let over = TaskTracker::clone(&tasks);
        self.tasks.spawn(tasks.track_future(upstream.run()));
        let (presence, links) = (Arc::clone(&self.presence), Arc::clone(&self.links));
        let gaps = Gaps {
            queue: self.queue.clone(),
            missing: Box::new(move |device| {
                links.tell_birth_again(device);
                presence.tell_again(device);
            }),
            upstream: handle.clone(),
            clock: Arc::clone(&self.clock),
            stop: self.quiet.clone(),
        };
        // These end with the connection: it holds the other ends.
        self.tasks.spawn(gaps.run());
        self.tasks.spawn(self.router.clone().run(downward));
        self.tasks.spawn(Fetch::new(self.broker.clone(), Arc::clone(&self.clock), fetched).run());
        over.close();
        self.running.handle.set(Some(handle));
        *self.running.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(Line { stop, tasks });
    }

    /// Ends the one that runs: it goes on sending for as long as a stop does, says that it is stopped, and disconnects.
    pub async fn end(&self) {
        let line = self.running.line.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Line { stop, tasks }) = line else { return };
        stop.cancel();
        tasks.wait().await;
        self.running.handle.set(None);
    }
}
