//! A Modbus TCP device whose floats change: holding registers alone, function codes 3, 6 and 16, one thread per connection.
//! It is no judge of the protocol (tests/peers has those), it is quick and says what was asked.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Two registers each, the high word first.
type Memory = Arc<Mutex<Vec<u16>>>;

/// Floats at the beginning that change by writes alone: one that changed by itself meanwhile would be a failed write.
pub const WRITTEN: usize = 50;

/// A device that serves until the process ends.
pub struct Device {
    pub address: SocketAddr,
    memory: Memory,
}

impl Device {
    /// With this many floats from address 0, all 0.
    pub fn start(floats: usize) -> anyhow::Result<Self> {
        let memory: Memory = Arc::new(Mutex::new(vec![0; floats * 2]));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let served = Arc::clone(&memory);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let memory = Arc::clone(&served);
                // The end of a connection is the gateway's business.
                std::thread::spawn(move || drop(serve(stream, &memory)));
            }
        });
        Ok(Self { address, memory })
    }

    /// Sets every tenth float behind [`WRITTEN`], beginning with `first`, to `value`.
    pub fn change_a_tenth(&self, first: usize, value: f32) {
        let bits = value.to_bits();
        let [high, low] = [(bits >> 16) as u16, (bits & 0xFFFF) as u16];
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for float in memory.chunks_exact_mut(2).skip(WRITTEN + first).step_by(10) {
            float.copy_from_slice(&[high, low]);
        }
    }
}

fn serve(mut stream: TcpStream, memory: &Memory) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = Vec::with_capacity(260);
    loop {
        let mut head = [0_u8; 6];
        stream.read_exact(&mut head)?;
        let mut body = vec![0_u8; usize::from(u16::from_be_bytes([head[4], head[5]]))];
        stream.read_exact(&mut body)?;
        answer.clear();
        answer.extend_from_slice(&head[..4]);
        let said = said(&body, memory);
        answer.extend_from_slice(&u16::try_from(said.len() + 1).unwrap_or_default().to_be_bytes());
        answer.extend_from_slice(&body[..1]);
        answer.extend_from_slice(&said);
        stream.write_all(&answer)?;
    }
}

/// The function code and what follows it, or exception 2.
fn said(body: &[u8], memory: &Memory) -> Vec<u8> {
    let word = |at: usize| body.get(at..at + 2).map_or(0, |pair| usize::from(u16::from_be_bytes([pair[0], pair[1]])));
    let (code, start) = (body.get(1).copied().unwrap_or_default(), word(2));
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let (values, count) = match code {
        3 => (None, word(4)),
        6 => (body.get(4..6), 1),
        16 => (body.get(7..), word(4)),
        _ => return vec![code | 0x80, 1],
    };
    let Some(registers) = memory.get_mut(start..start + count) else { return vec![code | 0x80, 2] };
    let Some(values) = values else {
        let bytes = u8::try_from(count * 2).unwrap_or_default();
        return [code, bytes].into_iter().chain(registers.iter().flat_map(|word| word.to_be_bytes())).collect();
    };
    for (register, pair) in registers.iter_mut().zip(values.chunks_exact(2)) {
        *register = u16::from_be_bytes([pair[0], pair[1]]);
    }
    [&[code], body.get(2..6).unwrap_or_default()].concat()
}
