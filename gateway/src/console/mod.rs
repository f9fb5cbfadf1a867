//! The console: pages for people at the admin address, made by the server, without anything from elsewhere.
//!
//! - [`routes`]: the table of all routes, of which the router and the navigation are built.
//! - [`access`]: who may see and do what; sessions, the set-up, the sign-in.
//! - [`page`]: the frame of every page, errors as pages, and the small parts that pages are made of.
//! - [`live`]: parts of a page that change while somebody looks, by server-sent events.
//! - [`charts`]: figures over the last hour and the last day, sampled by one task and drawn as SVG.
//! - [`summary`]: the figures of the whole gateway, gathered once a second at most for all who look.
//! - [`pages`]: what stands on them.
//!
//! # A page more
//! 1. A handler in `pages/NAME.rs`; `State` is the gateway, [`access::Visitor`] whoever is signed in:
//!    ```text
//!    pub async fn show(State(overview): State<Arc<Overview>>, visitor: Visitor) -> Result<Response, Failed> {
//!        let body = html! { p { "…" } };
//!        Ok(page(&overview, &visitor, "/console/links", "Links", &body))
//!    }
//!    ```
//!    `Failed(status, words)` becomes an error page of itself, and so does every refusal of an extractor. Whatever reads files or
//!    goes over all devices runs in [`crate::admin::api::blocking`].
//! 2. A row in [`routes::PAGES`]: `PageRoute::tab("/console/links", "Links", |to| on(to, links::show))` stands in the navigation,
//!    in the order of the table; `PageRoute::get` doesn't. What changes something is `PageRoute::post(path, Asks::Admin, …)`.
//! 3. A form: `form method="post" action="…" { (visitor.field()) … }`: the guard refuses a `POST` without that field. Read it
//!    with axum's `Form`; the field `csrf` is ignored. Show buttons for changes where `visitor.is_admin()`. A change
//!    answers with a redirect (`Redirect::to` is a 303). That it was asked for, by whom and from where, is in the audit log by itself.
//! 4. Live parts: give a part an `id`, call [`page::live_page`] with the path of its stream, and add `PageRoute::live(path, …)`
//!    whose handler returns [`live::stream`] with the same parts by id. Links, buttons and fields stay outside of live
//!    parts where they can: a part with the keyboard's focus in it is not replaced.
//! 5. Text goes into `html!` as `(text)`, which escapes it; `PreEscaped` is for markup of ours alone. No inline style, no inline
//!    script: the policy forbids both. Moments are [`page::time`].

pub mod access;
pub mod charts;
pub mod live;
pub mod page;
pub mod pages;
pub mod routes;
pub mod summary;

use std::sync::Arc;

use fieldgate_types::Clock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::access::sessions::Sessions;
use self::access::setup::Setup;
use self::pages::enrol::Bundles;
use self::summary::Summaries;
use crate::identity::trial::Trials;

/// Passwords that are checked at a time, and those with those that wait. Full: told to come back.
const COMPUTING: usize = 1;
const PLACES: usize = 16;

/// What the console remembers.
pub struct Console {
    /// Who is signed in.
    pub sessions: Sessions,
    /// The code for the first account.
    pub setup: Setup,
    /// Where passwords are tried.
    pub trials: Arc<Trials>,
    /// Bundles that were made and not fetched yet.
    pub bundles: Bundles,
    /// The figures of the gateway.
    pub summaries: Summaries,
    /// Places for streams of live parts.
    streams: Arc<Semaphore>,
    /// Ends the streams.
    stop: CancellationToken,
}

impl Console {
    /// Nobody is signed in. Live parts end with `stop`.
    pub fn new(clock: &Arc<dyn Clock>, stop: CancellationToken) -> Self {
        Self {
            sessions: Sessions::new(Arc::clone(clock)),
            setup: Setup::default(),
            trials: Arc::new(Trials::new(COMPUTING, PLACES, Arc::clone(clock))),
            bundles: Bundles::default(),
            summaries: Summaries::default(),
            streams: Arc::new(Semaphore::new(live::STREAMS)),
            stop,
        }
    }
}
