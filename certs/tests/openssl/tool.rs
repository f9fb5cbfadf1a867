//! The `openssl` program: keys, requests, certificates of any kind signed by any key, and TLS clients. And the server
//! that they talk to.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fieldgate_certs::{Peer, Refused};
use fieldgate_types::UnixMillis;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tempfile::TempDir;

use crate::plant::{DAY, NOW, Plant, YEAR, at};

const CONFIG: &str = "
[ca]
default_ca = d
[d]
database = index.txt
new_certs_dir = .
policy = p
unique_subject = no
rand_serial = yes
copy_extensions = none
default_md = sha256
[p]
commonName = optional
organizationName = optional
organizationalUnitName = optional
[req]
distinguished_name = dn
[dn]
";

/// What a good device certificate has.
pub const GOOD: &str = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\n\
                        authorityKeyIdentifier=keyid\nextendedKeyUsage=clientAuth\n\
                        subjectAltName=URI:urn:fieldgate:device:press-1\n";

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A directory in which `openssl` works.
pub struct Tool {
    dir: TempDir,
    made: std::cell::Cell<u32>,
}

pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

impl Tool {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config"), CONFIG).unwrap();
        fs::write(dir.path().join("index.txt"), "").unwrap();
        Self { dir, made: std::cell::Cell::new(0) }
    }

    /// A file name that nobody else has.
    pub fn file(&self, ending: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.dir.path().join(format!("{}.{ending}", self.made.get()))
    }

    pub fn write(&self, ending: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(ending);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.dir.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run(self.command().args(arguments))
    }

    /// `algorithm` as `genpkey` has it, such as `EC:P-256` or `RSA:2048`.
    pub fn key(&self, algorithm: &str) -> PathBuf {
        let path = self.file("key");
        let (kind, size) = algorithm.split_once(':').unwrap();
        let option = if kind == "EC" { format!("ec_paramgen_curve:{size}") } else { format!("rsa_keygen_bits:{size}") };
        self.run(&["genpkey", "-algorithm", kind, "-pkeyopt", &option, "-out", text(&path)]);
        path
    }

    pub fn request(&self, key: &Path, subject: &str) -> PathBuf {
        let path = self.file("csr");
        self.run(&["req", "-new", "-config", "config", "-key", text(key), "-subj", subject, "-out", text(&path)]);
        path
    }

    /// A certificate signed by `issuer`, or by its own key.
    pub fn certificate(&self, issuer: Option<&Pair>, key: &Path, wish: &Wish<'_>) -> Pair {
        let request = self.request(key, wish.subject);
        let path = self.file("pem");
        let extensions = self.write("ext", format!("[e]\n{}", wish.extensions));
        let date = |moment: UnixMillis| {
            let (date, time) = (at(moment).date(), at(moment).time());
            let (month, day) = (u8::from(date.month()), date.day());
            format!("{:04}{month:02}{day:02}{:02}{:02}{:02}Z", date.year(), time.hour(), time.minute(), time.second())
        };
        let (from, to) = (date(wish.from), date(wish.to));
        let mut arguments = vec!["ca", "-batch", "-notext", "-preserveDN", "-config", "config"];
        arguments.extend(["-in", text(&request), "-out", text(&path), "-startdate", &from, "-enddate", &to]);
        arguments.extend(["-md", wish.digest, "-extfile", text(&extensions), "-extensions", "e"]);
        match issuer {
            Some(issuer) => arguments.extend(["-cert", text(&issuer.certificate), "-keyfile", text(&issuer.key)]),
            None => arguments.extend(["-selfsign", "-keyfile", text(key)]),
        }
        self.run(&arguments);
        Pair { certificate: path, key: key.to_owned() }
    }
}

/// What is asked of a certificate.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    pub subject: &'a str,
    pub extensions: &'a str,
    pub from: UnixMillis,
    pub to: UnixMillis,
    pub digest: &'a str,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        let from = UnixMillis(NOW.0 - u64::try_from(DAY.as_millis()).unwrap() / 2);
        Self { subject: "/CN=press-1", extensions: GOOD, from, to: NOW.plus(YEAR), digest: "sha256" }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Plant {
    /// The CA's own files.
    pub fn authority(&self, name: &str) -> Pair {
        Pair { certificate: self.dir().join(format!("{name}.pem")), key: self.dir().join(format!("{name}.key")) }
    }
}

/// What the server made of one client.
pub struct Verdict {
    pub outcome: Result<Peer, Refused>,
    pub handshake: Option<HandshakeKind>,
    /// Of the thread that shook hands and identified.
    pub cpu: Duration,
}

/// Nanoseconds that this thread has computed.
fn cpu() -> Duration {
    let said = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(said.split(' ').next().unwrap().parse().unwrap())
}

/// Waits for one client, shakes hands, asks who it is.
pub fn serve(plant: &Plant, listener: &TcpListener, config: &Arc<ServerConfig>) -> Verdict {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let begin = cpu();
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut failed = None;
    while tls.is_handshaking() {
        if let Err(error) = tls.complete_io(&mut socket) {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            failed = Some(cause.and_then(Refused::in_handshake).unwrap_or_else(|| panic!("{error:?}")));
            break;
        }
    }
    let outcome = match failed {
        Some(refused) => Err(refused),
        None => plant.ca.identify(tls.peer_certificates().unwrap_or_default(), &plant.rows, plant.now()),
    };
    let spent = cpu().checked_sub(begin).unwrap();
    tls.send_close_notify();
    while tls.wants_write() {
        if tls.write_tls(&mut socket).is_err() {
            break;
        }
    }
    // Until the client has gone, so that what was said last reaches it.
    drop(socket.shutdown(std::net::Shutdown::Write));
    let mut rest = [0; 4096];
    loop {
        match socket.read(&mut rest) {
            Ok(0) => break,
            Err(error) if error.kind() != ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    Verdict { outcome, handshake: tls.handshake_kind(), cpu: spent }
}

/// One `openssl s_client` against the server.
pub fn meet(plant: &Plant, tool: &Tool, config: &Arc<ServerConfig>, version: &str, arguments: &[&str]) -> Verdict {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = tool.command();
    client.args(["s_client", "-connect", &address, version, "-cipher", "DEFAULT@SECLEVEL=0"]).args(arguments);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let verdict = serve(plant, &listener, config);
    client.wait().unwrap();
    verdict
}
