//! `[[certs.external]]` and `[[certs.pin]]`: who is known by a certificate that is not ours. None unless they stand there.
//!
//! ```toml
//! [[certs.external]]
//! ca = "corp.pem"
//!   [[certs.external.device]]
//!   id = "press-9"
//!   dns = "press-9.corp.example"       # or uri = "…", or cn = "…"
//!
//! [[certs.pin]]
//! id = "scale-1"
//! sha256 = "…"
//! ```

use std::collections::BTreeMap;

use fieldgate_certs::{ExternalCa, ExternalError, ExternalName, ExternalTrust, Fingerprint, Holder, Role};
use fieldgate_types::{DeviceId, Section};

use super::load::Ids;

/// Reads both from `[certs]`; their ids are noted in `ids`.
pub(super) fn read(certs: &Section, ids: &mut Ids) -> ExternalTrust {
    let mut holders = Holders { ids, roles: BTreeMap::new() };
    let mut trust = ExternalTrust::default();
    for section in certs.sections("external") {
        trust.authorities.extend(authority(&section, &mut holders));
    }
    for section in certs.sections("pin") {
        let holder = holders.read(&section);
        let (Some(fingerprint), Some(holder)) = (fingerprint(&section), holder) else { continue };
        match trust.pins.iter().find(|(pinned, _)| *pinned == fingerprint) {
            Some((_, other)) if *other != holder => {
                section.problem("sha256", format_args!("this certificate is pinned for `{}` already", other.device));
            }
            Some(_) => {}
            None => trust.pins.push((fingerprint, holder)),
        }
    }
    trust
}

fn authority(section: &Section, holders: &mut Holders<'_>) -> Option<ExternalCa> {
    let file = section.required_file("ca");
    let devices = section.sections("device");
    let names: Vec<_> = devices
        .iter()
        .filter_map(|device| {
            let (name, holder) = (name(device), holders.read(device));
            Some((name?, holder?))
        })
        .collect();
    if devices.is_empty() {
        section.problem("device", "is missing: a CA lets in those alone that [[certs.external.device]] names");
    }
    let (path, certificate_pem) = file?;
    let authority = ExternalCa { certificate_pem, names };
    match (ExternalTrust { authorities: vec![authority.clone()], pins: Vec::new() }).check() {
        Ok(()) => return Some(authority),
        Err(ExternalError::NotACa { reason, .. }) => {
            let path = path.display();
            section.problem("ca", format_args!("`{path}` is not one CA certificate in PEM: {reason}"));
        }
        Err(error @ ExternalError::Twice { .. }) => section.problem("device", error),
        Err(error @ (ExternalError::Own { .. } | ExternalError::Ca(_) | ExternalError::Unusable { .. })) => {
            section.problem("ca", error);
        }
    }
    None
}

/// By what the CA names a device.
fn name(section: &Section) -> Option<ExternalName> {
    let text = |key| {
        let text = section.get::<String>(key)?;
        if text.trim().is_empty() {
            section.problem(key, "is empty, the name in the certificate is expected, letter by letter");
        }
        Some(text)
    };
    let found = [
        text("dns").map(|text| ("dns", ExternalName::Dns(text))),
        text("uri").map(|text| ("uri", ExternalName::Uri(text))),
        text("cn").map(|text| ("cn", ExternalName::Cn(text))),
    ];
    let found: Vec<_> = found.into_iter().flatten().collect();
    match found.as_slice() {
        [(_, name)] => Some(name.clone()),
        [_, (second, _), ..] => {
            section
                .problem(second, "one of `dns`, `uri` and `cn` is enough; write a [[certs.external.device]] for each");
            None
        }
        [] => {
            section.problem("dns", "is missing, `dns`, `uri` or `cn` says by which name the CA means the device");
            None
        }
    }
}

/// As `openssl x509 -fingerprint -sha256` prints it, with or without colons.
fn fingerprint(section: &Section) -> Option<Fingerprint> {
    section.required_with("sha256", |value| {
        value.parse("the SHA-256 of a certificate", |text| text.replace(':', "").parse::<Fingerprint>())
    })
}

/// Who has been named, and as what: one may have several names and pins.
struct Holders<'a> {
    ids: &'a mut Ids,
    roles: BTreeMap<DeviceId, Role>,
}

