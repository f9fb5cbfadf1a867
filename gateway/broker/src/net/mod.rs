//! Sockets: accepting, TLS, WebSocket, the CONNECT, and the end of a connection. What happens in between is
//! [`crate::connection`].
//!
//! A newcomer's way, the same at every door: accepted at once ([`listener`]); a complete ClientHello ([`hello`]); the
//! handshake, computed in turn ([`handshake`]); on WebSocket the HTTP request ([`websocket`]); its place in the
//! handshakes of this second ([`pace`]); the CONNECT ([`greet`]). Up to there it is pending and may be pushed out.

pub(crate) mod doors;
pub(crate) mod goodbye;
pub(crate) mod greet;
mod handshake;
mod hello;
pub(crate) mod listener;
mod pace;
mod websocket;
