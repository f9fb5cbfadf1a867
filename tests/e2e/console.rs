//! The console, without a browser: who gets in, who doesn't, and what is done in it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use fieldgate::console::access::Asks;
use fieldgate::console::routes::{PAGES, PageRoute};
use fieldgate_modbus::sim::Simulator;
use fieldgate_testkit::{Ack, Answer, Bundle, Gateway, Leaf, Options, PATIENCE, Version, eventually};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{BINARY, Told};

const PASSWORD: &str = "correct horse battery";
const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&";

/// What a browser keeps and sends.
struct Browser<'a> {
    gateway: &'a Gateway,
    cookie: Option<String>,
    /// Of the last page.
    csrf: String,
    /// What it trusts, over TLS.
    ca: Option<String>,
}

fn form(fields: &[(&str, &str)]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let encode = |text: &str| -> String {
        let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(one).collect()
    };
    fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

async fn account(gateway: &Gateway, name: &str, role: &str) -> Told {
    let add = ["console", "user", "add", name, "--role", role];
    gateway.verb_with_input(&add, PASSWORD).await?.ok()?;
    Ok(())
}

impl<'a> Browser<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        Self { gateway, cookie: None, csrf: String::new(), ca: None }
    }

    async fn over_tls(gateway: &'a Gateway) -> anyhow::Result<Self> {
        Ok(Self { ca: Some(gateway.verb(&["ca", "export"]).await?.ok()?), ..Self::new(gateway) })
    }

    /// The same, with this cookie.
    fn with(&self, cookie: &str) -> Self {
        Self { cookie: Some(cookie.to_owned()), ca: self.ca.clone(), ..Self::new(self.gateway) }
    }

    /// Signed in as `name`, whom it makes first.
    async fn of(gateway: &'a Gateway, name: &str, role: &str) -> anyhow::Result<Self> {
        account(gateway, name, role).await?;
        let mut browser = Self::new(gateway);
        let entered = browser.sign_in(name, PASSWORD).await?;
        assert_eq!((entered.status, entered.header("location")), (303, Some("/console")), "{entered:?}");
        browser.get("/console").await?;
        Ok(browser)
    }

    fn host(&self) -> anyhow::Result<String> {
        Ok(self.gateway.admin()?.to_string())
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<Answer> {
        let (host, length) = (self.host()?, body.len());
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {host}\r\n") };
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
        let text = format!(
            "{method} {path} HTTP/1.1\r\n{host}{cookie}{headers}Connection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = match &self.ca {
            None => self.gateway.say(&text).await?,
            Some(ca) => self.gateway.say_tls(ca, &text).await?,
        };
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = cookie.split(';').next().filter(|pair| !pair.ends_with('=')).map(str::to_owned);
        }
        if let Some((_, rest)) = answer.body.split_once("name=\"csrf\" value=\"") {
            rest.split('"').next().unwrap_or_default().clone_into(&mut self.csrf);
        }
        Ok(answer)
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.ask("GET", path, "", "").await
    }

    /// As a form of the last page does.
    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let origin = format!("Origin: {scheme}://{}\r\n", self.host()?);
        let csrf = self.csrf.clone();
        let body = form(&[fields, &[("csrf", csrf.as_str())]].concat());
        self.ask("POST", path, &origin, &body).await
    }

    async fn sign_in(&mut self, name: &str, password: &str) -> anyhow::Result<Answer> {
        self.post("/console/login", &[("name", name), ("password", password)]).await
    }
}

/// A path that the route takes, for things that are not there.
fn path(route: &PageRoute) -> String {
    route.path.replace("{id}", "nobody").replace("{place}", "1")
}

/// Routes that ask for a session.
fn closed() -> impl Iterator<Item = &'static PageRoute> {
    PAGES.iter().filter(|route| route.asks != Asks::Guest)
}

async fn audited(gateway: &Gateway, event: &str, least: usize) -> anyhow::Result<Vec<Json>> {
    eventually(&format!("{least} lines of {event}"), PATIENCE, async || {
        let lines = gateway.ask("GET", "/api/v1/audit?lines=10000", "").await?.body;
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        let found: Vec<Json> = lines.filter(|line| line["event"] == event).collect();
        Ok((found.len() >= least).then_some(found))
    })
    .await
}

