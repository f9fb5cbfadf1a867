//! Who may depend on whom (DESIGN section 3), from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::stage::{Told, root};

fn metadata() -> anyhow::Result<Metadata> {
    let version = Command::new("rustc").arg("-vV").output()?.stdout;
    let version = String::from_utf8(version)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    // Other platforms' crates were never fetched.
    let options = ["--locked", "--offline", "--filter-platform", host].map(str::to_owned);
    Ok(MetadataCommand::new().manifest_path(root().join("Cargo.toml")).other_options(options).exec()?)
}

/// What each package may use, in normal and build dependencies.
fn arrows() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let all = ["types", "broker", "store", "protocol", "modbus", "opcua", "certs"];
    let names = |names: &[&'static str]| names.iter().copied().collect();
    BTreeMap::from([
        ("types", names(&[])),
        ("broker", names(&["types"])),
        ("store", names(&["types"])),
        ("certs", names(&["types"])),
        ("protocol", names(&["types"])),
        ("modbus", names(&["protocol", "types"])),
        ("opcua", names(&["protocol", "types"])),
        // The harness knows the gateway by its public borders alone.
        ("testkit", names(&[])),
        ("", names(&all)),
    ])
}

fn short(package: &str) -> Option<&str> {
    if package == "fieldgate" { Some("") } else { package.strip_prefix("fieldgate-") }
}

fn members(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

#[test]
fn dependencies_follow_the_arrows_of_the_design() -> Told {
    let metadata = metadata()?;
    let arrows = arrows();
    let found: BTreeSet<&str> = members(&metadata).iter().filter_map(|package| short(&package.name)).collect();
    assert_eq!(found, arrows.keys().copied().collect(), "the packages of the workspace");
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        let name = short(&package.name).context("a package of another name")?;
        let allowed = &arrows[name];
        for dependency in &package.dependencies {
            let Some(on) = short(&dependency.name).filter(|on| arrows.contains_key(on)) else { continue };
            let development = dependency.kind == DependencyKind::Development;
            // A crate may switch its own features on for its tests.
            if !allowed.contains(on) && !(development && (on == "testkit" || on == name)) {
                wrong.push(format!("{} → {} ({:?})", package.name, dependency.name, dependency.kind));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

#[test]
fn simulators_are_switched_on_by_the_demo_alone() -> Told {
    let metadata = metadata()?;
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        for dependency in &package.dependencies {
            let simulated = dependency.features.iter().any(|feature| feature == "sim");
            if simulated && dependency.kind != DependencyKind::Development {
                wrong.push(format!("{} → {}", package.name, dependency.name));
            }
        }
        for (feature, parts) in &package.features {
            let demo = package.name.as_str() == "fieldgate" && feature == "demo";
            let own = |part: &&String| part.as_str() == "sim";
            if parts.iter().any(|part| part.ends_with("/sim")) && !demo || parts.iter().any(|p| own(&p)) {
                wrong.push(format!("feature {feature} of {}", package.name));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

#[test]
fn there_is_one_tls_stack_with_one_provider() -> Told {
    let metadata = metadata()?;
    let named = |name: &str| metadata.packages.iter().filter(|package| package.name.as_str() == name).count();
    let others =
        ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "boring", "mbedtls", "rustls-rustcrypto"];
    let there: Vec<&str> = others.into_iter().filter(|name| named(name) > 0).collect();
    assert_eq!(there, Vec::<&str>::new());
    assert_eq!((named("rustls"), named("ring")), (1, 1));
    Ok(())
}
