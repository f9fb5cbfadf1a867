//! The doors: which address asks for what. They can be changed while the broker runs: connections are not their matter.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fieldgate_types::{Current, Pulse};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::handshake::Workshop;
use super::listener::{Entrance, Listener, Pending, bind};
use super::pace::Pace;
use crate::broker::{Addresses, StartError};
use crate::core::Core;
use crate::{Config, Limits};

/// How a client comes in.
#[derive(Clone)]
pub(super) enum Door {
    /// TLS with a client certificate.
    Certificate(Arc<ServerConfig>),
    /// TLS, then user name and password.
    Users(Arc<ServerConfig>),
    /// User name and password alone.
    Plain,
    /// As `Certificate`, then WebSocket, for these web pages.
    Websocket(Arc<ServerConfig>, Arc<[String]>),
}

/// The same, without what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    Users,
    Plain,
    Websocket,
}

/// An address that is to be listened on.
type Wanted = (Kind, SocketAddr);

fn wanted(config: &Config) -> Vec<Wanted> {
    let lists = [
        (Kind::Certificate, &config.listen),
        (Kind::Users, &config.users_tls),
        (Kind::Plain, &config.plain),
        (Kind::Websocket, &config.websocket),
    ];
    lists.iter().flat_map(|(kind, list)| list.iter().map(|address| (*kind, *address))).collect()
}

/// Bound, and not yet served.
type Bound = (Wanted, TcpListener, SocketAddr);

fn bind_one(wanted: Wanted) -> io::Result<Bound> {
    let socket = bind(wanted.1)?;
    let address = socket.local_addr()?;
    Ok((wanted, socket, address))
}

fn failed((_, address): Wanted) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Bind { address, source }
}

/// Every address, bound and not yet served: before the rest of the broker is there.
pub(crate) struct Bindings {
    bound: Vec<Bound>,
    entrances: Entrances,
}

/// What is made into entrances.
struct Entrances {
    certificates: Arc<ServerConfig>,
    /// The same server certificate; nobody is asked for one.
    users: Arc<ServerConfig>,
    /// For handshakes.
    threads: Option<Handle>,
}

/// What bounds newcomers over all addresses.
#[derive(Clone)]
struct Hall {
    workshop: Workshop,
    pace: Arc<Pace>,
    origins: Arc<[String]>,
}

impl Entrances {
    fn hall(&self, limits: &Limits, origins: &[String]) -> Hall {
        let turns = PollSemaphore::new(Arc::new(Semaphore::new(limits.handshakes.max(1))));
        let workshop = Workshop { turns, threads: self.threads.clone() };
        Hall { workshop, pace: Arc::new(Pace::new(limits.handshakes_per_second)), origins: origins.into() }
    }

    fn entrance(&self, kind: Kind, hall: &Hall, core: &Arc<Core>) -> Entrance {
        let Hall { workshop, pace, origins } = hall.clone();
        let door = match kind {
            Kind::Certificate => Door::Certificate(Arc::clone(&self.certificates)),
            Kind::Users => Door::Users(Arc::clone(&self.users)),
            Kind::Plain => Door::Plain,
            Kind::Websocket => Door::Websocket(Arc::clone(&self.certificates), origins),
        };
        Entrance { core: Arc::clone(core), door, workshop, pace }
    }
}

impl Bindings {
    /// Binds all of them.
    pub(crate) fn bind(config: &Config, tls: &Arc<ServerConfig>) -> Result<Self, StartError> {
        let bound = wanted(config).into_iter().map(|wanted| bind_one(wanted).map_err(failed(wanted)));
        let bound = bound.collect::<Result<_, _>>()?;
        let users = Arc::new(without_client_certificates(tls)?);
        let threads = config.handshakes_on.clone();
        Ok(Self { bound, entrances: Entrances { certificates: Arc::clone(tls), users, threads } })
    }

    /// Accepting begins.
    pub(crate) fn serve(self, core: &Arc<Core>, config: &Config) -> Doors {
        let Self { bound, entrances } = self;
        let hall = entrances.hall(&config.limits, &config.websocket_origins);
        let pending = Arc::new(Pending::default());
        let doors = Doors { core: Arc::clone(core), entrances, pending, open: Mutex::default() };
        let open = bound.into_iter().map(|bound| doors.begin(bound, &hall)).collect();
        *doors.open() = open;
        doors
    }
}

/// An address that is listened on.
#[derive(Clone)]
struct Open {
    wanted: Wanted,
    bound: SocketAddr,
    entrance: Arc<Current<Entrance>>,
    pulse: Pulse,
    stop: CancellationToken,
    closed: CancellationToken,
}

