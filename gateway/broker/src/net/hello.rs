//! Waits for a complete ClientHello without reading it: what has come is looked at in the kernel's buffer. A socket
//! that is silent, or stops in the middle, or sends a byte a second, costs its task and nothing else; only with a
//! whole ClientHello does it get the state and buffers of a TLS connection.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::handshake::Lost;

/// Longest ClientHello, record headers included. Those of today's clients take 200 to 1,800 bytes.
const LONGEST: usize = 4 << 10;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A complete ClientHello.
    Whole,
    /// The beginning of one.
    Part,
    /// One that claims to be longer than [`LONGEST`].
    TooLong,
    /// Something else, which the TLS stack refuses by its first bytes, with the right alert.
    Foreign,
    /// The peer has closed.
    End,
}

/// Returns when the ClientHello is there, or something that is none.
pub(super) async fn complete(stream: &TcpStream) -> Result<(), Lost> {
    let gone = || Lost::failed("TLS: closed before a complete ClientHello");
    loop {
        let ready = stream.ready(Interest::READABLE).await.map_err(|_| gone())?;
        // "Would block" makes the next `ready` wait for more bytes: readiness comes with each new arrival.
        match stream.try_io(Interest::READABLE, || peek(stream)) {
            Ok(Seen::Whole | Seen::Foreign) => return Ok(()),
            Ok(Seen::TooLong) => return Err(Lost::failed("TLS: a ClientHello of more than 4 KiB")),
            // Half closed: no more will come, and this readiness never ends.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            Ok(Seen::Part | Seen::End) | Err(_) => return Err(gone()),
        }
    }
}

fn peek(stream: &TcpStream) -> io::Result<Seen> {
    let mut bytes = [0; LONGEST];
    let (count, _) = recv(stream, &mut bytes[..], RecvFlags::PEEK)?;
    match bytes.get(..count) {
        None | Some([]) => Ok(Seen::End),
        Some(bytes) => match judge(bytes) {
            Seen::Part => Err(io::ErrorKind::WouldBlock.into()),
            seen => Ok(seen),
        },
    }
}

/// A ClientHello may be spread over several records (RFC 8446 section 5.1).
fn judge(bytes: &[u8]) -> Seen {
    match judge_records(bytes) {
        // There is no room to look further.
        Seen::Part if bytes.len() >= LONGEST => Seen::TooLong,
        seen => seen,
    }
}

fn judge_records(bytes: &[u8]) -> Seen {
    let mut rest = bytes;
    let mut records = 0;
    let mut hello = Vec::with_capacity(4);
    let mut got = 0;
    loop {
        let Some((header, body)) = rest.split_first_chunk::<RECORD_HEADER>() else {
            return if rest.first().is_some_and(|kind| *kind != HANDSHAKE_RECORD) { Seen::Foreign } else { Seen::Part };
        };
        let [kind, major, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE_RECORD || major != 3 || length == 0 {
            return Seen::Foreign;
        }
        records += RECORD_HEADER + length;
        if records > LONGEST {
            return Seen::TooLong;
        }
        let fragment = body.get(..length).unwrap_or(body);
        hello.extend(fragment.iter().take(4 - hello.len()));
        got += fragment.len();
        if let [kind, high, middle, low] = *hello {
            let whole = 4 + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low));
            match kind {
                CLIENT_HELLO if whole > LONGEST => return Seen::TooLong,
                CLIENT_HELLO if body.len() >= length && got >= whole => return Seen::Whole,
                CLIENT_HELLO => {}
                _ => return Seen::Foreign,
            }
        }
        match body.get(length..) {
            Some(next) => rest = next,
            None => return Seen::Part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fragment: &[u8]) -> Vec<u8> {
        let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], fragment].concat()
    }

    fn hello(length: usize) -> Vec<u8> {
        let bytes = u32::try_from(length).unwrap().to_be_bytes();
        [&[1], &bytes[1..], &vec![7; length]].concat()
    }

    #[test]
    fn knows_a_whole_hello_from_each_of_its_beginnings() {
        let one = record(&hello(300));
        let several: Vec<u8> = hello(300).chunks(3).flat_map(record).collect();
        for whole in [one, several] {
            assert_eq!(judge(&whole), Seen::Whole);
            for end in 1..whole.len() {
                assert_eq!(judge(&whole[..end]), Seen::Part, "{end} of {}", whole.len());
            }
        }
    }

    #[test]
    fn judges_claimed_lengths_before_they_arrive() {
        assert_eq!(judge(&record(&hello(4_087))), Seen::Whole);
        assert_eq!(judge(&record(&hello(4_088))[..6]), Seen::TooLong);
        assert_eq!(judge(&record(&hello(70_000)[..4])), Seen::TooLong);
        let many: Vec<u8> = hello(4_000).chunks(1).flat_map(record).take(LONGEST).collect();
        assert_eq!(many.len(), LONGEST);
        assert_eq!(judge(&many), Seen::TooLong, "one byte a record");
    }

    #[test]
    fn leaves_what_is_no_hello_to_the_tls_stack() {
        for foreign in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x10", &[22, 2, 0, 0, 1], &[22, 3, 1, 0, 0], &record(&[2, 0, 0, 1])]
        {
            assert_eq!(judge(foreign), Seen::Foreign, "{foreign:02x?}");
        }
    }
}
