//! The guide's commands, run as they stand there: each page in a folder of its own, with simulated devices in the place
//! of the addresses of the examples, and ports of this machine in the place of the usual ones.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, bail};
use fieldgate_modbus::sim::Simulator as Plc;
use fieldgate_opcua::sim::{Options as Server, Simulator as Opcua};
use fieldgate_testkit::{Ack, Bundle, Cloud, Leaf, Options, PATIENCE, Upstream, Version, eventually, port};

use crate::stage::{BINARY, Told, root};

/// A block and what stands behind its fence.
struct Block {
    info: String,
    text: String,
}

fn blocks(page: &str) -> anyhow::Result<Vec<Block>> {
    let text = std::fs::read_to_string(root().join("gateway/docs/guide").join(page))?;
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(info) => {
                inside = true;
                found.push(Block { info: info.to_owned(), text: String::new() });
            }
            None if inside => found.last_mut().context("no block")?.text.extend([line, "\n"]),
            None => {}
        }
    }
    Ok(found)
}

/// What the examples name, and what is there instead.
struct Stand {
    folder: tempfile::TempDir,
    replaced: Vec<(&'static str, String)>,
    gateway: Option<Child>,
    _devices: (Plc, Opcua),
}

impl Stand {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (broker, admin) = (port::free_address()?, port::free_address()?);
        let plc = Plc::start("127.0.0.1:0".parse()?)?;
        plc.set_holding(0, &[0, 0x41ac]);
        let pki = folder.path().join("server-pki");
        let opcua = Opcua::start("127.0.0.1:0".parse()?, Server::new(&pki))?;
        let replaced = vec![
            ("opc.tcp://192.0.2.20:4840", opcua.endpoint()),
            ("192.0.2.10:502", plc.addr().to_string()),
            ("0.0.0.0:8883", broker.to_string()),
            ("-p 8883", format!("-p {}", broker.port())),
            ("127.0.0.1:9080", admin.to_string()),
        ];
        Ok(Self { folder, replaced, gateway: None, _devices: (plc, opcua) })
    }

    fn command(&self, script: &str) -> anyhow::Result<Command> {
        let binaries = Path::new(BINARY).parent().context("the binary lies in a folder")?;
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path()).env("PATH", path);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it where it may wait.
    async fn output(&self, script: &str) -> anyhow::Result<Output> {
        let mut command = self.command(script)?;
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// Does what a block says; what it printed.
    async fn follow(&mut self, block: &Block) -> anyhow::Result<String> {
        let text = self.replaced.iter().fold(block.text.clone(), |text, (from, to)| text.replace(from, to));
        match block.info.split_once(' ').unwrap_or((&block.info, "")) {
            ("toml", target) => {
                let (how, file) = target.split_once('=').context("file=NAME or append=NAME")?;
                let path = self.folder.path().join(file);
                let before = if how == "append" { std::fs::read_to_string(&path)? } else { String::new() };
                std::fs::write(&path, before + "\n" + &text)?;
                Ok(String::new())
            }
            ("sh", "run") => {
                let output = self.output(&text).await?;
                let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
                if !output.status.success() {
                    bail!("{text}gave {}:\n{out}{err}", output.status);
                }
                Ok(out)
            }
            ("sh", "start") => {
                let line = text.trim().strip_suffix('&').context("a block that starts ends with &")?;
                self.start(line)?;
                let socket = self.folder.path().join("data/admin.sock");
                eventually("the gateway", PATIENCE * 2, async || Ok(socket.exists().then_some(()))).await?;
                self.ready("fieldgate status").await
            }
            ("sh", "publish") => self.publish(&text).await,
            // Shown, not run.
            ("sh", "") => Ok(String::new()),
            other => bail!("a block of no known kind: {other:?}"),
        }
    }

    fn start(&mut self, line: &str) -> Told {
        let mut command = self.command(&format!("exec {line}"))?;
        self.gateway = Some(command.stderr(Stdio::null()).stdout(Stdio::null()).spawn()?);
        Ok(())
    }

    async fn ready(&self, status: &str) -> anyhow::Result<String> {
        eventually("status", PATIENCE * 2, async || {
            let output = self.output(status).await?;
            Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
        })
        .await
    }

    /// What `mosquitto_pub` does with these arguments, by a client that every machine has: this one.
    async fn publish(&self, text: &str) -> anyhow::Result<String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |flag: &str| {
            let place = words.iter().position(|word| *word == flag).with_context(|| format!("no {flag}"))?;
            words.get(place + 1).copied().with_context(|| format!("nothing after {flag}"))
        };
        assert_eq!((words.first(), after("-q")?, after("-h")?), (Some(&"mosquitto_pub"), "1", "localhost"), "{text}");
        let folder = self.folder.path().join(after("-i")?);
        for (flag, file) in [("--cafile", "ca.pem"), ("--cert", "cert.pem"), ("--key", "key.pem")] {
            assert_eq!(self.folder.path().join(after(flag)?), folder.join(file), "{text}");
        }
        let address = format!("127.0.0.1:{}", after("-p")?).parse()?;
        let leaf = Leaf::connect(&Bundle::new(after("-i")?, folder), address, Options::new(Version::V311)).await?;
        let message = after("-m")?.trim_matches('\'');
        assert_eq!(leaf.publish(after("-t")?, message).await?, Ack::Accepted);
        Ok(String::new())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(mut gateway) = self.gateway.take() {
            let (killed, ended) = (gateway.kill(), gateway.wait());
            if let (Err(error), _) | (_, Err(error)) = (killed, ended) {
                eprintln!("the gateway could not be ended: {error}");
            }
        }
    }
}

