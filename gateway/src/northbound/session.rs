//! The life of the upstream connection: connect, serve, lose, wait, again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fieldgate_store::Queue;
use fieldgate_types::{Backoff, Clock, DeviceId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Down;
use super::client::{self, Ack, Arrival, CONNECT_TIME, Client, Hello, Inward, Welcome};
use super::config::{BatchMode, UpstreamConfig};
use super::dial::dial;
use super::dialect::Dialect;
use super::failure::{Failure, Who};
use super::gather::Learned;
use super::pace::Replay;
use super::packet::Packet;
use super::publisher::{Parts, Publisher};
use super::status::{Board, UpstreamState};
use super::subscriber::Subscriber;

/// Our name at the queue.
pub(super) const CONSUMER: &str = "upstream";
/// The shortest wait between two tries (DESIGN section 3).
const RETRY_MIN: Duration = Duration::from_millis(250);
/// At a stop: for the PUBACK of the last state, and again for the DISCONNECT.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// Everything that outlives a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub config: UpstreamConfig,
    pub gateway: DeviceId,
    pub dialect: Dialect,
    pub queue: Queue,
    pub down: Down,
    pub replay: Replay,
    pub clock: Arc<dyn Clock>,
    pub stop: CancellationToken,
    pub drain: Duration,
    pub board: Board,
}

/// A connection whose birth was acknowledged.
struct Connection {
    client: Client,
    welcome: Welcome,
    wire: Running,
    arrivals: mpsc::Receiver<Arrival>,
    /// A tree that is not fetched, and why.
    refused: Option<String>,
}

/// The wire's task; ends with its owner.
struct Running(Option<JoinHandle<Failure>>);

impl Running {
    /// Why it ended. For ever pending once that was told. Cancel-safe.
    async fn ended(&mut self) -> Failure {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let result = task.await;
        self.0 = None;
        result.unwrap_or_else(|error| Failure::Lost(format!("the wire has ended: {error}")))
    }