#[tokio::test]
async fn the_first_account_is_made_once_with_the_code_of_the_log() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let mut browser = Browser::new(&gateway);
    let first = browser.get("/console/devices").await?;
    assert_eq!((first.status, first.header("location")), (303, Some("/console/setup")));
    assert_eq!(browser.get("/").await?.header("location"), Some("/console"));
    assert_eq!(browser.get("/console/login").await?.header("location"), Some("/console/setup"));
    let code = gateway.verb(&["console", "setup-code"]).await?.ok()?.trim().to_owned();
    assert!(code.len() == 14 && gateway.log().iter().any(|line| line.contains(&code)), "{code}");

    let fields = |code: &str, again: &str| {
        [("code", code), ("name", "anna"), ("password", PASSWORD), ("again", again)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let set_up = async |browser: &mut Browser<'_>, code: &str, again: &str| {
        let fields = fields(code, again);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        browser.post("/console/setup", &fields).await
    };
    let wrong = set_up(&mut browser, "aaaa-bbbb-cccc", PASSWORD).await?;
    assert!(wrong.status == 403 && wrong.body.contains("gateway&#39;s log") || wrong.body.contains("gateway's log"));
    let differ = set_up(&mut browser, &code, "another horse").await?;
    assert!(differ.status == 400 && differ.body.contains("differ") && browser.cookie.is_none(), "{differ:?}");
    let made = set_up(&mut browser, &code, PASSWORD).await?;
    assert_eq!((made.status, made.header("location")), (303, Some("/console")), "{made:?}");
    let cookie = made.header("set-cookie").unwrap_or_default();
    assert!(cookie.starts_with("fieldgate-line-1=") && cookie.ends_with("HttpOnly; SameSite=Strict"), "{cookie}");

    let page = browser.get("/console").await?;
    assert!(page.status == 200 && page.body.contains("nothing is wrong"), "{page:?}");
    let policy = page.header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-store"));

    let mut other = Browser::new(&gateway);
    let again = set_up(&mut other, &code, PASSWORD).await?;
    assert!(again.status == 303 && other.cookie.is_none(), "{again:?}");
    assert_eq!(other.get("/console/setup").await?.header("location"), Some("/console"));
    assert_eq!(gateway.verb(&["console", "setup-code"]).await?.code, Some(1));
    assert_eq!(
        other.get("/console/devices?q=a").await?.header("location"),
        Some("/console/login?next=%2Fconsole%2Fdevices%3Fq%3Da")
    );
    let made = audited(&gateway, "account_made", 1).await?;
    assert!(made[0]["by"].as_str().is_some_and(|by| by.starts_with("set-up from 127.0.0.1")), "{made:?}");
    Ok(())
}

#[tokio::test]
async fn every_route_is_closed_to_who_has_no_right_to_it() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let mut viewer = Browser::of(&gateway, "vera", "viewer").await?;
    let mut admin = Browser::of(&gateway, "anna", "admin").await?;
    let mut nobody = Browser::new(&gateway);
    let (token, origin) = (gateway.token("boss", "admin").await?, format!("Origin: http://{}\r\n", admin.host()?));
    let bearer = format!("{origin}Authorization: Bearer {token}\r\n");
    let mut asked = 0;
    for route in closed() {
        let (method, path) = (route.method.as_str(), path(route));
        let name = format!("{method} {path}");
        for headers in [&origin, &bearer] {
            let answer = nobody.ask(method, &path, headers, "").await?;
            if method == "GET" && !route.quiet {
                let at = answer.header("location").unwrap_or_default();
                assert!(answer.status == 303 && at.starts_with("/console/login"), "{name}: {answer:?}");
            } else {
                assert_eq!(answer.status, 401, "{name}: {answer:?}");
            }
        }
        let csrf = form(&[("csrf", &viewer.csrf)]);
        if route.asks == Asks::Admin {
            let answer = viewer.ask(method, &path, &origin, &csrf).await?;
            assert!(answer.status == 403 && answer.body.contains("viewer"), "{name}: {answer:?}");
        }
        if method == "POST" {
            let good = form(&[("csrf", &admin.csrf)]);
            for foreign in [
                "",
                "Origin: null\r\n",
                "Origin: http://evil.example\r\n",
                "Origin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
                "Origin: null\r\nSec-Fetch-Site: cross-site\r\n",
            ] {
                let answer = admin.ask(method, &path, foreign, &good).await?;
                assert!(
                    answer.status == 403 && answer.body.contains("another address"),
                    "{name} {foreign}: {answer:?}"
                );
            }
            for stale in [String::new(), form(&[("csrf", "guess")]), csrf] {
                let answer = admin.ask(method, &path, &origin, &stale).await?;
                assert!(answer.status == 403 && answer.body.contains("load it again"), "{name} {stale}: {answer:?}");
            }
            asked += 1;
        }
    }
    assert!(asked > 5, "{asked}");
    // None of it was done, and all who asked are still in.
    assert_eq!((admin.get("/console").await?.status, viewer.get("/console/devices").await?.status), (200, 200));
    let refused = audited(&gateway, "console_refused", asked * 8).await?;
    let routes: BTreeSet<_> = refused.iter().filter_map(|line| line["route"].as_str()).collect();
    assert!(routes.contains("POST /console/device/{id}/revoke"), "{routes:?}");
    // A session opens nothing but the console.
    assert_eq!(admin.get("/api/v1/status").await?.status, 401);
    let lost = admin.get("/console/nowhere").await?;
    assert!(lost.status == 404 && lost.body.contains("no such page") && lost.body.contains("<nav"), "{lost:?}");
    Ok(())
}

