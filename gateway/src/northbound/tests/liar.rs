//! An upstream written by hand on raw frames, which answers as a test tells it to.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// PUBACK with this reason.
    Ack(u8),
    /// Nothing.
    Silence,
    /// Close the connection.
    Close,
    /// PUBACK, twice.
    Twice,
    /// PUBACK for this id, whatever the message's.
    Wrong(u16),
    /// These bytes.
    Raw(&'static [u8]),
    /// PUBACK, byte by byte.
    Slowly,
    /// Nothing; and nothing more is read.
    Deaf,
}

/// A PUBLISH that came.
#[derive(Debug, Clone)]
pub struct Published {
    pub connection: usize,
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub user: Vec<(String, String)>,
}

type Replies = Box<dyn Fn(&Published, usize) -> Reply + Send + Sync>;

/// What the liar has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: usize,
    pub open: usize,
    pub most_open: usize,
    pub published: Vec<Published>,
    /// How many of these are telemetry, batches included: counting them anew for each would be the most of a long test's time.
    telemetry: usize,
    pub filters: Vec<String>,
    /// Packet ids of PUBACKs.
    pub acked: Vec<u16>,
    /// Packet ids of PUBRECs, and of PUBCOMPs.
    pub received: Vec<u16>,
    pub completed: Vec<u16>,
    pub pings: usize,
    pub disconnects: usize,
    pub connects: Vec<Vec<u8>>,
}

/// How it lies.
pub struct Script {
    pub v5: bool,
    /// CONNACK reason for the nth connection.
    pub connack: Box<dyn Fn(usize) -> u8 + Send + Sync>,
    /// In place of the CONNACK.
    pub greeting: Option<Vec<u8>>,
    /// Properties of the CONNACK, v5.
    pub properties: Vec<u8>,
    /// SUBACK reason.
    pub suback: Box<dyn Fn(&str) -> u8 + Send + Sync>,
    /// For each PUBLISH on telemetry, and each batch, with how many came before it in all.
    pub reply: Replies,
    pub pong: bool,
}

impl Script {
    pub fn honest(v5: bool) -> Self {
        Self {
            v5,
            connack: Box::new(|_| 0),
            greeting: None,
            properties: Vec::new(),
            suback: Box::new(|_| 1),
            reply: Box::new(|_, _| Reply::Ack(0)),
            pong: true,
        }
    }
}

pub struct Liar {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
    frames: mpsc::Sender<Vec<u8>>,
}

