//! Methods, URLs, statuses and header fields on the wire.

use std::fmt::Display;

use capnp::text;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{self, Entry},
    request,
};
use vatwerk::http_capnp::{body_size, http_header, http_request, http_response};

use super::{Body, Request, Response};
use crate::{Error, Result};

/// Of the connection, not of the message: RFC 9110, section 7.6.1.
const OF_CONNECTIONS: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
];

/// Takes out the fields that speak of a connection: those of a list, and those that `Connection`
/// names. `Upgrade` stays if it asks for a WebSocket.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let wants_socket = is_web_socket(headers);
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok())
        .collect();
    let proxy = HeaderName::from_static("proxy-connection");
    for name in named.iter().chain(&OF_CONNECTIONS).chain([&proxy]) {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    if wants_socket {
        // Whatever else it may be upgraded to.
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Whether a request with these fields asks for a WebSocket.
pub fn is_web_socket(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(header::UPGRADE).iter();
    listed
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Writes a request but for its body, which is `length` bytes long if that is known.
pub(super) fn write_request(
    head: &request::Parts,
    length: Option<u64>,
    mut to: http_request::Builder<'_>,
) {
    to.set_method(head.method.as_str());
    to.set_url(head.uri.to_string());
    write_headers(&head.headers, |count| to.reborrow().init_headers(count));
    write_length(length, to.init_body_size());
}

/// Reads a request whose body is `body`. `invalid-argument` for what is no HTTP.
pub fn read_request(from: http_request::Reader<'_>, body: Body) -> capnp::Result<Request> {
    let mut request = Request::new(body);
    *request.method_mut() = parse::<Method>("a method", from.get_method()?)?;
    *request.uri_mut() = parse::<Uri>("a URL", from.get_url()?)?;
    *request.headers_mut() = read_headers(from.get_headers()?)?;
    Ok(request)
}

/// Writes a response but for its body, which is `length` bytes long if that is known.
pub fn write_response(
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
    mut to: http_response::Builder<'_>,
) {
    to.set_status(status.as_u16());
    write_headers(headers, |count| to.reborrow().init_headers(count));
    write_length(length, to.init_body_size());
}

/// Reads a response, and how long its body is.
pub(super) fn read_response(
    from: http_response::Reader<'_>,
) -> capnp::Result<(Response, Option<u64>)> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::from_u16(from.get_status())
        .ok()
        .filter(|status| status.as_u16() >= 200 && status.as_u16() < 600)
        .ok_or_else(|| malformed("a status", &from.get_status()))?;
    *response.headers_mut() = read_headers(from.get_headers()?)?;
    Ok((response, read_length(from.get_body_size()?)?))
}

/// Writes header fields, all but the length of the body, to a list of as many as are asked for.
pub fn write_headers<'a>(
    headers: &HeaderMap,
    init: impl FnOnce(u32) -> capnp::struct_list::Builder<'a, http_header::Owned>,
) {
    let told = || {
        headers
            .iter()
            .filter(|(name, _)| *name != header::CONTENT_LENGTH)
    };
    let mut list = init(told().count() as u32);
    for (i, (name, value)) in told().enumerate() {
        let mut field = list.reborrow().get(i as u32);
        field.set_name(name.as_str());
        field.set_value(text::Reader(value.as_bytes()));
    }
}

/// Reads header fields.
pub(super) fn read_headers(
    from: capnp::struct_list::Reader<'_, http_header::Owned>,
) -> capnp::Result<HeaderMap> {
    collect_headers(
        from.iter()
            .map(|field| Ok((field.get_name()?, field.get_value()?))),
    )
}

/// Header fields from their names and values.
pub(super) fn collect_headers<'a>(
    fields: impl ExactSizeIterator<Item = capnp::Result<(text::Reader<'a>, text::Reader<'a>)>>,
) -> capnp::Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len().min(64));
    for field in fields {
        let (name, value) = field?;
        let name = parse::<HeaderName>("the name of a header field", name)?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| malformed("the value of a header field", &name))?;
        let added = headers.try_append(name, value);
        added.map_err(|_| Error::InvalidArgument("there are too many header fields".into()))?;
    }
    Ok(headers)
}

pub(super) fn write_length(length: Option<u64>, mut to: body_size::Builder<'_>) {
    match length {
        Some(length) => to.set_fixed(length),
        None => to.set_unknown(()),
    }
}

/// How long a body is, if that is known.
pub fn read_length(from: body_size::Reader<'_>) -> capnp::Result<Option<u64>> {
    Ok(match from.which()? {
        body_size::Unknown(()) => None,
        body_size::Fixed(length) => Some(length),
    })
}

fn parse<T: std::str::FromStr>(what: &str, text: text::Reader<'_>) -> Result<T> {
    let text = text.to_str().unwrap_or_default();
    text.parse()
        .map_err(|_| malformed(what, &text.escape_debug()))
}

fn malformed(what: &str, found: &dyn Display) -> Error {
    Error::InvalidArgument(format!("{what} is malformed: {found}"))
}

/// Whether the answer to a request by `method` has no body, whatever its head says.
pub(super) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Says in the header how long a body would be that is not there, as answers to `HEAD` do. There is no body
/// of 204 whoever asks.
pub(super) fn set_length(status: StatusCode, headers: &mut HeaderMap, length: u64) {
    if status == StatusCode::NO_CONTENT {
        return;
    }
    if let Entry::Vacant(vacant) = headers.entry(header::CONTENT_LENGTH) {
        vacant.insert(length.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_connection_go_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("connection", "Upgrade"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "WebSocket"),
            ("x-mine", "1"),
            ("x-theirs", "2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        drop_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["upgrade", "x-theirs"]);
        headers.insert("upgrade", HeaderValue::from_static("h2c"));
        drop_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = http::Request::builder()
            .method("PROPFIND")
            .uri("/a%20b/c?d=e&f")
            .header("x-many", "1")
            .header("X-Many", "2")
            .header("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap())
            .header("content-length", "7")
            .body(Body::empty())
            .unwrap();
        let mut message = capnp::message::Builder::new_default();
        let (head, _) = request.into_parts();
        write_request(&head, Some(7), message.init_root());
        let reader: http_request::Reader<'_> = message.get_root_as_reader().unwrap();
        let length = read_length(reader.get_body_size().unwrap()).unwrap();
        let read = read_request(reader, Body::empty()).unwrap();
        assert_eq!(length, Some(7));
        assert_eq!((read.method(), read.uri()), (&head.method, &head.uri));
        let mut expected = head.headers;
        expected.remove("content-length");
        assert_eq!(read.headers(), &expected);
    }

    #[test]
    fn what_is_no_http_is_refused() {
        let cases = [
            ("GE T", "/", "a"),
            ("GET", "no url", "a"),
            ("GET", "/", "a b"),
        ];
        for (method, url, name) in cases {
            let mut message = capnp::message::Builder::new_default();
            let mut request: http_request::Builder<'_> = message.init_root();
            request.set_method(method);
            request.set_url(url);
            let mut field = request.init_headers(1).get(0);
            field.set_name(name);
            field.set_value("x\r\ny");
            let reader = message.get_root_as_reader().unwrap();
            let error = read_request(reader, Body::empty()).unwrap_err();
            assert!(error.extra.starts_with("invalid-argument: "), "{error}");
        }
    }
}
