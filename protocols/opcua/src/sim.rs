//! A simulated OPC UA server, for `fieldgate demo` and for tests (feature `sim`).
//!
//! It has a handful of variables in the namespace `urn:fieldgate:sim`, which the caller sets and clients read; some of
//! them clients may write. It runs on a thread of its own with a runtime of its own, so that stopping it cuts every
//! connection at once, as the end of a process would. Files (its certificate, those of clients) stay within the
//! directory that it is given. It accepts every client's certificate: it is no example of a safe server.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use opcua::crypto::SecurityPolicy;
use opcua::nodes::{BaseEventType, Event};
use opcua::server::address_space::{AccessLevel, MethodBuilder, VariableBuilder};
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, Server, ServerBuilder, ServerHandle, ServerUserToken};
use opcua::types::{
    Argument, ByteString, DataTypeId, DataValue, DateTime, MessageSecurityMode, NodeId, ObjectId, ObjectTypeId,
    QualifiedName, StatusCode, VariableTypeId, Variant,
};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::pki;

/// The namespace of its variables: `nsu=urn:fieldgate:sim;s=NAME`.
pub const NAMESPACE: &str = "urn:fieldgate:sim";

/// Elements of `profile`: more than async-opcua takes by default.
const PROFILE: usize = 1500;

/// How a simulator behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its files go. Made when absent; removing it is the caller's.
    pub dir: PathBuf,
    /// Whether anonymous sessions are accepted.
    pub anonymous: bool,
    /// A user name and its password.
    pub user: Option<(String, String)>,
    /// The certificate of a user, who logs in with it.
    pub user_cert: Option<PathBuf>,
    /// Whether to offer, besides None, Basic256Sha256 and both Aes policies, signed and encrypted. Costs the making of
    /// an RSA key at the first start in `dir`.
    pub secure: bool,
    /// The host names and addresses in its certificate; empty: `127.0.0.1`, `::1` and `localhost`.
    pub host_names: Vec<String>,
}

impl Options {
    /// Anonymous, without security, with its files in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), anonymous: true, user: None, user_cert: None, secure: false, host_names: Vec::new() }
    }
}

/// The simulator can't run, or has no such variable.
#[derive(Debug, Error)]
pub enum SimulatorError {
    /// The address can't be listened on.
    #[error("can't listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Its thread can't be started.
    #[error("can't start the simulator: {0}")]
    Thread(#[source] io::Error),
    /// Its certificate can't be made.
    #[error("can't make the simulator's certificate: {0}")]
    Certificate(String),
    /// The server did not start.
    #[error("the simulated server did not start: {0}")]
    Server(String),
    /// There is no variable of this name, or it takes no such value.
    #[error("the simulator has no variable `{0}` that takes this value")]
    Variable(String),
}

#[derive(Debug, Clone)]
struct Variable {
    value: Variant,
    /// Set while the variable is to be seen as failed.
    failed: bool,
    changed: DateTime,
    writable: bool,
    /// Whether a client has been told of this value, by a subscription or a read.
    seen: bool,
    /// Whether it counts how often that happens.
    counts: bool,
}

impl Variable {
    fn new(value: Variant, writable: bool) -> Self {
        Self { value, failed: false, changed: DateTime::now(), writable, seen: false, counts: false }
    }

