//! Client certificates that must not get in, made by OpenSSL, each with TLS 1.2 and 1.3: none is accepted, each is refused
//! with its reason, in less than 50 ms of CPU. Those that our own issuing key signs are in the registry, unless that is
//! what is wrong with them: what the CA never issues would come from a thief of its key.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_certs::Registry;
use fieldgate_types::UnixMillis;
use rustls::ServerConfig;

use crate::plant::{DAY, NOW, Plant, YEAR, chain, id};
use crate::tool::{GOOD, Pair, Tool, Wish, meet, text};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];
const MOST: Duration = Duration::from_millis(50);

struct Case<'a> {
    name: String,
    plant: &'a Plant,
    leaf: Option<Pair>,
    /// What is sent behind the leaf.
    behind: Option<std::path::PathBuf>,
    reasons: &'a [&'a str],
}

struct Matrix<'a> {
    tool: &'a Tool,
    plant: &'a Plant,
    issuing: Pair,
    key: std::path::PathBuf,
    cases: Vec<Case<'a>>,
}

impl<'a> Matrix<'a> {
    fn add(&mut self, name: &str, leaf: Pair, reasons: &'a [&'a str]) {
        self.cases.push(Case { name: name.to_owned(), plant: self.plant, leaf: Some(leaf), behind: None, reasons });
    }

    /// Signed by our own issuing key, and recorded.
    fn ours(&mut self, name: &str, wish: &Wish<'_>, reasons: &'a [&'a str]) {
        let leaf = self.sign(&self.key.clone(), wish);
        self.add(name, leaf, reasons);
    }

    fn sign(&self, key: &std::path::Path, wish: &Wish<'_>) -> Pair {
        let leaf = self.tool.certificate(Some(&self.issuing), key, wish);
        self.plant.record("press-1", &chain(&fs::read_to_string(&leaf.certificate).unwrap())[0]);
        leaf
    }

    /// As [`Self::ours`], with one line of the good extensions replaced.
    fn instead(&mut self, name: &str, old: &str, new: &str, reasons: &'a [&'a str]) {
        assert!(GOOD.contains(old));
        self.ours(name, &Wish { extensions: &GOOD.replace(old, new), ..Wish::default() }, reasons);
    }
}

fn row(plant: &Plant, leaf: &Pair) -> fieldgate_certs::CertificateRecord {
    let der = &chain(&fs::read_to_string(&leaf.certificate).unwrap())[0];
    let fingerprint = fieldgate_certs::Fingerprint::of(der);
    plant.rows.all().into_iter().find(|row| row.fingerprint == fingerprint).unwrap()
}

fn config(plant: &Plant) -> Arc<ServerConfig> {
    let certificate = plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap();
    Arc::new(plant.ca.server_config(Arc::new(certificate)).unwrap())
}

