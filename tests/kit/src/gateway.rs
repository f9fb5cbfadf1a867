//! The gateway's binary in a folder of its own.
//!
//! The broker's port is chosen before the first start and stays, so that devices find the gateway again after a kill;
//! the admin address gets a new port at each start and is read from the log. What was started ends with the value.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{Answer, Bundle, PATIENCE, eventually, http, port, wait_until};

/// The line by which the gateway says that it serves, with its admin address as a field.
const RUNNING: &str = "fieldgate is running";

/// What a verb of the binary gave.
#[derive(Debug, Clone)]
pub struct Verb {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Verb {
    fn of(output: Output) -> anyhow::Result<Self> {
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// The output, where the verb succeeded.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.code != Some(0) {
            bail!("exit code {:?}: {}{}", self.code, self.stderr, self.stdout);
        }
        Ok(self.stdout)
    }
}

#[derive(Debug, Default, Clone)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Running {
    child: Child,
    admin: SocketAddr,
    /// From the start of the process to ready.
    took: Duration,
    started: Instant,
}

/// A gateway: its folder, and its process while it runs.
pub struct Gateway {
    /// Its id.
    pub id: String,
    binary: PathBuf,
    folder: TempDir,
    broker: SocketAddr,
    log: Log,
    running: Option<Running>,
    quiet: bool,
}

impl Gateway {
    /// A gateway `id` that has not been started, with `sections` in its configuration besides `[gateway]`, `[broker]`
    /// and `[admin]`. Sub-tables such as `[broker.limits]` may be among them.
    pub fn new(binary: impl Into<PathBuf>, id: &str, sections: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("fieldgate-test-").tempdir()?;
        let (id, binary, broker) = (id.to_owned(), binary.into(), port::free_address()?);
        let gateway = Self { id, binary, folder, broker, log: Log::default(), running: None, quiet: false };
        gateway.configure(sections)?;
        Ok(gateway)
    }

    /// As [`Gateway::new`], and started.
    pub async fn start_new(binary: impl Into<PathBuf>, id: &str, sections: &str) -> anyhow::Result<Self> {
        let mut gateway = Self::new(binary, id, sections)?;
        gateway.start().await?;
        Ok(gateway)
    }

    /// The same, without its log at the end: for a run whose log nobody needs.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Writes the configuration anew, for the next start.
    pub fn configure(&self, sections: &str) -> anyhow::Result<()> {
        self.configure_broker("", sections)
    }

    /// As [`Gateway::configure`], with further keys of `[broker]`.
    pub fn configure_broker(&self, keys: &str, sections: &str) -> anyhow::Result<()> {
        let Self { id, broker, .. } = self;
        let text = format!(
            "[gateway]\nid = \"{id}\"\n\n[broker]\nlisten = [\"{broker}\"]\n{keys}\n\n[admin]\nlisten = \"127.0.0.1:0\"\n\n{sections}\n"
        );
        Ok(std::fs::write(self.config(), text)?)
    }

    /// The folder of the configuration, for files that it names.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where leaf devices connect.
    pub fn broker(&self) -> SocketAddr {
        self.broker
    }

