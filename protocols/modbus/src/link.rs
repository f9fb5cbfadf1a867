//! One connection to a Modbus TCP device or gateway: a request goes out, its own answer comes back, or the
//! connection is gone.
//!
//! tokio-modbus 0.17 checks the transaction id, the unit id and the function code of an answer. What it lets pass is
//! checked here (FINDINGS, Modbus):
//! - it waits for ever: every request has a deadline;
//! - it is not cancel-safe, and after a time-out the late answer would be taken for the next one: the connection is
//!   taken out of its place during a request and put back only after a good answer, so nothing can use it again;
//! - it accepts short and long answers: the length must be the one that was asked for;
//! - it does not compare the echo of a write: address and value must be those that were sent;
//! - it throws away what lies in its buffer before a request: bytes beyond one answer, or unasked, end the connection;
//! - it reports a close with a stale error number: the wire says whether the peer closed.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_modbus::client::{Client, Context, tcp};
use tokio_modbus::slave::SlaveContext;
use tokio_modbus::{ExceptionCode, Request, Response, Slave};

use crate::address::Table;
use crate::config::{Endpoint, UnitId};
use crate::wire::{Tap, Wire};

/// Transaction, protocol, length, unit: what precedes the function code.
const HEADER: usize = 7;

/// Why a connection is no more, or never was.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// It could not be made.
    #[error("can't connect: {0}")]
    Connect(#[source] io::Error),
    /// Nobody accepted in time.
    #[error("can't connect: no answer within {}", fieldgate_types::duration::format(*.0))]
    ConnectTimeout(Duration),
    /// The peer closed it.
    #[error("the device closed the connection")]
    Closed,
    /// It broke.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {}", fieldgate_types::duration::format(*.0))]
    Timeout(Duration),
    /// An answer that does not belong to the request.
    #[error("bad answer: {0}")]
    BadFrame(BadFrame),
}

/// What was wrong with an answer.
#[derive(Debug, Error)]
pub(crate) enum BadFrame {
    /// The transaction or unit id is not the request's.
    #[error("transaction or unit id of another request")]
    Header,
    /// The function code is not the request's.
    #[error("function of another request")]
    Function,
    /// More or fewer values than asked for.
    #[error("{got} values where {asked} were asked for")]
    Length {
        /// How many were asked for.
        asked: u16,
        /// How many came.
        got: usize,
    },
    /// A write was confirmed for another address, value or count.
    #[error("confirms another write")]
    Echo,
    /// Bytes that nobody asked for.
    #[error("bytes beyond the answer")]
    Surplus,
    /// No Modbus TCP frame.
    #[error("not a Modbus frame")]
    Malformed,
}

impl LinkError {
    /// Whether the connection as such went, which concerns all units on it.
    pub(crate) fn is_connection(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Closed | Self::Broken(_) => true,
            Self::Timeout(_) | Self::BadFrame(_) => false,
        }
    }
}

impl From<BadFrame> for LinkError {
    fn from(bad: BadFrame) -> Self {
        Self::BadFrame(bad)
    }
}

/// What the device answered: a result or its exception.
pub(crate) type Answer<T> = Result<T, ExceptionCode>;

/// The contents of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// Of coils or discrete inputs.
    Bits(Vec<bool>),
    /// Of input or holding registers.
    Registers(Vec<u16>),
}

/// The link: at most one connection, which is there exactly while it is known to be in step.
#[derive(Debug)]
pub(crate) struct Link {
    endpoint: Endpoint,
    timeout: Duration,
    pause: Duration,
    connection: Option<Connection>,
}

struct Connection {
    client: Context,
    tap: Arc<Tap>,
    /// When the pause after the last answer is over.
    rested: Instant,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("tap", &self.tap).finish_non_exhaustive()
    }
}

