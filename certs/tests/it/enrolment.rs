//! Enrolment over EST, without a network: who gets a certificate, and every reason for which one is not given.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldgate_certs::est::{
    Answer, Desk, EST_VALIDITY, Enrolment, EstRefused, Event, LONGEST_BODY, Request, TOKEN_LIFE, Token, TokenHash,
    TokenRecord, TokenStore,
};
use fieldgate_certs::{
    CertificateRecord, Fingerprint, IssuerKey, Refused, Registry, RegistryError, Role, SUPERSEDE_GRACE, Serial, Stage,
};
use fieldgate_types::{DeviceId, UnixMillis};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;

use crate::plant::{DAY, Plant, Rows, YEAR, chain, id};

#[derive(Default)]
pub struct Tokens(Mutex<BTreeMap<DeviceId, TokenRecord>>);

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

/// A plant with an enrolment desk.
pub struct Site {
    pub plant: Plant,
    pub tokens: Tokens,
    pub enrolment: Enrolment,
}

impl Site {
    pub fn new() -> Self {
        Self { plant: Plant::new(), tokens: Tokens::default(), enrolment: Enrolment::new(EST_VALIDITY) }
    }

    pub fn desk(&self) -> Desk<'_> {
        Desk { ca: &self.plant.ca, registry: &self.plant.rows, tokens: &self.tokens }
    }

    pub fn token(&self, device: &str) -> Token {
        self.enrolment.token(self.desk(), &id(device), Role::Device, None).unwrap()
    }

    pub fn ask(&self, operation: &str, device: &str, token: &str, body: &[u8]) -> (Answer, Option<Event>) {
        let header = format!("Basic {}", STANDARD.encode(format!("{device}:{token}")));
        let path = format!("/.well-known/est/{operation}");
        let request = Request { method: "POST", path: &path, authorization: Some(&header), body, peer: &[] };
        self.enrolment.answer(self.desk(), &request)
    }

    pub fn enrol(&self, device: &str, token: &str) -> (Answer, Option<Event>) {
        self.ask("simpleenroll", device, token, &request())
    }

    pub fn renew(&self, peer: &[CertificateDer<'_>]) -> (Answer, Option<Event>) {
        let path = "/.well-known/est/simplereenroll";
        let request = Request { method: "POST", path, authorization: None, body: &request(), peer };
        self.enrolment.answer(self.desk(), &request)
    }
}

/// A signing request in base64, as EST sends it.
pub fn request() -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    STANDARD.encode(request.der()).into_bytes()
}

/// The certificates of an answer.
pub fn certificates(answer: &Answer) -> Vec<CertificateDer<'static>> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let digits: Vec<u8> = answer.body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    assert!(answer.body.split(|byte| *byte == b'\n').all(|line| line.len() <= 77));
    let der = STANDARD.decode(digits).unwrap();
    // openssl's reading of the envelope is in the other binary.
    let mut found = Vec::new();
    let mut rest = &der[start(&der)..];
    while rest.first() == Some(&0x30) && rest.get(1) == Some(&0x82) {
        let length = 4 + usize::from(rest[2]) * 256 + usize::from(rest[3]);
        found.push(CertificateDer::from(rest[..length].to_vec()));
        rest = &rest[length..];
    }
    found
}

/// Behind the OID of `data`, the tag `[0]` and its length of two bytes.
fn start(der: &[u8]) -> usize {
    let data = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    let at = der.windows(data.len()).position(|window| window == data).unwrap() + data.len();
    assert_eq!(der[at..at + 2], [0xa0, 0x82]);
    at + 4
}

