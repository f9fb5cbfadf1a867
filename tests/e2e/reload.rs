//! Another configuration while the gateway runs: what changed is changed, what didn't is not touched, and what is wrong
//! changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fieldgate_modbus::sim::Simulator;
use fieldgate_testkit::{
    Ack, Cloud, Gateway, Leaf, Options, PATIENCE, Upstream, Version, eventually, port, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};

use crate::stage::{BINARY, Stage, Told};

const INTERVAL: Duration = Duration::from_millis(500);

/// One link to one device, with more keys of its one point.
fn link(at: SocketAddr, device: &str, point: &str) -> String {
    let interval = INTERVAL.as_millis();
    format!(
        "[[modbus]]\nurl = \"tcp://{at}\"\ntimeout = \"10s\"\n[[modbus.device]]\nid = \"{device}\"\ninterval = \"{interval}ms\"\n[[modbus.device.point]]\nname = \"t\"\nat = \"holding:0\"\ntype = \"u16\"\n{point}\n"
    )
}

fn simulator(value: u16) -> std::io::Result<Simulator> {
    let device = Simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    device.set_holding(0, &[value]);
    Ok(device)
}

fn hang_up(gateway: &Gateway) -> Told {
    let pid = Pid::from_raw(gateway.pid()?.cast_signed()).ok_or_else(|| anyhow::anyhow!("no process"))?;
    Ok(kill_process(pid, Signal::HUP)?)
}

/// The steps of a report that do something, as the command line writes them.
fn changes(report: &Json) -> Vec<String> {
    let steps = report["steps"].as_array().cloned().unwrap_or_default();
    let shown = |step: &Json| {
        let what = step["what"].as_str().map(|what| format!(" {what}")).unwrap_or_default();
        format!("{} {}{what}", step["change"].as_str().unwrap_or_default(), step["key"].as_str().unwrap_or_default())
    };
    steps.iter().filter(|step| step["change"] != "kept").map(shown).collect()
}

async fn reload(gateway: &Gateway) -> anyhow::Result<Json> {
    gateway.ask("POST", "/api/v1/reload", "").await?.json()
}

async fn connects(gateway: &Gateway) -> anyhow::Result<BTreeMap<String, u64>> {
    let status = gateway.ask("GET", "/api/v1/status", "").await?.json()?;
    let links = status["links"].as_array().cloned().unwrap_or_default();
    Ok(links
        .iter()
        .map(|l| (l["link"].as_str().unwrap_or_default().to_owned(), l["connects"].as_u64().unwrap_or(0)))
        .collect())
}

