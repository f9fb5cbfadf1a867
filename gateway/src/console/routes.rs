//! The table of all routes of the console, of which router and navigation are built: a route that is not in it does not
//! exist, and none is in it without a word on who may ask. Tests ask each without the right to.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::Redirect;
use axum::routing::{MethodFilter, MethodRouter, get, on};

use super::access::{Asks, enter, guard};
use super::page;
use super::pages::{audit, buffer, configuration, device, devices, enrol, links, logs, overview, policy, trends};
use crate::admin::Overview;
use crate::admin::api::Failed;

type Make = fn(MethodFilter) -> MethodRouter<Arc<Overview>>;

/// One of them.
#[derive(Debug)]
pub struct PageRoute {
    /// `GET` or `POST`.
    pub method: Method,
    /// As axum writes it, with `{name}` for a part.
    pub path: &'static str,
    /// Who may ask.
    pub asks: Asks,
    /// Its word in the navigation.
    pub tab: Option<&'static str>,
    /// Asked for by a page by itself: it doesn't keep a session from becoming idle.
    pub quiet: bool,
    make: Make,
}

impl PageRoute {
    const fn of(method: Method, path: &'static str, asks: Asks, make: Make) -> Self {
        Self { method, path, asks, tab: None, quiet: false, make }
    }

    /// A page in the navigation, for who is signed in.
    pub const fn tab(path: &'static str, word: &'static str, make: Make) -> Self {
        Self { method: Method::GET, path, asks: Asks::Viewer, tab: Some(word), quiet: false, make }
    }

    /// A page.
    pub const fn get(path: &'static str, asks: Asks, make: Make) -> Self {
        Self::of(Method::GET, path, asks, make)
    }

    /// The live parts of a page.
    pub const fn live(path: &'static str, make: Make) -> Self {
        Self { method: Method::GET, path, asks: Asks::Viewer, tab: None, quiet: true, make }
    }

    /// A change.
    pub const fn post(path: &'static str, asks: Asks, make: Make) -> Self {
        Self::of(Method::POST, path, asks, make)
    }

    /// Whether an admin changes something by it.
    pub fn changes(&self) -> bool {
        self.asks == Asks::Admin && self.method != Method::GET
    }
}