#[tokio::test]
async fn other_names_and_long_or_slow_bodies_are_refused_and_the_socket_has_no_console() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let mut admin = Browser::of(&gateway, "anna", "admin").await?;
    for host in ["Host: evil.example\r\n", "Host: evil.example:9080\r\n", "Host: \r\n"] {
        assert_eq!(admin.ask("GET", "/console", host, "").await?.status, 421, "{host}");
    }
    let long = "x".repeat(70 * 1024);
    assert_eq!(admin.post("/console/enrol/device", &[("id", &long)]).await?.status, 413);
    // Half of a body and nothing more, from whomever, is held for as long at each route.
    let (host, cookie) = (admin.host()?, admin.cookie.clone().context("no cookie")?);
    let half = |path: &str, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\nContent-Length: 20\r\n\r\nid=press-7"
        )
    };
    let signed_in = format!("Origin: http://{host}\r\nCookie: {cookie}\r\n");
    let slow = [half("/console/login", ""), half("/console/enrol/device", &signed_in), half("/api/v1/reload", "")];
    let [one, two, three] = slow.each_ref().map(|text| gateway.say(text));
    for answer in <[Answer; 3]>::from(tokio::try_join!(one, two, three)?) {
        assert!(answer.status == 408 && answer.body.contains("did not come in time"), "{answer:?}");
    }
    let metrics = gateway.get("/metrics").await?.body;
    assert!(metrics.contains("fieldgate_admin_refused_requests_total{reason=\"slow\"} 3\n"), "{metrics}");
    assert_eq!(admin.get("/console").await?.status, 200);
    assert_eq!(gateway.ask("GET", "/console", "").await?.status, 404);
    let name = "n".repeat(1_000);
    assert_eq!(admin.get(&format!("/console/device/{name}")).await?.status, 404);
    assert_eq!(admin.get("/console/devices?page=18446744073709551616").await?.status, 400);
    assert_eq!(admin.get("/console/devices?page=18446744073709551615").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn over_tls_a_session_is_a_cookie_of_this_host_alone_and_none_of_it_counts_in_plain() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    let (text, listen) = (std::fs::read_to_string(gateway.config())?, "listen = \"127.0.0.1:0\"");
    std::fs::write(gateway.config(), text.replace(listen, &format!("{listen}\ntls = true")))?;
    gateway.start().await?;
    account(&gateway, "anna", "admin").await?;
    let mut browser = Browser::over_tls(&gateway).await?;
    let entered = browser.sign_in("anna", PASSWORD).await?;
    let (pair, attributes) = entered.header("set-cookie").and_then(|cookie| cookie.split_once("; ")).context("none")?;
    let (name, key) = pair.split_once('=').context("no key")?;
    assert_eq!((entered.status, name), (303, "__Host-fieldgate-line-1"), "{entered:?}");
    assert_eq!(attributes, "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure");
    let page = browser.get("/console").await?;
    assert!(page.status == 200 && page.body.contains("anna"), "{page:?}");

    // The key is good under that name alone, and for pages that came over TLS alone.
    let in_plain = format!("fieldgate-line-1={key}");
    let seen =
        [browser.with(pair).get("/console").await?.status, browser.with(&in_plain).get("/console").await?.status];
    assert_eq!(seen, [200, 303]);
    let (origin, stamped) = (format!("Origin: http://{}\r\n", browser.host()?), form(&[("csrf", &browser.csrf)]));
    let foreign = browser.ask("POST", "/console/logout", &origin, &stamped).await?;
    assert!(foreign.status == 403 && foreign.body.contains("another address"), "{foreign:?}");
    let plain = Browser::new(&gateway).with(pair).get("/console").await;
    assert!(plain.is_err(), "the address speaks TLS alone: {plain:?}");

    let out = browser.post("/console/logout", &[]).await?;
    let gone = "__Host-fieldgate-line-1=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure";
    assert_eq!((out.status, out.header("set-cookie")), (303, Some(gone)), "{out:?}");
    assert_eq!(browser.with(pair).get("/console").await?.status, 303);

    // In plain the name is nobody's, whoever's the key is.
    let plain = Gateway::start_new(BINARY, "line-1", "").await?;
    let browser = Browser::of(&plain, "anna", "admin").await?;
    let own = browser.cookie.clone().context("no cookie")?;
    let hosted = format!("__Host-{own}");
    let seen = [browser.with(&own).get("/console").await?.status, browser.with(&hosted).get("/console").await?.status];
    assert_eq!(seen, [200, 303]);
    Ok(())
}