    /// Where it answers HTTP, while it runs.
    pub fn admin(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.running()?.admin)
    }

    /// From the start of the process to ready, at the last start.
    pub fn start_took(&self) -> anyhow::Result<Duration> {
        Ok(self.running()?.took)
    }

    /// When the process was last started.
    pub fn started(&self) -> anyhow::Result<Instant> {
        Ok(self.running()?.started)
    }

    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running()?.child.id())
    }

    fn running(&self) -> anyhow::Result<&Running> {
        self.running.as_ref().context("the gateway does not run")
    }

    /// The lines of its log, of all starts.
    pub fn log(&self) -> Vec<String> {
        self.log.lines().clone()
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            bail!("the gateway runs already");
        }
        let before = self.log.lines().len();
        let started = Instant::now();
        let mut child = self.spawn()?;
        let address = wait_until("the line that says that the gateway runs", PATIENCE, || {
            let found = self.log.lines().iter().skip(before).find(|line| line.contains(RUNNING)).cloned();
            // Its end is an answer too.
            found.map(Some).or_else(|| child.try_wait().ok().flatten().map(|_| None))
        });
        let line = match address.await {
            Ok(Some(line)) => line,
            failed => {
                let (killed, ended) = (child.kill(), child.wait());
                bail!("the gateway did not start ({failed:?}, {killed:?}, {ended:?}):\n{}", self.log().join("\n"));
            }
        };
        let admin = line.split_whitespace().find_map(|word| word.strip_prefix("admin="));
        let admin: SocketAddr = admin.with_context(|| format!("no admin address in {line}"))?.parse()?;
        self.running = Some(Running { child, admin, took: Duration::ZERO, started });
        let ready = async || Ok((self.ask("GET", "/readyz", "").await?.status == 200).then_some(()));
        eventually("/readyz", PATIENCE, ready).await?;
        let took = started.elapsed();
        self.running.iter_mut().for_each(|running| running.took = took);
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let mut child =
            self.command(&["run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lines().push(line);
            }
        });
        Ok(child)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        // Of the tests, not of the gateway.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FIELDGATE_TEST_")) {
            command.env_remove(name);
        }
        command.arg("-c").arg(self.config()).args(arguments).current_dir(self.folder.path());
        command
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the gateway does not run")?;
        running.child.kill()?;
        running.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, without waiting.
    pub fn terminate(&self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.running()?.child);
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Sends SIGTERM and waits for the end; its status.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.terminate()?;
        self.wait_stopped().await
    }

    /// Waits for the end of the process; its status.
    pub async fn wait_stopped(&mut self) -> anyhow::Result<ExitStatus> {
        let running = self.running.as_mut().context("the gateway does not run")?;
        let status = eventually("the end of the gateway", PATIENCE, async || Ok(running.child.try_wait()?)).await?;
        self.running = None;
        Ok(status)
    }

    /// Runs a verb on this gateway's configuration.
    pub async fn verb(&self, arguments: &[&str]) -> anyhow::Result<Verb> {
        let mut command = self.command(arguments);
        Verb::of(tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??)
    }

    /// Runs a verb that reads `input`.
    pub async fn verb_with_input(&self, arguments: &[&str], input: &str) -> anyhow::Result<Verb> {
        let mut child =
            self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let input = format!("{input}\n");
        tokio::task::spawn_blocking(move || {
            // A verb that ends without reading says why itself.
            if let Err(error) = stdin.write_all(input.as_bytes()) {
                eprintln!("the verb does not read: {error}");
            }
            drop(stdin);
            Verb::of(child.wait_with_output()?)
        })
        .await?
    }

    /// `fieldgate status --json`
    pub async fn status(&self) -> anyhow::Result<Json> {
        Ok(serde_json::from_str(&self.verb(&["status", "--json"]).await?.ok()?)?)
    }

    /// `fieldgate buffer status --json`
    pub async fn buffer(&self) -> anyhow::Result<Json> {
        Ok(serde_json::from_str(&self.verb(&["buffer", "status", "--json"]).await?.ok()?)?)
    }

    /// `fieldgate device add ID --out DIR`
    pub async fn add_device(&self, id: &str) -> anyhow::Result<Bundle> {
        self.add_device_as(id, "device").await
    }

    /// `fieldgate device add ID --role ROLE --out DIR`
    pub async fn add_device_as(&self, id: &str, role: &str) -> anyhow::Result<Bundle> {
        let folder = self.folder.path().join("bundles").join(id);
        let out = folder.to_str().context("the folder's name is not UTF-8")?;
        self.verb(&["device", "add", id, "--role", role, "--out", out]).await?.ok()?;
        Ok(Bundle::new(id, folder))
    }

    /// Asks the admin address.
    pub async fn request(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        http::tcp(self.admin()?, None, method, path, body).await
    }

    /// Says `text` to the admin address as it is, and takes what comes back.
    pub async fn say(&self, text: &str) -> anyhow::Result<Answer> {
        http::raw(self.admin()?, text).await
    }

    /// As [`Gateway::say`] over TLS, where what `ca export` gave is trusted.
    pub async fn say_tls(&self, ca: &str, text: &str) -> anyhow::Result<Answer> {
        http::raw_tls(self.admin()?, ca.as_bytes(), text).await
    }

    /// Asks the admin address with a token.
    pub async fn request_as(&self, token: &str, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        http::tcp(self.admin()?, Some(token), method, path, body).await
    }

    /// `GET` at the admin address over TLS, checked with what `ca export` gives.
    pub async fn get_tls(&self, token: Option<&str>, path: &str) -> anyhow::Result<Answer> {
        let ca = self.verb(&["ca", "export"]).await?.ok()?;
        http::tls(self.admin()?, ca.as_bytes(), token, "GET", path).await
    }

    /// `fieldgate token add NAME --scope SCOPE`; the token.
    pub async fn token(&self, name: &str, scope: &str) -> anyhow::Result<String> {
        let made = self.verb(&["token", "add", name, "--scope", scope]).await?.ok()?;
        Ok(made.split_whitespace().last().context("no token")?.to_owned())
    }

    /// `GET` at the admin address.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.request("GET", path, "").await
    }

    /// The socket that everything can be asked through.
    pub fn socket(&self) -> PathBuf {
        self.data_dir().join("admin.sock")
    }

    /// Asks through admin.sock.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        http::unix(&self.socket(), method, path, body).await
    }

    /// Resident memory in bytes: all of it, and the part that is not backed by a file (the program itself is).
    pub fn resident_bytes(&self) -> anyhow::Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running()?.child.id()))?;
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
            let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
            anyhow::Ok(kibibytes * 1024)
        };
        Ok((bytes("VmRSS:")?, bytes("RssAnon:")?))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let (killed, ended) = (running.child.kill(), running.child.wait());
            if let (Err(error), _) | (_, Err(error)) = (killed, ended) {
                eprintln!("the gateway could not be ended: {error}");
            }
        }
        if self.quiet {
            return;
        }
        // The test runner shows it when the test has failed.
        eprintln!("log of gateway {}:\n{}", self.id, self.log().join("\n"));
    }
}