#[test]
fn none_of_them_gets_in_and_each_is_told_why() {
    let tool = Tool::new();
    let plant = Plant::new();
    let ended = Plant::new();
    let rootless = Plant::new();
    let stolen = Plant::new();
    let key = tool.key("EC:P-256");
    let mut matrix =
        Matrix { tool: &tool, plant: &plant, issuing: plant.authority("issuing-1"), key, cases: Vec::new() };
    times_and_purposes(&mut matrix);
    names(&mut matrix);
    strangers(&mut matrix);
    forms(&mut matrix);
    registry(&mut matrix);
    let Matrix { mut cases, key, .. } = matrix;

    // The issuing CA is over, but what a thief signed with it is not.
    let leaf = tool.certificate(
        Some(&ended.authority("issuing-1")),
        &key,
        &Wish { to: NOW.plus(25 * YEAR), ..Wish::default() },
    );
    ended.record("press-1", &chain(&fs::read_to_string(&leaf.certificate).unwrap())[0]);
    let ended_config = config(&ended);
    ended.clock.advance(20 * YEAR + DAY);
    let case = |name: &str, plant, leaf, reasons| Case {
        name: name.to_owned(),
        plant,
        leaf: Some(leaf),
        behind: None,
        reasons,
    };
    cases.push(case("issuing CA expired", &ended, leaf, &["expired"]));

    // A root of one hour, and an issuing CA that outlives it.
    let short = "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n";
    let subject = rootless.ca.authorities()[0].subject.clone();
    let parts: Vec<_> = subject.split(", ").collect();
    let subject = format!("/{}", parts.join("/"));
    let wish = Wish { subject: &subject, extensions: short, to: NOW.plus(Duration::from_hours(1)), ..Wish::default() };
    let root = tool.certificate(None, &rootless.authority("root-1").key, &wish);
    fs::copy(&root.certificate, rootless.dir().join("root-1.pem")).unwrap();
    let rootless = Plant { ca: rootless.reopen().unwrap(), ..rootless };
    let rootless_config = config(&rootless);
    let leaf = tool.certificate(Some(&rootless.authority("issuing-1")), &key, &Wish::default());
    rootless.record("press-1", &chain(&fs::read_to_string(&leaf.certificate).unwrap())[0]);
    rootless.clock.advance(Duration::from_hours(2));
    cases.push(case("root expired", &rootless, leaf, &["expired"]));

    let leaf = tool.certificate(Some(&stolen.authority("issuing-1")), &key, &Wish::default());
    stolen.record("press-1", &chain(&fs::read_to_string(&leaf.certificate).unwrap())[0]);
    stolen.ca.rotate().unwrap();
    stolen.ca.revoke_issuing(&stolen.ca.authorities()[1].issuer_key).unwrap();
    let stolen_config = config(&stolen);
    cases.push(case("issuing CA revoked", &stolen, leaf, &["issuer-revoked"]));

    let plant_config = config(&plant);
    assert!(cases.len() >= 40, "{}", cases.len());
    let mut slowest = (Duration::ZERO, String::new());
    for case in &cases {
        let own = [(&ended, &ended_config), (&rootless, &rootless_config), (&stolen, &stolen_config)];
        let found = own.iter().find(|(plant, _)| std::ptr::eq(*plant, case.plant)).map(|(_, config)| *config);
        let config = found.unwrap_or(&plant_config);
        for version in VERSIONS {
            let mut arguments = Vec::new();
            if let Some(leaf) = &case.leaf {
                arguments.extend(["-cert", text(&leaf.certificate), "-key", text(&leaf.key)]);
            }
            if let Some(behind) = &case.behind {
                arguments.extend(["-cert_chain", text(behind)]);
            }
            let verdict = meet(case.plant, &tool, config, version, &arguments);
            let Err(refused) = verdict.outcome else { panic!("{} {version}: accepted", case.name) };
            assert!(case.reasons.contains(&refused.label()), "{} {version}: {}: {refused}", case.name, refused.label());
            // What a virtual machine's host takes of the core counts as ours: the least of three is.
            let again = || meet(case.plant, &tool, config, version, &arguments).cpu;
            let cpu = (0..2).fold(verdict.cpu, |cpu, _| if cpu < MOST { cpu } else { cpu.min(again()) });
            assert!(cpu < MOST, "{} {version}: {cpu:?}", case.name);
            if cpu > slowest.0 {
                slowest = (cpu, format!("{} {version}", case.name));
            }
        }
    }
    println!("{} certificates, slowest refusal {:?}: {}", cases.len(), slowest.0, slowest.1);

    // And the same tools make ones that do get in.
    for algorithm in ["EC:P-256", "EC:P-384", "RSA:2048"] {
        let leaf = tool.certificate(Some(&plant.authority("issuing-1")), &tool.key(algorithm), &Wish::default());
        plant.record("press-1", &chain(&fs::read_to_string(&leaf.certificate).unwrap())[0]);
        for version in VERSIONS {
            let arguments = ["-cert", text(&leaf.certificate), "-key", text(&leaf.key)];
            let verdict = meet(&plant, &tool, &plant_config, version, &arguments);
            assert_eq!(verdict.outcome.unwrap().id, id("press-1"), "{algorithm} {version}");
        }
    }
}

