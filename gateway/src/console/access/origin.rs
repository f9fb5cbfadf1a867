//! What of a request says where it comes from, and what of an answer keeps it there: cookies, origins, headers.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use fieldgate_types::DeviceId;

use super::sessions::LIFE;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const PERMISSIONS: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Nothing but our own files, no inline script or style, no frames, forms to us alone.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The name of the cookie. Of one browser that has several gateways open, behind forwarded ports of one host, each has
/// its own.
fn cookie_name(gateway: &DeviceId, tls: bool) -> String {
    // `__Host-`: the browser takes it over TLS alone, for this host alone, and for every path.
    let prefix = if tls { "__Host-" } else { "" };
    format!("{prefix}fieldgate-{gateway}")
}

/// The key that a browser sends.
pub fn key<'a>(headers: &'a HeaderMap, gateway: &DeviceId, tls: bool) -> Option<&'a str> {
    let name = cookie_name(gateway, tls);
    let all = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(of, _)| *of == name).map(|(_, key)| key)
}

/// Gives the browser a key, or takes it away.
pub fn cookie(gateway: &DeviceId, tls: bool, key: Option<&str>) -> String {
    let (name, secure) = (cookie_name(gateway, tls), if tls { "; Secure" } else { "" });
    let (key, life) = key.map_or(("", 0), |key| (key, LIFE.as_secs()));
    format!("{name}={key}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether a change is asked for by a page of ours. A page with `no-referrer`, as ours are, sends `Origin: null`; then the
/// browser's own word counts, which no page can set.
pub fn from_here(headers: &HeaderMap, tls: bool) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    match text(SEC_FETCH_SITE) {
        Some("same-origin") => {}
        Some(_) => return false,
        None if text(ORIGIN).is_none_or(|origin| origin == "null") => return false,
        None => {}
    }
    let scheme = if tls { "https" } else { "http" };
    match text(ORIGIN) {
        None | Some("null") => true,
        Some(origin) => {
            let host = origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
            host.zip(text(HOST)).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
        }
    }
}

/// What every answer of the console carries.
pub fn guarded(headers: &mut HeaderMap) {
    let fixed = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (PERMISSIONS, "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        (OPENER, "same-origin"),
        (RESOURCE, "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_change_comes_from_a_page_of_ours() {
        let host = ("host", "127.0.0.1:9080");
        let here = |pairs: &[(&'static str, &str)]| from_here(&headers(&[&[host], pairs].concat()), false);
        assert!(here(&[("origin", "http://127.0.0.1:9080")]));
        assert!(here(&[("origin", "null"), ("sec-fetch-site", "same-origin")]));
        assert!(here(&[("sec-fetch-site", "same-origin")]));
        for foreign in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://127.0.0.1:9081")],
            &[("origin", "https://127.0.0.1:9080")],
            &[("origin", "http://127.0.0.1:9080.evil.example")],
            &[("origin", "http://127.0.0.1:9080"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
            &[("origin", "null"), ("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!here(foreign), "{foreign:?}");
        }
        assert!(from_here(&headers(&[host, ("origin", "https://127.0.0.1:9080")]), true));
    }

    #[test]
    fn a_cookie_is_for_this_host_and_not_for_scripts() {
        let gateway = DeviceId::new("line-4").unwrap();
        let (plain, tls) = (cookie(&gateway, false, Some("k")), cookie(&gateway, true, Some("k")));
        assert_eq!(plain, "fieldgate-line-4=k; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict");
        assert_eq!(tls, "__Host-fieldgate-line-4=k; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure");
        assert!(cookie(&gateway, true, None).starts_with("__Host-fieldgate-line-4=; Path=/; Max-Age=0;"));
        let sent = headers(&[("cookie", "a=b; fieldgate-line-40=x; fieldgate-line-4=k; c")]);
        assert_eq!((key(&sent, &gateway, false), key(&sent, &gateway, true)), (Some("k"), None));
    }
}
