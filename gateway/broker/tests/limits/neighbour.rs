//! A client that does nothing but send itself a message and wait for it, and times each round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fieldgate_broker::Role;
use tokio::task::JoinHandle;

use crate::support::packets::Connect;
use crate::support::{Client, Plant};

const ID: &str = "neighbour";
const TOPIC: &str = "devices/neighbour/telemetry/t";
/// What a stalled broker would exceed and a busy machine doesn't.
const WORST: Duration = Duration::from_millis(500);
const MEDIAN: Duration = Duration::from_millis(100);

pub struct Neighbour {
    rounds: JoinHandle<Vec<Duration>>,
    machine: std::thread::JoinHandle<Duration>,
    over: Arc<AtomicBool>,
}

impl Neighbour {
    /// Comes in and begins. One connection, no message rate, commits that nobody holds up.
    pub async fn beside(plant: &Plant) -> Self {
        plant.gate.role(ID, Role::Gateway);
        plant.gate.spare(ID);
        let mut client = plant.socket(ID).await;
        client.connect(Connect::v5(ID).keep_alive(0)).await;
        assert_eq!(client.subscribe("devices/neighbour/#", 0).await, 0);
        let over = Arc::new(AtomicBool::new(false));
        let rounds = tokio::spawn(rounds(client, Arc::clone(&over)));
        let machine = std::thread::spawn({
            let over = Arc::clone(&over);
            move || overshoot(&over)
        });
        Self { rounds, machine, over }
    }

    /// Ends it: every round came back, and none was held up. What the machine itself was late by, measured by a
    /// thread that naps and works, is not the broker's.
    pub async fn was_not_held_up(self) {
        // Enough rounds to say something, also beside a short test.
        self.over.store(true, Ordering::Relaxed);
        let mut rounds = self.rounds.await.unwrap();
        let noise = tokio::task::spawn_blocking(|| self.machine.join().unwrap()).await.unwrap();
        rounds.sort_unstable();
        let (median, worst) = (rounds[rounds.len() / 2], *rounds.last().unwrap());
        let said = format!("{} rounds, median {median:?}, worst {worst:?}, machine {noise:?}", rounds.len());
        assert!(worst <= WORST + 4 * noise && median <= MEDIAN + noise, "the neighbour was held up: {said}");
    }
}

async fn rounds(mut client: Client, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut rounds = Vec::new();
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    while rounds.len() < 20 || !over.load(Ordering::Relaxed) {
        pause.tick().await;
        let began = Instant::now();
        client.publish(2, TOPIC, 1, "round").await;
        // The message and its acknowledgement, in either order.
        let (one, other) = (client.read().await.unwrap(), client.read().await.unwrap());
        assert_eq!(one.first.min(other.first) & 0xF0, 0x30);
        assert_eq!(one.first.max(other.first), 0x40);
        rounds.push(began.elapsed());
    }
    rounds
}

/// By how much this machine was late, at worst, to wake a thread and let it work for a moment.
fn overshoot(over: &AtomicBool) -> Duration {
    const NAP: Duration = Duration::from_millis(10);
    let (mut worst, mut best) = (Duration::ZERO, Duration::MAX);
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        std::thread::sleep(NAP);
        // About a millisecond: long enough to lose its turn in the middle, as a handshake does.
        let mut sum = 0_u64;
        for number in 0..20_000_u64 {
            sum = std::hint::black_box(sum.rotate_left(5) ^ number);
        }
        let took = began.elapsed();
        (worst, best) = (worst.max(took), best.min(took));
    }
    worst.saturating_sub(best)
}