impl Open {
    async fn close(&self) {
        self.stop.cancel();
        self.closed.cancelled().await;
    }
}

/// The addresses that are listened on.
pub(crate) struct Doors {
    core: Arc<Core>,
    entrances: Entrances,
    /// Sockets before their CONNECT.
    pub pending: Arc<Pending>,
    open: Mutex<Vec<Open>>,
}

impl Doors {
    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Addresses {
        let mut addresses = Addresses::default();
        for open in self.open().iter() {
            let list = match open.wanted.0 {
                Kind::Certificate => &mut addresses.listen,
                Kind::Users => &mut addresses.users_tls,
                Kind::Plain => &mut addresses.plain,
                Kind::Websocket => &mut addresses.websocket,
            };
            list.push(open.bound);
        }
        addresses
    }

    /// One for each address: whether it still accepts.
    pub(crate) fn pulses(&self) -> Vec<Pulse> {
        self.open().iter().map(|open| open.pulse.clone()).collect()
    }

    fn begin(&self, (wanted, socket, bound): Bound, hall: &Hall) -> Open {
        let entrance = Arc::new(Current::new(self.entrances.entrance(wanted.0, hall, &self.core)));
        let (stop, closed) = (self.core.stopping.child_token(), CancellationToken::new());
        let pulse = Pulse::new(Arc::clone(&self.core.clock));
        let listener = Listener {
            entrance: Arc::clone(&entrance),
            socket,
            pending: Arc::clone(&self.pending),
            pulse: pulse.clone(),
            stop: stop.clone(),
            closed: closed.clone().drop_guard(),
        };
        self.core.tasks.spawn(listener.run());
        Open { wanted, bound, entrance, pulse, stop, closed }
    }

    /// Opens and closes addresses until they are those of `config`. Those that stay are not touched, but for what newcomers
    /// meet there. All or nothing: where one can't be had, the others are as they were. One change at a time.
    pub(crate) async fn change(&self, config: &Config) -> Result<(), StartError> {
        let mut before = self.open().clone();
        let hall = self.entrances.hall(&config.limits, &config.websocket_origins);
        // In the order of the configuration: what stays, and what is new.
        let mut after: Vec<Result<Open, Wanted>> = Vec::new();
        for wanted in wanted(config) {
            let stays = before.iter().position(|open| open.wanted == wanted).map(|at| before.remove(at));
            after.push(stays.ok_or(wanted));
        }
        let mut bound = Vec::new();
        let mut closed: Vec<&Open> = Vec::new();
        for wanted in after.iter().filter_map(|place| place.as_ref().err()) {
            let mut result = bind_one(*wanted);
            // On the port of one that goes, such as 0.0.0.0 for 127.0.0.1, there is room once that is closed.
            let in_the_way: Vec<&Open> =
                before.iter().filter(|open| result.is_err() && open.bound.port() == wanted.1.port()).collect();
            for open in in_the_way {
                open.close().await;
                closed.push(open);
                result = bind_one(*wanted);
            }
            match result {
                Ok(one) => bound.push(one),
                Err(error) => {
                    drop(bound);
                    self.reopen(&closed, &hall);
                    return Err(failed(*wanted)(error));
                }
            }
        }
        let mut bound = bound.into_iter();
        let mut open = Vec::new();
        for place in after {
            match place {
                Ok(stays) => {
                    stays.entrance.set(self.entrances.entrance(stays.wanted.0, &hall, &self.core));
                    open.push(stays);
                }
                Err(_) => open.extend(bound.next().map(|bound| self.begin(bound, &hall))),
            }
        }
        *self.open() = open;
        for gone in before {
            gone.close().await;
        }
        Ok(())
    }

    /// After a change that could not be made.
    fn reopen(&self, closed: &[&Open], hall: &Hall) {
        for gone in closed {
            match bind_one((gone.wanted.0, gone.bound)) {
                Ok((_, socket, bound)) => {
                    let again = self.begin((gone.wanted, socket, bound), hall);
                    for open in self.open().iter_mut().filter(|open| open.bound == gone.bound) {
                        *open = again.clone();
                    }
                }
                Err(error) => {
                    tracing::error!(address = %gone.bound, %error, "an address was closed and can't be had again");
                }
            }
        }
    }
}

/// The same server certificate and the same care with resumption; nobody is asked for a certificate.
fn without_client_certificates(tls: &ServerConfig) -> Result<ServerConfig, rustls::Error> {
    let mut users = ServerConfig::builder_with_provider(Arc::clone(tls.crypto_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&tls.cert_resolver));
    users.session_storage = Arc::clone(&tls.session_storage);
    users.send_tls13_tickets = tls.send_tls13_tickets;
    Ok(users)
}
