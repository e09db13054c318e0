//! Requests to objects' own pages.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite};
use vatwerk::object_capnp::stub;

use super::{
    Ends, Http, Problem,
    body::{Coming, arriving},
    connection::Connection,
    proxy::tell_where,
    socket,
};
use crate::{
    Result,
    fetch::{self, Body, Request, Response, drop_hop_by_hop, is_web_socket},
    object::ClassEntry,
};

/// A stub for the object of that name.
pub(super) fn object(http: &Http, class: &Rc<ClassEntry>, name: &str) -> Result<stub::Client> {
    http.directory.stub_of_name(class, name)
}

/// Has the object answer a request below `prefix`.
pub(super) async fn forward<S>(
    connection: &Rc<Connection>,
    class: &Rc<ClassEntry>,
    name: &str,
    prefix: &str,
    mut head: Parts,
    body: Coming,
    on_upgrade: OnUpgrade,
) -> Result<Response, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Http { settings, .. } = &*connection.http;
    let object = object(&connection.http, class, name)?;
    let handshake = if is_web_socket(&head.headers) {
        Some(socket::Handshake::read(&head)?)
    } else {
        None
    };
    let (body, broken) = arriving(body, settings.limits.body_bytes, settings.limits.pace())?;
    let request = inward(&mut head, prefix, connection.ends, body)?;
    let asked = fetch::ask_within(&object, request, &connection.http.held).await;
    let mut response = asked.map_err(|error| match broken.why() {
        Some(body) => Problem::Unfinished(body.into()),
        None => Problem::Object(error),
    })?;
    drop_hop_by_hop(response.headers_mut());
    let socket = response.body_mut().take_socket();
    match (socket, handshake) {
        (None, _) => Ok(response),
        (Some(_), None) => Err(Problem::UnaskedSocket),
        (Some(socket), Some(handshake)) => {
            handshake.accept(response.headers_mut());
            socket::converse::<S>(connection, on_upgrade, socket);
            Ok(response)
        }
    }
}

/// The request as the object sees it.
fn inward(head: &mut Parts, prefix: &str, ends: Ends, body: Body) -> Result<Request, Problem> {
    let url = head.uri.path_and_query().map_or("/", |url| url.as_str());
    let inside = url.get(prefix.len()..).unwrap_or_default();
    let url = Uri::try_from(inside).map_err(|_| Problem::NoSuchPath)?;
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = url;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    *headers = std::mem::take(&mut head.headers);
    drop_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    socket::drop_handshake(headers);
    join_cookies(headers);
    tell_where(headers, prefix, ends);
    Ok(request)
}

/// HTTP/2 may send cookies in several fields, of which other HTTP knows only one.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    if cookies.len() < 2 {
        return;
    }
    let cookies: Vec<_> = cookies.into_iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).expect("made of values");
    headers.insert(header::COOKIE, joined);
}

/// The same place with a slash behind it.
pub(super) fn moved(to: &str, query: Option<&str>) -> Response {
    let to = match query {
        Some(query) => format!("{to}?{query}"),
        None => to.to_owned(),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    // It comes from a URL, which has no other letters than a header may have.
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_sees_its_own_part_of_the_url_and_where_it_is() {
        let (mut head, ()) = http::Request::builder()
            .method("PATCH")
            .uri("/C/a%2Fb//x/%20?q=/C/")
            .header("host", "here:1")
            .header("connection", "x-mine")
            .header("x-mine", "1")
            .header("expect", "100-continue")
            .header("x-forwarded-for", "10.0.0.1")
            .header("x-forwarded-prefix", "/theirs")
            .header("x-forwarded-proto", "https")
            .header("content-length", "3")
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3")
            .body(())
            .unwrap()
            .into_parts();
        let ends = Ends {
            peer: Some([10, 0, 0, 2].into()),
            is_tcp: true,
            is_trusted: true,
        };
        let request = inward(&mut head, "/C/a%2Fb", ends, Body::empty()).unwrap();
        assert_eq!(request.method(), "PATCH");
        assert_eq!(request.uri(), "//x/%20?q=/C/");
        let mut seen: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        seen.sort_unstable();
        let expected = [
            ("content-length", "3"),
            ("cookie", "a=1; b=2; c=3"),
            ("host", "here:1"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
            ("x-forwarded-host", "here:1"),
            ("x-forwarded-prefix", "/theirs/C/a%2Fb"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(seen, expected);
        assert_eq!(moved("./a/", Some("b=c")).headers()["location"], "./a/?b=c");
    }
}