/// Follows a page; all that its commands printed.
async fn follow(page: &str) -> anyhow::Result<String> {
    let mut stand = Stand::new()?;
    let mut said = String::new();
    let blocks = blocks(page)?;
    assert!(blocks.len() > 3, "{page} has {} blocks", blocks.len());
    for block in &blocks {
        said.push_str(&stand.follow(block).await.with_context(|| format!("{page}: {}", block.text))?);
    }
    println!("{page}:\n{said}");
    Ok(said)
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
}

/// What is typed in the block of README.md that leads from a clone to a value at a broker.
fn typed() -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let (_, section) = text.split_once("\n## From a clone to a value at a broker\n").context("no such section")?;
    let block = section.split("```").nth(1).context("no block")?.replace("\\\n", "");
    Ok(block.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect())
}

#[tokio::test]
async fn the_commands_of_the_readme_lead_from_a_clone_to_a_value_at_a_broker() -> Told {
    let commands = typed()?;
    let [clone, build, configure, run, add, publish] = commands.as_slice() else { bail!("not six: {commands:?}") };
    // A clone of this is here, and it is built.
    assert_eq!(clone, "git clone … fieldgate && cd fieldgate");
    assert_eq!(build, "cargo build --release && export PATH=\"$PWD/target/release:$PATH\"");
    let (mut stand, cloud) = (Stand::new()?, Cloud::start(Upstream::V5).await?);
    let replaced = |of: &str| {
        let to = |from: &str| stand.replaced.iter().find(|(known, _)| *known == from).map(|(_, to)| to.clone());
        to(of).with_context(|| format!("nothing for {of}"))
    };
    let (broker, admin, port) = (replaced("0.0.0.0:8883")?, replaced("127.0.0.1:9080")?, replaced("-p 8883")?);
    let configure = configure.replace("localhost:1883", &cloud.address().to_string());
    assert!(stand.output(&configure).await?.status.success(), "{configure}");
    let run = run.strip_suffix(" &").context("it stays in the foreground")?;
    // Where two of these run at a time, the ports are not the usual ones.
    stand.start(&format!("env FIELDGATE_ADMIN__LISTEN={admin} FIELDGATE_BROKER__LISTEN='[\"{broker}\"]' {run}"))?;
    stand.ready("fieldgate -c plant/gateway.toml status").await?;
    let (add, watch) = add.split_once(" && ").context("nobody looks")?;
    assert_eq!(watch, "mosquitto_sub -h localhost -t 'fieldgate/#' -v &");
    let added = stand.output(add).await?;
    says(&String::from_utf8(added.stdout)?, &["device press-7 added: ca.pem, cert.pem, key.pem in press-7"]);
    stand.publish(&publish.replace("-p 8883", &port)).await?;
    let topic = "fieldgate/line-4/devices/press-7/telemetry/vibration";
    cloud.wait_for(topic, |message| message.payload == br#"{"rms":0.42}"#[..]).await?;
    Ok(())
}

#[tokio::test]
async fn the_first_device_is_added_heard_and_revoked() -> Told {
    let said = follow("first-device.md").await?;
    says(&said, &["no problems", "device press-7 added", "denied", "device press-7 revoked"]);
    Ok(())
}

#[tokio::test]
async fn the_first_plc_is_planned_read_and_written() -> Told {
    let said = follow("first-plc.md").await?;
    says(&said, &["every 1000 ms", "21.5", "press-1 setpoint 42", "press-1 temperature 21.5"]);
    Ok(())
}

#[tokio::test]
async fn the_first_opcua_server_is_browsed_and_read() -> Told {
    let said = follow("first-opcua-server.md").await?;
    says(&said, &["level", "boiler-7"]);
    Ok(())
}

#[tokio::test]
async fn going_offline_keeps_what_was_acknowledged() -> Told {
    let said = follow("going-offline.md").await?;
    says(&said, &["press-7", "messages waiting", "PROBLEM  the upstream is not connected", "next: "]);
    Ok(())
}

#[tokio::test]
async fn certificates_are_rotated_and_the_root_key_is_taken_away() -> Told {
    let said = follow("certificates-over-the-years.md").await?;
    says(&said, &["issuing CA 2 made"]);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_is_prepared() -> Told {
    let said = follow("upgrading.md").await?;
    says(&said, &["line-4.age", "no problems", "lines are whole"]);
    Ok(())
}

#[test]
fn every_page_is_in_the_list_and_every_verb_in_it_exists() -> Told {
    let folder = root().join("gateway/docs/guide");
    let list = std::fs::read_to_string(folder.join("README.md"))?;
    for entry in std::fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert!(name == "README.md" || list.contains(&format!("]({name})")), "{name} is not in the list");
        let text = std::fs::read_to_string(folder.join(&name))?;
        for command in text.split("`fieldgate ").skip(1) {
            let verb = command.split(['`', ' ', '\n']).next().unwrap_or_default();
            let help = std::process::Command::new(BINARY).args([verb, "--help"]).output()?;
            assert!(help.status.success(), "{name}: fieldgate {verb}");
        }
    }
    Ok(())
}