#[tokio::test]
async fn the_configuration_is_compared_when_a_file_has_changed_or_somebody_asks() -> Told {
    let point = |name: &str| format!("[[point]]\nname = \"{name}\"\nat = \"holding:0\"\ntype = \"u16\"\n");
    let link = "[[modbus]]\nurl = \"tcp://127.0.0.1:1\"\n[[modbus.device]]\nid = \"press-1\"\nunit = 1\npoints_from = \"map.toml\"\n";
    let mut gateway = Gateway::new(BINARY, "line-1", link)?;
    std::fs::write(gateway.folder().join("map.toml"), point("a"))?;
    gateway.start().await?;
    let mut viewer = Browser::of(&gateway, "vera", "viewer").await?;
    let looked = |page: &Answer| {
        let (_, rest) = page.body.split_once("Looked at <time datetime=\"").context("no moment")?;
        Ok::<_, anyhow::Error>(rest.split('"').next().unwrap_or_default().to_owned())
    };
    // Each look is as of another second: one that is seen for longer is kept.
    let mut first: Option<(String, Instant)> = None;
    let kept = eventually("a look that is kept", PATIENCE, async || {
        let page = viewer.get("/console/configuration").await?;
        assert!(page.body.contains("would change nothing"), "{page:?}");
        let moment = looked(&page)?;
        match &first {
            Some((seen, since)) if *seen == moment => Ok((since.elapsed() > Duration::from_secs(2)).then_some(moment)),
            _ => {
                first = Some((moment, Instant::now()));
                Ok(None)
            }
        }
    });
    let kept = kept.await?;
    let afresh = looked(&viewer.get("/console/configuration?afresh=true").await?)?;
    assert!(afresh > kept, "{afresh} after {kept}");

    std::fs::write(gateway.folder().join("map.toml"), point("b"))?;
    let page = viewer.get("/console/configuration").await?;
    assert!(page.body.contains("tcp://127.0.0.1:1") && page.body.contains("restarted"), "{page:?}");
    gateway.configure(&format!("{link}[commands]\ntimeout = \"7s\"\n"))?;
    let page = viewer.get("/console/configuration").await?;
    assert!(page.body.contains("restarted") && page.body.contains("commands.timeout"), "{page:?}");
    gateway.verb(&["reload"]).await?.ok()?;
    let page = viewer.get("/console/configuration").await?;
    assert!(page.body.contains("would change nothing"), "{page:?}");
    // What is wrong is looked at each time.
    gateway.configure("[commands]\ntimeout = 5\n")?;
    for _ in 0..2 {
        let page = viewer.get("/console/configuration").await?;
        assert!(page.body.contains("gateway.toml") && page.body.contains("commands.timeout: a duration"), "{page:?}");
    }
    gateway.configure(link)?;
    assert!(viewer.get("/console/configuration").await?.body.contains("commands.timeout"), "back to the default");
    Ok(())
}