fn times_and_purposes(matrix: &mut Matrix<'_>) {
    let second = Duration::from_secs(1);
    let past = |by: Duration| UnixMillis(NOW.0 - u64::try_from(by.as_millis()).unwrap());
    let good = Wish::default();
    matrix.ours("expired long ago", &Wish { from: past(3 * DAY), to: past(2 * DAY), ..good }, &["expired"]);
    matrix.ours("expired a second ago", &Wish { to: past(second), ..good }, &["expired"]);
    matrix.ours("valid in a second", &Wish { from: NOW.plus(second), ..good }, &["not-yet-valid"]);
    matrix.ours("valid next year", &Wish { from: NOW.plus(YEAR), to: NOW.plus(2 * YEAR), ..good }, &["not-yet-valid"]);
    matrix.ours(
        "over before it begins",
        &Wish { from: NOW.plus(YEAR), to: past(DAY / 4), ..good },
        &["malformed", "expired", "not-yet-valid"],
    );
    let usage = "extendedKeyUsage=clientAuth";
    for (name, other) in [
        ("no EKU", ""),
        ("EKU serverAuth", "extendedKeyUsage=serverAuth"),
        ("EKU any", "extendedKeyUsage=anyExtendedKeyUsage"),
        ("EKU clientAuth and serverAuth", "extendedKeyUsage=clientAuth,serverAuth"),
        ("EKU clientAuth and any", "extendedKeyUsage=clientAuth,anyExtendedKeyUsage"),
        ("EKU codeSigning", "extendedKeyUsage=codeSigning"),
        ("EKU of somebody's own and clientAuth", "extendedKeyUsage=clientAuth,1.3.6.1.4.1.99999.1"),
    ] {
        matrix.instead(name, usage, other, &["purpose"]);
    }
    let usage = "keyUsage=critical,digitalSignature";
    matrix.instead("key usage keyCertSign", usage, "keyUsage=critical,keyCertSign", &["purpose"]);
    matrix.instead("key usage keyEncipherment", usage, "keyUsage=critical,keyEncipherment", &["purpose"]);
    matrix.instead("no key usage", usage, "", &["purpose"]);
    let constraints = "basicConstraints=critical,CA:FALSE";
    matrix.instead("a CA as leaf", constraints, "basicConstraints=critical,CA:TRUE", &["malformed"]);
    matrix.instead("a CA with path length", constraints, "basicConstraints=critical,CA:TRUE,pathlen:0", &["malformed"]);
}

fn names(matrix: &mut Matrix<'_>) {
    let name = "subjectAltName=URI:urn:fieldgate:device:press-1";
    let der = |uri: &[u8]| {
        let bytes: Vec<String> = uri.iter().map(|byte| format!("{byte:02X}")).collect();
        format!("subjectAltName=DER:30:{:02X}:86:{:02X}:{}", uri.len() + 2, uri.len(), bytes.join(":"))
    };
    let device = |id: &str| der(format!("urn:fieldgate:device:{id}").as_bytes());
    let long = device(&"x".repeat(65));
    for (case, other) in [
        ("CN only", String::new()),
        ("two URIs", format!("{name},URI:urn:fieldgate:device:press-2")),
        ("the same URI twice", format!("{name},URI:urn:fieldgate:device:press-1")),
        ("another product's URI", "subjectAltName=URI:urn:other:device:press-1".to_owned()),
        ("a URI that goes on before ours", "subjectAltName=URI:https://x/urn:fieldgate:device:press-1".to_owned()),
        ("the URI in capitals", "subjectAltName=URI:URN:FIELDGATE:DEVICE:press-1".to_owned()),
        ("DNS name", "subjectAltName=DNS:press-1".to_owned()),
        ("address", "subjectAltName=IP:192.0.2.1".to_owned()),
        ("e-mail", "subjectAltName=email:press-1@plant.example".to_owned()),
        ("other name", "subjectAltName=otherName:1.3.6.1.4.1.99999.2;UTF8:urn:fieldgate:device:press-1".to_owned()),
        ("id with +", device("press+1")),
        ("id #", device("#")),
        ("id with /", device("press/1")),
        ("id with NUL", device("press-1\0")),
        ("id with NUL and a friend", device("press-1\0.example")),
        ("empty id", device("")),
        ("id of 65 letters", long),
        ("id that begins with a dot", device(".press")),
        ("id in percent signs", device("press%2D1")),
        ("id with a space", device("press 1")),
        ("id with a line break", device("press-1\n")),
        ("id in letters of elsewhere", device("prëss")),
        ("id that is no UTF-8", der(b"urn:fieldgate:device:press\xff")),
    ] {
        // What isn't IA5 can't be read at all.
        matrix.instead(case, name, &other, &["no-identity", "malformed"]);
    }
}

