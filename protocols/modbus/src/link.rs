//! One connection to a Modbus device, line or gateway: a request goes out, its own answer comes back, or the
//! connection is gone.
//!
//! tokio-modbus 0.17 checks the transaction id, the unit id, the function code and the checksum of an answer. What it
//! lets pass is checked here (FINDINGS, Modbus):
//! - it waits for ever: every request has a deadline;
//! - it is not cancel-safe, and after a time-out the late answer would be taken for the next one: the connection is
//!   taken out of its place during a request and put back only after a good answer, so nothing can use it again;
//! - RTU has no transaction ids: after anything but a good answer nothing is sent until twice the time-out after the
//!   request, and whatever arrives until then is thrown away. A new connection does not help there, since the device
//!   behind a serial server doesn't know of it; a serial port stays open meanwhile. What came in that time and the kernel
//!   still holds goes too: its thread that hands it over can stand still for seconds while a disk is written to;
//! - it accepts short and long answers: the length must be the one that was asked for;
//! - it looks for a frame behind bytes that are none: the answer must be all that arrived;
//! - it does not compare the echo of a write: address and value must be those that were sent;
//! - it throws away what lies in its buffer before a request: bytes beyond one answer, or unasked, end the connection;
//! - it reports a close with a stale error number: the wire says whether the peer closed.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::SlaveContext;
use tokio_modbus::{ExceptionCode, Request, Response, Slave};

use crate::address::Table;
use crate::config::{Endpoint, Framing, HostPort, LinkConfig, UnitId};
use crate::serial::SerialPort;
use crate::tls;
use crate::wire::{Tap, Wire};