fn reason(event: Option<Event>) -> EstRefused {
    match event {
        Some(Event::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_gives_one_certificate_for_its_id() {
    let site = Site::new();
    let token = site.token("press-1");
    assert_eq!(token.record.expires, site.plant.now().plus(TOKEN_LIFE));
    assert_eq!(token.secret.expose().len(), 32);
    assert!(!format!("{:?}", token.record).contains(token.secret.expose()));
    let (answer, event) = site.enrol("press-1", token.secret.expose());
    let leaf = certificates(&answer);
    assert_eq!(leaf.len(), 1, "the leaf alone");
    let peer = site.plant.ca.identify(&leaf, &site.plant.rows, site.plant.now()).unwrap();
    assert_eq!((peer.id, peer.role), (id("press-1"), Role::Device));
    assert_eq!(peer.not_after, site.plant.now().plus(EST_VALIDITY));
    assert!(matches!(event, Some(Event::Enrolled { record }) if record.fingerprint == Fingerprint::of(&leaf[0])));
    // Once.
    let (answer, event) = site.enrol("press-1", token.secret.expose());
    assert_eq!((answer.status, reason(event).label()), (401, "used-token"));
    assert_eq!(site.plant.rows.len(), 1);
    // A device that let its certificate expire comes back by token.
    site.plant.clock.advance(2 * YEAR);
    site.plant.ca.identify(&leaf, &site.plant.rows, site.plant.now()).unwrap_err();
    let token = site.token("press-1");
    assert_eq!(site.enrol("press-1", token.secret.expose()).0.status, 200);
}

#[test]
fn refusals_tell_the_audit_log_all_and_the_client_nothing() {
    let site = Site::new();
    let good = site.token("press-1");
    let other = site.token("press-2");
    let words: Vec<_> = [
        ("press-1", "", "wrong-token"),
        ("press-1", "guess", "wrong-token"),
        ("press-1", other.secret.expose(), "other-device"),
        ("press-2", good.secret.expose(), "other-device"),
        ("press-3", good.secret.expose(), "other-device"),
        ("press-3", "guess", "no-token"),
    ]
    .into_iter()
    .map(|(device, token, label)| {
        let (answer, event) = site.enrol(device, token);
        assert_eq!((answer.status, reason(event).label()), (401, label), "{device}");
        assert!(answer.headers.iter().any(|(name, value)| *name == "www-authenticate" && value.starts_with("Basic")));
        answer
    })
    .collect();
    assert!(words.iter().all(|answer| *answer == words[0]), "all of them look the same");
    assert!(site.plant.rows.all().is_empty());
    // None of this used it up.
    assert_eq!(site.enrol("press-1", good.secret.expose()).0.status, 200);

    let late = site.token("press-4");
    site.plant.clock.advance(TOKEN_LIFE);
    let (answer, event) = site.enrol("press-4", late.secret.expose());
    assert_eq!((answer.status, reason(event).label()), (401, "expired-token"));
    // A newer one ends the one before.
    let first = site.token("press-5");
    let second = site.token("press-5");
    assert_eq!(reason(site.enrol("press-5", first.secret.expose()).1).label(), "wrong-token");
    assert_eq!(site.enrol("press-5", second.secret.expose()).0.status, 200);
}

#[test]
fn five_wrong_tokens_a_minute_and_no_more() {
    let site = Site::new();
    let token = site.token("press-1");
    for device in ["press-1", "nobody"] {
        for _ in 0..5 {
            assert_eq!(site.enrol(device, "guess").0.status, 401);
        }
        let (answer, event) = site.enrol(device, token.secret.expose());
        assert_eq!(answer.status, 429);
        assert!(answer.headers.contains(&("retry-after", "60".to_owned())), "{answer:?}");
        assert_eq!(reason(event).label(), "limited");
    }
    // Others are not held up, and a leaping clock neither helps nor harms.
    assert_eq!(site.enrol("press-2", site.token("press-2").secret.expose()).0.status, 200);
    site.plant.clock.step_to(site.plant.now().plus(DAY));
    assert_eq!(site.enrol("press-1", "guess").0.status, 429);
    site.plant.clock.step_to(UnixMillis(site.plant.now().0 - 86_400_000));
    site.plant.clock.advance(Duration::from_secs(60));
    assert_eq!(site.enrol("press-1", token.secret.expose()).0.status, 200);
}

#[test]
fn a_request_that_is_refused_costs_no_token() {
    let site = Site::new();
    let token = site.token("press-1");
    let weak = include_bytes!("../requests/rsa1024.pem").as_slice();
    let explicit = include_bytes!("../requests/explicit.pem").as_slice();
    let long = vec![b'M'; LONGEST_BODY + 1];
    for (body, status) in [
        (b"".as_slice(), 400),
        (b"no request", 400),
        (weak, 400),
        (explicit, 400),
        (&long, 413),
        (include_bytes!("../requests/sha1-p256.pem"), 400),
    ] {
        let (answer, event) = site.ask("simpleenroll", "press-1", token.secret.expose(), body);
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        assert!(matches!(event, Some(Event::Refused { device: Some(device), .. }) if device == id("press-1")));
    }
    let words = site.ask("simpleenroll", "press-1", token.secret.expose(), weak).0.body;
    assert!(String::from_utf8(words).unwrap().contains("RSA of 1024 bits: use P-256"));
    // In PEM, in DER, in base64 with line breaks.
    let pem = include_bytes!("../requests/rsa2048.pem").as_slice();
    let der = x509_parser::pem::parse_x509_pem(pem).unwrap().1.contents;
    let digits = STANDARD.encode(&der);
    let lines: Vec<&str> = digits.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    let lines = lines.join(
        "
",
    );
    for (device, body) in [("press-1", pem), ("press-2", &der), ("press-3", lines.as_bytes())] {
        let token = site.token(device);
        let (answer, _) = site.ask("simpleenroll", device, token.secret.expose(), body);
        assert_eq!(certificates(&answer).len(), 1);
    }
}

#[test]
fn of_two_requests_with_one_token_one_gets_a_certificate() {
    for _ in 0..20 {
        let site = Site::new();
        let token = site.token("press-1");
        let (site, token) = (&site, &token);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let asking: Vec<_> =
                (0..4).map(|_| scope.spawn(|| site.enrol("press-1", token.secret.expose()).0.status)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(site.plant.rows.len(), 1);
    }
}

#[test]
fn a_certificate_that_can_not_be_recorded_is_not_given_and_costs_no_token() {
    struct Full;
    impl Registry for Full {
        fn certificate(&self, _: &IssuerKey, _: &Serial) -> Option<CertificateRecord> {
            None
        }
        fn record(&self, _: &CertificateRecord) -> Result<(), RegistryError> {
            Err(RegistryError::new("no space left"))
        }
        fn barred(&self, device: &DeviceId) -> Option<UnixMillis> {
            (device.as_str() == "thief").then_some(UnixMillis(1))
        }
    }
    let site = Site::new();
    let desk = Desk { registry: &Full, ..site.desk() };
    let ask = |device: &str| {
        let token = site.token(device);
        let header = format!("Basic {}", STANDARD.encode(format!("{device}:{}", token.secret.expose())));
        let path = "/.well-known/est/simpleenroll";
        let body = request();
        let request = Request { method: "POST", path, authorization: Some(&header), body: &body, peer: &[] };
        (site.enrolment.answer(desk, &request).0, token)
    };
    let (answer, token) = ask("press-1");
    assert_eq!(answer.status, 503);
    assert_eq!(site.enrol("press-1", token.secret.expose()).0.status, 200);
    assert_eq!(ask("thief").0.status, 403);
}

#[test]
fn renewal_is_by_a_certificate_in_force_and_ends_the_one_before() {
    let site = Site::new();
    let (plant, rows): (&Plant, &Rows) = (&site.plant, &site.plant.rows);
    let first = certificates(&site.enrol("press-1", site.token("press-1").secret.expose()).0);
    // From two thirds of its life on: as often as a device may need that loses answers.
    plant.clock.advance(EST_VALIDITY * 2 / 3);
    let (answer, event) = site.renew(&first);
    let second = certificates(&answer);
    let Some(Event::Renewed { record, replaces, stage }) = event else { panic!("{event:?}") };
    assert_eq!((record.device, stage), (id("press-1"), Stage::Renew));
    let old = plant.ca.identify(&first, rows, plant.now()).unwrap();
    assert_eq!((replaces.issuer, &replaces.serial), (old.issuer, &old.serial));
    for _ in 0..5 {
        certificates(&site.renew(&first).0);
    }
    let (answer, event) = site.renew(&first);
    assert_eq!((answer.status, reason(event).label()), (429, "too-often"));

    // Before: once a day.
    certificates(&site.renew(&second).0);
    assert_eq!(site.renew(&second).0.status, 429);
    plant.clock.advance(DAY);
    certificates(&site.renew(&second).0);

    // The new one is used: after a grace the old one is not accepted any more.
    let peer = plant.ca.identify(&second, rows, plant.now()).unwrap();
    assert_eq!(peer.replaces.as_ref(), Some(&replaces));
    let row = rows.certificate(&replaces.issuer, &replaces.serial).unwrap();
    rows.change(&row, |row| assert!(row.supersede(plant.now())));
    rows.change(&row, |row| assert!(!row.supersede(plant.now().plus(DAY)), "the first use counts"));
    plant.ca.identify(&first, rows, plant.now()).unwrap();
    plant.clock.advance(SUPERSEDE_GRACE);
    let refused = plant.ca.identify(&first, rows, plant.now()).unwrap_err();
    assert!(matches!(refused, Refused::Superseded { .. }), "{refused}");
    let (answer, event) = site.renew(&first);
    assert_eq!((answer.status, reason(event).label()), (403, "superseded"));
    let lists = plant.ca.revocation_lists(&rows.all()).unwrap();
    assert!(lists[0].revoked.iter().any(|entry| entry.serial == replaces.serial && entry.superseded));

    // Without a certificate, with a stranger's, with one that is revoked, with one that is over.
    assert_eq!(site.renew(&[]).0.status, 403);
    let stranger = chain(&Plant::new().issue("press-1").certificate_pem);
    assert_eq!(reason(site.renew(&stranger).1).label(), "foreign");
    let row = rows.certificate(&peer.issuer, &peer.serial).unwrap();
    rows.change(&row, |row| row.revoked = Some(plant.now()));
    assert_eq!(reason(site.renew(&second).1).label(), "revoked");
    rows.change(&row, |row| row.revoked = None);
    plant.clock.advance(2 * YEAR);
    assert_eq!(reason(site.renew(&second).1).label(), "expired");
}

#[test]
fn cacerts_is_the_trust_bundle() {
    let site = Site::new();
    site.plant.ca.rotate().unwrap();
    for method in ["GET", "HEAD"] {
        let path = "/.well-known/est/cacerts?a=b";
        let request = Request { method, path, authorization: None, body: &[], peer: &[] };
        let (answer, event) = site.enrolment.answer(site.desk(), &request);
        assert!(event.is_none());
        assert_eq!(certificates(&answer), chain(&site.plant.ca.trust_bundle_pem()));
        assert_eq!(answer.headers[0], ("content-type", "application/pkcs7-mime; smime-type=certs-only".to_owned()));
    }
}

#[test]
fn what_is_not_offered_is_said_so() {
    let site = Site::new();
    let ask = |method, path, authorization| {
        let request = Request { method, path, authorization, body: &request(), peer: &[] };
        site.enrolment.answer(site.desk(), &request).0.status
    };
    assert_eq!(ask("GET", "/.well-known/est/csrattrs", None), 204);
    assert_eq!(ask("POST", "/.well-known/est/serverkeygen", None), 404);
    assert_eq!(ask("GET", "/.well-known/est/label/cacerts", None), 404);
    assert_eq!(ask("GET", "/", None), 404);
    assert_eq!(ask("POST", "/.well-known/est/cacerts", None), 405);
    assert_eq!(ask("GET", "/.well-known/est/simpleenroll", None), 405);
    assert_eq!(ask("POST", "/.well-known/est/simpleenroll", None), 401);
    assert_eq!(ask("POST", "/.well-known/est/simpleenroll", Some("Bearer x")), 401);
    // `a/b:c`, which is no id.
    assert_eq!(ask("POST", "/.well-known/est/simpleenroll", Some("Basic YS9iOmM=")), 401);
}