#[tokio::test]
async fn a_session_is_another_after_each_sign_in_and_ends_with_it_and_with_the_password() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let mut browser = Browser::of(&gateway, "anna", "admin").await?;
    let first = browser.cookie.clone().context("no cookie")?;
    // A key that somebody else has put there is not taken over, and the one before is over.
    browser.sign_in("anna", PASSWORD).await?;
    let second = browser.cookie.clone().context("no cookie")?;
    assert_ne!(first, second);
    let with =
        async |cookie: &str| Ok::<_, anyhow::Error>(Browser::new(&gateway).with(cookie).get("/console").await?.status);
    assert_eq!((with(&first).await?, with(&second).await?), (303, 200));
    let mut fixed = Browser::new(&gateway).with("fieldgate-line-1=planted");
    fixed.sign_in("anna", PASSWORD).await?;
    assert_eq!(with("fieldgate-line-1=planted").await?, 303);

    browser.get("/console").await?;
    let out = browser.post("/console/logout", &[]).await?;
    assert!(out.status == 303 && browser.cookie.is_none(), "{out:?}");
    assert_eq!(with(&second).await?, 303);
    let third = fixed.cookie.clone().context("no cookie")?;
    assert_eq!(with(&third).await?, 200);
    gateway.verb_with_input(&["console", "user", "passwd", "anna"], "another horse altogether").await?.ok()?;
    assert_eq!(with(&third).await?, 303);
    let short = gateway.verb_with_input(&["console", "user", "passwd", "anna"], "short").await?;
    assert!(short.code == Some(1) && short.stderr.contains("10 to 256"), "{short:?}");
    let list = gateway.verb(&["console", "user", "list"]).await?.ok()?;
    assert!(list.contains("anna") && list.contains("admin"), "{list}");

    let mut anna = Browser::new(&gateway);
    anna.sign_in("anna", "another horse altogether").await?;
    anna.get("/console/account").await?;
    let fields = [("old", "another horse altogether"), ("password", PASSWORD), ("again", PASSWORD)];
    let wrong = anna.post("/console/account/password", &[("old", "guess"), fields[1], fields[2]]).await?;
    assert_eq!(wrong.status, 403, "{wrong:?}");
    let set = anna.post("/console/account/password", &fields).await?;
    assert_eq!((set.status, set.header("location")), (303, Some("/console/login")), "{set:?}");
    assert_eq!(anna.sign_in("anna", PASSWORD).await?.status, 303);
    gateway.verb(&["console", "user", "remove", "anna"]).await?.ok()?;
    assert_eq!(anna.get("/console").await?.header("location"), Some("/console/setup"));
    audited(&gateway, "console_sign_in", 5).await?;
    audited(&gateway, "console_sign_out", 1).await?;
    Ok(())
}

#[tokio::test]
async fn the_sixth_wrong_password_is_not_looked_at() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    Browser::of(&gateway, "anna", "admin").await?;
    let mut browser = Browser::new(&gateway);
    for _ in 0..5 {
        let wrong = browser.sign_in("anna", "wrong").await?;
        assert!(wrong.status == 401 && wrong.body.contains("wrong account or password"), "{wrong:?}");
    }
    let unknown = browser.sign_in("nobody", "wrong").await?;
    assert!(unknown.status == 401 && unknown.body.contains("wrong account or password"), "{unknown:?}");
    let late = browser.sign_in("anna", PASSWORD).await?;
    assert!(late.status == 429 && late.body.contains("try again in") && browser.cookie.is_none(), "{late:?}");
    let hostile = browser.sign_in(HOSTILE, HOSTILE).await?;
    assert!(hostile.status == 401 && !hostile.body.contains("alert("), "{hostile:?}");
    audited(&gateway, "console_refused", 8).await?;
    Ok(())
}

/// What a device, or a hand at the keyboard, wrote stands on the page as text.
fn harmless(answer: &Answer) {
    let body = answer.body.to_lowercase();
    assert!(!body.contains("<script>") && !body.contains("<img") && !body.contains("\" onerror"), "{answer:?}");
}

