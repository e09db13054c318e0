//! Requests of browsers: whose pages may do what here.
//!
//! A vat asks nobody who they are, and listens where only this machine reaches it. But a browser on
//! this machine runs pages of others, and these may send requests to it. The browser says so:
//!
//! - *`Sec-Fetch-Site`* says of each request where it comes from, where the vat is reached by TLS or at this
//!   machine. What does not come from a page of the same origin, nor from the user, is refused, unless it opens
//!   a page in a window: a `GET` or `HEAD` with `Sec-Fetch-Mode: navigate` and `Sec-Fetch-Dest: document`, which
//!   is a link. A page of the same site is a page of others: on this machine all ports are one site, and
//!   so are the objects below one domain.
//! - *`Origin`* says whose page it is that sends a request which is more than a link or an image, in older
//!   browsers too. If that is not the vat's own page (`Origin` and `Host` are one), calls, WebSockets and
//!   whatever is not `GET`, `HEAD` or `OPTIONS` are refused.
//!
//! Pages of an origin that `cors_origins` names may do all of it. What asks without a page, such as an image or
//! a script of another page, says no origin: then only `*` lets it in.
//!
//! A page that goes by a name of its own which leads to this machine (DNS rebinding) is the vat's own, as far as
//! the browser knows: see [`Hosts`](crate::gateway::Hosts).
//!
//! Who sends none of these fields is no page of others: curl and other programs come through.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};

use super::Problem;
use crate::fetch::{Body, Response, is_web_socket};

/// How long a browser may remember what it was told, in seconds.
const MAX_AGE: &str = "7200";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The pages of others that may ask, and see the answers.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    any: bool,
    listed: Vec<String>,
}

impl Origins {
    /// The origins of a list such as `https://app.example`; `*` is all of them.
    pub fn new(listed: &[String]) -> Origins {
        Origins {
            any: listed.iter().any(|origin| origin == "*"),
            listed: listed.to_vec(),
        }
    }

    fn allow(&self, origin: &HeaderValue) -> bool {
        let listed = |known: &String| origin.as_bytes().eq_ignore_ascii_case(known.as_bytes());
        self.any || self.listed.iter().any(listed)
    }

    /// Refuses what a page of somebody else may not do. `is_call` is for calls of methods.
    pub(super) fn check(&self, head: &Parts, is_call: bool) -> Result<(), Problem> {
        let origin = head.headers.get(header::ORIGIN);
        if self.any || origin.is_some_and(|origin| self.allow(origin)) {
            return Ok(());
        }
        let matters = is_call || !is_safe(&head.method) || is_web_socket(&head.headers);
        let is_own = origin.is_none_or(|origin| is_own(origin, &head.headers));
        if is_foreign(&head.headers) && !is_link(head) || matters && !is_own {
            return Err(Problem::ForeignOrigin);
        }
        Ok(())
    }

