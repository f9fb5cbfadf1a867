//! A serial line made of a pseudo-terminal, with devices on it made of raw frames (Serial Line V1.02, section 2.5),
//! which say whatever a test wants them to say.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::time::Timespec;
use tempfile::TempDir;

use crate::harness::DEADLINE;

/// A request as it came, its checksum looked at and taken off.
#[derive(Debug, Clone)]
pub struct RtuFrame {
    /// Unit, function code, data.
    pub bytes: Vec<u8>,
    /// It did not come before this.
    pub at: Instant,
}

/// What the devices do about a request: bytes, and how long after the request they go out.
pub type Says = Vec<(Duration, Vec<u8>)>;

/// Says it at once.
pub fn now(bytes: Vec<u8>) -> Says {
    vec![(Duration::ZERO, bytes)]
}

impl RtuFrame {
    pub fn unit(&self) -> u8 {
        self.bytes[0]
    }

    pub fn address(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    pub fn count(&self) -> u16 {
        u16::from_be_bytes([self.bytes[4], self.bytes[5]])
    }

    /// Registers as the answer to a read.
    pub fn registers(&self, words: &[u16]) -> Vec<u8> {
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let length = u8::try_from(data.len()).unwrap();
        sealed([&[self.bytes[0], self.bytes[1], length], &data[..]].concat())
    }

    /// The good answer to any read of registers: each holds its own address plus `add`.
    pub fn honest(&self, add: u16) -> Vec<u8> {
        let words: Vec<u16> = (0..self.count()).map(|i| self.address() + i + add).collect();
        self.registers(&words)
    }

    pub fn exception(&self, code: u8) -> Vec<u8> {
        sealed(vec![self.bytes[0], self.bytes[1] | 0x80, code])
    }
}

/// With its checksum (section 6.2.2).
pub fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    let mut crc = 0xFFFF_u16;
    for byte in &frame {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
    }
    frame.extend(crc.to_le_bytes());
    frame
}

/// Requests as they came and answers as they went, the last [`MEMORY`] of them.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<VecDeque<(Instant, String)>>>);

const MEMORY: usize = 60;

impl Seen {
    fn note(&self, what: &str, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        if seen.len() == MEMORY {
            seen.pop_front();
        }
        seen.push_back((Instant::now(), format!("{what} {bytes:02x?}")));
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, what) in &*self.0.lock().unwrap() {
            writeln!(f, "  {:8.1} ms ago: {what}", at.elapsed().as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// The line.
pub struct Line {
    path: String,
    /// Answers that a busy machine held up for longer than the devices promise.
    pub broken: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// What the devices' end of the line saw last.
    pub seen: Seen,
    /// Holds the terminal open while the gateway has it closed.
    _held: File,
}

impl Line {
    /// Devices that answer each request as `behave` says.
    pub fn start(behave: impl FnMut(&RtuFrame) -> Says + Send + 'static) -> Self {
        let (port, path, held) = terminal();
        let requests = Arc::new(AtomicUsize::new(0));
        let broken = Arc::new(AtomicUsize::new(0));
        let (count, late, seen) = (Arc::clone(&requests), Arc::clone(&broken), Seen::default());
        let notes = seen.clone();
        std::thread::spawn(move || serve(port, behave, &count, &late, &notes));
        Self { path, broken, requests, seen, _held: held }
    }

    /// The gateway's end.
    pub fn url(&self, settings: &str) -> String {
        format!("rtu://{}?{settings}", self.path)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// A pseudo-terminal: the devices' end, the path of the gateway's end, and that end itself.
fn terminal() -> (File, String, File) {
    let port = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&port).unwrap();
    unlockpt(&port).unwrap();
    let path = ptsname(&port, Vec::new()).unwrap().into_string().unwrap();
    let held = File::options().read(true).write(true).open(&path).unwrap();
    (File::from(port), path, held)
}

/// Two terminals joined by socat, as people try things out. Dropping it ends socat.
pub struct Socat {
    folder: TempDir,
    socat: Child,
}

impl Drop for Socat {
    fn drop(&mut self) {
        self.socat.kill().unwrap();
        self.socat.wait().unwrap();
    }
}

impl Socat {
    /// With devices on one end.
    pub fn start(behave: impl FnMut(&RtuFrame) -> Says + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let end = |name: &str| format!("pty,raw,echo=0,link={}", folder.path().join(name).display());
        let socat = Command::new("socat").args([end("gateway"), end("devices")]).stdin(Stdio::null()).spawn();
        let socat = socat.expect("socat is needed for this test: apt-get install socat");
        let begun = Instant::now();
        while !(folder.path().join("gateway").exists() && folder.path().join("devices").exists()) {
            assert!(begun.elapsed() < DEADLINE, "socat makes its terminals");
            std::thread::yield_now();
        }
        let port = File::options().read(true).write(true).open(folder.path().join("devices")).unwrap();
        std::thread::spawn(move || serve(port, behave, &AtomicUsize::new(0), &AtomicUsize::new(0), &Seen::default()));
        Self { folder, socat }
    }

    /// The gateway's end.
    pub fn url(&self, settings: &str) -> String {
        format!("rtu://{}?{settings}", self.folder.path().join("gateway").display())
    }
}

/// The same devices behind a serial server. They answer to whoever is connected when their answer is ready; until the
/// sender is dropped.
pub fn listen(mut behave: impl FnMut(&RtuFrame) -> Says + Send + 'static) -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, stop) = channel::<()>();
    let clients: Arc<Mutex<Option<TcpStream>>> = Arc::default();
    let (requests, coming) = channel();
    let current = Arc::clone(&clients);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stop.try_recv() == Err(TryRecvError::Disconnected) {
                return;
            }
            let mut stream = stream.unwrap();
            *current.lock().unwrap() = Some(stream.try_clone().unwrap());
            let requests = requests.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 256];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    let bytes = bytes[..read - 2].to_vec();
                    requests.send(RtuFrame { bytes, at: Instant::now() }).unwrap();
                }
            });
        }
    });
    std::thread::spawn(move || {
        while let Ok(frame) = coming.recv() {
            for (wait, bytes) in behave(&frame) {
                std::thread::sleep(wait.saturating_sub(frame.at.elapsed()));
                let late = frame.at.elapsed() > wait + TOO_LATE;
                let mut client = clients.lock().unwrap();
                // Who has left misses it.
                if let Some(client) = client.as_mut().filter(|_| !late) {
                    client.write_all(&bytes).ok();
                }
            }
        }
    });
    (address, sender)
}

