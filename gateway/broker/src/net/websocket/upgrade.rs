//! The HTTP request that opens a WebSocket (RFC 6455 section 4.2) and what it is answered. Pure.
//!
//! A browser shows the user's certificate to any page that opens a WebSocket, and names that page in `Origin`: pages
//! of other hosts are refused unless the configuration lists them. Clients other than browsers send no `Origin`.

use httparse::{Header, Request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Most headers of a request.
const HEADERS: usize = 64;

/// An HTTP answer that is not a WebSocket: status line, further headers, words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    status: &'static str,
    headers: &'static str,
    words: &'static str,
}

impl Page {
    pub(super) fn too_long() -> Self {
        Self { status: "431 Request Header Fields Too Large", headers: "", words: "the request is longer than 8 KiB" }
    }

    fn bad(words: &'static str) -> Self {
        Self { status: "400 Bad Request", headers: "", words }
    }

    /// For the audit log.
    pub(super) fn why(&self) -> &'static str {
        self.words
    }

    /// The whole answer.
    pub(super) fn text(&self) -> String {
        let Self { status, headers, words } = self;
        let body = format!(
            "This is a Fieldgate gateway's port for MQTT over WebSocket: {words}.\n\
             Connect with an MQTT client, its transport WebSocket over TLS, the subprotocol `mqtt`, and a certificate \
             from `fieldgate device add`.\n"
        );
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
    }
}

/// Where the request's head ends.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The answer that opens the WebSocket, or the page that says why not.
pub(super) fn judge(head: &[u8], origins: &[String]) -> Result<String, Page> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err(Page::bad("the request is not HTTP/1.1"));
    }
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(Page {
            status: "405 Method Not Allowed",
            headers: "Allow: GET\r\n",
            words: "only GET of HTTP/1.1 opens one",
        });
    }
    let headers = &*request.headers;
    if !has_word(headers, "Upgrade", "websocket") || !has_word(headers, "Connection", "upgrade") {
        return Err(Page {
            status: "426 Upgrade Required",
            headers: "Upgrade: websocket\r\n",
            words: "there are no pages here",
        });
    }
    if value(headers, "Sec-WebSocket-Version") != Some("13") {
        return Err(Page {
            status: "426 Upgrade Required",
            headers: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            words: "the WebSocket version is not 13",
        });
    }
    // Sixteen bytes in base64.
    let key = value(headers, "Sec-WebSocket-Key").filter(|key| key.len() == 24 && key.ends_with("=="));
    let key = key.ok_or(Page::bad("Sec-WebSocket-Key is missing or not valid"))?;
    // [MQTT-6.0.0-3]
    if !has_word(headers, "Sec-WebSocket-Protocol", "mqtt") {
        return Err(Page::bad("the subprotocol `mqtt` is not among those of Sec-WebSocket-Protocol"));
    }
    if !values(headers, "Origin").all(|origin| is_welcome(origin, value(headers, "Host"), origins)) {
        return Err(Page {
            status: "403 Forbidden",
            headers: "",
            words: "web pages of this origin are not listed in [broker] websocket_origins",
        });
    }
    let accept = derive_accept_key(key.as_bytes());
    // [MQTT-6.0.0-4]
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    ))
}

fn values<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    // What is not text is there all the same, and equals nothing.
    named.map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
}

/// The value of a header that must not stand there twice.
fn value<'a>(headers: &'a [Header<'a>], name: &'a str) -> Option<&'a str> {
    let mut values = values(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// Whether `word` is in the header's comma-separated list.
fn has_word(headers: &[Header<'_>], name: &str, word: &str) -> bool {
    values(headers, name).flat_map(|value| value.split(',')).any(|each| each.trim().eq_ignore_ascii_case(word))
}

/// Pages of the same host, whatever their port, and those listed.
fn is_welcome(origin: &str, host: Option<&str>, listed: &[String]) -> bool {
    let page = origin.strip_prefix("https://").map(without_port);
    let same = page.is_some_and(|page| host.map(without_port).is_some_and(|host| host.eq_ignore_ascii_case(page)));
    same || listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: gw:8443\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\r\n";

    fn status(request: &str) -> String {
        let page = judge(request.as_bytes(), &["https://hmi.example:3000".to_owned()]).unwrap_err();
        page.text().lines().next().unwrap().to_owned()
    }

    #[test]
    fn opens_with_the_key_of_the_specification_and_the_subprotocol() {
        let answer = judge(GOOD.as_bytes(), &[]).unwrap();
        // The example of RFC 6455 section 1.3.
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(end_of_head(GOOD.as_bytes()), Some(GOOD.len()));
        assert_eq!(end_of_head(&GOOD.as_bytes()[..GOOD.len() - 1]), None);
    }

    #[test]
    fn says_what_is_wrong_with_a_request() {
        assert_eq!(status("GET / HTTP/1.1\r\nHost: gw\r\n\r\n"), "HTTP/1.1 426 Upgrade Required");
        assert_eq!(status(&GOOD.replace("GET", "POST")), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status(&GOOD.replace(" 13", " 8")), "HTTP/1.1 426 Upgrade Required");
        for bad in [
            GOOD.replace("chat, mqtt", "chat"),
            GOOD.replace("chat, mqtt", "mqttv3.1"),
            GOOD.replace("dGhl", ""),
            GOOD.replace("Sec-WebSocket-Key", "Sec-WebSocket-Nothing"),
            "\x10\x0c\0\x04MQTT\r\n\r\n".to_owned(),
        ] {
            assert_eq!(status(&bad), "HTTP/1.1 400 Bad Request", "{bad}");
        }
    }

    #[test]
    fn pages_of_other_hosts_are_refused_unless_listed() {
        let from = |origin: &str| GOOD.replace("Host:", &format!("Origin: {origin}\r\nHost:"));
        for foreign in ["https://evil.example", "null", "http://gw", "https://gw.evil.example", "https://hmi.example"] {
            assert_eq!(status(&from(foreign)), "HTTP/1.1 403 Forbidden", "{foreign}");
        }
        for own in ["https://gw", "https://gw:8443", "https://GW:9080", "https://hmi.example:3000"] {
            let listed = ["https://hmi.example:3000".to_owned()];
            assert!(judge(from(own).as_bytes(), &listed).is_ok(), "{own}");
        }
    }
}