/// The longest time without a request at each of them while `work` is done, and the longest time for which this machine gave
/// the one that looks no turn.
async fn longest_silence(
    devices: &[Simulator],
    work: impl Future<Output = Told>,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let begin = Instant::now();
    let mut seen: Vec<(u64, Instant, Duration)> =
        devices.iter().map(|device| (device.requests(), begin, Duration::ZERO)).collect();
    let mut look = tokio::time::interval(Duration::from_millis(10));
    let (mut looked, mut lag) = (begin, Duration::ZERO);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                done?;
                return Ok((seen.into_iter().map(|(_, _, longest)| longest).collect(), lag));
            }
            _ = look.tick() => {
                let now = Instant::now();
                (looked, lag) = (now, lag.max(now.duration_since(looked)));
                for (device, (count, since, longest)) in devices.iter().zip(&mut seen) {
                    *longest = (*longest).max(now.duration_since(*since));
                    let requests = device.requests();
                    if requests != *count {
                        (*count, *since) = (requests, now);
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_changed_device_of_fifty_is_all_that_is_touched_and_a_broken_file_changes_nothing() -> Told {
    let devices: Vec<Simulator> = (0..50).map(|_| simulator(10)).collect::<Result<_, _>>()?;
    let sections = |changed: &str| -> String {
        let point = |n: usize| if n == 7 { changed } else { "" };
        devices.iter().enumerate().map(|(n, device)| link(device.addr(), &format!("press-{n}"), point(n))).collect()
    };
    let stage = Stage::start("line-1", &sections("")).await?;
    let gateway = &stage.gateway;
    let mut leaves = Vec::new();
    for n in 0..3 {
        let bundle = gateway.add_device(&format!("leaf-{n}")).await?;
        leaves.push(Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?);
    }
    for n in 0..50 {
        stage.wait_points(&format!("press-{n}"), 0, |object| object["values"]["t"] == 10).await?;
    }
    let before = connects(gateway).await?;
    let work = async {
        let known = stage.documents("press-7");
        stage.configure(&sections("scale = 2.0"))?;
        let plan: Json = serde_json::from_str(&gateway.verb(&["reload", "--plan", "--json"]).await?.ok()?)?;
        let seventh = format!("restarted modbus tcp://{}", devices[7].addr());
        assert_eq!(changes(&plan), [seventh.as_str()], "{plan}");
        assert_eq!((&plan["ok"], &plan["applied"]), (&json!(true), &json!(false)), "{plan}");
        let said = gateway.verb(&["reload"]).await?.ok()?;
        assert!(said.contains(": changed `press-7`") && said.contains("1 changes done"), "{said}");
        stage.wait_points("press-7", known, |object| object["values"]["t"] == 20.0).await?;

        // A broken file, by both ways.
        let good = std::fs::read_to_string(gateway.config())?;
        let lines = good.lines().count();
        std::fs::write(gateway.config(), format!("{good}[upstraem]\n[commands]\ntimeout = 5\n"))?;
        let refused = gateway.verb(&["reload"]).await?;
        let place = |line: usize, column: usize| format!("gateway.toml:{}:{column}: ", lines + line);
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert!(
            refused.stderr.contains(&format!("{}upstraem: unknown key, did you mean `upstream`?", place(1, 2))),
            "{}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains(&format!("{}commands.timeout: a duration", place(3, 11))),
            "{}",
            refused.stderr
        );
        let logged = || gateway.log().iter().filter(|line| line.contains(&place(1, 2))).count();
        let said = logged();
        hang_up(gateway)?;
        wait_until("the located message in the log", PATIENCE, || (logged() > said).then_some(())).await?;
        eventually("the line in the audit log", PATIENCE, async || {
            let audit = gateway.ask("GET", "/api/v1/audit?lines=50", "").await?.body;
            let there = audit.contains("reload_refused") && audit.contains(&place(1, 2)) && audit.contains("SIGHUP");
            Ok(there.then_some(()))
        })
        .await?;
        std::fs::write(gateway.config(), good)?;
        let nothing = reload(gateway).await?;
        assert_eq!((changes(&nothing).len(), &nothing["ok"], &nothing["applied"]), (0, &json!(true), &json!(false)));

        for (n, leaf) in leaves.iter().enumerate() {
            for _ in 0..20 {
                assert_eq!(leaf.publish(&format!("devices/leaf-{n}/telemetry/t"), "1").await?, Ack::Accepted);
            }
        }
        // Enough for another poll of each.
        let asked: Vec<u64> = devices.iter().map(Simulator::requests).collect();
        wait_until("another poll of each", PATIENCE, || {
            devices.iter().zip(&asked).all(|(device, asked)| device.requests() > *asked + 1).then_some(())
        })
        .await
    };
    let (silences, lag) = longest_silence(&devices, work).await?;
    // On a machine that is not overloaded: less than two intervals.
    let allowed = INTERVAL * 2 + lag * 8;
    for (n, silence) in silences.iter().enumerate().filter(|(n, _)| *n != 7) {
        assert!(*silence < allowed, "press-{n} was not asked for {silence:?}; lag {lag:?}");
    }
    let mut after = connects(gateway).await?;
    let seventh = format!("tcp://{}", devices[7].addr());
    assert_eq!(after.len(), 50);
    after.insert(seventh.clone(), before[&seventh]);
    assert_eq!(after, before, "no other link was connected anew");
    assert!(leaves.iter().all(|leaf| leaf.ended().is_none()), "no leaf session drops");
    for n in (0..50).filter(|n| *n != 7) {
        let states = stage.cloud.on(&stage.topic(&format!("devices/press-{n}/state")));
        assert!(
            states.iter().all(|state| state.json()["online"] == true),
            "press-{n} was offline: its link was restarted"
        );
    }
    Ok(())
}

#[tokio::test]
async fn devices_come_and_go_with_birth_and_death() -> Told {
    let (one, two) = (simulator(1)?, simulator(2)?);
    let stage = Stage::start("line-1", &link(one.addr(), "press-1", "")).await?;
    let gateway = &stage.gateway;
    stage.wait_points("press-1", 0, |object| object["values"]["t"] == 1).await?;
    stage.configure(&link(two.addr(), "press-2", "description = \"new\""))?;
    assert_eq!(
        changes(&reload(gateway).await?),
        [format!("added modbus tcp://{}", two.addr()), format!("removed modbus tcp://{}", one.addr())]
    );
    let topic = stage.topic("devices/press-1/state");
    let gone = stage.cloud.wait_for(&topic, |state| state.json()["online"] == false).await?.json();
    assert_eq!(gone["reason"], "it was removed from the configuration", "{gone}");
    let last = stage.wait_points("press-1", 1, |_| true).await?;
    assert_eq!(last["errors"]["t"], "BadNoCommunication", "{last}");
    stage.wait_points("press-2", 0, |object| object["values"]["t"] == 2).await?;
    let birth = stage.cloud.retained(&stage.topic("devices/press-2/birth")).await?.json();
    assert_eq!(birth["points"][0]["description"], "new", "{birth}");
    let topic = stage.topic("devices/press-2/state");
    stage.cloud.wait_for(&topic, |state| state.json()["online"] == true).await?;
    assert_eq!(gateway.verb(&["point", "read", "press-2", "t"]).await?.ok()?.trim(), "2");
    let read = r#"{"points":["t"]}"#;
    assert_eq!(stage.command("press-2", "read", "a", read).await?["status"], "ok");
    assert_eq!(stage.command("press-1", "read", "b", read).await?["status"], "rejected", "it is nobody now");
    let status = gateway.status().await?;
    let ids: Vec<&Json> = status["devices"].as_array().into_iter().flatten().map(|device| &device["id"]).collect();
    assert_eq!(ids, ["press-2"]);
    let asked = one.requests();
    stage.wait_points("press-2", 0, |_| true).await?;
    assert_eq!(one.requests(), asked, "the removed one is left alone");
    Ok(())
}

const POLICY: &str = "[[policy]]\nwho = \"user:hmi\"\nallow = \"subscribe\"\nfilter = \"devices/#\"\n";

#[tokio::test]
async fn a_right_that_goes_or_comes_counts_at_once_for_a_live_subscription() -> Told {
    let plain = port::free_address()?;
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    let hash = gateway.verb_with_input(&["user", "hash"], "secret").await?.ok()?;
    std::fs::write(gateway.folder().join("hmi.hash"), hash)?;
    let user = "[[broker.user]]\nname = \"hmi\"\npassword_hash_file = \"hmi.hash\"\n";
    let doors = format!("plain = [\"{plain}\"]");
    let configure = |sections: &str| gateway.configure_broker(&doors, sections);
    configure(&format!("{user}{POLICY}"))?;
    gateway.start().await?;
    let bundle = gateway.add_device("leaf-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    let hmi = Leaf::connect_user("hmi", "secret", None, plain, Options::new(Version::V5)).await?;
    assert_eq!(hmi.subscribe("devices/#").await?, 1);
    let topic = "devices/leaf-1/telemetry/t";
    let heard = |payload: &str| hmi.received().iter().any(|message| message.payload == payload.as_bytes());
    leaf.publish(topic, "1").await?;
    wait_until("the first message", PATIENCE, || heard("1").then_some(())).await?;

    let configure = |sections: &str| gateway.configure_broker(&doors, sections);
    configure(user)?;
    assert_eq!(changes(&reload(&gateway).await?), ["removed policy user:hmi subscribe devices/#"]);
    leaf.publish(topic, "2").await?;
    configure(&format!("{user}{POLICY}"))?;
    assert_eq!(changes(&reload(&gateway).await?), ["added policy user:hmi subscribe devices/#"]);
    leaf.publish(topic, "3").await?;
    wait_until("the third message", PATIENCE, || heard("3").then_some(())).await?;
    assert!(!heard("2"), "what came while it had no right to it is not for it");
    assert!(hmi.ended().is_none() && leaf.ended().is_none());

    // A user that is gone is gone; a user whose password is another comes back with the other one.
    let hash = gateway.verb_with_input(&["user", "hash"], "another").await?.ok()?;
    std::fs::write(gateway.folder().join("hmi.hash"), hash)?;
    assert_eq!(changes(&reload(&gateway).await?), ["changed broker.user hmi"]);
    hmi.wait_ended(PATIENCE).await?;
    assert!(Leaf::connect_user("hmi", "secret", None, plain, Options::new(Version::V5)).await.is_err());
    let hmi = Leaf::connect_user("hmi", "another", None, plain, Options::new(Version::V5)).await?;
    configure("")?;
    assert_eq!(
        changes(&reload(&gateway).await?),
        ["removed broker.user hmi", "removed policy user:hmi subscribe devices/#"]
    );
    hmi.wait_ended(PATIENCE).await?;
    assert!(leaf.ended().is_none());
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_is_changed_gets_what_waited_for_the_former() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let gateway = &stage.gateway;
    let bundle = gateway.add_device("leaf-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    stage.relay.cut();
    for n in 0..100 {
        assert_eq!(leaf.publish("devices/leaf-1/telemetry/t", n.to_string()).await?, Ack::Accepted);
    }
    let other = Cloud::start(Upstream::V5).await?;
    let with = |root: &str| {
        gateway.configure(&format!(
            "[upstream]\nurl = \"mqtt://{}\"\nretry_max = \"1s\"\nroot = \"{root}\"\n",
            other.address()
        ))
    };
    with("plant")?;
    let report = reload(gateway).await?;
    assert_eq!(changes(&report), [format!("restarted upstream {}", other.address())], "{report}");
    let topic = "plant/line-1/devices/leaf-1/telemetry/t";
    wait_until("all that waited", PATIENCE, || (other.on(topic).len() >= 100).then_some(())).await?;
    let arrived: Vec<String> =
        other.on(topic).iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect();
    let sent: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(arrived, sent, "each once, in order");
    assert!(leaf.ended().is_none());
    let ledger = stage.wait_drained().await?;
    let row = ledger["devices"].as_array().into_iter().flatten().find(|row| row["device"] == "leaf-1").cloned();
    let row = row.unwrap_or_default();
    assert!(row["received"].as_u64() >= Some(100) && row["received"] == row["delivered"], "{row}");

    // Without one nothing is stored for it, and with one again everything goes on.
    gateway.configure("")?;
    assert_eq!(changes(&reload(gateway).await?), [format!("removed upstream {}", other.address())]);
    leaf.publish("devices/leaf-1/telemetry/t", "local").await?;
    assert_eq!(gateway.buffer().await?["messages"], 0);
    with("plant")?;
    reload(gateway).await?;
    leaf.publish("devices/leaf-1/telemetry/t", "again").await?;
    other.wait_for(topic, |message| message.payload == b"again"[..]).await?;
    assert!(!other.on(topic).iter().any(|message| message.payload == b"local"[..]));
    Ok(())
}

#[tokio::test]
async fn addresses_and_limits_are_changed_under_the_sessions() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("leaf-1").await?;
    let app = gateway.add_device_as("app-1", "app").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    let (more, enrolment) = (port::free_address()?, port::free_address()?);
    let sections = format!(
        "[broker.limits]\npacket = \"1KiB\"\n[enrolment]\nlisten = \"{enrolment}\"\n[buffer]\nmax_size = \"8MiB\"\n"
    );
    let listen = |addresses: &str| {
        let text = format!(
            "[gateway]\nid = \"line-1\"\n[broker]\nlisten = [{addresses}]\n[admin]\nlisten = \"127.0.0.1:0\"\n{sections}"
        );
        std::fs::write(gateway.config(), text)
    };
    listen(&format!("\"{}\", \"{more}\"", gateway.broker()))?;
    assert_eq!(
        changes(&reload(&gateway).await?),
        [
            format!("added broker.listen {more}"),
            "changed broker.limits.packet".to_owned(),
            format!("added enrolment.listen {enrolment}"),
            "changed buffer.max_size".to_owned()
        ]
    );
    tokio::net::TcpStream::connect(enrolment).await?;
    let newcomer = Leaf::connect(&app, more, Options::new(Version::V5)).await?;
    let large = "x".repeat(2_000);
    assert_eq!(leaf.publish("devices/leaf-1/telemetry/t", large.clone()).await?, Ack::Accepted, "as it was told");
    newcomer.send("devices/leaf-1/telemetry/t", large).await?;
    newcomer.wait_ended(PATIENCE).await?;

    // Moved to all addresses on the same port, under the session.
    let all = SocketAddr::from(([0, 0, 0, 0], gateway.broker().port()));
    listen(&format!("\"{all}\""))?;
    let report = reload(&gateway).await?;
    assert_eq!(report["ok"], true, "{report}");
    assert!(tokio::net::TcpStream::connect(more).await.is_err(), "closed");
    drop(Leaf::connect(&app, gateway.broker(), Options::new(Version::V5)).await?);
    assert_eq!(leaf.publish("devices/leaf-1/telemetry/t", "1").await?, Ack::Accepted);

    // One that can't be had: nothing at all is changed.
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    listen(&format!("\"{all}\", \"{}\"", taken.local_addr()?))?;
    let report = reload(&gateway).await?;
    assert_eq!(
        (&report["ok"], report["error"].as_str().is_some_and(|error| error.contains("can't listen"))),
        (&json!(false), true),
        "{report}"
    );
    drop(Leaf::connect(&app, gateway.broker(), Options::new(Version::V5)).await?);
    assert!(leaf.ended().is_none());
    Ok(())
}

#[tokio::test]
async fn the_enrolment_port_moves_to_another_address_on_its_port_or_stays() -> Told {
    let here = port::free_address()?;
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], here.port()));
    let all = SocketAddr::from(([0, 0, 0, 0], here.port()));
    let enrolment = |listen: SocketAddr| format!("[enrolment]\nlisten = \"{listen}\"\n");
    let gateway = Gateway::start_new(BINARY, "line-1", &enrolment(here)).await?;
    let open = async |address: SocketAddr| tokio::net::TcpStream::connect(address).await.is_ok();

    // Somebody else is in the way at one address of all.
    let taken = std::net::TcpListener::bind(at(2))?;
    gateway.configure(&enrolment(all))?;
    let report = reload(&gateway).await?;
    let said = report["error"].as_str().unwrap_or_default();
    assert!(report["ok"] == false && said.contains(&format!("can't listen on {all} ([enrolment] listen)")), "{report}");
    assert!(open(here).await && !open(at(3)).await, "it is where it was");

    // It could move, and the broker can't.
    drop(taken);
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let more = format!("users_tls = [\"{}\"]", taken.local_addr()?);
    gateway.configure_broker(&more, &enrolment(all))?;
    let report = reload(&gateway).await?;
    assert_eq!(report["ok"], false, "{report}");
    assert!(open(here).await && !open(at(3)).await, "it is where it was");

    gateway.configure(&enrolment(all))?;
    assert_eq!(changes(&reload(&gateway).await?), [format!("restarted enrolment.listen {all}")]);
    assert!(open(here).await && open(at(3)).await);
    gateway.configure(&enrolment(at(3)))?;
    assert_eq!(reload(&gateway).await?["ok"], true);
    assert!(!open(here).await && open(at(3)).await);
    gateway.configure("")?;
    assert_eq!(changes(&reload(&gateway).await?), [format!("removed enrolment.listen {}", at(3))]);
    wait_until("the closed port", PATIENCE, || std::net::TcpStream::connect(at(3)).is_err().then_some(())).await?;
    Ok(())
}

#[tokio::test]
async fn the_admin_address_answers_to_the_names_of_a_reload() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let asked = async || {
        let text = "GET /readyz HTTP/1.1\r\nHost: gw.plant.example:9080\r\nConnection: close\r\n\r\n";
        Ok::<_, anyhow::Error>(gateway.say(text).await?.status)
    };
    assert_eq!(asked().await?, 421);
    for (names, status) in [("names = [\"gw.plant.example\"]", 200), ("", 421)] {
        gateway.configure_broker(names, "")?;
        assert_eq!(changes(&reload(&gateway).await?), ["changed broker.names"]);
        assert_eq!(asked().await?, status, "{names}");
    }
    Ok(())
}

