//! The harness of the fuzz targets (`gateway/broker/fuzz`) and of the mutation run among the unit tests: bytes to
//! frames to packets to the machine and back to bytes, with every promise of codec and session checked on the way.
//! Not part of the crate's surface: it exists in tests and with the feature `fuzzing` alone.
//!
//! The input is a client's byte stream. A frame of the forbidden packet type 0 is an order to the harness instead of
//! a packet, by its low nibble:
//! | first byte | body | order |
//! |---|---|---|
//! | `00`, `07`… | | given to the decoder as it is |
//! | `01` | up to two bytes | time goes on by so many tenths of a second |
//! | `02` | count, code | so many commits, and steps of QoS 2 being saved, end: code 0 is success, else a refusal |
//! | `03` | flags, payload | a message from elsewhere comes into the client's queue |
//! | `04` | count | a good client's answer to so many of the packets that it was sent |
//! | `05` | flags | the connection ends; the next one may resume, change the version, its limits, its session's life |
//! | `06` | index, byte | the byte at that place of what follows is replaced: damage on the way |
//!
//! Checked after each step (a broken promise is a panic):
//! - what the client is sent is a sequence of whole, valid packets of its version (parsed by another crate's types);
//! - no packet id is in use twice; unacknowledged publishes keep to the client's Receive Maximum and our limit,
//!   publishes to its Maximum Packet Size; a first transmission is no duplicate; nothing expired is sent;
//! - each publish is acknowledged once, with its own id, when its commit ends, and not before;
//! - a step of QoS 2 of a durable session is not answered before it is saved, and the store forgets each place once;
//! - a topic alias is set before it is used, and within what the client takes;
//! - what the machine holds stays within the limits;
//! - what a second client of the other version gets of it is the same message.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::missing_panics_doc)] // a panic here is the finding

mod observer;
mod world;

use std::time::Duration;

use crate::codec::{Connect, Incoming, decode, frame};
use crate::session::Session;
use crate::{Limits, Version};

use world::World;

/// Packets and orders looked at in one run: a longer input only repeats what a shorter one says.
const MOST_FRAMES: usize = 2_000;

/// Runs one input as MQTT 3.1.1.
pub fn run_v311(input: &[u8]) {
    run(Version::V311, input);
}

/// Runs one input as MQTT 5.
pub fn run_v5(input: &[u8]) {
    run(Version::V5, input);
}

fn run(version: Version, input: &[u8]) {
    let limits = limits();
    let mut input = input.to_vec();
    let mut used = 0;
    // The CONNECT goes through its own decoder; without one the client is an ordinary one.
    let mut connect = ordinary(version);
    if input.first().is_some_and(|first| first >> 4 == 1) {
        let Ok(Some(found)) = frame(&input, limits.connect_packet) else { return };
        if input.len() < found.len() {
            return;
        }
        let Ok(Incoming::Connect(sent)) = decode(version, found, &input) else { return };
        if sent.version != version {
            return;
        }
        connect = *sent;
        used = found.len();
    }
    let mut world = World::new(Session::default(), connect, limits.clone());
    for _ in 0..MOST_FRAMES {
        let Ok(Some(found)) = frame(&input[used..], limits.packet) else { break };
        let end = used + found.len();
        if end > input.len() {
            break;
        }
        if matches!(found.first, 1..=6) {
            let body = input[used + found.header..end].to_vec();
            match found.first {
                1 => world.pass(amount(&body, 600)),
                2 => world.settle(usize::from(byte(&body, 0)), byte(&body, 1)),
                3 => world.message_from_elsewhere(byte(&body, 0), body.get(1..).unwrap_or_default()),
                4 => world.good_client(usize::from(byte(&body, 0))),
                5 => world = world.reconnect(byte(&body, 0)),
                _ => {
                    let place = end + usize::from(byte(&body, 0));
                    if let Some(damaged) = input.get_mut(place) {
                        *damaged = byte(&body, 1);
                    }
                }
            }
        } else if world.packet(found, &input[used..end]).is_err() {
            // The connection has ended. The client comes back and goes on.
            world = world.reconnect(1);
        }
        world.check();
        used = end;
    }
    world.finish();
}

fn byte(body: &[u8], index: usize) -> u8 {
    body.get(index).copied().unwrap_or(0)
}

fn amount(body: &[u8], most: u16) -> Duration {
    Duration::from_millis(100) * u32::from(u16::from_be_bytes([byte(body, 0), byte(body, 1)]) % most)
}

/// Small, so that a short input reaches them.
fn limits() -> Limits {
    Limits {
        packet: 4 << 10,
        connect_packet: 2 << 10,
        topic: 64,
        topic_levels: 6,
        subscriptions: 8,
        filters_per_subscribe: 4,
        receive_maximum: 6,
        in_flight: 5,
        topic_alias_maximum: 4,
        session_expiry: Duration::from_secs(60),
        ..Limits::default()
    }
}

fn ordinary(version: Version) -> Connect {
    Connect {
        version,
        clean: false,
        keep_alive: 60,
        client_id: "d1".to_owned(),
        will: None,
        session_expiry: Duration::from_secs(30),
        receive_maximum: u16::MAX,
        maximum_packet: usize::MAX,
        topic_alias_maximum: 0,
        problem_information: true,
        authentication_method: false,
        user_name: None,
        password: None,
    }
}

#[cfg(test)]
mod tests;