impl Holders<'_> {
    fn read(&mut self, section: &Section) -> Option<Holder> {
        let roles = [("device", Role::Device), ("app", Role::App), ("gateway", Role::Gateway)];
        let role = section.choice("role", &roles, Role::Device);
        let device: DeviceId = section.required("id")?;
        match self.roles.insert(device.clone(), role) {
            None => self.ids.take(section, "id", &device, "certs"),
            Some(before) if before != role => {
                section.problem("id", format_args!("`{device}` is named as {before} too, it has one role"));
            }
            Some(_) => {}
        }
        Some(Holder { device, role })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let ca = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("corp.pem"), ca.pem()).unwrap();
        std::fs::write(folder.path().join("two.pem"), ca.pem() + &ca.pem()).unwrap();
        folder
    }

    fn load(folder: &Path, text: &str) -> (ExternalTrust, Vec<String>) {
        let loaded = config::read("gateway.toml", folder, text);
        let problems = loaded.problems.iter().map(ToString::to_string).collect();
        (loaded.config.map(|config| config.certs.external).unwrap_or_default(), problems)
    }

    fn device(id: &str, name: &str) -> String {
        format!("[[certs.external.device]]\nid = \"{id}\"\n{name}\n")
    }

    #[test]
    fn nothing_is_trusted_unless_it_stands_there() {
        let (trust, problems) = load(Path::new("."), "[certs]\n");
        assert!(problems.is_empty() && trust.authorities.is_empty() && trust.pins.is_empty());
    }

    #[test]
    fn reads_names_and_pins_and_one_may_have_several() {
        let (folder, pin) = (folder(), "AB:".repeat(31) + "ab");
        let mut text = "[[certs.external]]\nca = \"corp.pem\"\n".to_owned();
        text += &device("press-1", "dns = \"press-1.corp\"");
        text += &device("press-1", "uri = \"urn:corp:1\"");
        text += &device("hmi", "cn = \"HMI 1\"\nrole = \"app\"");
        let text = format!("{text}[[certs.pin]]\nid = \"press-1\"\nsha256 = \"{pin}\"\n");
        let (trust, problems) = load(folder.path(), &text);
        assert_eq!(problems, Vec::<String>::new());
        let names: Vec<_> =
            trust.authorities[0].names.iter().map(|(name, holder)| (name, holder.device.as_str())).collect();
        assert_eq!(names[1], (&ExternalName::Uri("urn:corp:1".to_owned()), "press-1"));
        assert_eq!((names.len(), trust.pins[0].0, trust.holders().count()), (3, Fingerprint([0xab; 32]), 4));
        assert_eq!(trust.authorities[0].names[2].1.role, Role::App);
    }

    #[test]
    fn every_mistake_has_its_place() {
        let folder = folder();
        let problem = |text: &str| {
            let (_, problems) = load(folder.path(), text);
            assert_eq!(problems.len(), 1, "{problems:?}");
            problems[0].clone()
        };
        let ca = "[[certs.external]]\nca = \"corp.pem\"\n";
        let empty = problem(ca);
        assert!(empty.starts_with("gateway.toml:1:1: certs.external.device: is missing"), "{empty}");
        let one = device("a", "cn = \"A\"");
        let two = problem(&format!("[[certs.external]]\nca = \"two.pem\"\n{one}"));
        assert!(two.starts_with("gateway.toml:2:6: certs.external.ca:") && two.contains("there are several"), "{two}");
        let none = problem(&format!("{ca}{}", device("a", "")));
        assert!(none.starts_with("gateway.toml:3:1: certs.external.device.dns: is missing"), "{none}");
        let both = problem(&format!("{ca}{}", device("a", "cn = \"A\"\ndns = \"a\"")));
        assert!(both.starts_with("gateway.toml:5:6: certs.external.device.cn: one of"), "{both}");
        let twice = problem(&format!("{ca}{one}{}", device("b", "cn = \"A\"")));
        assert!(twice.contains("`A` stands for `a` and for `b`"), "{twice}");
        let roles = problem(&format!("{ca}{one}{}", device("a", "cn = \"B\"\nrole = \"app\"")));
        assert!(roles.starts_with("gateway.toml:7:6: certs.external.device.id: `a` is named as device too"), "{roles}");
        let short = problem("[[certs.pin]]\nid = \"a\"\nsha256 = \"ab\"\n");
        assert!(
            short.starts_with("gateway.toml:3:10: certs.pin.sha256:") && short.contains("64 hexadecimal"),
            "{short}"
        );
        let pin = |id: &str| format!("[[certs.pin]]\nid = \"{id}\"\nsha256 = \"{}\"\n", "ab".repeat(32));
        let twice = problem(&(pin("a") + &pin("b")));
        assert!(
            twice.starts_with("gateway.toml:6:10: certs.pin.sha256: this certificate is pinned for `a`"),
            "{twice}"
        );
        let shared = problem(&format!("[gateway]\nid = \"a\"\n{}", pin("a")));
        assert!(shared.contains("the id `a` is used in `gateway` too"), "{shared}");
    }
}
