//! A simulated Modbus TCP device, for the demo and for tests: the server of tokio-modbus with a memory behind it.
//!
//! It answers function codes 1 to 6, 15, 16, 22 and 23 for every unit id, all units sharing one memory, with the exceptions of
//! the specification. The caller changes values, takes units off the bus and refuses addresses. It is not meant to face
//! hostile clients: tokio-modbus 0.17 panics in the connection's own task on some malformed writes (a byte count that
//! doesn't match the quantity), which ends that connection and no other.

use std::collections::BTreeSet;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_util::sync::CancellationToken;

/// Coils or registers of one table: all 65,536.
const SIZE: usize = 65_536;
/// The most that one request may ask for (application protocol V1.1b3, sections 6.1 to 6.12).
const MAX_READ_BITS: u16 = 2_000;
const MAX_READ_REGISTERS: u16 = 125;

/// A running simulated device. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    memory: Shared,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Memory {
    coils: Vec<bool>,
    discrete: Vec<bool>,
    input: Vec<u16>,
    holding: Vec<u16>,
    silent: BTreeSet<u8>,
    refused: Vec<RangeInclusive<u16>>,
    stuck: bool,
    requests: u64,
}

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Memory>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Simulator {
    /// Listens on `listen` and answers until stopped or dropped. Everything is 0 and off. A port that was in use a
    /// moment ago can be had again. To be called within a tokio runtime.
    pub fn start(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(64)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr()?;
        let memory = Memory {
            coils: vec![false; SIZE],
            discrete: vec![false; SIZE],
            input: vec![0; SIZE],
            holding: vec![0; SIZE],
            silent: BTreeSet::new(),
            refused: Vec::new(),
            stuck: false,
            requests: 0,
        };
        let memory = Shared(Arc::new(Mutex::new(memory)));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(Server::new(listener), memory.clone(), stop.clone()));
        Ok(Self { address, memory, stop, server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and all connections, and waits until the port is free.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::debug!(%error, "simulated modbus device ended badly");
        }
    }

    /// Sets holding registers from `address` on; what would lie beyond 65535 is left out.
    pub fn set_holding(&self, address: u16, words: &[u16]) {
        put(&mut self.memory.lock().holding, address, words);
    }

    /// A holding register.
    pub fn holding(&self, address: u16) -> u16 {
        self.memory.lock().holding.get(usize::from(address)).copied().unwrap_or_default()
    }

    /// Sets input registers.
    pub fn set_input(&self, address: u16, words: &[u16]) {
        put(&mut self.memory.lock().input, address, words);
    }

    /// Sets coils.
    pub fn set_coils(&self, address: u16, bits: &[bool]) {
        put(&mut self.memory.lock().coils, address, bits);
    }

    /// A coil.
    pub fn coil(&self, address: u16) -> bool {
        self.memory.lock().coils.get(usize::from(address)).copied().unwrap_or_default()
    }

    /// Sets discrete inputs.
    pub fn set_discrete(&self, address: u16, bits: &[bool]) {
        put(&mut self.memory.lock().discrete, address, bits);
    }

    /// Takes a unit off the bus, so that it doesn't answer, or puts it back.
    pub fn set_silent(&self, unit: u8, silent: bool) {
        let mut memory = self.memory.lock();
        if silent {
            memory.silent.insert(unit);
        } else {
            memory.silent.remove(&unit);
        }
    }

    /// Refuses (exception 2) every request that touches one of these addresses, in any table. Replaces what was
    /// refused before.
    pub fn refuse(&self, addresses: &[RangeInclusive<u16>]) {
        self.memory.lock().refused = addresses.to_vec();
    }

    /// Confirms writes without doing them, as a device does whose program overwrites the register.
    pub fn set_stuck(&self, stuck: bool) {
        self.memory.lock().stuck = stuck;
    }

    /// Requests received so far.
    pub fn requests(&self) -> u64 {
        self.memory.lock().requests
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(server: Server, memory: Shared, stop: CancellationToken) {
    let on_connected = |stream: tokio::net::TcpStream, _: SocketAddr| {
        let memory = memory.clone();
        async move { Ok(stream.set_nodelay(true).ok().map(|()| (memory, stream))) }
    };
    // Dropping the server's future ends its connections. An error of `accept` (a connection gone already, too many
    // files) ends the future, not the listener.
    while !stop.is_cancelled() {
        let serving = server.serve(&on_connected, |error| tracing::trace!(%error, "simulated modbus connection ended"));
        if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
            tracing::debug!(%error, "simulated modbus device accepts again");
            stop.run_until_cancelled(tokio::time::sleep(std::time::Duration::from_millis(50))).await;
        }
    }
}

fn put<T: Copy>(table: &mut [T], address: u16, values: &[T]) {
    for (cell, value) in table.iter_mut().skip(address.into()).zip(values) {
        *cell = *value;
    }
}

fn get<T: Copy>(table: &[T], address: u16, count: u16, max: u16) -> Result<Vec<T>, ExceptionCode> {
    if !(1..=max).contains(&count) {
        return Err(ExceptionCode::IllegalDataValue);
    }
    let from = usize::from(address);
    table.get(from..from + usize::from(count)).map(<[T]>::to_vec).ok_or(ExceptionCode::IllegalDataAddress)
}

impl Service for Shared {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let mut memory = self.lock();
        memory.requests += 1;
        if memory.silent.contains(&request.slave) {
            return ready(Ok(None));
        }
        ready(memory.answer(request.request).map(Some))
    }
}