impl Link {
    /// Not connected.
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration, pause: Duration) -> Self {
        Self { endpoint, timeout, pause, connection: None }
    }

    /// Where it leads.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Makes a new connection in place of any old one.
    pub(crate) async fn connect(&mut self) -> Result<(), LinkError> {
        self.connection = None;
        // A handshake that loses its first packet takes a second (RFC 6298): shorter time-outs don't apply to it.
        let limit = self.timeout.max(Duration::from_millis(1_500));
        let attempt = TcpStream::connect((self.endpoint.host.as_str(), self.endpoint.port));
        let stream = timeout(limit, attempt).await.map_err(|_| LinkError::ConnectTimeout(limit))?;
        let stream = stream.map_err(LinkError::Connect)?;
        // Without it a request waits for the acknowledgement of the one before (FINDINGS, Modbus 4).
        stream.set_nodelay(true).map_err(LinkError::Connect)?;
        let (wire, tap) = Wire::new(stream);
        self.connection = Some(Connection { client: tcp::attach(wire), tap, rested: Instant::now() });
        Ok(())
    }

    /// Waits until the idle connection is lost: closed, broken, or disturbed by bytes that nobody asked for; for
    /// ever when there is none. Cancel-safe. The connection is gone afterwards.
    pub(crate) async fn lost(&mut self) -> LinkError {
        let Some(connection) = &self.connection else { return std::future::pending().await };
        let tap = Arc::clone(&connection.tap);
        let error = match tap.disturbed().await {
            Ok(()) => BadFrame::Surplus.into(),
            Err(error) => transport_error(&tap, error),
        };
        self.connection = None;
        error
    }

    /// Reads a block.
    pub(crate) async fn read(
        &mut self,
        unit: UnitId,
        table: Table,
        start: u16,
        count: u16,
    ) -> Result<Answer<Data>, LinkError> {
        let request = match table {
            Table::Coil => Request::ReadCoils(start, count),
            Table::Discrete => Request::ReadDiscreteInputs(start, count),
            Table::Input => Request::ReadInputRegisters(start, count),
            Table::Holding => Request::ReadHoldingRegisters(start, count),
        };
        let bytes = usize::from(if table.is_bits() { count.div_ceil(8) } else { count.saturating_mul(2) });
        self.call(unit, request, HEADER + 2 + bytes, |response| match response {
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) if table.is_bits() => {
                // Bits come in whole bytes, the last one filled up.
                let got = bits.len();
                bits.truncate(count.into());
                if got == bytes * 8 { Ok(Data::Bits(bits)) } else { Err(BadFrame::Length { asked: count, got }) }
            }
            Response::ReadInputRegisters(words) | Response::ReadHoldingRegisters(words) => {
                let got = words.len();
                if got == usize::from(count) {
                    Ok(Data::Registers(words))
                } else {
                    Err(BadFrame::Length { asked: count, got })
                }
            }
            _ => Err(BadFrame::Function),
        })
        .await
    }

    /// Writes registers: function code 6 for `single`, which takes the first of them, else 16.
    pub(crate) async fn write_registers(
        &mut self,
        unit: UnitId,
        start: u16,
        words: &[u16],
        single: bool,
    ) -> Result<Answer<()>, LinkError> {
        let request = match words {
            [word] if single => Request::WriteSingleRegister(start, *word),
            _ => Request::WriteMultipleRegisters(start, Cow::Borrowed(words)),
        };
        self.call(unit, request, HEADER + 5, |response| match response {
            Response::WriteSingleRegister(at, word) => echo(at == start && words == [word]),
            Response::WriteMultipleRegisters(at, count) => echo(at == start && words.len() == usize::from(count)),
            _ => Err(BadFrame::Function),
        })
        .await
    }

    /// Writes a coil: function code 5 for `single`, else 15.
    pub(crate) async fn write_coil(
        &mut self,
        unit: UnitId,
        at: u16,
        on: bool,
        single: bool,
    ) -> Result<Answer<()>, LinkError> {
        let request = if single {
            Request::WriteSingleCoil(at, on)
        } else {
            Request::WriteMultipleCoils(at, Cow::Owned(vec![on]))
        };
        self.call(unit, request, HEADER + 5, |response| match response {
            Response::WriteSingleCoil(echo_at, echo_on) => echo(echo_at == at && echo_on == on),
            Response::WriteMultipleCoils(echo_at, count) => echo(echo_at == at && count == 1),
            _ => Err(BadFrame::Function),
        })
        .await
    }

    /// One request and its answer of exactly `expected` bytes. The connection survives only a good answer or a
    /// proper exception.
    async fn call<T>(
        &mut self,
        unit: UnitId,
        request: Request<'_>,
        expected: usize,
        check: impl FnOnce(Response) -> Result<T, BadFrame>,
    ) -> Result<Answer<T>, LinkError> {
        // Taken out: if this future is dropped half-way, the connection goes with it.
        let mut connection = self.connection.take().ok_or(LinkError::Closed)?;
        // tokio rounds a sleep up to its next millisecond, also one that is over: 860 requests/s instead of thousands.
        if connection.rested > Instant::now() {
            sleep_until(connection.rested).await;
        }
        match connection.tap.stray() {
            Ok(false) => {}
            Ok(true) => return Err(BadFrame::Surplus.into()),
            Err(error) => return Err(transport_error(&connection.tap, error)),
        }
        connection.tap.take_received();
        connection.client.set_slave(Slave(unit.0));
        let result = timeout(self.timeout, connection.client.call(request)).await;
        let result = result.map_err(|_| LinkError::Timeout(self.timeout))?;
        let answer = result.map_err(|error| match error {
            tokio_modbus::Error::Transport(error) => transport_error(&connection.tap, error),
            tokio_modbus::Error::Protocol(tokio_modbus::ProtocolError::HeaderMismatch { .. }) => {
                BadFrame::Header.into()
            }
            tokio_modbus::Error::Protocol(tokio_modbus::ProtocolError::FunctionCodeMismatch { .. }) => {
                BadFrame::Function.into()
            }
        })?;
        let (answer, expected) = match answer {
            Ok(response) => (Ok(check(response)?), expected),
            Err(code) => (Err(code), HEADER + 2),
        };
        if connection.tap.take_received() != expected {
            return Err(BadFrame::Surplus.into());
        }
        connection.rested = Instant::now() + self.pause;
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn transport_error(tap: &Tap, error: io::Error) -> LinkError {
    if tap.ended() {
        return LinkError::Closed;
    }
    match error.kind() {
        // What the codec of tokio-modbus says of bytes that it can't read.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            BadFrame::Malformed.into()
        }
        _ => LinkError::Broken(error),
    }
}

fn echo(same: bool) -> Result<(), BadFrame> {
    if same { Ok(()) } else { Err(BadFrame::Echo) }
}
