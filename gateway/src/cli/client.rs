//! A client of `/api/v1` over admin.sock.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::admin::api::Refusal;
use crate::admin::serve::SOCKET;

/// A running gateway.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the gateway that runs on `data_dir`; `None` when none does.
    pub async fn connect(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(SOCKET);
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't reach the gateway through `{}`", path.display())),
        }
    }

    /// As [`Client::connect`], for verbs that need a running gateway.
    pub async fn required(data_dir: &Path) -> anyhow::Result<Self> {
        let found = Self::connect(data_dir).await?;
        found.ok_or_else(|| anyhow!("no gateway runs on `{}`; start one with `fieldgate run`", data_dir.display()))
    }

    /// `GET path`, as text.
    pub async fn get_text(self, path: &str) -> anyhow::Result<String> {
        let bytes = self.request(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8(bytes.to_vec())?)
    }

    /// `GET path`, as JSON.
    pub async fn get<T: DeserializeOwned>(self, path: &str) -> anyhow::Result<T> {
        let bytes = self.request(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&bytes).context("the gateway's answer can't be understood; is it of another version?")
    }

    /// `POST path` with a JSON body.
    pub async fn post<T: DeserializeOwned>(self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let bytes = self.request(Method::POST, path, serde_json::to_vec(body)?.into()).await?;
        serde_json::from_slice(&bytes).context("the gateway's answer can't be understood; is it of another version?")
    }

    /// `POST path`, whose answer has the same form whether it succeeded or not.
    pub async fn post_either<T: DeserializeOwned>(self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let (status, bytes) = self.exchange(Method::POST, path, serde_json::to_vec(body)?.into()).await?;
        serde_json::from_slice(&bytes).or_else(|_| match serde_json::from_slice::<Refusal>(&bytes) {
            Ok(refusal) => bail!("{}", refusal.error),
            Err(_) => bail!("the gateway answered {status}: {}", String::from_utf8_lossy(&bytes).trim()),
        })
    }

    async fn request(self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let (status, bytes) = self.exchange(method, path, body).await?;
        if !status.is_success() {
            match serde_json::from_slice::<Refusal>(&bytes) {
                Ok(refusal) => bail!("{}", refusal.error),
                Err(_) => bail!("the gateway answered {status}: {}", String::from_utf8_lossy(&bytes).trim()),
            }
        }
        Ok(bytes)
    }

    async fn exchange(self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "fieldgate")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await.context("the gateway closed the connection")?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((status, bytes))
    }
}
