//! The table of all routes, of which the router is built: a route that is not in it does not exist, and none is in it
//! without a word on who may ask. `docs/api.md` describes each; tests hold both to this table.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::access::{Access, Bounds, bounded, guard};
use super::api::{self, Failed};
use super::overview::Overview;
use super::{accounts, quarantine, tokens};
use crate::console;

/// One of them.
#[derive(Debug)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: Method,
    /// As axum writes it, with `{name}` for a part.
    pub path: &'static str,
    /// Who may ask.
    pub access: Access,
    make: fn(MethodFilter) -> MethodRouter<Arc<Overview>>,
}

impl Route {
    const fn get(path: &'static str, access: Access, make: fn(MethodFilter) -> MethodRouter<Arc<Overview>>) -> Self {
        Self { method: Method::GET, path, access, make }
    }

    const fn post(path: &'static str, access: Access, make: fn(MethodFilter) -> MethodRouter<Arc<Overview>>) -> Self {
        Self { method: Method::POST, path, access, make }
    }
}

/// All of them.
pub static ROUTES: [Route; 34] = [
    Route::get("/healthz", Access::Open, |to| on(to, api::healthz)),
    Route::get("/readyz", Access::Open, |to| on(to, api::readyz)),
    Route::get("/metrics", Access::Open, |to| on(to, api::metrics)),
    Route::get("/api/v1/status", Access::Read, |to| on(to, api::status)),
    Route::get("/api/v1/devices", Access::Read, |to| on(to, api::devices)),
    Route::post("/api/v1/devices", Access::Admin, |to| on(to, api::add_device)),
    Route::get("/api/v1/devices/{id}", Access::Read, |to| on(to, api::device)),
    Route::post("/api/v1/devices/{id}/revoke", Access::Admin, |to| on(to, api::revoke_device)),
    Route::post("/api/v1/devices/{id}/token", Access::Admin, |to| on(to, api::make_token)),
    Route::get("/api/v1/points", Access::Read, |to| on(to, api::points)),
    // Reading a point is a request to the device, and takes its time.
    Route::post("/api/v1/points/{device}/{command}", Access::Admin, |to| on(to, api::point_command)),
    Route::get("/api/v1/buffer", Access::Read, |to| on(to, api::buffer)),
    Route::get("/api/v1/buffer/quarantine", Access::Read, |to| on(to, quarantine::list)),
    Route::post("/api/v1/buffer/quarantine/retry", Access::Admin, |to| on(to, quarantine::retry)),
    Route::post("/api/v1/buffer/quarantine/drop", Access::Admin, |to| on(to, quarantine::forget)),
    Route::post("/api/v1/policy/explain", Access::Read, |to| on(to, api::explain_policy)),
    Route::get("/api/v1/audit", Access::Read, |to| on(to, api::audit_lines)),
    Route::get("/api/v1/audit/end", Access::Read, |to| on(to, api::audit_end)),
    Route::get("/api/v1/ca", Access::Read, |to| on(to, api::authorities)),
    Route::get("/api/v1/ca/bundle", Access::Read, |to| on(to, api::bundle)),
    Route::get("/crl/{name}", Access::Read, |to| on(to, api::revocation_list)),
    Route::post("/api/v1/reload", Access::Admin, |to| on(to, api::reload)),
    Route::post("/api/v1/ca/rotate", Access::Admin, |to| on(to, api::rotate)),
    // What somebody could make another gateway of, or other tokens, leaves by the socket alone.
    Route::post("/api/v1/ca/root-key/export", Access::Socket, |to| on(to, api::export_root_key)),
    Route::post("/api/v1/ca/root-key/remove", Access::Socket, |to| on(to, api::remove_root_key)),
    Route::post("/api/v1/backup", Access::Socket, |to| on(to, api::snapshot)),
    Route::get("/api/v1/tokens", Access::Socket, |to| on(to, tokens::list)),
    Route::post("/api/v1/tokens", Access::Socket, |to| on(to, tokens::add)),
    Route::post("/api/v1/tokens/{name}/revoke", Access::Socket, |to| on(to, tokens::revoke)),
    Route::get("/api/v1/console/setup-code", Access::Socket, |to| on(to, accounts::setup_code)),
    Route::get("/api/v1/console/users", Access::Socket, |to| on(to, accounts::list)),
    Route::post("/api/v1/console/users", Access::Socket, |to| on(to, accounts::add)),
    Route::post("/api/v1/console/users/{name}/password", Access::Socket, |to| on(to, accounts::set_password)),
    Route::post("/api/v1/console/users/{name}/remove", Access::Socket, |to| on(to, accounts::remove)),
];

/// The router of both doors.
pub fn router(overview: &Arc<Overview>, bounds: Bounds) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        let filter = if route.method == Method::GET { MethodFilter::GET } else { MethodFilter::POST };
        let guarded = from_fn_with_state((Arc::clone(overview), route), guard);
        router = router.route(route.path, (route.make)(filter).route_layer(guarded));
    }
    router = router.merge(console::routes::router(overview));
    router.fallback(nothing).layer(from_fn_with_state(bounds, bounded)).with_state(Arc::clone(overview))
}

async fn nothing() -> Response {
    Failed(StatusCode::NOT_FOUND, "there is no such route".to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_of_the_api_names_every_route_and_its_access_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
        let text = std::fs::read_to_string(path).unwrap();
        let row = |line: &str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, route, access, ..] = cells.as_slice() else { return None };
            let route = route.strip_prefix('`')?.strip_suffix('`')?;
            (route.starts_with("GET ") || route.starts_with("POST ")).then(|| format!("{route} {access}"))
        };
        let mut documented: Vec<String> = text.lines().filter_map(row).collect();
        let words = |route: &Route| format!("{} {} {}", route.method, route.path, route.access.word());
        let mut present: Vec<String> = ROUTES.iter().map(words).collect();
        documented.sort();
        present.sort();
        assert_eq!(documented, present);
    }

    #[test]
    fn what_is_open_is_health_and_metrics() {
        let open = ROUTES.iter().filter(|route| route.access == Access::Open).map(|route| route.path);
        assert_eq!(open.collect::<Vec<_>>(), ["/healthz", "/readyz", "/metrics"]);
        let changes = |route: &&Route| route.method == Method::POST && route.access == Access::Read;
        assert_eq!(ROUTES.iter().filter(changes).map(|r| r.path).collect::<Vec<_>>(), ["/api/v1/policy/explain"]);
    }
}
