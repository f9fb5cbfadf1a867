//! Ports for parts that must be told one before they start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// Below Linux' ephemeral ports (32768 on), so that neither an outgoing connection nor a listener on port 0 takes one
/// between the look and the use, nor while a gateway that was killed is away.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback address that nobody listens on and that this process gives out once.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    // Test processes that run at the same time begin at different places.
    let start = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(COUNT))?;
    for _ in 0..COUNT {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port between {FIRST} and {} is free", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_out_each_port_once() {
        let (a, b) = (free_address().unwrap(), free_address().unwrap());
        assert_ne!(a, b);
        assert!(TcpListener::bind(a).is_ok() && TcpListener::bind(b).is_ok());
    }
}