fn strangers(matrix: &mut Matrix<'_>) {
    let tool = matrix.tool;
    let other = Plant::new();
    let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n";
    let named =
        |info: &fieldgate_certs::AuthorityInfo| format!("/{}", info.subject.split(", ").collect::<Vec<_>>().join("/"));
    let infos = matrix.plant.ca.authorities();
    let (root_name, issuing_name) = (named(&infos[0]), named(&infos[1]));

    let leaf = tool.certificate(Some(&other.authority("issuing-1")), &matrix.key, &Wish::default());
    matrix.add("another gateway's CA", leaf, &["foreign"]);
    let wish = Wish { subject: &issuing_name, extensions: authority, ..Wish::default() };
    let rogue = tool.certificate(None, &tool.key("EC:P-256"), &wish);
    let leaf = tool.certificate(Some(&rogue), &matrix.key, &Wish::default());
    matrix.add("rogue CA of the same name", leaf, &["foreign", "bad-signature"]);
    // All of it under our names, and sent along.
    let rogue_root = tool.certificate(
        None,
        &tool.key("EC:P-256"),
        &Wish { subject: &root_name, extensions: authority, ..Wish::default() },
    );
    let rogue = tool.certificate(Some(&rogue_root), &tool.key("EC:P-256"), &wish);
    let leaf = tool.certificate(Some(&rogue), &matrix.key, &Wish::default());
    let both = [&rogue, &rogue_root].map(|ca| fs::read_to_string(&ca.certificate).unwrap()).concat();
    matrix.add("rogue root and CA of the same names", leaf, &["foreign", "bad-signature"]);
    matrix.cases.last_mut().unwrap().behind = Some(tool.write("pem", both));
    let leaf = tool.certificate(None, &matrix.key, &Wish::default());
    matrix.add("self-signed", leaf, &["foreign"]);
    let leaf = tool.certificate(None, &matrix.key, &Wish { subject: &issuing_name, ..Wish::default() });
    matrix.add("self-signed under our CA's name", leaf, &["foreign", "bad-signature"]);
    let leaf = tool.certificate(Some(&matrix.plant.authority("root-1")), &matrix.key, &Wish::default());
    matrix.add("signed by our root", leaf, &["foreign"]);
    // Path length 0 is broken by a CA below the issuing CA.
    let below = tool.certificate(
        Some(&matrix.issuing),
        &tool.key("EC:P-256"),
        &Wish { subject: "/CN=below", extensions: authority, ..Wish::default() },
    );
    let leaf = tool.certificate(Some(&below), &matrix.key, &Wish::default());
    matrix.add("path length", leaf, &["foreign"]);
    matrix.cases.last_mut().unwrap().behind = Some(below.certificate.clone());
    // A device as a CA.
    let device = matrix.sign(&tool.key("EC:P-256"), &Wish::default());
    let leaf = tool.certificate(Some(&device), &matrix.key, &Wish::default());
    matrix.add("signed by a device", leaf, &["foreign"]);
    matrix.cases.last_mut().unwrap().behind = Some(device.certificate);
    // Fifty CAs, one below the other, our issuing CA above them all.
    let mut above = matrix.issuing.clone();
    let mut crowd = String::new();
    let shared = tool.key("EC:P-256");
    for depth in 0..50 {
        let subject = format!("/CN=depth {depth}");
        above = tool.certificate(
            Some(&above),
            &shared,
            &Wish { subject: &subject, extensions: authority, ..Wish::default() },
        );
        crowd.insert_str(0, &fs::read_to_string(&above.certificate).unwrap());
    }
    let leaf = tool.certificate(Some(&above), &matrix.key, &Wish::default());
    matrix.add("chain of 50", leaf, &["foreign"]);
    matrix.cases.last_mut().unwrap().behind = Some(tool.write("pem", crowd));
    matrix.add("our issuing CA itself", matrix.plant.authority("issuing-1"), &["malformed"]);
    matrix.add("our root itself", matrix.plant.authority("root-1"), &["malformed", "foreign"]);
    matrix.cases.push(Case {
        name: "no certificate".into(),
        plant: matrix.plant,
        leaf: None,
        behind: None,
        reasons: &["no-certificate"],
    });
}

