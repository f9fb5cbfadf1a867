//! Sockets: accepting, TLS, the CONNECT, and the end of a connection. What happens in between is
//! [`crate::connection`].

pub(crate) mod goodbye;
pub(crate) mod greet;
mod handshake;
pub(crate) mod listener;
