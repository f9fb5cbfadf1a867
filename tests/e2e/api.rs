//! The API's two doors: who may ask what, with which token, under which name, with TLS.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fieldgate::admin::access::Access;
use fieldgate::admin::routes::ROUTES;
use fieldgate_testkit::{Gateway, PATIENCE, eventually};
use serde_json::json;

use crate::stage::{BINARY, Told};

/// A path that the route takes, for things that are not there.
fn path(route: &str) -> String {
    route.replace("{id}", "nobody").replace("{device}", "nobody").replace("{command}", "read").replace("{name}", "none")
}

/// So many lines of an event in the audit log.
async fn audited(gateway: &Gateway, event: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let lines = gateway.ask("GET", "/api/v1/audit?lines=10000", "").await?.body;
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(lines.filter(|line| line["event"] == event).collect())
}

#[tokio::test]
async fn every_route_is_closed_to_who_has_no_right_to_it() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let (read, admin) = (gateway.token("viewer", "read").await?, gateway.token("boss", "admin").await?);
    let (mut refused, mut beyond) = (0, 0);
    for route in &ROUTES {
        let (method, path) = (route.method.as_str(), path(route.path));
        let anonymous = gateway.request(method, &path, "{}").await?;
        let wrong = gateway.request_as("none-of-these", method, &path, "{}").await?;
        let small = gateway.request_as(&read, method, &path, "{}").await?;
        let (status, name) = ([anonymous.status, wrong.status, small.status], format!("{method} {path}"));
        match route.access {
            Access::Open => assert_eq!(status, [200; 3], "{name}"),
            Access::Read => {
                assert_eq!(status[..2], [401; 2], "{name}: {anonymous:?}");
                assert!(!matches!(small.status, 401 | 403 | 405), "{name}: {small:?}");
            }
            Access::Admin => assert_eq!(status, [401, 401, 403], "{name}: {anonymous:?} {small:?}"),
            Access::Socket => {
                assert_eq!(status, [401, 401, 403], "{name}: {anonymous:?} {small:?}");
                assert_eq!(gateway.request_as(&admin, method, &path, "{}").await?.status, 403, "{name}");
            }
        }
        beyond += usize::from(small.status == 403);
        if route.access != Access::Open {
            refused += 1;
            assert_eq!(anonymous.header("www-authenticate"), Some("Bearer realm=\"fieldgate\""), "{name}");
            assert!(anonymous.json()?["error"].as_str().is_some_and(|why| why.contains("fieldgate token add")));
            assert!(small.status != 403 || small.json()?["error"].is_string(), "{name}: {small:?}");
        }
    }
    assert!(refused > 20, "{refused}");
    assert_eq!(gateway.request_as(&admin, "GET", "/api/v1/none", "").await?.status, 404);

    // Each request of a known token is in the audit log, of unknown ones the first, and who came with none is a number.
    let lines = async || {
        let lines = audited(&gateway, "api_refused").await?;
        let named = lines.iter().filter(|line| line["token"] == "viewer" || line["token"] == "boss").count();
        Ok((named > beyond).then_some(lines.len() - named))
    };
    assert_eq!(eventually("the lines of all refusals", PATIENCE, lines).await?, 1);
    let metrics = gateway.get("/metrics").await?.body;
    for reason in ["no-token", "unknown-token"] {
        let count = format!("fieldgate_admin_refused_requests_total{{reason=\"{reason}\"}} {refused}\n");
        assert!(metrics.contains(&count), "{metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_adds_and_revokes_a_device_and_is_named_in_the_audit_log() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let token = gateway.token("boss", "admin").await?;
    let add = r#"{"id":"press-1","role":"device"}"#;
    let added = gateway.request_as(&token, "POST", "/api/v1/devices", add).await?;
    assert_eq!(added.status, 200, "{added:?}");
    assert!(added.json()?["key"].as_str().is_some_and(|key| key.contains("PRIVATE KEY")));
    let revoke = "/api/v1/devices/press-1/revoke";
    assert_eq!(gateway.request_as(&token, "POST", revoke, "null").await?.status, 200);
    assert_eq!(gateway.ask("POST", revoke, "null").await?.status, 200, "the socket needs no token");
    let changes = eventually("two changes in the log", PATIENCE, async || {
        let changes = audited(&gateway, "api_change").await?;
        Ok((changes.len() == 2).then_some(changes))
    });
    let changes = changes.await?;
    let routes: Vec<_> = changes.iter().map(|line| (line["token"].clone(), line["route"].clone())).collect();
    let expected = [("boss", "POST /api/v1/devices"), ("boss", "POST /api/v1/devices/{id}/revoke")];
    assert_eq!(routes, expected.map(|(token, route)| (json!(token), json!(route))));
    let mode = std::fs::metadata(gateway.socket())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    Ok(())
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_with_and_without_a_running_gateway() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    let before = gateway.token("before", "read").await?;
    gateway.start().await?;
    let during: serde_json::Value = {
        let made = gateway.verb(&["token", "add", "during", "--scope", "admin", "--for", "2h", "--json"]).await?;
        serde_json::from_str(&made.ok()?)?
    };
    let during = during["token"].as_str().unwrap_or_default().to_owned();
    for token in [&before, &during] {
        assert_eq!(gateway.request_as(token, "GET", "/api/v1/status", "").await?.status, 200);
    }
    let list = gateway.verb(&["token", "list"]).await?.ok()?;
    assert!(!list.contains(&before) && !list.contains(&during) && !list.contains("never"), "{list}");

    gateway.verb(&["token", "revoke", "during"]).await?.ok()?;
    let gone = gateway.request_as(&during, "GET", "/api/v1/status", "").await?;
    assert!(gone.status == 401 && gone.body.contains("revoked"), "{gone:?}");
    let again = gateway.verb(&["token", "revoke", "during"]).await?;
    assert!(again.code == Some(1) && again.stderr.contains("token list"), "{again:?}");
    let twice = gateway.verb(&["token", "add", "before", "--scope", "read"]).await?;
    assert!(twice.code == Some(1) && twice.stderr.contains("already"), "{twice:?}");
    assert_eq!(gateway.verb(&["token", "add", "x", "--scope", "all"]).await?.code, Some(2));
    assert_eq!(gateway.verb(&["token", "add", "x", "--scope", "read", "--for", "1m"]).await?.code, Some(2));

    gateway.stop().await?;
    let list: serde_json::Value = serde_json::from_str(&gateway.verb(&["token", "list", "--json"]).await?.ok()?)?;
    let used = |entry: &serde_json::Value| entry["name"] == "before" && entry["used"].is_u64();
    assert!(list.as_array().is_some_and(|all| all.len() == 1 && all.iter().all(used)), "{list}");
    for file in ["state.db", "audit/audit.jsonl", "queue.db"] {
        let bytes = std::fs::read(gateway.data_dir().join(file))?;
        assert!(!bytes.windows(before.len()).any(|part| part == before.as_bytes()), "the token stands in {file}");
    }
    Ok(())
}

#[tokio::test]
async fn an_address_on_the_network_serves_tls_by_our_own_ca() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    let text = std::fs::read_to_string(gateway.config())?;
    let listen = "listen = \"127.0.0.1:0\"";
    std::fs::write(gateway.config(), text.replace(listen, "listen = \"0.0.0.0:0\""))?;
    let refused = gateway.verb(&["check"]).await?;
    assert!(refused.code == Some(78) && refused.stderr.contains("admin.listen"), "{refused:?}");
    std::fs::write(gateway.config(), text.replace(listen, &format!("{listen}\ntls = true")))?;
    gateway.start().await?;
    let token = gateway.token("viewer", "read").await?;
    assert_eq!(gateway.get_tls(None, "/readyz").await?.status, 200);
    assert_eq!(gateway.get_tls(None, "/api/v1/status").await?.status, 401);
    assert_eq!(gateway.get_tls(Some(&token), "/api/v1/status").await?.json()?["gateway"], "line-1");
    assert!(gateway.get("/readyz").await.is_err(), "not in plain");
    tokio::time::timeout(Duration::from_secs(15), gateway.stop()).await??;
    Ok(())
}