#[tokio::test]
async fn a_device_is_added_used_seen_and_revoked_and_what_it_says_is_text() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let mut admin = Browser::of(&gateway, "anna", "admin").await?;
    admin.get("/console/enrol").await?;
    let bad = admin.post("/console/enrol/device", &[("id", HOSTILE), ("role", "device")]).await?;
    assert_eq!(bad.status, 400);
    harmless(&bad);
    let added = admin.post("/console/enrol/device", &[("id", "press-7"), ("role", "device"), ("validity", "")]).await?;
    assert_eq!(added.header("location"), Some("/console/bundle/press-7"), "{added:?}");
    assert!(admin.get("/console/bundle/press-7").await?.body.contains("Download press-7.tar"));
    let tar = admin.post("/console/bundle/press-7", &[]).await?;
    assert_eq!(tar.header("content-disposition"), Some("attachment; filename=\"press-7.tar\""));
    let again = admin.post("/console/bundle/press-7", &[]).await?;
    assert!(again.status == 410 && again.body.contains("add it again"), "{again:?}");
    let folder = gateway.folder().join("fetched");
    std::fs::create_dir_all(folder.join("press-7"))?;
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let (_, rest) = tar.body.split_once(&format!("press-7/{name}")).context("not in the bundle")?;
        let begin = rest.find("-----BEGIN").context("no PEM")?;
        let text = rest[begin..].split('\0').next().unwrap_or_default();
        std::fs::write(folder.join("press-7").join(name), text)?;
    }
    let leaf =
        Leaf::connect(&Bundle::new("press-7", folder.join("press-7")), gateway.broker(), Options::new(Version::V5))
            .await?;

    let page = admin.get("/console/device/press-7").await?;
    assert!(page.status == 200 && page.body.contains("Nothing has come"), "{page:?}");
    let stream = format!("devices/press-7/telemetry/{HOSTILE}");
    assert_eq!(leaf.publish(&stream, HOSTILE).await?, Ack::Accepted);
    assert_ne!(leaf.publish(&format!("elsewhere/{HOSTILE}"), HOSTILE).await?, Ack::Accepted);
    let page = eventually("what it has sent", PATIENCE, async || {
        let page = admin.get("/console/device/press-7").await?;
        Ok((page.body.contains("telemetry/&lt;script&gt;") && page.body.contains("elsewhere")).then_some(page))
    });
    harmless(&page.await?);
    for path in ["/console/devices", "/console/audit?q=refused", &format!("/console/audit?{}", form(&[("q", HOSTILE)]))]
    {
        let page = admin.get(path).await?;
        assert!(
            page.status == 200 && page.body.contains("press-7") || page.body.contains("&lt;script&gt;"),
            "{page:?}"
        );
        harmless(&page);
    }
    harmless(&admin.get(&format!("/console/device/{}", form(&[("", HOSTILE)]).trim_start_matches('='))).await?);

    admin.get("/console/device/press-7/revoke").await?;
    let revoked = admin.post("/console/device/press-7/revoke", &[]).await?;
    assert_eq!(revoked.header("location"), Some("/console/device/press-7?done=revoked"), "{revoked:?}");
    leaf.wait_ended(PATIENCE).await?;
    let page = admin.get("/console/device/press-7?done=revoked").await?;
    assert!(page.body.contains("certificates are good no more") && page.body.contains("revoked"), "{page:?}");
    let changes = audited(&gateway, "console_change", 5).await?;
    let routes: Vec<_> = changes.iter().map(|line| line["route"].as_str().unwrap_or_default()).collect();
    assert!(routes.contains(&"POST /console/device/press-7/revoke"), "{routes:?}");
    assert!(changes.iter().all(|line| line["account"] == "anna" && line["peer"].is_string()), "{changes:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_is_shown_once_as_text_and_picture() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let mut admin = Browser::of(&gateway, "anna", "admin").await?;
    admin.get("/console/enrol").await?;
    let made = admin.post("/console/enrol/token", &[("id", "press-8"), ("role", "device")]).await?;
    let (_, rest) = made.body.split_once("<code class=\"token\">").context("no token")?;
    let token = rest.split('<').next().unwrap_or_default();
    assert!(token.len() == 32 && made.body.contains("<svg class=\"qr\""), "{made:?}");
    assert!(!admin.get("/console/device/press-8").await?.body.contains(token));
    assert!(admin.get("/console/devices?state=never").await?.body.contains("press-8"));
    assert!(!admin.get("/console/devices?state=online").await?.body.contains("press-8"));
    Ok(())
}