/// Until the line is gone.
fn serve(
    port: File,
    mut behave: impl FnMut(&RtuFrame) -> Says,
    count: &AtomicUsize,
    broken: &AtomicUsize,
    seen: &Seen,
) {
    let mut buffer = Vec::new();
    let mut bytes = [0; 512];
    let glance = Timespec::try_from(GLANCE).unwrap();
    // Nothing had come then.
    let mut at = Instant::now();
    let ready = |timeout: &Timespec| poll(&mut [PollFd::new(&port, PollFlags::IN)], Some(timeout)).unwrap() > 0;
    loop {
        let looking = Instant::now();
        if !ready(&Timespec::default()) {
            at = looking;
            if !ready(&glance) {
                continue;
            }
        }
        let Ok(read @ 1..) = (&port).read(&mut bytes) else { return };
        buffer.extend_from_slice(&bytes[..read]);
        seen.note("came", &bytes[..read]);
        let Some(mut length) = request_length(&buffer).filter(|length| buffer.len() >= *length) else { continue };
        // This thread has slept through a time-out: what the gateway asked before, it has given up.
        while buffer.len() > length {
            buffer.drain(..length);
            length = request_length(&buffer).unwrap_or(usize::MAX);
        }
        if length > buffer.len() {
            continue;
        }
        let request = buffer[..length - 2].to_vec();
        assert_eq!(sealed(request.clone()), buffer, "the gateway's checksum");
        buffer.clear();
        count.fetch_add(1, Ordering::Relaxed);
        let frame = RtuFrame { bytes: request, at };
        for (wait, bytes) in behave(&frame) {
            std::thread::sleep(wait.saturating_sub(frame.at.elapsed()));
            // On a busy machine this thread may wake when the device that it plays would long be silent.
            if frame.at.elapsed() > wait + TOO_LATE {
                seen.note("held back", &bytes);
                break;
            }
            seen.note("goes", &bytes);
            if (&port).write_all(&bytes).is_err() {
                return;
            }
            seen.note("gone", &[]);
            if frame.at.elapsed() > wait + TOO_LATE + MARGIN {
                broken.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// How exactly the time of a request is known, unless this thread was held up: then it counts as having come early.
const GLANCE: Duration = Duration::from_millis(5);
/// An answer that was written so much later than that may have been written after the gateway's silence.
const MARGIN: Duration = Duration::from_millis(10);
/// So late after its time nothing is said any more.
const TOO_LATE: Duration = Duration::from_millis(25);

fn request_length(buffer: &[u8]) -> Option<usize> {
    match buffer.get(1)? {
        1..=6 => Some(8),
        15 | 16 => buffer.get(6).map(|data| 9 + usize::from(*data)),
        22 => Some(10),
        23 => buffer.get(10).map(|data| 13 + usize::from(*data)),
        other => panic!("function code {other}"),
    }
}