fn forms(matrix: &mut Matrix<'_>) {
    let tool = matrix.tool;
    for digest in ["sha1", "sha224"] {
        matrix.ours(&format!("signed with {digest}"), &Wish { digest, ..Wish::default() }, &["weak"]);
    }
    // A client with such a key may not even offer its certificate.
    for (algorithm, reasons) in [
        ("RSA:1024", ["bad-signature", "weak", "bad-signature"].as_slice()),
        ("EC:secp256k1", &["no-certificate", "weak", "bad-signature", "broken"]),
        ("EC:P-521", &["no-certificate", "weak", "bad-signature", "broken"]),
        ("EC:P-224", &["no-certificate", "weak", "bad-signature", "broken"]),
    ] {
        let leaf = matrix.sign(&tool.key(algorithm), &Wish::default());
        matrix.add(algorithm, leaf, reasons);
    }
    let padding = "x".repeat(63 * 1024);
    let big = format!("{GOOD}nsComment=\"{}\"\n", &padding);
    matrix.ours("64 KB", &Wish { extensions: &big, ..Wish::default() }, &["broken", "malformed"]);
    // As long as fits into a handshake message, from a stranger.
    let other = Plant::new();
    let big = format!("{GOOD}nsComment=\"{}\"\n", &padding[..60 * 1024]);
    let leaf = tool.certificate(
        Some(&other.authority("issuing-1")),
        &matrix.key,
        &Wish { extensions: &big, ..Wish::default() },
    );
    matrix.add("61 KB, from a stranger", leaf, &["malformed"]);
    let critical = format!("{GOOD}1.3.6.1.4.1.99999.3=critical,ASN1:UTF8String:obey\n");
    matrix.ours(
        "critical extension that nobody knows",
        &Wish { extensions: &critical, ..Wish::default() },
        &["malformed"],
    );
    // Without extensions: X.509 version 1.
    let request = tool.request(&matrix.key, "/CN=press-1");
    let path = tool.file("pem");
    let Pair { certificate, key } = &matrix.issuing;
    let arguments = ["x509", "-req", "-in", text(&request), "-CA", text(certificate), "-CAkey", text(key)];
    let serial = ["-set_serial", "0x4711", "-days", "3650", "-out", text(&path)];
    tool.run(&[&arguments[..], &serial].concat());
    matrix.plant.record("press-1", &chain(&fs::read_to_string(&path).unwrap())[0]);
    matrix.add("version 1", Pair { certificate: path, key: matrix.key.clone() }, &["malformed"]);
}

fn registry(matrix: &mut Matrix<'_>) {
    let plant = matrix.plant;
    let key = matrix.key.clone();
    let leaf = matrix.sign(&key, &Wish::default());
    plant.rows.change(&row(plant, &leaf), |row| row.revoked = Some(NOW));
    matrix.add("revoked", leaf, &["revoked"]);
    let leaf = matrix.sign(&key, &Wish::default());
    plant.rows.change(&row(plant, &leaf), |row| row.superseded = Some(NOW));
    matrix.add("superseded", leaf, &["superseded"]);
    let leaf = matrix.sign(&key, &Wish::default());
    plant.rows.change(&row(plant, &leaf), |row| row.device = id("press-2"));
    matrix.add("another's by the registry", leaf, &["mismatch"]);
    let leaf = matrix.sign(&key, &Wish::default());
    let found = row(plant, &leaf);
    plant.rows.change(&found, |row| row.fingerprint.0[0] ^= 1);
    matrix.add("another certificate under that number", leaf, &["mismatch"]);
    let leaf = tool_only(matrix, &key);
    matrix.add("not in the registry", leaf, &["unknown"]);
    assert!(plant.rows.certificate(&found.issuer, &found.serial).is_some());
}

fn tool_only(matrix: &Matrix<'_>, key: &std::path::Path) -> Pair {
    matrix.tool.certificate(Some(&matrix.issuing), key, &Wish::default())
}