#[tokio::test]
async fn a_point_is_seen_and_written_and_the_log_says_old_and_new() -> Told {
    let plc = Simulator::start("127.0.0.1:0".parse()?)?;
    plc.set_holding(10, &[40]);
    let sections = format!(
        "[[modbus]]\nurl = \"tcp://{}\"\ntimeout = \"500ms\"\n[[modbus.device]]\nid = \"press-1\"\nunit = 1\ninterval = \"100ms\"\n\
         [[modbus.device.point]]\nname = \"setpoint\"\nat = \"holding:10\"\ntype = \"u16\"\naccess = \"rw\"\nrange = [0, 90]\nunit = \"bar\"\n\
         description = \"<b>of the pump</b>\"\n",
        plc.addr()
    );
    let gateway = Gateway::start_new(BINARY, "line-1", &sections).await?;
    let mut admin = Browser::of(&gateway, "anna", "admin").await?;
    let page = eventually("the value", PATIENCE, async || {
        let page = admin.get("/console/device/press-1").await?;
        Ok(page.body.contains("<strong>40</strong> bar").then_some(page))
    });
    let page = page.await?;
    assert!(page.body.contains("&lt;b&gt;of the pump"), "{page:?}");
    let sure = admin.get("/console/device/press-1/command?point=setpoint&value=55").await?;
    assert!(sure.status == 200 && sure.body.contains("Now: <strong>40</strong>"), "{sure:?}");
    let path = "/console/device/press-1/command";
    let done = admin.post(path, &[("point", "setpoint"), ("value", "55")]).await?;
    assert!(done.status == 200 && done.body.contains("<h1>Done</h1>"), "{done:?}");
    let high = admin.post(path, &[("point", "setpoint"), ("value", "91")]).await?;
    assert!(high.body.contains("out of range"), "{high:?}");
    let writes = audited(&gateway, "field_write", 2).await?;
    let told = |line: &Json| (line["old"].clone(), line["new"].clone(), line["by"].clone(), line["status"].clone());
    assert_eq!(told(&writes[0]), (40.into(), 55.into(), "console:anna".into(), "ok".into()));
    assert_eq!(writes[1]["status"], "rejected");
    Ok(())
}

/// Reads on until `wanted` has come.
async fn until(stream: &mut TcpStream, seen: &mut String, wanted: &str) -> Told {
    let read = async {
        while !seen.contains(wanted) {
            let mut bytes = vec![0; 16 * 1024];
            let count = stream.read(&mut bytes).await?;
            anyhow::ensure!(count > 0, "it ended without {wanted}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, read).await.with_context(|| format!("no {wanted}"))?
}

#[tokio::test]
async fn live_parts_come_and_end_with_the_session_and_with_the_gateway() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    let admin = gateway.admin()?;
    let watch = async |path: &str, cookie: &str| {
        let mut stream = TcpStream::connect(admin).await?;
        let text = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        Ok::<_, anyhow::Error>((stream, String::new()))
    };
    let kept;
    {
        let mut browser = Browser::of(&gateway, "anna", "admin").await?;
        let first = browser.cookie.clone().context("no cookie")?;
        let (mut stream, mut seen) = watch("/console/device/press-1/live", &first).await?;
        until(&mut stream, &mut seen, "text/event-stream").await?;
        until(&mut stream, &mut seen, "Nothing has come").await?;
        leaf.publish("devices/press-1/telemetry/t", HOSTILE).await?;
        until(&mut stream, &mut seen, "telemetry/t").await?;
        assert!(!seen.contains("<script"), "{seen}");
        browser.post("/console/logout", &[]).await?;
        until(&mut stream, &mut seen, "event: over").await?;
        browser.sign_in("anna", PASSWORD).await?;
        kept = browser.cookie.clone().context("no cookie")?;
    }
    let (mut stream, mut seen) = watch("/console/live", &kept).await?;
    until(&mut stream, &mut seen, "\"upstream\"").await?;
    let began = Instant::now();
    gateway.stop().await?;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    Ok(())
}