    fn data(&mut self) -> DataValue {
        self.seen = true;
        if let (true, Variant::Double(count)) = (self.counts, &mut self.value) {
            *count += 1.0;
            self.changed = DateTime::now();
        }
        let (value, status) = if self.failed {
            (None, StatusCode::BadSensorFailure)
        } else {
            (Some(self.value.clone()), StatusCode::Good)
        };
        DataValue {
            value,
            status: Some(status),
            source_timestamp: Some(self.changed),
            server_timestamp: Some(DateTime::now()),
            ..DataValue::default()
        }
    }
}

/// The variables, shared with the server, which asks for them when it samples. (Told of changes instead, it would
/// forget those that come within a sampling interval of the one before.)
type Variables = Arc<Mutex<BTreeMap<String, Variable>>>;

fn locked(variables: &Mutex<BTreeMap<String, Variable>>) -> MutexGuard<'_, BTreeMap<String, Variable>> {
    variables.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A simulated server.
pub struct Simulator {
    address: SocketAddr,
    options: Options,
    variables: Variables,
    running: Mutex<Option<Running>>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The server of one start.
struct Running {
    handle: ServerHandle,
    manager: Arc<SimpleNodeManager>,
    namespace: u16,
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Simulator {
    /// Starts one that listens on `listen`; port 0 takes a free one. It has these variables: `level` and
    /// `temperature` (Double), `pressure` (Float), `counter` (Int32), `running` (Boolean), `profile` (1,500 Doubles), and for clients to write
    /// `setpoint` (Double), `speed` (Int16) and `recipe` (String).
    pub fn start(listen: SocketAddr, options: Options) -> Result<Self, SimulatorError> {
        let variable = |name: &str, value: Variant, writable| (name.to_owned(), Variable::new(value, writable));
        let variables = BTreeMap::from([
            variable("level", Variant::Double(50.0), false),
            variable("temperature", Variant::Double(20.0), false),
            variable("pressure", Variant::Float(1.5), false),
            variable("counter", Variant::Int32(0), false),
            variable("running", Variant::Boolean(true), false),
            variable("profile", Variant::from(vec![0.5_f64; PROFILE]), false),
            variable("setpoint", Variant::Double(42.0), true),
            variable("speed", Variant::Int16(100), true),
            variable("recipe", Variant::from("plain"), true),
        ]);
        let mut simulator =
            Self { address: listen, options, variables: Arc::new(Mutex::new(variables)), running: Mutex::new(None) };
        let listener = bind(listen)?;
        simulator.address = listener.local_addr().map_err(|error| SimulatorError::Listen(listen, error))?;
        simulator.launch(listener)?;
        Ok(simulator)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("opc.tcp://{}/", self.address)
    }

    /// Stops it as the end of its process would: all connections are cut. Its values are kept.
    pub fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else { return };
        // Dropping the sender is the signal. A thread that panicked has said so.
        drop(running.kill);
        drop(running.thread.join());
    }

    /// Starts it again on the same port, with the values that it had. Does nothing while it runs.
    pub fn restart(&self) -> Result<(), SimulatorError> {
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        self.launch(bind(self.address)?)
    }

    /// Sets a variable, in the type that it has.
    pub fn set(&self, name: &str, value: f64) -> Result<(), SimulatorError> {
        let unfit = || SimulatorError::Variable(name.to_owned());
        let mut variables = locked(&self.variables);
        let variable = variables.get_mut(name).ok_or_else(unfit)?;
        let wanted = match &variable.value {
            Variant::Boolean(_) => fieldgate_protocol::Value::Bool(value != 0.0),
            _ => fieldgate_protocol::Value::Float(value),
        };
        let value = crate::write::convert(&wanted, &variable.value, None, false, None).map_err(|_| unfit())?;
        *variable = Variable::new(value, variable.writable);
        Ok(())
    }

    /// Whether the value that a variable has now was sampled or read by a client since it was set.
    pub fn seen(&self, name: &str) -> bool {
        locked(&self.variables).get(name).is_some_and(|variable| variable.seen)
    }

    /// Makes the server report a variable as `BadSensorFailure`, until it is set again.
    pub fn fail(&self, name: &str) -> Result<(), SimulatorError> {
        let mut variables = locked(&self.variables);
        let variable = variables.get_mut(name).ok_or_else(|| SimulatorError::Variable(name.to_owned()))?;
        variable.failed = true;
        variable.changed = DateTime::now();
        Ok(())
    }

    /// Raises an event of the Server object, and of the type that all events are of.
    pub fn raise(&self, message: &str, severity: u16) {
        self.raise_as(ObjectTypeId::BaseEventType, message, severity);
    }

    /// The same, of the type that events of the system are of.
    pub fn raise_system(&self, message: &str, severity: u16) {
        self.raise_as(ObjectTypeId::SystemEventType, message, severity);
    }

    fn raise_as(&self, kind: ObjectTypeId, message: &str, severity: u16) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = running.as_ref() else { return };
        let id = ByteString::from(message.as_bytes().to_vec());
        let event = BaseEventType::new_now(kind, id, message).set_severity(severity).set_source_name("sim".into());
        let server = NodeId::from(ObjectId::Server);
        running.handle.subscriptions().notify_events(std::iter::once((&event as &dyn Event, &server)));
    }

    /// What a variable is now, also when a client has written it. `None` where it is no number.
    pub fn get(&self, name: &str) -> Option<f64> {
        match locked(&self.variables).get(name)?.value {
            Variant::Double(value) => Some(value),
            Variant::Float(value) => Some(value.into()),
            Variant::Int32(value) => Some(value.into()),
            Variant::Int16(value) => Some(value.into()),
            Variant::Boolean(value) => Some(f64::from(u8::from(value))),
            _ => None,
        }
    }