impl Liar {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        // Sent to whichever connection is open; the test waits when 8 are on their way.
        let (frames, outgoing) = mpsc::channel(8);
        let outgoing = Arc::new(tokio::sync::Mutex::new(outgoing));
        let (script, shared) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, shared) = (Arc::clone(&script), Arc::clone(&shared));
                let outgoing = Arc::clone(&outgoing);
                tokio::spawn(async move {
                    let number = {
                        let mut seen = shared.lock().unwrap();
                        seen.connections += 1;
                        seen.open += 1;
                        seen.most_open = seen.most_open.max(seen.open);
                        seen.connections
                    };
                    // It ends with an error when the client leaves.
                    let _left = serve(stream, number, &script, &shared, &outgoing).await;
                    shared.lock().unwrap().open -= 1;
                });
            }
        });
        Self { port, seen, frames }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Sends a PUBLISH at QoS 1 down, v5 without properties.
    pub async fn publish(&self, v5: bool, topic: &str, payload: &[u8], packet_id: u16, retain: bool) {
        self.publish_as(0x32 | u8::from(retain), v5, topic, payload, packet_id).await;
    }

    /// The same with a first byte of its own.
    pub async fn publish_as(&self, first: u8, v5: bool, topic: &str, payload: &[u8], packet_id: u16) {
        let mut body = text(topic);
        body.extend(packet_id.to_be_bytes());
        if v5 {
            body.push(0);
        }
        body.extend(payload);
        self.frames.send(frame(first, &body)).await.unwrap();
    }

    /// Telemetry numbers by device.
    pub fn numbers(&self) -> std::collections::HashMap<String, Vec<u32>> {
        let seen = self.seen();
        super::numbers(seen.published.iter().map(|p| (p.topic.as_str(), p.payload.as_slice())))
    }

    /// Payloads on `{root}/{gateway}/state`.
    pub fn states(&self) -> Vec<String> {
        let state = |p: &&Published| p.topic.ends_with("line-4/state");
        let seen = self.seen();
        seen.published.iter().filter(state).map(|p| String::from_utf8(p.payload.clone()).unwrap()).collect()
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let digit = u8::try_from(left % 128).unwrap();
        left /= 128;
        bytes.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

async fn serve(
    stream: TcpStream,
    number: usize,
    script: &Script,
    shared: &Mutex<Seen>,
    outgoing: &tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = tokio::io::BufReader::new(read);
    let mut greeted = false;
    loop {
        let (first, body) = tokio::select! {
            packet = packet(&mut read) => packet?,
            frame = async { outgoing.lock().await.recv().await }, if greeted => {
                write.write_all(&frame.unwrap()).await?;
                continue;
            }
        };
        match first >> 4 {
            1 => {
                shared.lock().unwrap().connects.push(body);
                if let Some(greeting) = &script.greeting {
                    write.write_all(greeting).await?;
                    continue;
                }
                let code = (script.connack)(number);
                let mut answer = vec![0, code];
                if script.v5 {
                    answer.push(u8::try_from(script.properties.len()).unwrap());
                    answer.extend(&script.properties);
                }
                write.write_all(&frame(0x20, &answer)).await?;
                if code != 0 {
                    return Ok(());
                }
                greeted = true;
            }
            8 => {
                let at = if script.v5 { 5 } else { 4 };
                let filter = String::from_utf8(body[at..body.len() - 1].to_vec()).unwrap();
                let code = (script.suback)(&filter);
                shared.lock().unwrap().filters.push(filter);
                let mut answer = body[..2].to_vec();
                if script.v5 {
                    answer.push(0);
                }
                answer.push(code);
                write.write_all(&frame(0x90, &answer)).await?;
            }
            3 => {
                let (published, packet_id) = parse_publish(first, &body, script.v5, number);
                let reply = {
                    let mut seen = shared.lock().unwrap();
                    let telemetry = published.topic.contains("/telemetry/") || published.topic.ends_with("/batch");
                    let reply = if telemetry { (script.reply)(&published, seen.telemetry) } else { Reply::Ack(0) };
                    seen.telemetry += usize::from(telemetry);
                    seen.published.push(published);
                    reply
                };
                match reply {
                    Reply::Ack(code) => {
                        let mut answer = packet_id.to_vec();
                        if code != 0 {
                            answer.push(code);
                        }
                        write.write_all(&frame(0x40, &answer)).await?;
                    }
                    Reply::Silence => {}
                    Reply::Close => return Ok(()),
                    Reply::Twice => {
                        for _ in 0..2 {
                            write.write_all(&frame(0x40, &packet_id)).await?;
                        }
                    }
                    Reply::Wrong(id) => write.write_all(&frame(0x40, &id.to_be_bytes())).await?,
                    Reply::Raw(bytes) => write.write_all(bytes).await?,
                    Reply::Slowly => {
                        for byte in frame(0x40, &packet_id) {
                            write.write_all(&[byte]).await?;
                            tokio::task::yield_now().await;
                        }
                    }
                    // Until the client leaves, which this end hears of when it writes.
                    Reply::Deaf => loop {
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        write.write_all(&frame(0x30, b"\0\x01x\0")).await?;
                    },
                }
            }
            4 => shared.lock().unwrap().acked.push(u16::from_be_bytes([body[0], body[1]])),
            5 => {
                shared.lock().unwrap().received.push(u16::from_be_bytes([body[0], body[1]]));
                write.write_all(&frame(0x62, &body)).await?;
            }
            7 => shared.lock().unwrap().completed.push(u16::from_be_bytes([body[0], body[1]])),
            12 => {
                shared.lock().unwrap().pings += 1;
                if script.pong {
                    write.write_all(&[0xd0, 0]).await?;
                }
            }
            14 => {
                shared.lock().unwrap().disconnects += 1;
                return Ok(());
            }
            other => panic!("packet type {other}"),
        }
    }
}

/// Not cancel-safe by nature; frames go down only in tests where nothing comes up at the same moment.
async fn packet(read: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let first = read.read_u8().await?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = read.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).await?;
    Ok((first, body))
}

fn parse_publish(first: u8, body: &[u8], v5: bool, connection: usize) -> (Published, [u8; 2]) {
    let (topic, rest) = take_text(body);
    assert_eq!(first & 0b110, 0b010, "QoS 1");
    let packet_id = [rest[0], rest[1]];
    let mut rest = &rest[2..];
    let mut user = Vec::new();
    if v5 {
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = rest[0];
            rest = &rest[1..];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (mut properties, after) = rest.split_at(length);
        rest = after;
        while let Some((&id, after)) = properties.split_first() {
            properties = match id {
                0x01 => &after[1..],
                0x02 => &after[4..],
                0x03 | 0x09 => take_text(after).1,
                0x26 => {
                    let (key, after) = take_text(after);
                    let (value, after) = take_text(after);
                    user.push((key, value));
                    after
                }
                other => panic!("property {other:#x}"),
            };
        }
    }
    let retain = first & 1 == 1;
    (Published { connection, topic, payload: rest.to_vec(), retain, user }, packet_id)
}

fn take_text(bytes: &[u8]) -> (String, &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    (String::from_utf8_lossy(&bytes[2..2 + length]).into_owned(), &bytes[2 + length..])
}