impl Memory {
    fn answer(&mut self, request: Request<'static>) -> Result<Response, ExceptionCode> {
        let (address, count) = match &request {
            Request::ReadCoils(at, count)
            | Request::ReadDiscreteInputs(at, count)
            | Request::ReadInputRegisters(at, count)
            | Request::ReadHoldingRegisters(at, count) => (*at, usize::from(*count)),
            Request::WriteSingleCoil(at, _)
            | Request::WriteSingleRegister(at, _)
            | Request::MaskWriteRegister(at, ..) => (*at, 1),
            Request::WriteMultipleCoils(at, bits) => (*at, bits.len()),
            Request::WriteMultipleRegisters(at, words) => (*at, words.len()),
            // What is read and what is written lies in one place here.
            Request::ReadWriteMultipleRegisters(at, count, to, words)
                if at == to && words.len() == usize::from(*count) =>
            {
                (*at, words.len())
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        };
        let (from, to) = (usize::from(address), usize::from(address) + count);
        let touched =
            |refused: &RangeInclusive<u16>| usize::from(*refused.start()) < to && from <= usize::from(*refused.end());
        if to > SIZE || self.refused.iter().any(touched) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        let write = !self.stuck;
        Ok(match request {
            Request::ReadCoils(at, count) => Response::ReadCoils(get(&self.coils, at, count, MAX_READ_BITS)?),
            Request::ReadDiscreteInputs(at, count) => {
                Response::ReadDiscreteInputs(get(&self.discrete, at, count, MAX_READ_BITS)?)
            }
            Request::ReadInputRegisters(at, count) => {
                Response::ReadInputRegisters(get(&self.input, at, count, MAX_READ_REGISTERS)?)
            }
            Request::ReadHoldingRegisters(at, count) => {
                Response::ReadHoldingRegisters(get(&self.holding, at, count, MAX_READ_REGISTERS)?)
            }
            Request::WriteSingleCoil(at, bit) => {
                put(&mut self.coils, at, if write { std::slice::from_ref(&bit) } else { &[] });
                Response::WriteSingleCoil(at, bit)
            }
            Request::WriteSingleRegister(at, word) => {
                put(&mut self.holding, at, if write { std::slice::from_ref(&word) } else { &[] });
                Response::WriteSingleRegister(at, word)
            }
            Request::WriteMultipleCoils(at, bits) => {
                put(&mut self.coils, at, if write { &bits } else { &[] });
                Response::WriteMultipleCoils(at, u16::try_from(count).map_err(|_| ExceptionCode::IllegalDataValue)?)
            }
            Request::WriteMultipleRegisters(at, words) => {
                put(&mut self.holding, at, if write { &words } else { &[] });
                Response::WriteMultipleRegisters(at, u16::try_from(count).map_err(|_| ExceptionCode::IllegalDataValue)?)
            }
            Request::MaskWriteRegister(at, and, or) => {
                let old = get(&self.holding, at, 1, 1)?;
                // Application protocol V1.1b3, section 6.16.
                let new: Vec<u16> = old.iter().map(|word| word & and | or & !and).collect();
                put(&mut self.holding, at, if write { &new } else { &[] });
                Response::MaskWriteRegister(at, and, or)
            }
            Request::ReadWriteMultipleRegisters(at, count, _, words) => {
                put(&mut self.holding, at, if write { &words } else { &[] });
                Response::ReadWriteMultipleRegisters(get(&self.holding, at, count, MAX_READ_REGISTERS)?)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        })
    }
}
