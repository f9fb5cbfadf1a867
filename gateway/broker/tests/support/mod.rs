//! A broker with a certificate authority of its own, a gate that a test can steer, and raw clients: TLS sockets
//! through rustls, packets built by hand.

#![allow(dead_code, missing_docs)] // each test binary uses its part

pub mod client;
pub mod gate;
pub mod packets;
pub mod plant;

pub use client::Client;
pub use gate::TestGate;
pub use plant::Plant;

use std::future::Future;
use std::time::Duration;

/// Waits for a condition, up to ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
