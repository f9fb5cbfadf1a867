//! The end of a connection, lingering: what is still to be said is written, writing is shut down, what the peer
//! still sends is drained, then the socket closes. A close with unread bytes would be a RST, which eats the reason
//! code on its way (measured).

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A peer that takes or says nothing is not waited for any longer.
const LINGER: Duration = Duration::from_secs(1);
/// Nor is one that goes on talking.
const DRAIN: usize = 1 << 20;

/// Says what is left and closes.
pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, output: BytesMut) {
    let saying = async {
        stream.write_all(&output).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(LINGER, saying).await {
        Ok(Ok(())) => {}
        // It is gone, or takes nothing: there is nobody to drain for.
        Ok(Err(_)) | Err(_) => return,
    }
    let draining = async {
        let mut buffer = [0_u8; 2_048];
        let mut drained = 0;
        while drained < DRAIN {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => drained += count,
            }
        }
    };
    if tokio::time::timeout(LINGER, draining).await.is_err() {
        tracing::debug!("peer did not close in time");
    }
}
