//! Who may ask.
//!
//! A vat asks nobody who they are, and listens where only this machine reaches it. But a browser on
//! this machine runs pages of others, and these may send requests to it:
//!
//! - *By its address.* A browser says in `Origin` whose page it is that sends a request which is more
//!   than a link or an image. If that is neither the vat's own page (`Origin` and `Host` are one) nor
//!   one that `cors_origins` names, calls, WebSockets and whatever is not `GET`, `HEAD` or `OPTIONS`
//!   are refused. What is left goes to the object, and the page does not see the answer, unless the
//!   object itself says that it may.
//! - *By a name of their own that leads to this machine* (DNS rebinding): the page is the vat's own
//!   then, as far as the browser knows. So where the vat listens at a loopback address, `Host` has to
//!   be `localhost`, a loopback address, or one of `hosts`. A proxy in front that keeps `Host` needs
//!   its name there.
//!
//! Who sends no `Origin` is no page of others: curl and other programs come through.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts};

use super::Problem;
use crate::fetch::{Body, Response, is_web_socket};

/// How long a browser may remember what it was told, in seconds.
const MAX_AGE: &str = "7200";

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
        let Some(origin) = head.headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let is_safe = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let matters = is_call || !is_safe || is_web_socket(&head.headers);
        if !matters || self.allow(origin) || is_own(origin, &head.headers) {
            return Ok(());
        }
        Err(Problem::ForeignOrigin)
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

/// Sees to it that there is one `Host`, as the request's URL says if that says one, and that it is one
/// of the vat: any, unless it listens at a loopback address.
pub(super) fn check_host(
    head: &mut Parts,
    on_loopback: bool,
    known: &[String],
) -> Result<(), Problem> {
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Problem::NoHost)?;
        head.headers.insert(header::HOST, host);
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Problem::NoHost)?,
        // No browser.
        (None, _) if head.version < Version::HTTP_11 => return Ok(()),
        _ => return Err(Problem::NoHost),
    };
    let name = without_port(host);
    let is_known = || known.iter().any(|known| known.eq_ignore_ascii_case(name));
    if on_loopback && !is_loopback(name) && !is_known() {
        Err(Problem::WrongHost)
    } else {
        Ok(())
    }
}

fn is_loopback(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let inside = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match inside.unwrap_or(&name).parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
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
    fn a_vat_of_this_machine_goes_by_the_names_of_this_machine() {
        let known = ["app.example".to_owned()];
        let check = |host, on_loopback| {
            check_host(&mut head("GET", &[("host", host)]), on_loopback, &known).is_ok()
        };
        for host in [
            "localhost",
            "LOCALHOST:7448",
            "a.localhost:1",
            "127.0.0.1:7448",
            "127.1.2.3",
            "[::1]:7448",
            "app.example:443",
        ] {
            assert!(check(host, true), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7448",
            "localhost.evil.example",
            "notlocalhost",
            "192.168.0.1:7448",
            "[fe80::1]",
            "",
        ] {
            assert!(!check(host, true), "{host}");
            assert!(check(host, false), "{host}");
        }
        assert!(check_host(&mut head("GET", &[]), false, &[]).is_err());
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert!(check_host(&mut head("GET", &twice), false, &[]).is_err());
        let mut whole = head("GET", &[("host", "localhost")]);
        whole.uri = "http://evil.example/C/n/".parse().unwrap();
        assert!(check_host(&mut whole, true, &[]).is_err());
        assert_eq!(whole.headers["host"], "evil.example");
    }
}