    /// Ends it and waits until its socket is closed: there is one upstream connection at any time.
    async fn end(mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            // Cancelled, as asked, or just ended by itself.
            let _ended = task.await.is_ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Session {
    /// Until stopped.
    pub async fn run(self) {
        let mut backoff = Backoff::new(RETRY_MIN, self.config.retry_max);
        let mut learned = match self.config.batch {
            BatchMode::None => None,
            BatchMode::Zstd => Some(Learned::new(Instant::now())),
        };
        let mut said = None;
        let pulse = &self.board.counters.pulse;
        while !self.stop.is_cancelled() {
            // Each step of a connection has a time limit of its own: four and one for each tree that is fetched.
            let steps = u32::try_from(self.dialect.fetched().count()).unwrap_or(u32::MAX).saturating_add(4);
            pulse.rest(CONNECT_TIME.saturating_mul(steps));
            self.board.post(UpstreamState::Connecting, self.clock.now(), None);
            let connection = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                connection = self.connect() => connection,
            };
            let served = match connection {
                Ok(connection) => {
                    backoff.reset();
                    said = None;
                    self.serve(connection, &mut learned).await
                }
                Err(failure) => Err(failure),
            };
            let Err(failure) = served else { break };
            let wait = if failure.lasting() { self.config.retry_max } else { backoff.next_wait() };
            self.down(&failure, wait, &mut said);
            pulse.rest(wait);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        pulse.end();
        self.board.post(UpstreamState::Stopped, self.clock.now(), None);
    }

    /// One line when the reason is a new one; the same again is in the status.
    fn down(&self, failure: &Failure, wait: Duration, said: &mut Option<String>) {
        let why = failure.to_string();
        if said.as_ref() != Some(&why) {
            tracing::warn!(host = self.config.host, reason = why, retry_in = ?wait, "the upstream is not connected");
            *said = Some(why.clone());
        }
        self.board.post(UpstreamState::Down, self.clock.now(), Some(why));
    }

    /// Dials, greets, subscribes, and announces the gateway.
    async fn connect(&self) -> Result<Connection, Failure> {
        // Bounded by what the upstream may send before the first PUBACK (v5 Receive Maximum). 3.1.1 has no such limit:
        // a command that finds it full stays unacknowledged and comes again with the next session.
        let (arrived, arrivals) = mpsc::channel(128);
        let inward = Inward { arrivals: arrived, counters: Arc::clone(&self.board.counters) };
        let greet = async {
            let hello = self.hello().await?;
            let stream = dial(&self.config).await?;
            client::connect(&hello, stream, inward).await
        };
        let (client, wire, mut welcome) = within("CONNECT", greet).await?;
        welcome.receive_maximum = welcome.receive_maximum.min(self.config.window);
        let mut wire = Running(Some(tokio::spawn(wire.run())));
        let birth = self.dialect.state(true, Some(self.clock.now()), None);
        let introduce = async {
            within("SUBSCRIBE", client.subscribe(self.dialect.commands())).await?;
            let refused = self.fetch(&client).await?;
            within("the birth message", announce(&client, birth, &welcome)).await?;
            Ok(refused)
        };
        // The wire's word first: it knows why the others have no answer.
        let introduced = tokio::select! {
            biased;
            failure = wire.ended() => Err(failure),
            introduced = introduce => introduced,
        };
        match introduced {
            Ok(refused) => Ok(Connection { client, welcome, wire, arrivals, refused }),
            Err(failure) => {
                wire.end().await;
                Err(failure)
            }
        }
    }

    /// Subscribes to the trees that are fetched. One that the upstream refuses doesn't keep the others, or what goes up,
    /// from coming through: the last refusal, in words.
    async fn fetch(&self, client: &Client) -> Result<Option<String>, Failure> {
        let mut refused = None;
        for wanted in self.dialect.fetched() {
            match within("SUBSCRIBE", client.subscribe(wanted)).await {
                Ok(()) => {}
                Err(failure @ Failure::Subscribe { .. }) => {
                    tracing::error!(reason = %failure, "a tree of [[upstream.fetch]] doesn't come down");
                    refused = Some(failure.to_string());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(refused)
    }

    async fn hello(&self) -> Result<Hello<'_>, Failure> {
        let config = &self.config;
        let login = match &config.login {
            Some(login) => {
                let path = login.password_file.clone();
                let read = tokio::fs::read(&path).await;
                let password = read.map_err(|source| Failure::File { key: "password_file", path, source })?;
                Some((login.username.clone(), first_line(password)))
            }
            None => None,
        };
        let who = Who {
            client_id: config.client_id.clone().unwrap_or_else(|| self.gateway.to_string()),
            login: config.login.as_ref().map(|login| (login.username.clone(), login.password_file.clone())),
            certificate: config.tls.as_ref().and_then(|tls| tls.identity.as_ref()).map(|(cert, _)| cert.clone()),
        };
        Ok(Hello {
            protocol: config.protocol,
            host: config.host.clone(),
            who,
            login,
            keep_alive: config.keep_alive,
            // When it is published nobody of us is there to say since when.
            will: self.dialect.state(false, None, Some("connection lost")),
        })
    }

    /// Until the connection fails (the reason) or the stop is complete. `learned` with batches alone.
    async fn serve(&self, connection: Connection, learned: &mut Option<Learned>) -> Result<(), Failure> {
        let Connection { client, welcome, mut wire, arrivals, refused } = connection;
        self.board.post(UpstreamState::Up, self.clock.now(), refused);
        tracing::info!(
            host = self.config.host,
            port = self.config.port,
            window = welcome.receive_maximum,
            "the upstream is connected"
        );
        let counters = Arc::clone(&self.board.counters);
        let subscriber =
            Subscriber::new(client.clone(), self.dialect.clone(), Arc::clone(&counters), arrivals, self.down.clone());
        let mut publisher = Publisher::new(Parts {
            client: client.clone(),
            queue: self.queue.clone(),
            dialect: self.dialect.clone(),
            counters,
            welcome: welcome.clone(),
            window: self.config.window,
            replay: self.replay,
            batches: learned.clone(),
            retry_max: self.config.retry_max,
        });
        let drain = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.drain).await;
        };
        let commands = async {
            subscriber.run().await;
            std::future::pending::<()>().await;
        };
        let mut ended = tokio::select! {
            biased;
            failure = wire.ended() => Err(failure),
            result = publisher.run(&self.stop) => result,
            () = drain => Ok(()),
            () = commands => Ok(()),
        };
        match &ended {
            Ok(()) => self.farewell(&client, &welcome, &mut wire).await,
            // The publisher has only noticed; the wire knows why.
            Err(Failure::Lost(_)) => {
                if let Ok(why) = tokio::time::timeout(FAREWELL_TIME, wire.ended()).await {
                    ended = Err(why);
                }
            }
            Err(_) => {}
        }
        wire.end().await;
        // The store has its own pulse.
        let _waiting = self.board.counters.pulse.excuse();
        let concluded = publisher.conclude().await;
        *learned = publisher.learned().or(learned.take());
        ended.and(concluded)
    }

    /// The last state, then DISCONNECT, so that the Will is not needed.
    async fn farewell(&self, client: &Client, welcome: &Welcome, wire: &mut Running) {
        let state = self.dialect.state(false, Some(self.clock.now()), Some("stopped"));
        let told = tokio::time::timeout(FAREWELL_TIME, announce(client, state, welcome)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!("the upstream did not acknowledge the last state");
        }
        if client.disconnect().is_ok() && tokio::time::timeout(FAREWELL_TIME, wire.ended()).await.is_err() {
            tracing::warn!("the upstream did not take the DISCONNECT in time");
        }
        tracing::info!(host = self.config.host, "the upstream is disconnected");
    }
}

/// `work`, with the time limit of a step.
async fn within<R>(to: &'static str, work: impl Future<Output = Result<R, Failure>>) -> Result<R, Failure> {
    let limited = tokio::time::timeout(CONNECT_TIME, work).await;
    limited.unwrap_or(Err(Failure::Timeout { to, within: CONNECT_TIME }))
}

async fn announce(client: &Client, mut state: Packet<'_>, welcome: &Welcome) -> Result<(), Failure> {
    state.retain &= welcome.retains;
    let refused = |reason: &str| Err(Failure::Lost(format!("the state on `{}` was refused: {reason}", state.topic())));
    match client.deliver(&state).await {
        Ack::Accepted => Ok(()),
        Ack::Busy(reason) | Ack::Poison(reason) | Ack::TooLarge(reason) => refused(reason),
        Ack::Lost => refused("no answer"),
    }
}

fn first_line(password: Vec<u8>) -> Bytes {
    let mut line = password;
    if let Some(end) = line.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        line.truncate(end);
    }
    line.into()
}