#[tokio::test]
async fn reloads_at_once_are_done_one_after_the_other() -> Told {
    let device = simulator(1)?;
    let stage = Stage::start("line-1", &link(device.addr(), "press-1", "")).await?;
    let gateway = &stage.gateway;
    stage.wait_points("press-1", 0, |_| true).await?;
    stage.configure(&link(device.addr(), "press-1", "scale = 3.0"))?;
    hang_up(gateway)?;
    hang_up(gateway)?;
    let (one, two, three) = tokio::join!(reload(gateway), reload(gateway), reload(gateway));
    let applied = [one?, two?, three?].iter().filter(|report| report["applied"] == true).count();
    let by_signal =
        || gateway.log().iter().filter(|line| line.contains("was reloaded") && line.contains("SIGHUP")).count();
    wait_until("the signals' reload", PATIENCE, || (by_signal() > 0).then_some(())).await?;
    stage.wait_points("press-1", 0, |object| object["values"]["t"] == 3.0).await?;
    assert!(applied <= 1, "{applied}");
    let restarts = gateway.log().iter().filter(|line| line.contains("change=restarted")).count();
    assert_eq!(restarts, 1, "the first to come does it, the others find nothing to do");
    Ok(())
}

#[tokio::test]
async fn what_needs_a_restart_waits_and_another_gateway_is_refused_whole() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let admin = port::free_address()?;
    let write = |id: &str, data_dir: &str| {
        let text = format!(
            "[gateway]\nid = \"{id}\"\ndata_dir = \"{data_dir}\"\n[broker]\nlisten = [\"{}\"]\n[admin]\nlisten = \"{admin}\"\n[commands]\ntimeout = \"7s\"\n",
            gateway.broker()
        );
        std::fs::write(gateway.config(), text)
    };
    write("line-2", "data")?;
    let refused = gateway.verb(&["reload"]).await?;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(
        refused.stderr.contains("gateway.toml:2:6: gateway.id: `line-2` is another gateway than `line-1`"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("nothing was changed"), "{}", refused.stderr);
    write("line-1", "data")?;
    let report = reload(&gateway).await?;
    assert_eq!(changes(&report), ["changed commands.timeout".to_owned(), format!("waits admin.listen {admin}")]);
    let status = gateway.status().await?;
    assert_eq!(status["waiting"][0]["key"], "admin.listen", "{status}");
    assert!(gateway.verb(&["status"]).await?.ok()?.contains("WAITS     admin.listen"));
    let again = reload(&gateway).await?;
    assert_eq!((changes(&again), &again["applied"]), (vec![format!("waits admin.listen {admin}")], &json!(false)));
    eventually("the same address as before", PATIENCE, async || {
        Ok((gateway.get("/readyz").await?.status == 200).then_some(()))
    })
    .await
}
