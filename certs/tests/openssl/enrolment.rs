//! EST with nothing but `curl` and `openssl`, as the README shows it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fieldgate_certs::est::{Desk, EST_VALIDITY, Enrolment, Event, Request, TokenHash, TokenRecord, TokenStore};
use fieldgate_certs::{RegistryError, Role};
use fieldgate_types::{DeviceId, UnixMillis};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::plant::{Plant, YEAR, id};
use crate::tool::{Tool, run, text};

#[derive(Default)]
struct Tokens(Mutex<BTreeMap<DeviceId, TokenRecord>>);

impl TokenStore for Tokens {
    fn token(&self, device: &DeviceId) -> Option<TokenRecord> {
        self.0.lock().unwrap().get(device).cloned()
    }
    fn owner(&self, hash: &TokenHash) -> Option<DeviceId> {
        self.0.lock().unwrap().values().find(|row| row.hash == *hash).map(|row| row.device.clone())
    }
    fn keep(&self, token: &TokenRecord) -> Result<(), RegistryError> {
        self.0.lock().unwrap().insert(token.device.clone(), token.clone());
        Ok(())
    }
}

/// One HTTP request over TLS.
fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, enrolment: &Enrolment, desk: Desk<'_>) -> Option<Event> {
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), socket);
    let mut read = Vec::new();
    let head = loop {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert_ne!(count, 0);
        read.extend_from_slice(&some[..count]);
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8(read[..head].to_vec()).unwrap();
    let header = |name: &str| {
        text.lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value)
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while read.len() < head + length {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        read.extend_from_slice(&some[..count]);
    }
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let peer = stream.conn.peer_certificates().unwrap_or_default().to_vec();
    let request = Request { method, path, authorization: header("authorization"), body: &read[head..], peer: &peer };
    let (answer, event) = enrolment.answer(desk, &request);
    let mut out =
        format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\nconnection: close\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        out = format!("{out}{name}: {value}\r\n");
    }
    stream.write_all(out.as_bytes()).unwrap();
    stream.write_all(b"\r\n").unwrap();
    stream.write_all(&answer.body).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    event
}

#[test]
fn curl_and_openssl_are_enough() {
    let tool = Tool::new();
    // curl has the machine's time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let plant = Plant::at(UnixMillis(0).plus(now));
    plant.ca.rotate().unwrap();
    let (tokens, enrolment) = (Tokens::default(), Enrolment::new(EST_VALIDITY));
    let desk = Desk { ca: &plant.ca, registry: &plant.rows, tokens: &tokens };
    let certificate = plant.ca.server_certificate(&[], &["127.0.0.1".parse().unwrap()]).unwrap();
    let config = Arc::new(plant.ca.enrolment_config(Arc::new(certificate)).unwrap());
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let base = format!("https://{}/.well-known/est", listener.local_addr().unwrap());
    let trust = tool.write("pem", plant.ca.trust_bundle_pem());

    let curl = |operation: &str, arguments: &[&str]| {
        let answer = tool.file("b64");
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--noproxy", "*", "--http1.1", "--cacert", text(&trust), "-o", text(&answer)]);
        command.args(arguments).arg(format!("{base}/{operation}"));
        let event = std::thread::scope(|scope| {
            let asking = scope.spawn(move || run(&mut command));
            let event = serve(&listener, &config, &enrolment, desk);
            asking.join().unwrap();
            event
        });
        // openssl base64 -d | openssl pkcs7 -print_certs
        let (der, pem) = (tool.file("p7"), tool.file("pem"));
        tool.run(&["base64", "-d", "-in", text(&answer), "-out", text(&der)]);
        tool.run(&["pkcs7", "-inform", "DER", "-in", text(&der), "-print_certs", "-out", text(&pem)]);
        (event, pem)
    };
    let certificates = |path: &std::path::Path| crate::plant::chain(&fs::read_to_string(path).unwrap());

    let (event, bundle) = curl("cacerts", &[]);
    assert!(event.is_none());
    assert_eq!(certificates(&bundle), crate::plant::chain(&plant.ca.trust_bundle_pem()));

    for algorithm in ["EC:P-256", "EC:P-384", "RSA:2048"] {
        let device = format!("press-{}", algorithm.replace(':', "-"));
        let token = enrolment.token(desk, &id(&device), Role::Device, None).unwrap();
        let key = tool.key(algorithm);
        let request = tool.request(&key, "/CN=whoever");
        let (der, body) = (tool.file("der"), tool.file("b64"));
        tool.run(&["req", "-in", text(&request), "-outform", "DER", "-out", text(&der)]);
        tool.run(&["base64", "-in", text(&der), "-out", text(&body)]);
        let user = format!("{device}:{}", token.secret.expose());
        let data = format!("@{}", text(&body));
        let post = ["--data-binary", &data, "-H", "Content-Type: application/pkcs10"];
        let (event, leaf) = curl("simpleenroll", &[&["-u", &user], &post[..]].concat());
        assert!(matches!(event, Some(Event::Enrolled { .. })), "{event:?}");
        assert_eq!(certificates(&leaf).len(), 1);
        tool.run(&["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", text(&trust), text(&leaf)]);
        // Renewal, by what was just given.
        let (event, newer) =
            curl("simplereenroll", &[&["--cert", text(&leaf), "--key", text(&key)], &post[..]].concat());
        assert!(matches!(event, Some(Event::Renewed { .. })), "{event:?}");
        let peer = plant.ca.identify(&certificates(&newer), &plant.rows, plant.now()).unwrap();
        assert_eq!(peer.id.as_str(), device);
        assert!(peer.not_after < plant.now().plus(YEAR));
    }
}