/// All of them, those with a tab in the order of the navigation.
pub static PAGES: &[PageRoute] = &[
    PageRoute::get("/console/style.css", Asks::Guest, |to| on(to, page::style)),
    PageRoute::get("/console/console.js", Asks::Guest, |to| on(to, page::script)),
    PageRoute::get("/console/icon.svg", Asks::Guest, |to| on(to, page::icon)),
    PageRoute::get("/console/login", Asks::Guest, |to| on(to, enter::login)),
    PageRoute::post("/console/login", Asks::Guest, |to| on(to, enter::sign_in)),
    PageRoute::get("/console/setup", Asks::Guest, |to| on(to, enter::setup)),
    PageRoute::post("/console/setup", Asks::Guest, |to| on(to, enter::set_up)),
    PageRoute::post("/console/logout", Asks::Viewer, |to| on(to, enter::sign_out)),
    PageRoute::get("/console/account", Asks::Viewer, |to| on(to, enter::account)),
    PageRoute::post("/console/account/password", Asks::Viewer, |to| on(to, enter::set_password)),
    PageRoute::tab("/console", "Overview", |to| on(to, overview::show)),
    PageRoute::live("/console/live", |to| on(to, overview::live)),
    PageRoute::tab("/console/devices", "Devices", |to| on(to, devices::show)),
    PageRoute::live("/console/devices/live", |to| on(to, devices::live)),
    PageRoute::get("/console/device/{id}", Asks::Viewer, |to| on(to, device::show)),
    PageRoute::live("/console/device/{id}/live", |to| on(to, device::live)),
    PageRoute::get("/console/device/{id}/revoke", Asks::Admin, |to| on(to, device::ask_revoke)),
    PageRoute::post("/console/device/{id}/revoke", Asks::Admin, |to| on(to, device::revoke)),
    PageRoute::get("/console/device/{id}/command", Asks::Admin, |to| on(to, device::ask_command)),
    PageRoute::post("/console/device/{id}/command", Asks::Admin, |to| on(to, device::command)),
    PageRoute::tab("/console/links", "Links", |to| on(to, links::show)),
    PageRoute::live("/console/links/live", |to| on(to, links::live)),
    PageRoute::get("/console/links/{place}", Asks::Viewer, |to| on(to, links::one)),
    PageRoute::live("/console/links/{place}/live", |to| on(to, links::one_live)),
    PageRoute::tab("/console/buffer", "Buffer", |to| on(to, buffer::show)),
    PageRoute::live("/console/buffer/live", |to| on(to, buffer::live)),
    PageRoute::post("/console/buffer/retry", Asks::Admin, |to| on(to, buffer::retry)),
    PageRoute::get("/console/buffer/drop", Asks::Admin, |to| on(to, buffer::ask_drop)),
    PageRoute::post("/console/buffer/drop", Asks::Admin, |to| on(to, buffer::forget)),
    PageRoute::tab("/console/charts", "Charts", |to| on(to, trends::show)),
    PageRoute::live("/console/charts/live", |to| on(to, trends::live)),
    PageRoute::tab("/console/enrol", "Enrolment", |to| on(to, enrol::show)),
    PageRoute::post("/console/enrol/device", Asks::Admin, |to| on(to, enrol::add)),
    PageRoute::post("/console/enrol/token", Asks::Admin, |to| on(to, enrol::token)),
    PageRoute::get("/console/bundle/{id}", Asks::Admin, |to| on(to, enrol::added)),
    PageRoute::post("/console/bundle/{id}", Asks::Admin, |to| on(to, enrol::bundle)),
    PageRoute::tab("/console/audit", "Audit", |to| on(to, audit::show)),
    PageRoute::tab("/console/policy", "Policy", |to| on(to, policy::show)),
    PageRoute::tab("/console/configuration", "Configuration", |to| on(to, configuration::show)),
    PageRoute::post("/console/configuration/reload", Asks::Admin, |to| on(to, configuration::reload)),
    PageRoute::tab("/console/logs", "Logs", |to| on(to, logs::show)),
    PageRoute::live("/console/logs/live", |to| on(to, logs::live)),
];

/// Everything else below `/console`.
static NOWHERE: PageRoute = PageRoute::get("/console/{*rest}", Asks::Guest, |to| on(to, nothing));

async fn nothing() -> Failed {
    Failed(StatusCode::NOT_FOUND, "there is no such page: the navigation leads to all of them".to_owned())
}

/// The console's part of the router.
pub fn router(overview: &Arc<Overview>) -> Router<Arc<Overview>> {
    let mut router = Router::new().route("/", get(|| async { Redirect::to("/console") }));
    for route in PAGES.iter().chain([&NOWHERE]) {
        let filter = if route.method == Method::GET { MethodFilter::GET } else { MethodFilter::POST };
        let guarded = from_fn_with_state((Arc::clone(overview), route), guard);
        router = router.route(route.path, (route.make)(filter).route_layer(guarded));
    }
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_static_or_the_way_in() {
        let open = PAGES.iter().filter(|route| route.asks == Asks::Guest).map(|route| route.path);
        let (style, script, icon) = ("/console/style.css", "/console/console.js", "/console/icon.svg");
        let (login, setup) = ("/console/login", "/console/setup");
        assert_eq!(open.collect::<Vec<_>>(), [style, script, icon, login, login, setup, setup]);
    }

    #[test]
    fn what_changes_something_but_ones_own_session_asks_for_an_admin() {
        let own = |route: &&PageRoute| route.method == Method::POST && route.asks == Asks::Viewer;
        let own: Vec<_> = PAGES.iter().filter(own).map(|route| route.path).collect();
        assert_eq!(own, ["/console/logout", "/console/account/password"]);
        assert!(PAGES.iter().all(|route| route.method == Method::GET || !route.quiet));
        assert!(PAGES.iter().all(|route| route.quiet == route.path.ends_with("/live")));
    }
}
