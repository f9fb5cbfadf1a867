//! Every kind of link: serial ports, RTU over TCP, TLS; several units on one line.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldgate_modbus::sim::Simulator;
use fieldgate_protocol::{LinkState, Status, Update, Value};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::harness::Rig;
use crate::line::{Line, RtuFrame, Says, Socat, listen, now};

const POINT: &str = r#"
timeout = "300ms"
[[modbus.device]]
id = "d"
unit = 3
interval = "20ms"
[[modbus.device.point]]
name = "a"
at = "holding:100"
type = "u16"
access = "rw"
"#;

/// Reads give what `honest` gives; writes are confirmed and forgotten.
fn device(frame: &RtuFrame) -> Says {
    now(if frame.bytes[1] == 3 { frame.honest(1000) } else { crate::line::sealed(frame.bytes.clone()) })
}

#[tokio::test]
async fn reads_and_writes_through_a_serial_port_made_by_socat() {
    let line = Socat::start(device);
    // A pseudo-terminal takes no parity: it is asked for all the same, as on a real line.
    let mut rig = Rig::open(&line.url("baud=19200&parity=even&stop=1"), POINT);
    rig.until_value("d", "a", &Value::Uint(1100)).await;
    let outcome = rig.write("d", "a", Value::Int(1100)).await;
    assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(1100.into())), "{:?}", outcome.reason);
    assert_eq!(rig.state.borrow().connects, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_serial_port_belongs_to_one_link() {
    let line = Line::start(device);
    let mut first = Rig::open(&line.url(""), POINT);
    first.until_value("d", "a", &Value::Uint(1100)).await;
    let mut second = Rig::open(&line.url(""), POINT);
    let reason = second.until_offline("d").await;
    assert_eq!(reason, "can't connect: another link or program has it open");
    first.stop().await;
    second.until_value("d", "a", &Value::Uint(1100)).await;
    second.stop().await;
}

#[tokio::test]
async fn a_serial_port_that_is_not_there_is_said_and_tried_again() {
    let mut rig = Rig::open("rtu:///dev/fieldgate-none", POINT);
    let reason = rig.until_offline("d").await;
    assert!(reason.starts_with("can't connect: No such file"), "{reason}");
    rig.until_link(LinkState::Down).await;
    rig.stop().await;
}

#[tokio::test]
async fn requests_on_a_line_keep_their_distance() {
    let mut last: Option<Instant> = None;
    let line = Line::start(move |frame| {
        if let Some(last) = last {
            assert!(last.elapsed() >= Duration::from_micros(3_646), "3.5 characters at 9600 baud");
        }
        last = Some(Instant::now());
        device(frame)
    });
    let mut rig = Rig::open(&line.url("baud=9600&parity=none"), &POINT.replace("20ms", "30ms"));
    for _ in 0..30 {
        rig.next().await;
    }
    assert!(line.requests() >= 29, "no request was too early for the device");
    rig.stop().await;
}

#[tokio::test]
async fn rtu_frames_over_tcp() {
    let (address, _stop) = listen(device);
    let mut rig = Rig::open(&format!("rtu-tcp://{address}"), POINT);
    rig.until_value("d", "a", &Value::Uint(1100)).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_late_answer_over_rtu_tcp_is_not_taken_on_the_next_connection() {
    // A serial server hands an answer to whoever is connected when it comes.
    let mut number = 0;
    let (address, _stop) = listen(move |frame| {
        number += 1;
        if number % 4 == 3 { vec![(Duration::from_millis(390), frame.registers(&[7]))] } else { device(frame) }
    });
    let mut rig = Rig::open(&format!("rtu-tcp://{address}"), POINT);
    while rig.state.borrow().failures < 4 {
        rig.next().await;
    }
    rig.until_value("d", "a", &Value::Uint(1100)).await;
    assert!(rig.values("d", "a").iter().all(|value| *value == Value::Uint(1100)), "{:?}", rig.values("d", "a"));
    rig.stop().await;
}

/// Ten units on one line, the last one dead, beside nine alone on another line at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_unit_among_ten_leaves_the_others_at_least_95_percent_of_their_rate() {
    let units = |count: u8| {
        let mut text = String::from("timeout = \"50ms\"\n");
        for unit in 1..=count {
            let device = format!("[[modbus.device]]\nid = \"d{unit}\"\nunit = {unit}\ninterval = \"50ms\"\n");
            text = text + &device + "[[modbus.device.point]]\nname = \"a\"\nat = \"holding:100\"\ntype = \"u16\"\n";
        }
        text
    };
    let behave = |frame: &RtuFrame| {
        if frame.unit() == 10 { Vec::new() } else { vec![(Duration::from_millis(4), frame.honest(1000))] }
    };
    let (ten, nine) = (Line::start(behave), Line::start(behave));
    let mut with_dead = Rig::open(&ten.url("baud=115200"), &units(10));
    let mut alone = Rig::open(&nine.url("baud=115200"), &units(9));
    with_dead.until_offline("d10").await;
    for unit in 1..=9 {
        alone.until_value(&format!("d{unit}"), "a", &Value::Uint(1100)).await;
    }
    let answers = |rig: &Rig| rig.state.borrow().answers;
    let (before, before_alone) = (answers(&with_dead), answers(&alone));
    let end = tokio::time::Instant::now() + Duration::from_secs(8);
    loop {
        tokio::select! {
            _ = with_dead.updates.recv() => {}
            _ = alone.updates.recv() => {}
            () = tokio::time::sleep_until(end) => break,
        }
    }
    let (got, full) = (answers(&with_dead) - before, answers(&alone) - before_alone);
    println!("nine units: {got} answers beside a dead one, {full} without it");
    assert!(full > 500, "the line is busy: {full}");
    assert!(got * 100 >= full * 95, "{got} of {full} answers");
    with_dead.stop().await;
    alone.stop().await;
}

/// A certificate authority, and who it knows.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn issue(&self, folder: &Path, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A TLS end that asks for a certificate of `authority`, in front of a plain device.
async fn tls_device(folder: &Path, authority: &Authority, device: SocketAddr) -> SocketAddr {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.issuer.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(folder.join("plc.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("plc.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who is refused tries again.
            let Ok(mut tls) = acceptor.accept(stream).await else { continue };
            let mut plain = tokio::net::TcpStream::connect(device).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut plain).await });
        }
    });
    address
}

