//! Registers read per second on one connection to a libmodbus server: the gateway, and a bare loop of tokio-modbus calls.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fieldgate_testkit::{Gateway, PATIENCE, eventually, port};
use tokio_modbus::client::{Reader, tcp};

use crate::process::Process;
use crate::report::{Goal, Report, Row};
use crate::{Settings, scrape};

/// Registers in a request, the most there can be.
const BLOCK: u16 = 125;
/// Units on the link: while one waits for its next cycle, others are read.
const UNITS: u16 = 8;

/// What the registers of a block are to the gateway.
#[derive(Clone, Copy)]
enum Points {
    /// A number each.
    Numbers,
    /// One text of almost all of them: what the link alone costs.
    Text,
}

impl Points {
    fn words(self) -> &'static str {
        match self {
            Self::Numbers => "125 registers per request, each a u16 point",
            Self::Text => "123 registers per request, one string point",
        }
    }

    fn registers(self) -> u16 {
        match self {
            Self::Numbers => BLOCK,
            Self::Text => 123,
        }
    }

    fn of_block(self, block: u16) -> String {
        match self {
            Self::Numbers => {
                (block * BLOCK..(block + 1) * BLOCK).map(|at| point(at, "u16")).collect::<Vec<_>>().concat()
            }
            Self::Text => point(block * BLOCK, "string:246"),
        }
    }
}

fn point(at: u16, kind: &str) -> String {
    format!("[[point]]\nname = \"p{at}\"\nat = \"holding:{at}\"\ntype = \"{kind}\"\n")
}

pub async fn reads(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("modbus_server");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/modbus_server.c");
    let built = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .args(["-O2", "-I/usr/include/modbus", source, "-lmodbus"])
        .status()?;
    ensure!(built.success(), "can't build {source}: is libmodbus-dev installed?");
    // Of a unit.
    let blocks = u16::try_from(settings.size(100, 10))?;
    for points in [Points::Text, Points::Numbers] {
        let what = format!("registers/s on one connection to a libmodbus server, {}", points.words());
        let mut row = Row::new("reads", what, "registers/s", Goal::Times(0.9));
        for _ in 0..settings.rounds() {
            let server = Server::start(&program)?;
            row.add("fieldgate", ours(settings, server.address, points, blocks).await?);
            let server = Server::start(&program)?;
            row.add("bare loop", bare(server.address, points.registers(), blocks, settings.load_time()).await?);
        }
        report.row(row);
    }
    Ok(())
}

async fn ours(settings: &Settings, server: SocketAddr, points: Points, blocks: u16) -> anyhow::Result<f64> {
    let unit = |unit: u16| {
        format!(
            "[[modbus.device]]\nid = \"meter-{unit}\"\nunit = {unit}\ninterval = \"10ms\"\npoints_from = \"points.toml\"\n"
        )
    };
    let units = (1..=UNITS).map(unit).collect::<Vec<_>>().concat();
    let sections = format!("[[modbus]]\nurl = \"tcp://{server}\"\nmax_gap = 0\n{units}");
    let mut gateway = Gateway::new(settings.binary(), "bench", "")?.quiet();
    let list = (0..blocks).map(|block| points.of_block(block)).collect::<Vec<_>>().concat();
    std::fs::write(gateway.folder().join("points.toml"), list)?;
    gateway.configure(&sections)?;
    gateway.start().await?;
    let rate = async {
        let once = f64::from(blocks * UNITS);
        let answers = async || scrape::total(&gateway, "fieldgate_link_answers_total").await;
        // Everything has been read and reported once.
        eventually("the first values", PATIENCE, async || Ok((answers().await? > 2.0 * once).then_some(()))).await?;
        let (before, began) = (answers().await?, Instant::now());
        tokio::time::sleep(settings.load_time()).await;
        let requests = answers().await? - before;
        anyhow::Ok(requests * f64::from(points.registers()) / began.elapsed().as_secs_f64())
    };
    let rate = rate.await.with_context(|| gateway.log().join("\n"))?;
    gateway.stop().await?;
    Ok(rate)
}

async fn bare(server: SocketAddr, registers: u16, blocks: u16, time: Duration) -> anyhow::Result<f64> {
    let stream = tokio::net::TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut client = tcp::attach(stream);
    let (began, mut read) = (Instant::now(), 0_u32);
    while began.elapsed() < time {
        for block in 0..blocks {
            let words = client.read_holding_registers(block * BLOCK, registers).await??;
            ensure!(words.len() == usize::from(registers), "{} registers came", words.len());
            read += u32::from(registers);
        }
    }
    Ok(f64::from(read) / began.elapsed().as_secs_f64())
}

/// A libmodbus server, ended with the value.
struct Server {
    _process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(program: &Path) -> anyhow::Result<Self> {
        let address = port::free_address()?;
        let server = Self { _process: Process::start(Command::new(program).arg(address.port().to_string()))?, address };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "the libmodbus server does not listen");
            std::thread::yield_now();
        }
        Ok(server)
    }
}
