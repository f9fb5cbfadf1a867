//! MQTT over WebSocket (section 6 of both OASIS texts): the HTTP request, and behind it a stream of bytes in which
//! frames have no meaning: a packet may span several, and one may hold several packets.

mod stream;
mod upgrade;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub(super) use stream::Frames;

use super::goodbye;
use super::handshake::Lost;
use crate::Limits;

/// Longest HTTP request, headers included.
const HEAD: usize = 8 << 10;
/// The library's read buffer, allocated with each connection; frames beyond it are read straight through.
const READ_BUFFER: usize = 2 << 10;
/// Frames up to that size are taken whatever the packet limit: clients put several packets into one.
const SMALLEST_FRAME_LIMIT: usize = 64 << 10;

/// Answers the HTTP request. What isn't an opening of MQTT over WebSocket gets a page that says so.
pub(super) async fn open<S>(mut stream: S, origins: &[String], limits: &Limits) -> Result<Frames<S>, Lost>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    let answer = loop {
        if let Some(end) = upgrade::end_of_head(&input) {
            break upgrade::judge(&input.split_to(end), origins);
        }
        if input.len() >= HEAD {
            break Err(upgrade::Page::too_long());
        }
        let room = HEAD - input.len();
        input.reserve(room.min(512));
        match stream.read_buf(&mut input).await {
            Ok(0) | Err(_) => return Err(Lost::failed("WebSocket: closed before a complete HTTP request")),
            Ok(_) => {}
        }
    };
    match answer {
        Ok(accepted) => {
            let gone = |_| Lost::failed("WebSocket: closed before the HTTP answer");
            stream.write_all(accepted.as_bytes()).await.map_err(gone)?;
            stream.flush().await.map_err(gone)?;
            let most = limits.packet.max(SMALLEST_FRAME_LIMIT);
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER)
                // Each write goes out at once: what waits for the client waits in the connection's output buffer.
                .write_buffer_size(0)
                .max_message_size(Some(most))
                .max_frame_size(Some(most));
            let socket = WebSocketStream::from_partially_read(stream, input.to_vec(), Role::Server, Some(config)).await;
            Ok(Frames::new(socket))
        }
        Err(page) => {
            let words = format!("WebSocket: {}", page.why());
            goodbye::close(stream, page.text().as_bytes().into()).await;
            Err(Lost::failed(words))
        }
    }
}
