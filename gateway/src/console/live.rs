//! Parts of a page that change while somebody looks: one event every few seconds at most, with the parts that have changed.
//!
//! A reader that takes nothing for ten seconds is closed by the server under it (`admin::patience`), and nothing piles up for
//! one: the next event is made when the last was taken. A stream ends with its session, and with the gateway.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use fieldgate_certs::est::TokenHash;
use futures_util::stream::unfold;
use maud::Markup;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::access::Visitor;
use crate::admin::Overview;
use crate::admin::api::Failed;

/// At a time: fewer than the connections of the admin address, of which each takes one. Full: the page stays as it was
/// loaded, and asks again.
pub const STREAMS: usize = 24;
/// Without news for so many events, a line says that the stream is there.
const SILENT: u32 = 5;

/// Parts of a page: id and content.
pub type Parts = Vec<(String, Markup)>;

struct Stream<F> {
    overview: Arc<Overview>,
    session: TokenHash,
    make: F,
    ticks: Interval,
    /// What was last sent of each part.
    sent: HashMap<String, u64>,
    silent: u32,
    over: bool,
    _place: OwnedSemaphorePermit,
}

/// A stream of the parts that `make` makes, `every` so often (a second at least).
pub fn stream<F, M>(overview: &Arc<Overview>, visitor: &Visitor, every: Duration, make: F) -> Response
where
    F: FnMut() -> M + Send + 'static,
    M: Future<Output = Parts> + Send,
{
    let Ok(place) = Arc::clone(&overview.console.streams).try_acquire_owned() else {
        let words = "too many pages are being watched: this one is as it was when it was loaded";
        return Failed(StatusCode::SERVICE_UNAVAILABLE, words.to_owned()).into_response();
    };
    let every = every.max(Duration::from_secs(1));
    // The page has just been made.
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        overview: Arc::clone(overview),
        session: visitor.session,
        make,
        ticks,
        sent: HashMap::new(),
        silent: 0,
        over: false,
        _place: place,
    };
    let events = unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(event)), stream))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

impl<F, M> Stream<F>
where
    F: FnMut() -> M + Send,
    M: Future<Output = Parts> + Send,
{
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        let stop = self.overview.console.stop.clone();
        stop.run_until_cancelled(self.ticks.tick()).await?;
        if !self.overview.console.sessions.lasts(&self.session, &self.overview.authority.accounts) {
            self.over = true;
            return Some("event: over\ndata: {}\n\n".to_owned());
        }
        let parts = stop.run_until_cancelled((self.make)()).await?;
        let news: Vec<(String, String)> = parts.into_iter().filter_map(|part| self.news(part)).collect();
        if news.is_empty() {
            self.silent += 1;
            if self.silent < SILENT {
                return Some(":\n".to_owned());
            }
        }
        self.silent = 0;
        // Pairs of strings: it can't fail.
        let data = serde_json::to_string(&news).unwrap_or_default();
        Some(format!("data: {data}\n\n"))
    }

    fn news(&mut self, (id, markup): (String, Markup)) -> Option<(String, String)> {
        let text = markup.into_string();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        (self.sent.insert(id.clone(), hash) != Some(hash)).then_some((id, text))
    }
}
