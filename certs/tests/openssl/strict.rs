//! OpenSSL's strictest reading of all that is issued, revocation lists included.

use std::path::Path;

use fieldgate_certs::{Issued, RevocationList, Role, SUPERSEDE_GRACE};

use crate::plant::{DAY, Plant, YEAR, id};
use crate::tool::{Tool, text};

struct Checker<'a> {
    tool: &'a Tool,
    plant: &'a Plant,
    /// All roots and issuing CAs, and all lists.
    trust: std::path::PathBuf,
    lists: std::path::PathBuf,
}

impl<'a> Checker<'a> {
    fn new(tool: &'a Tool, plant: &'a Plant) -> Self {
        let lists = plant.ca.revocation_lists(&plant.rows.all()).unwrap();
        let lists: String = lists.iter().chain(&plant.ca.root_revocation_lists()).map(RevocationList::pem).collect();
        Self { tool, plant, trust: tool.write("pem", plant.ca.trust_bundle_pem()), lists: tool.write("crl", lists) }
    }

    /// What `openssl verify` says: nothing, when it agrees.
    fn verify(&self, certificate: &Path, purpose: &str) -> Result<(), String> {
        let now = self.plant.now().as_secs().to_string();
        let mut command = self.tool.command();
        command.args(["verify", "-x509_strict", "-crl_check_all", "-purpose", purpose, "-attime", &now]);
        command.args(["-CRLfile", text(&self.lists), "-CAfile", text(&self.trust), "-untrusted", text(certificate)]);
        let output = command.arg(certificate).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }
}

fn pem(tool: &Tool, issued: &Issued) -> std::path::PathBuf {
    tool.write("pem", &issued.certificate_pem)
}

#[test]
fn everything_that_is_issued_passes_for_its_purpose_alone() {
    let (tool, plant) = (Tool::new(), Plant::new());
    let mut leaves = Vec::new();
    for _ in 0..2 {
        for (name, role, validity) in [
            ("press-1", Role::Device, DAY),
            ("hmi", Role::App, 10 * YEAR),
            ("line-5", Role::Gateway, 30 * YEAR),
            (&"x".repeat(64), Role::Device, YEAR),
        ] {
            leaves.push(pem(&tool, &plant.ca.issue(&plant.rows, &id(name), role, validity).unwrap()));
        }
        for algorithm in ["EC:P-256", "EC:P-384", "RSA:2048"] {
            let request = std::fs::read(tool.request(&tool.key(algorithm), "/CN=somebody else")).unwrap();
            let issued = plant.ca.issue_from_csr(&plant.rows, &request, &id("drill"), Role::Device, YEAR).unwrap();
            leaves.push(pem(&tool, &issued));
        }
        let names = ["localhost".to_owned(), "gw.plant.example".to_owned()];
        let server = plant.ca.server_certificate(&names, &["127.0.0.1".parse().unwrap()]).unwrap();
        let server = tool.write("pem", server.chain_pem());
        let checker = Checker::new(&tool, &plant);
        for leaf in &leaves {
            checker.verify(leaf, "sslclient").unwrap();
            checker.verify(leaf, "sslserver").unwrap_err();
        }
        checker.verify(&server, "sslserver").unwrap();
        checker.verify(&server, "sslclient").unwrap_err();
        for info in plant.ca.authorities() {
            let name = format!("{}-{}.pem", info.kind.as_str(), info.generation);
            checker.verify(&plant.dir().join(name), "any").unwrap();
        }
        // The second time after a rotation: both generations.
        plant.ca.rotate().unwrap();
    }
}

#[test]
fn lists_are_read_and_obeyed() {
    let (tool, plant) = (Tool::new(), Plant::new());
    let issue = |name: &str| plant.ca.issue(&plant.rows, &id(name), Role::Device, 10 * YEAR).unwrap();
    let (good, bad, replaced) = (issue("good"), issue("bad"), issue("replaced"));
    plant.ca.rotate().unwrap();
    let later = issue("later");
    plant.rows.change(&bad.record, |row| row.revoked = Some(plant.now()));
    plant.rows.change(&replaced.record, |row| assert!(row.supersede(plant.now())));
    let verdicts = || {
        let checker = Checker::new(&tool, &plant);
        [&good, &bad, &replaced, &later].map(|issued| checker.verify(&pem(&tool, issued), "sslclient"))
    };
    let [one, two, three, four] = verdicts();
    assert!(one.is_ok() && three.is_ok() && four.is_ok(), "{one:?} {three:?} {four:?}");
    assert!(two.unwrap_err().contains("certificate revoked"));
    plant.clock.advance(SUPERSEDE_GRACE);
    let [one, _, three, four] = verdicts();
    assert!(one.is_ok() && four.is_ok());
    assert!(three.unwrap_err().contains("certificate revoked"));

    let lists = plant.ca.revocation_lists(&plant.rows.all()).unwrap();
    assert_eq!(lists.iter().map(RevocationList::file_name).collect::<Vec<_>>(), ["issuing-2.crl", "issuing-1.crl"]);
    assert_eq!(lists.iter().map(|list| list.revoked.len()).collect::<Vec<_>>(), [0, 2]);
    let all = lists.iter().chain(&[]).cloned().chain(plant.ca.root_revocation_lists());
    for list in all {
        let path = tool.write("crl", &list.der);
        let trust = tool.write("pem", plant.ca.trust_bundle_pem());
        let arguments = ["crl", "-inform", "DER", "-in", text(&path), "-noout", "-text", "-CAfile", text(&trust)];
        let said = tool.run(&arguments);
        assert!(said.contains("verify OK") && said.contains("X509v3 CRL Number"), "{said}");
        assert!(said.contains("X509v3 Authority Key Identifier"), "{said}");
        assert_eq!(said.matches("Serial Number:").count(), list.revoked.len());
        assert_eq!(said.contains("Superseded"), list.revoked.iter().any(|entry| entry.superseded));
        let pem = tool.write("crl", list.pem());
        tool.run(&["crl", "-in", text(&pem), "-noout"]);
    }
    // Numbers grow, and a week later it is another list that is wanted.
    plant.clock.advance(DAY);
    let next = plant.ca.revocation_lists(&plant.rows.all()).unwrap();
    assert!(next.iter().zip(&lists).all(|(next, list)| next.number > list.number));
    // An issuing CA that is revoked stands on the root's.
    let first = plant.ca.authorities()[1].clone();
    plant.ca.revoke_issuing(&first.issuer_key).unwrap();
    let root = plant.ca.root_revocation_lists()[0].pem();
    let checker = Checker { lists: tool.write("crl", root), ..Checker::new(&tool, &plant) };
    let mut command = tool.command();
    let now = plant.now().as_secs().to_string();
    command.args(["verify", "-x509_strict", "-crl_check", "-attime", &now, "-CRLfile", text(&checker.lists)]);
    command.args(["-CAfile", text(&plant.dir().join("root-1.pem"))]);
    for (name, revoked) in [("issuing-1.pem", true), ("issuing-2.pem", false)] {
        let output = command.arg(plant.dir().join(name)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.contains("certificate revoked"), revoked || said.contains("issuing-1"), "{name}: {said}");
    }
}