    /// Takes a variable out of the address space.
    pub fn remove(&self, name: &str) {
        locked(&self.variables).remove(name);
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            running.manager.address_space().write().delete(&running.node(name), true);
        }
    }

    /// Adds a variable of type Double that clients can't write.
    pub fn add(&self, name: &str, value: f64) {
        self.insert(name, Variable::new(Variant::Double(value), false));
    }

    /// Adds one that counts how often it was sampled or read: a number that is missing later was lost on the way.
    pub fn add_counter(&self, name: &str) {
        self.insert(name, Variable { counts: true, ..Variable::new(Variant::Double(0.0), false) });
    }

    fn insert(&self, name: &str, variable: Variable) {
        locked(&self.variables).insert(name.to_owned(), variable.clone());
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            running.insert(name, &variable, &self.variables);
        }
    }

    fn launch(&self, listener: TcpListener) -> Result<(), SimulatorError> {
        let (server, handle) = self.builder()?.build().map_err(SimulatorError::Server)?;
        let (kill, killed) = oneshot::channel();
        let run = move || serve(server, listener, killed);
        let thread =
            std::thread::Builder::new().name("opcua-sim".to_owned()).spawn(run).map_err(SimulatorError::Thread)?;
        let none = || SimulatorError::Server("its namespace is missing".to_owned());
        let manager = handle.node_managers().get_of_type::<SimpleNodeManager>().ok_or_else(none)?;
        let namespace = handle.get_namespace_index(NAMESPACE).ok_or_else(none)?;
        let running = Running { handle, manager, namespace, kill, thread };
        running.insert_method();
        for (name, variable) in locked(&self.variables).clone() {
            running.insert(&name, &variable, &self.variables);
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(())
    }

    fn builder(&self) -> Result<ServerBuilder, SimulatorError> {
        let options = &self.options;
        if options.secure {
            self.make_certificate()?;
        }
        let mut tokens = Vec::new();
        let mut builder = ServerBuilder::new()
            .application_name("Fieldgate simulator")
            .application_uri("urn:fieldgate:sim:server")
            .product_uri("urn:fieldgate:sim:server")
            .create_sample_keypair(false)
            .pki_dir(&options.dir)
            .trust_client_certs(true)
            .host(self.address.ip().to_string())
            .port(self.address.port())
            .discovery_urls(vec!["/".to_owned()])
            .subscription_poll_interval_ms(20)
            .with_node_manager(simple_node_manager(
                NamespaceMetadata { namespace_uri: NAMESPACE.to_owned(), ..NamespaceMetadata::default() },
                "sim",
            ));
        builder.limits_mut().subscriptions.min_publishing_interval_ms = 20.0;
        builder.limits_mut().subscriptions.min_sampling_interval_ms = 10.0;
        builder.limits_mut().subscriptions.max_monitored_items_per_sub = 10_000;
        builder.limits_mut().subscriptions.max_monitored_item_queue_size = 1000;
        if options.anonymous {
            tokens.push(ANONYMOUS_USER_TOKEN_ID);
        }
        if let Some((user, password)) = &options.user {
            tokens.push("user");
            builder = builder.add_user_token("user", ServerUserToken::user_pass(user, password));
        }
        if let Some(cert) = &options.user_cert {
            tokens.push("holder");
            builder = builder.add_user_token("holder", ServerUserToken::x509("holder", cert));
        }
        let tokens = tokens.as_slice();
        builder = builder.add_endpoint("none", ("/", SecurityPolicy::None, MessageSecurityMode::None, tokens));
        if options.secure {
            let policies = [
                SecurityPolicy::Basic256Sha256,
                SecurityPolicy::Aes128Sha256RsaOaep,
                SecurityPolicy::Aes256Sha256RsaPss,
            ];
            for policy in policies {
                for mode in [MessageSecurityMode::Sign, MessageSecurityMode::SignAndEncrypt] {
                    builder = builder.add_endpoint(format!("{policy}-{mode}"), ("/", policy, mode, tokens));
                }
            }
        }
        Ok(builder)
    }

    fn make_certificate(&self) -> Result<(), SimulatorError> {
        let failed = |error: &dyn std::fmt::Display| SimulatorError::Certificate(error.to_string());
        let (cert, key) = (self.options.dir.join("own/cert.der"), self.options.dir.join("private/private.pem"));
        if cert.exists() {
            return Ok(());
        }
        for path in [&cert, &key] {
            std::fs::create_dir_all(path.parent().unwrap_or(&self.options.dir)).map_err(|error| failed(&error))?;
        }
        let names = match self.options.host_names.as_slice() {
            [] => ["127.0.0.1", "::1", "localhost"].map(str::to_owned).into(),
            names => names.to_vec(),
        };
        let names = pki::certificate_names("simulator", "urn:fieldgate:sim:server", Some(names));
        pki::make(&names, &cert, &key).map_err(|error| failed(&error))
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn node(&self, name: &str) -> NodeId {
        NodeId::new(self.namespace, name)
    }

    /// `add`, on the Objects folder: the sum of a Double and an Int16, which must not be negative.
    fn insert_method(&self) {
        let node = self.node("add");
        self.manager.inner().add_method_callback(node.clone(), |given| match given {
            [Variant::Double(one), Variant::Int16(other @ 0..)] => Ok(vec![Variant::Double(one + f64::from(*other))]),
            _ => Err(StatusCode::BadInvalidArgument),
        });
        let argument = |name: &str, data_type: DataTypeId| Argument {
            name: name.into(),
            data_type: data_type.into(),
            value_rank: -1,
            ..Argument::default()
        };
        let mut space = self.manager.address_space().write();
        let space = &mut *space;
        MethodBuilder::new(&node, QualifiedName::new(self.namespace, "add"), "add")
            .component_of(ObjectId::ObjectsFolder)
            .executable(true)
            .user_executable(true)
            .input_args(
                space,
                &self.node("add input"),
                &[argument("one", DataTypeId::Double), argument("other", DataTypeId::Int16)],
            )
            .insert(space);
    }

    fn insert(&self, name: &str, variable: &Variable, variables: &Variables) {
        let (read, written) = (Arc::clone(variables), Arc::clone(variables));
        let (read_name, written_name) = (name.to_owned(), name.to_owned());
        self.manager.inner().add_read_callback(self.node(name), move |_, _, _| {
            locked(&read).get_mut(&read_name).map(Variable::data).ok_or(StatusCode::BadNodeIdUnknown)
        });
        // The server has checked access and type before.
        self.manager.inner().add_write_callback(self.node(name), move |data, _| {
            match (locked(&written).get_mut(&written_name), data.value) {
                (Some(variable), Some(value)) => {
                    *variable = Variable::new(value, variable.writable);
                    StatusCode::Good
                }
                _ => StatusCode::BadNodeIdUnknown,
            }
        });
        let data_type = match variable.value {
            Variant::Boolean(_) => DataTypeId::Boolean,
            Variant::Int16(_) => DataTypeId::Int16,
            Variant::Int32(_) => DataTypeId::Int32,
            Variant::Float(_) => DataTypeId::Float,
            Variant::String(_) => DataTypeId::String,
            // Arrays of it too.
            _ => DataTypeId::Double,
        };
        let level = AccessLevel::CURRENT_READ;
        let level = if variable.writable { level | AccessLevel::CURRENT_WRITE } else { level };
        let mut space = self.manager.address_space().write();
        VariableBuilder::new(&self.node(name), QualifiedName::new(self.namespace, name), name)
            .data_type(data_type)
            .value_rank(if matches!(variable.value, Variant::Array(_)) { 1 } else { -1 })
            .value(variable.value.clone())
            .access_level(level)
            .user_access_level(level)
            .has_type_definition(VariableTypeId::BaseDataVariableType)
            .organized_by(ObjectId::ObjectsFolder)
            .insert(&mut *space);
    }
}

/// Listens at once, also on a port whose last connections still linger.
fn bind(address: SocketAddr) -> Result<TcpListener, SimulatorError> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| SimulatorError::Listen(address, error))
}

/// The thread of the server: runs it until it is killed. Everything that it spawned ends with its runtime.
fn serve(server: Server, listener: TcpListener, killed: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!(%error, "simulated opcua server not started"),
    };
    runtime.block_on(async {
        let served = async {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?;
            server.run_with(listener).await
        };
        tokio::select! {
            _ = killed => {}
            ended = served => if let Err(error) = ended {
                tracing::warn!(error, "simulated opcua server ended");
            }
        }
    });
}
