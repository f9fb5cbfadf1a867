//! The doors: which address asks for what.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

use super::handshake::Workshop;
use super::listener::{Entrance, Listener, Pending, bind};
use super::pace::Pace;
use crate::Config;
use crate::broker::{Addresses, StartError};
use crate::core::Core;

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

/// Every address, bound and not yet served.
pub(crate) struct Doors {
    sockets: Vec<(TcpListener, Door)>,
    addresses: Addresses,
    /// For handshakes.
    threads: Option<Handle>,
}

impl Doors {
    /// Binds all of them.
    pub(crate) fn bind(config: &Config, tls: &Arc<ServerConfig>) -> Result<Self, StartError> {
        let mut doors =
            Self { sockets: Vec::new(), addresses: Addresses::default(), threads: config.handshakes_on.clone() };
        doors.addresses.listen = doors.open(&config.listen, &Door::Certificate(Arc::clone(tls)))?;
        if !config.users_tls.is_empty() {
            let tls = Arc::new(without_client_certificates(tls)?);
            doors.addresses.users_tls = doors.open(&config.users_tls, &Door::Users(tls))?;
        }
        doors.addresses.plain = doors.open(&config.plain, &Door::Plain)?;
        let websocket = Door::Websocket(Arc::clone(tls), config.websocket_origins.clone().into());
        doors.addresses.websocket = doors.open(&config.websocket, &websocket)?;
        Ok(doors)
    }

    fn open(&mut self, addresses: &[SocketAddr], door: &Door) -> Result<Vec<SocketAddr>, StartError> {
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |source| StartError::Bind { address: *address, source };
            let socket = bind(*address).map_err(failed)?;
            bound.push(socket.local_addr().map_err(failed)?);
            self.sockets.push((socket, door.clone()));
        }
        Ok(bound)
    }

    /// Where they are, and the sockets that wait before their CONNECT; accepting begins.
    pub(crate) fn serve(self, core: &Arc<Core>) -> (Addresses, Arc<Pending>) {
        let pending = Arc::new(Pending::default());
        let pace = Arc::new(Pace::new(core.limits.handshakes_per_second));
        let turns = PollSemaphore::new(Arc::new(Semaphore::new(core.limits.handshakes.max(1))));
        let workshop = Workshop { turns, threads: self.threads };
        let tasks = &core.tasks;
        for (socket, door) in self.sockets {
            let (core, workshop, pace) = (Arc::clone(core), workshop.clone(), Arc::clone(&pace));
            let entrance = Entrance { core, door, workshop, pace };
            let listener = Listener { entrance, socket, pending: Arc::clone(&pending) };
            tasks.spawn(listener.run());
        }
        (self.addresses, pending)
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
