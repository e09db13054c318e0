//! The page of a room, and what else it answers to browsers.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::fetch::{Body, Response};

const PAGE: &str = include_str!("page.html");

/// The page may run its own script and style and speak to its own room, and nothing else.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style"),
    );
    HeaderValue::try_from(policy).expect("it is ASCII")
});

/// The page.
pub(super) fn page() -> Response {
    let mut response = Response::new(Body::from(PAGE));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a policy calls the only element of that name.
fn hash_of(element: &str) -> String {
    let (_, rest) = PAGE
        .split_once(&format!("<{element}>"))
        .expect("the page has it");
    let (content, _) = rest
        .split_once(&format!("</{element}>"))
        .expect("the page has it");
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(content)))
}

/// Says in words why there is nothing else.
pub(super) fn refusal(status: StatusCode, reason: String) -> Response {
    let mut response = Response::new(Body::from(reason + "\n"));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