/// A handshake that loses its first packet takes a second (RFC 6298): shorter time-outs don't apply to it.
const CONNECT: Duration = Duration::from_millis(1_500);
/// Small processors take seconds for the arithmetic of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a connection is no more, or never was.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// It could not be made.
    #[error("can't connect: {0}")]
    Connect(#[source] io::Error),
    /// Nobody accepted in time.
    #[error("can't connect: no answer within {}", fieldgate_types::duration::format(*.0))]
    ConnectTimeout(Duration),
    /// The TLS handshake failed: wrong certificate, wrong files.
    #[error("can't connect: {0}")]
    Handshake(#[source] io::Error),
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
    /// No Modbus frame, or a damaged one.
    #[error("not a Modbus frame")]
    Malformed,
    /// Bytes without end.
    #[error("the line does not fall silent")]
    Babble,
}

impl LinkError {
    /// Whether the connection as such went, which concerns all units on it.
    pub(crate) fn is_connection(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Handshake(_) | Self::Closed | Self::Broken(_) => true,
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
    config: LinkConfig,
    connection: Option<Connection>,
    /// A serial port whose traffic is not in step: it stays open.
    port: Option<Arc<Tap>>,
    /// RTU: an answer to an earlier request may arrive until then.
    quiet_until: Option<Instant>,
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
    pub(crate) fn new(config: LinkConfig) -> Self {
        // Somebody, maybe this gateway before it was restarted, may have asked something a moment ago.
        let quiet_until = (config.endpoint.framing() == Framing::Rtu).then(|| Instant::now() + config.timeout);
        Self { config, connection: None, port: None, quiet_until }
    }

    /// Where it leads.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.config.endpoint
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// How long the link must still rest because of the last request.
    pub(crate) fn rest(&self, now: Instant) -> Duration {
        self.quiet_until.filter(|_| self.connection.is_none()).map_or(Duration::ZERO, |until| until - now)
    }

    /// Makes a connection in place of any old one, or waits until an open serial port can be used again. Whether
    /// something was opened.
    pub(crate) async fn connect(&mut self) -> Result<bool, LinkError> {
        self.connection = None;
        let (tap, opened) = match self.port.take() {
            Some(tap) => (tap, false),
            None => (open(&self.config).await?, true),
        };
        if let Some(until) = self.quiet_until {
            self.drain(&tap, until).await?;
        }
        let wire = Wire(Arc::clone(&tap));
        let client = match self.config.endpoint.framing() {
            Framing::Mbap => tcp::attach(wire),
            Framing::Rtu => rtu::attach(wire),
        };
        self.connection = Some(Connection { client, tap, rested: Instant::now() });
        Ok(opened)
    }

    /// Throws away what arrives until then, and until the line has been silent for as long as ends a frame.
    async fn drain(&mut self, tap: &Arc<Tap>, until: Instant) -> Result<(), LinkError> {
        while let Ok(arrived) = timeout_at(until, tap.disturbed()).await {
            arrived.map_err(|error| transport_error(tap, error))?;
        }
        let limit = Instant::now() + self.config.timeout;
        while let Ok(arrived) = timeout(self.gap(), tap.disturbed()).await {
            arrived.map_err(|error| transport_error(tap, error))?;
            if Instant::now() > limit {
                self.keep(tap);
                return Err(BadFrame::Babble.into());
            }
        }
        tap.forget().await.map_err(|error| transport_error(tap, error))?;
        self.quiet_until = None;
        Ok(())
    }

    /// Silence between two frames.
    fn gap(&self) -> Duration {
        self.config.endpoint.line().map_or(Duration::ZERO, super::config::Line::gap)
    }

    /// Keeps a serial port for the next try; of other streams a new one is made.
    fn keep(&mut self, tap: &Arc<Tap>) {
        if matches!(self.config.endpoint, Endpoint::Rtu(..)) && !tap.ended() {
            self.port = Some(Arc::clone(tap));
        }
    }

    /// Waits until the idle connection is lost: closed, broken, or disturbed by bytes that nobody asked for; for
    /// ever when there is none. Cancel-safe. The connection is gone afterwards.
    pub(crate) async fn lost(&mut self) -> LinkError {
        let Some(connection) = &self.connection else { return std::future::pending().await };
        let tap = Arc::clone(&connection.tap);
        let error = match tap.disturbed().await {
            Ok(()) => self.stray(&tap),
            Err(error) => transport_error(&tap, error),
        };
        self.connection = None;
        error
    }

    /// Bytes arrived that nobody asked for: noise, or the rest of something.
    fn stray(&mut self, tap: &Arc<Tap>) -> LinkError {
        if self.config.endpoint.framing() == Framing::Rtu {
            self.quiet_until = Some(Instant::now() + self.gap());
        }
        self.keep(tap);
        BadFrame::Surplus.into()
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
        self.call(unit, request, 2 + bytes, |response| match response {
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
        self.call(unit, request, 5, |response| match response {
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
        self.call(unit, request, 5, |response| match response {
            Response::WriteSingleCoil(echo_at, echo_on) => echo(echo_at == at && echo_on == on),
            Response::WriteMultipleCoils(echo_at, count) => echo(echo_at == at && count == 1),
            _ => Err(BadFrame::Function),
        })
        .await
    }

    /// Sets the bits of `mask` in a register as in `bits`, in one step (function code 22).
    pub(crate) async fn mask_register(
        &mut self,
        unit: UnitId,
        at: u16,
        mask: u16,
        bits: u16,
    ) -> Result<Answer<()>, LinkError> {
        // What is kept, and what is set (application protocol V1.1b3, section 6.16).
        let (and, or) = (!mask, bits & mask);
        self.call(unit, Request::MaskWriteRegister(at, and, or), 7, |response| match response {
            Response::MaskWriteRegister(echo_at, echo_and, echo_or) => {
                echo((echo_at, echo_and, echo_or) == (at, and, or))
            }
            _ => Err(BadFrame::Function),
        })
        .await
    }

    /// Writes registers and reads them back in one request (function code 23).
    pub(crate) async fn write_and_read(
        &mut self,
        unit: UnitId,
        start: u16,
        words: &[u16],
    ) -> Result<Answer<()>, LinkError> {
        let count = u16::try_from(words.len()).unwrap_or(u16::MAX);
        let request = Request::ReadWriteMultipleRegisters(start, count, start, Cow::Borrowed(words));
        self.call(unit, request, 2 + 2 * words.len(), |response| match response {
            Response::ReadWriteMultipleRegisters(got) if got.len() == words.len() => Ok(()),
            Response::ReadWriteMultipleRegisters(got) => Err(BadFrame::Length { asked: count, got: got.len() }),
            _ => Err(BadFrame::Function),
        })
        .await
    }

    /// One request and its answer, whose function code and data are exactly `expected` bytes. The connection survives
    /// only a good answer or a proper exception.
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
            Ok(true) => return Err(self.stray(&connection.tap)),
            Err(error) => return Err(transport_error(&connection.tap, error)),
        }
        connection.tap.take_received();
        connection.client.set_slave(Slave(unit.0));
        let framing = self.config.endpoint.framing();
        let expected = expected + framing.overhead();
        let limit = self.limit(&request, expected);
        if framing == Framing::Rtu {
            self.quiet_until = Some(Instant::now() + 2 * limit);
        }
        match exchange(&mut connection, request, limit, expected, framing, check).await {
            Ok(answer) => {
                self.quiet_until = None;
                connection.rested = Instant::now() + self.config.pause.max(self.gap());
                self.connection = Some(connection);
                Ok(answer)
            }
            Err(error) => {
                if let (Some(_), Some(sent)) = (self.quiet_until, connection.tap.sent()) {
                    self.quiet_until = Some(sent + 2 * limit);
                }
                if !error.is_connection() {
                    self.keep(&connection.tap);
                }
                Err(error)
            }
        }
    }

    /// How long the answer may take: on a serial line request and answer need their time besides.
    fn limit(&self, request: &Request<'_>, expected: usize) -> Duration {
        let Some(line) = self.config.endpoint.line() else { return self.config.timeout };
        self.config.timeout + line.time(request_size(request) + Framing::Rtu.overhead() + expected)
    }
}

async fn open(config: &LinkConfig) -> Result<Arc<Tap>, LinkError> {
    Ok(match &config.endpoint {
        Endpoint::Tcp(host) | Endpoint::RtuTcp(host, _) => Tap::new(dial(config, host).await?),
        Endpoint::Tls(host) => {
            let stream = dial(config, host).await?;
            let handshake = tls::handshake(&config.tls, host, stream);
            let stream = timeout(HANDSHAKE, handshake).await.map_err(|_| LinkError::ConnectTimeout(HANDSHAKE))?;
            Tap::new(stream.map_err(LinkError::Handshake)?)
        }
        Endpoint::Rtu(path, line) => {
            let (path, line) = (path.clone(), *line);
            let opened = tokio::task::spawn_blocking(move || SerialPort::open(&path, line)).await;
            Tap::new(opened.map_err(io::Error::other).flatten().map_err(LinkError::Connect)?)
        }
    })
}

async fn dial(config: &LinkConfig, host: &HostPort) -> Result<TcpStream, LinkError> {
    let limit = config.timeout.max(CONNECT);
    let attempt = TcpStream::connect((host.host.as_str(), host.port));
    let stream = timeout(limit, attempt).await.map_err(|_| LinkError::ConnectTimeout(limit))?;
    let stream = stream.map_err(LinkError::Connect)?;
    // Without it a request waits for the acknowledgement of the one before (FINDINGS, Modbus 4).
    stream.set_nodelay(true).map_err(LinkError::Connect)?;
    Ok(stream)
}

async fn exchange<T>(
    connection: &mut Connection,
    request: Request<'_>,
    limit: Duration,
    expected: usize,
    framing: Framing,
    check: impl FnOnce(Response) -> Result<T, BadFrame>,
) -> Result<Answer<T>, LinkError> {
    let result = timeout(limit, connection.client.call(request)).await;
    let result = result.map_err(|_| LinkError::Timeout(limit))?;
    let answer = result.map_err(|error| match error {
        tokio_modbus::Error::Transport(error) => transport_error(&connection.tap, error),
        tokio_modbus::Error::Protocol(tokio_modbus::ProtocolError::HeaderMismatch { .. }) => BadFrame::Header.into(),
        tokio_modbus::Error::Protocol(tokio_modbus::ProtocolError::FunctionCodeMismatch { .. }) => {
            BadFrame::Function.into()
        }
    })?;
    let (answer, expected) = match answer {
        Ok(response) => (Ok(check(response)?), expected),
        Err(code) => (Err(code), framing.overhead() + 2),
    };
    if connection.tap.take_received() != expected {
        return Err(BadFrame::Surplus.into());
    }
    Ok(answer)
}

/// Function code and data of a request, in bytes.
fn request_size(request: &Request<'_>) -> usize {
    match request {
        Request::WriteMultipleCoils(_, bits) => 6 + bits.len().div_ceil(8),
        Request::WriteMultipleRegisters(_, words) => 6 + 2 * words.len(),
        Request::ReadWriteMultipleRegisters(_, _, _, words) => 10 + 2 * words.len(),
        Request::MaskWriteRegister(..) => 7,
        _ => 5,
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