    /// Answers a browser that asks whether a page of somebody else may ask, if this is that and it may.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Response> {
        let origin = head.headers.get(header::ORIGIN)?;
        let method = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if head.method != Method::OPTIONS || !self.allow(origin) {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Some(wanted) = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        let age = HeaderValue::from_static(MAX_AGE);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, age);
        let asked = "access-control-request-method, access-control-request-headers";
        headers.append(header::VARY, HeaderValue::from_static(asked));
        Some(response)
    }

    /// Lets the page see the answer, if it may.
    pub(super) fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if !self.any && self.listed.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| self.allow(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let code = HeaderValue::from_name(super::problem::CODE);
            headers.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, code);
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a browser says that the request comes from a page of another origin. What it says in a word that is
/// not known here counts as that.
fn is_foreign(headers: &HeaderMap) -> bool {
    let said = headers.get_all(SEC_FETCH_SITE).iter();
    said.into_iter()
        .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// Whether the request opens a page in a window of its own.
fn is_link(head: &Parts) -> bool {
    let says = |name, word: &str| {
        let mut said = head.headers.get_all(name).iter();
        said.next().is_some_and(|it| it == word) && said.next().is_none()
    };
    matches!(head.method, Method::GET | Method::HEAD)
        && !is_web_socket(&head.headers)
        && says(SEC_FETCH_MODE, "navigate")
        && says(SEC_FETCH_DEST, "document")
}

/// Whether the page is one of the vat's own.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    let (Some(host), Ok(origin)) = (host, origin.to_str()) else {
        return false;
    };
    let (authority, usual) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, ":80"),
        Some(("https", authority)) => (authority, ":443"),
        _ => return false,
    };
    let bare = |text: &str| {
        text.strip_suffix(usual)
            .unwrap_or(text)
            .to_ascii_lowercase()
    };
    bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/C/n/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_page_of_others_reads_what_it_could_link_to_and_no_more() {
        let nobody = Origins::default();
        let own = [
            ("host", "localhost:7448"),
            ("origin", "http://localhost:7448"),
        ];
        let foreign = [
            ("host", "localhost:7448"),
            ("origin", "http://evil.example"),
        ];
        let port = [
            ("host", "localhost:7448"),
            ("origin", "http://localhost:80"),
        ];
        let file = [("host", "localhost:7448"), ("origin", "null")];
        let secure = [("host", "app.example"), ("origin", "https://APP.example")];
        let program = [("host", "localhost:7448")];
        let may = |fields: &[(&str, &str)], method, is_call| {
            nobody.check(&head(method, fields), is_call).is_ok()
        };
        for fields in [&own[..], &secure, &program] {
            assert!(may(fields, "POST", true), "{fields:?}");
            assert!(may(fields, "DELETE", false), "{fields:?}");
        }
        for fields in [foreign, port, file] {
            assert!(!may(&fields, "POST", true), "{fields:?}");
            assert!(!may(&fields, "OPTIONS", true), "{fields:?}");
            assert!(!may(&fields, "POST", false), "{fields:?}");
            assert!(may(&fields, "GET", false), "{fields:?}");
            let socket = [fields[0], fields[1], ("upgrade", "websocket")];
            assert!(!may(&socket, "GET", false), "{fields:?}");
        }
        let listed = Origins::new(&["http://Evil.example".into()]);
        assert!(listed.check(&head("POST", &foreign), true).is_ok());
        assert!(listed.check(&head("POST", &file), true).is_err());
        let any = Origins::new(&["*".into()]);
        assert!(any.check(&head("POST", &file), true).is_ok());
    }

    #[test]
    fn a_browser_is_told_whose_pages_may_ask() {
        let asks = [
            ("host", "localhost:7448"),
            ("origin", "https://app.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-mine"),
        ];
        let asks = head("OPTIONS", &asks);
        assert!(Origins::default().preflight(&asks).is_none());
        assert!(
            Origins::new(&["https://b.example".into()])
                .preflight(&asks)
                .is_none()
        );
        let origins = Origins::new(&["https://app.example".into()]);
        let answer = origins.preflight(&asks).unwrap();
        assert_eq!(answer.headers()["access-control-allow-methods"], "PUT");
        assert_eq!(answer.headers()["access-control-allow-headers"], "x-mine");

        let mut headers = HeaderMap::new();
        Origins::default().mark(asks.headers.get("origin"), &mut headers);
        assert!(headers.is_empty());
        origins.mark(asks.headers.get("origin"), &mut headers);
        assert_eq!(
            headers["access-control-allow-origin"],
            "https://app.example"
        );
        assert_eq!(headers["vary"], "origin");
        let mut headers = HeaderMap::new();
        origins.mark(Some(&HeaderValue::from_static("null")), &mut headers);
        assert!(!headers.contains_key("access-control-allow-origin"));
    }

    #[test]
    fn a_browser_may_follow_links_from_other_pages_and_no_more() {
        let check = |origins: &Origins, method, fields: &[(&str, &str)], is_call| {
            origins.check(&head(method, fields), is_call).is_ok()
        };
        let nobody = Origins::default();
        let link = |site| {
            [
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ]
        };
        for site in ["cross-site", "same-site", "unheard-of"] {
            assert!(check(&nobody, "GET", &link(site), false), "{site}");
            assert!(check(&nobody, "HEAD", &link(site), false), "{site}");
            assert!(!check(&nobody, "POST", &link(site), false), "{site}");
            // Frames, images, `fetch` without and with CORS, and a browser that says nothing else.
            for (mode, dest) in [
                ("navigate", "iframe"),
                ("navigate", "object"),
                ("no-cors", "image"),
                ("no-cors", "document"),
                ("cors", "empty"),
                ("websocket", "websocket"),
            ] {
                let fields = [
                    ("sec-fetch-site", site),
                    ("sec-fetch-mode", mode),
                    ("sec-fetch-dest", dest),
                ];
                assert!(!check(&nobody, "GET", &fields, false), "{fields:?}");
            }
            assert!(!check(&nobody, "GET", &[("sec-fetch-site", site)], false));
            let twice = [&link(site)[..], &[("sec-fetch-dest", "image")]].concat();
            assert!(!check(&nobody, "GET", &twice, false));
            let twice = [&link("same-origin")[..1], &[("sec-fetch-site", site)]].concat();
            assert!(!check(&nobody, "GET", &twice, false));
            let socket = [&link(site)[..], &[("upgrade", "websocket")]].concat();
            assert!(!check(&nobody, "GET", &socket, false));
            // Those that may are known by `Origin`.
            let listed = Origins::new(&["https://app.example".into()]);
            let any = Origins::new(&["*".into()]);
            let image = [("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")];
            assert!(!check(&listed, "GET", &image, false));
            assert!(check(&any, "GET", &image, false));
            for (origin, may) in [
                ("https://app.example", true),
                ("https://evil.example", false),
                ("null", false),
            ] {
                let fields = [("sec-fetch-site", site), ("origin", origin)];
                for method in ["GET", "POST", "OPTIONS"] {
                    assert_eq!(check(&listed, method, &fields, true), may, "{origin}");
                    assert_eq!(check(&listed, method, &fields, false), may, "{origin}");
                    assert!(check(&any, method, &fields, true));
                }
                let socket = [&fields[..], &[("upgrade", "websocket")]].concat();
                assert_eq!(check(&listed, "GET", &socket, false), may, "{origin}");
            }
        }
        for site in ["same-origin", "none"] {
            let fields = [("sec-fetch-site", site), ("sec-fetch-mode", "cors")];
            for method in ["GET", "POST", "DELETE"] {
                assert!(check(&nobody, method, &fields, true), "{site}");
            }
        }
    }
}