#[tokio::test]
async fn reads_and_writes_over_tls_with_a_certificate_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::new();
    authority.issue(path, "plc", "plc-4.example");
    authority.issue(path, "gateway", "line-4");
    Authority::new().issue(path, "stranger", "line-4");
    std::fs::write(path.join("ca.pem"), authority.issuer.pem()).unwrap();
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    sim.set_holding(100, &[77]);
    let address = tls_device(path, &authority, sim.addr()).await;
    let keys = |who: &str, name: &str| {
        let file = |name: &str| path.join(name).display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file(&format!("{who}.pem")), file(&format!("{who}.key")));
        format!("ca = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\nserver_name = \"{name}\"\n{POINT}")
    };
    let url = format!("mbaps://{address}");
    let mut rig = Rig::open(&url, &keys("gateway", "plc-4.example"));
    rig.until_value("d", "a", &Value::Uint(77)).await;
    let outcome = rig.write("d", "a", Value::Int(78)).await;
    assert_eq!((outcome.status, sim.holding(100)), (Status::Ok, 78), "{:?}", outcome.reason);
    rig.stop().await;

    // Another name than the certificate's: refused by the gateway.
    let mut rig = Rig::open(&url, &keys("gateway", "plc-5.example"));
    let reason = rig.until_offline("d").await;
    assert!(reason.contains("certificate"), "{reason}");
    rig.until_link(LinkState::Refused).await;
    rig.stop().await;

    // A certificate that the device doesn't know: refused by the device, without a value.
    let mut rig = Rig::open(&url, &keys("stranger", "plc-4.example"));
    rig.until_offline("d").await;
    assert!(!rig.seen.iter().any(|update| matches!(update, Update::Samples { .. })), "{:#?}", rig.seen);
    rig.stop().await;
}
