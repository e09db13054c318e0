//! What went wrong, as HTTP: a status, a stable code in a field of the header and in a body of JSON,
//! and words for people.
//!
//! ```text
//! HTTP/1.1 404 Not Found
//! vatwerk-error: not-found
//! content-type: application/json
//!
//! {"error":{"code":"not-found","kind":"failed","message":"this vat serves no class `Chat` here",
//!           "delivery":"not-delivered"}}
//! ```
//!
//! `kind` says what to do about it, as in Cap'n Proto: `failed` (mend the request), `overloaded` (try again later),
//! `disconnected` (find out what became of it), `unimplemented`.
//!
//! | code | status | |
//! |---|---|---|
//! | `invalid-argument` | 400 | |
//! | `unauthenticated` | 401 | |
//! | `permission-denied` | 403 | 421 if the `Host` is not one of this vat |
//! | `not-found` | 404 | |
//! | `closed` | 409 | |
//! | `limit-exceeded` | 422 | 413, 414 or 431 if the request itself is too large, 408 if it takes too long, 504 if the gateway of the program does |
//! | `sql-refused`, `sql-failed` | 422 | |
//! | a class's own | 422 | by its kind: 503 if `overloaded`, 502 if `disconnected`, 501 if `unimplemented` |
//! | `application-failed`, `activation-failed`, `storage-damaged`, `deadlock`, `internal` | 500 | |
//! | `unimplemented` | 501 | 404 for a method that there is not, 405, 415 and 426 where HTTP has a word for it |
//! | `disconnected`, `outcome-unknown` | 502 | |
//! | `object-reset`, `shutting-down`, `overloaded`, `storage-failed` | 503 | with `Retry-After` |
//!
//! What is said with a 5xx is a sentence of this file, but for `overloaded` and a class's own codes: what failed
//! inside is nobody's business outside, and is in the log.
//!
//! What is no HTTP at all, or whose head is too large to be read, `hyper` answers: 400 or 431, with neither
//! code nor body.

use std::{borrow::Cow, time::Duration};

use capnp::ErrorKind;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{self, HeaderMap},
};
use vatwerk::{
    Code, Delivery,
    json::{CallError, Int64, Problem as Unfit},
};

use super::failure::{Failure, words};
use crate::{
    Error, fault,
    fetch::{Body, Response},
};

/// The field of the header that has the code.
pub(super) const CODE: HeaderName = HeaderName::from_static("vatwerk-error");

/// Why a request is not answered as it should be.
#[derive(Debug)]
pub(super) enum Problem {
    /// The vat takes no more requests.
    Stopping,
    /// So many requests are under way, or so many bytes of them are held.
    Busy(&'static str, usize),
    /// There are more fields in the header than this limit.
    ManyFields(usize),
    /// The URL is longer than this limit, in bytes.
    LongUrl(usize),
    /// The body is longer than this limit, in bytes.
    LongBody(u64),
    /// The body did not go on for a while.
    SlowBody,
    /// The body broke off, or is none.
    BrokenBody,
    /// The body came to an early end, of one of the kinds above, when the object may have begun.
    Unfinished(Box<Problem>),
    /// The request has no `Host`, or several.
    NoHost,
    /// The `Host` of the request is none of this vat.
    WrongHost,
    /// The request is of a page of another origin.
    ForeignOrigin,
    /// There is nothing at the path.
    NoSuchPath,
    /// The `Host` is below the domain of objects' hosts, and no object can have it.
    NoSuchHost,
    /// The gateway of the program failed; how.
    Gateway(String),
    /// The gateway of the program took longer than this.
    SlowGateway(Duration),
    /// There is no such class here, or not for everybody.
    NoSuchClass(String),
    /// The class does not speak HTTP.
    NoPages(&'static str),
    /// A `%` in the path does not begin an escape.
    BadEscape,
    /// The name in the path cannot be that of an object.
    BadName,
    /// The class has no method of that name, or its schema does not open it to HTTP.
    NotOpen {
        class: &'static str,
        method: String,
        /// The methods of the class that are open.
        open: Vec<String>,
    },
    /// The request needs another method: one of these.
    Method(&'static str),
    /// The parameters of a call are said to be something else than JSON.
    MediaType,
    /// A part of the query of a call's URL that has no meaning.
    Query(String),
    /// The parameters of a call are no JSON; why.
    Json(String),
    /// The request asks for a WebSocket, but not as it should; why.
    NoHandshake(&'static str),
    /// The request asks for a WebSocket of another version than 13.
    SocketVersion,
    /// The object answers with a WebSocket, and the request did not ask for one.
    UnaskedSocket,
    /// The object failed, or the vat refused the call.
    Object(capnp::Error),
    /// The call did not fit the method, or its results do not fit JSON.
    Call(CallError),
}

/// The vat's own errors come before the call is made: so the call has not run.
impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Object(fault::not_delivered(error))
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Problem {
        match error {
            CallError::Call(error) => Problem::Object(error),
            other => Problem::Call(other),
        }
    }
}

/// A problem in the words of HTTP.
struct Told {
    status: StatusCode,
    code: Cow<'static, str>,
    kind: ErrorKind,
    message: Cow<'static, str>,
    /// Whether the call or request reached the object.
    delivery: Delivery,
}

impl Problem {
    /// The answer that tells of the problem.
    pub fn into_response(self) -> Response {
        let Told {
            status,
            code,
            kind,
            message,
            delivery,
        } = self.told();
        let said = serde_json::json!({"error": {
            "code": code,
            "kind": code_of(kind).1,
            "message": message,
            "delivery": delivery.as_str(),
        }});
        let mut response = Response::new(Body::from(said.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        // A class's own code is of the same letters as ours.
        if let Ok(code) = HeaderValue::from_str(&code) {
            headers.insert(CODE, code);
        }
        self.explain(status, headers);
        response
    }

    /// The failure to tell the operator of, unless the client is to blame.
    pub fn failure(&self) -> Option<Failure> {
        let told = self.told();
        if !told.status.is_server_error() {
            return None;
        }
        let (code, reason) = match self {
            Problem::Object(error) | Problem::Call(CallError::Call(error)) => words(error.clone()),
            Problem::Call(error) => (None, format!("{}: {error}", told.code)),
            Problem::Gateway(reason) => (None, format!("{}: {reason}", told.code)),
            _ => (None, format!("{}: {}", told.code, told.message)),
        };
        let known = |code: &&Code| code.as_str() == told.code;
        let code = code.or_else(|| Code::ALL.iter().find(known).copied());
        Some(Failure {
            status: Some(told.status),
            // Of a code of the class's own there is the kind.
            code: code.unwrap_or(code_of(told.kind).0),
            reason,
        })
    }

    /// Whether the client sent its body too slowly.
    pub fn is_slow_body(&self) -> bool {
        match self {
            Problem::SlowBody => true,
            Problem::Unfinished(body) => body.is_slow_body(),
            _ => false,
        }
    }

    fn explain(&self, status: StatusCode, headers: &mut HeaderMap) {
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        match self {
            Problem::Method(allowed) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Problem::SocketVersion => {
                let version = HeaderValue::from_static("13");
                headers.insert(header::SEC_WEBSOCKET_VERSION, version);
            }
            Problem::Unfinished(body) => body.explain(status, headers),
            // What is left of the body is not wanted.
            Problem::LongBody(_) | Problem::SlowBody | Problem::BrokenBody => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
    }

    fn told(&self) -> Told {
        use StatusCode as Http;

        let told = |status, code: Code, message: Cow<'static, str>| Told {
            status,
            code: code.as_str().into(),
            kind: code.kind(),
            message,
            delivery: Delivery::NotDelivered,
        };
        let too_long =
            |what, limit: &dyn std::fmt::Display| format!("{what} is limited to {limit}");
        match self {
            Problem::Stopping => failure(fault::not_delivered(Error::ShuttingDown)),
            Problem::Busy(what, limit) => failure(fault::not_delivered(Error::Overloaded {
                what,
                limit: *limit as u64,
            })),
            Problem::ManyFields(limit) => told(
                Http::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Code::LimitExceeded,
                too_long("the number of header fields", limit).into(),
            ),
            Problem::LongUrl(limit) => told(
                Http::URI_TOO_LONG,
                Code::LimitExceeded,
                too_long("a URL (bytes)", limit).into(),
            ),
            Problem::LongBody(limit) => told(
                Http::PAYLOAD_TOO_LARGE,
                Code::LimitExceeded,
                too_long("the body of this request (bytes)", limit).into(),
            ),
            Problem::SlowBody => told(
                Http::REQUEST_TIMEOUT,
                Code::LimitExceeded,
                "the body of the request did not go on, or too slowly (`http.stall_ms`, \
                 `http.least_bytes_per_s`, `http.body_ms`)"
                    .into(),
            ),
            Problem::BrokenBody => told(
                Http::BAD_REQUEST,
                Code::InvalidArgument,
                "the body of the request is broken".into(),
            ),
            Problem::Unfinished(body) => Told {
                delivery: Delivery::Unknown,
                ..body.told()
            },
            Problem::NoHost => told(
                Http::BAD_REQUEST,
                Code::InvalidArgument,
                "the request has no Host, or several".into(),
            ),
            Problem::WrongHost => told(
                Http::MISDIRECTED_REQUEST,
                Code::PermissionDenied,
                "this vat does not go by that Host: `hosts` in the section `[http]` of its settings names those by \
                 which it does"
                    .into(),
            ),
            Problem::ForeignOrigin => told(
                Http::FORBIDDEN,
                Code::PermissionDenied,
                "pages of another origin may only link here: `cors_origins` in the section `[http]` of \
                 the vat's settings names those that may do more"
                    .into(),
            ),
            Problem::NoSuchPath => told(
                Http::NOT_FOUND,
                Code::NotFound,
                "there is nothing here: objects are at /{Class}/{name}/".into(),
            ),
            Problem::NoSuchHost => told(
                Http::NOT_FOUND,
                Code::NotFound,
                "no object is at this Host: the name and the class of one come before the domain".into(),
            ),
            Problem::Gateway(_) => told(
                Http::INTERNAL_SERVER_ERROR,
                Code::Internal,
                "the gateway of this server failed".into(),
            ),
            Problem::SlowGateway(limit) => {
                let said = format!(
                    "the gateway of this server took longer than {} ms (`gateway_ms`)",
                    limit.as_millis()
                );
                told(Http::GATEWAY_TIMEOUT, Code::LimitExceeded, said.into())
            }
            Problem::NoSuchClass(class) => told(
                Http::NOT_FOUND,
                Code::NotFound,
                format!("there is no class `{}` here", class.escape_debug()).into(),
            ),
            Problem::NoPages(class) => told(
                Http::NOT_FOUND,
                Code::NotFound,
                format!("objects of `{class}` have no pages").into(),
            ),
            Problem::BadEscape => told(
                Http::BAD_REQUEST,
                Code::InvalidArgument,
                "a % in the path is not followed by two hexadecimal digits: write it as %25".into(),
            ),
            Problem::BadName => told(
                Http::BAD_REQUEST,
                Code::InvalidArgument,
                "the name of an object is 1 to 1024 bytes of UTF-8".into(),
            ),
            Problem::NotOpen {
                class,
                method,
                open,
            } => {
                let said = match &open[..] {
                    [] => format!(
                        "`{class}` has no methods over HTTP: `$Http.open(true)` in its schema would open them"
                    ),
                    open => {
                        let (method, open) = (method.escape_debug(), open.join(", "));
                        format!("`{class}` has no method `{method}` over HTTP; it has: {open}")
                    }
                };
                told(Http::NOT_FOUND, Code::Unimplemented, said.into())
            }
            Problem::Method(allowed) => told(
                Http::METHOD_NOT_ALLOWED,
                Code::Unimplemented,
                format!("only {allowed}").into(),
            ),
            Problem::MediaType => told(
                Http::UNSUPPORTED_MEDIA_TYPE,
                Code::Unimplemented,
                "`Content-Type` is application/json for the parameters of a call (curl: --json)"
                    .into(),
            ),
            Problem::Query(part) => {
                let part: String = part.chars().take(64).collect();
                let said = format!(
                    "`{}` in the query of a call's URL has no meaning: there may be `int64={}`, once",
                    part.escape_debug(),
                    Int64::NAMES.join("` or `int64=")
                );
                told(Http::BAD_REQUEST, Code::InvalidArgument, said.into())
            }
            Problem::Json(why) => {
                told(Http::BAD_REQUEST, Code::InvalidArgument, why.clone().into())
            }
            Problem::NoHandshake(why) => {
                told(Http::BAD_REQUEST, Code::InvalidArgument, (*why).into())
            }
            Problem::SocketVersion => told(
                Http::UPGRADE_REQUIRED,
                Code::Unimplemented,
                "WebSockets are spoken in version 13 here".into(),
            ),
            Problem::UnaskedSocket => failure(capnp::Error::failed(
                "application-failed: a WebSocket, unasked".into(),
            )),
            Problem::Object(error) => failure(error.clone()),
            Problem::Call(error @ CallError::NoMethod { .. }) => told(
                Http::NOT_FOUND,
                Code::Unimplemented,
                format!("there is {error}").into(),
            ),
            Problem::Call(error @ CallError::Params { .. }) => told(
                Http::BAD_REQUEST,
                Code::InvalidArgument,
                error.to_string().into(),
            ),
            Problem::Call(CallError::Call(error)) => failure(error.clone()),
            Problem::Call(CallError::Results(error))
                if let Unfit::LongText(limit) = error.problem() =>
            {
                Told {
                    delivery: Delivery::Delivered,
                    ..told(
                        Http::UNPROCESSABLE_ENTITY,
                        Code::LimitExceeded,
                        format!(
                            "the results of the call are more than {limit} bytes of JSON: \
                             `answer_bytes` in the section `[http]` of the vat's settings limits them"
                        )
                        .into(),
                    )
                }
            }
            Problem::Call(_) => Told {
                delivery: Delivery::Delivered,
                ..told(
                    Http::INTERNAL_SERVER_ERROR,
                    Code::Internal,
                    "the results have no form in JSON".into(),
                )
            },
        }
    }
}

/// What an object, or the vat for it, said, in the form that leaves the vat.
fn failure(error: capnp::Error) -> Told {
    let error = fault::coded(error);
    let (text, delivery) = Delivery::split(&error.extra);
    let delivery = delivery.unwrap_or(match error.kind {
        ErrorKind::Disconnected | ErrorKind::Overloaded => Delivery::Unknown,
        _ => Delivery::Delivered,
    });
    let (Some(code), said) = Code::split(text) else {
        // `coded` has seen to it that there is a code: the class's own.
        let (code, said) = text.split_once(": ").unwrap_or_default();
        return Told {
            status: match error.kind {
                ErrorKind::Failed => StatusCode::UNPROCESSABLE_ENTITY,
                kind => status(code_of(kind).0).0,
            },
            code: code.to_owned().into(),
            kind: error.kind,
            message: said.to_owned().into(),
            delivery,
        };
    };
    let (status, instead) = status(code);
    Told {
        status,
        code: code.as_str().into(),
        kind: code.kind(),
        message: instead.map_or_else(|| said.to_owned().into(), Cow::Borrowed),
        delivery,
    }
}

/// The code that an error of a kind has if it has none, and the word for the kind.
fn code_of(kind: ErrorKind) -> (Code, &'static str) {
    match kind {
        ErrorKind::Overloaded => (Code::Overloaded, "overloaded"),
        ErrorKind::Disconnected => (Code::Disconnected, "disconnected"),
        ErrorKind::Unimplemented => (Code::Unimplemented, "unimplemented"),
        _ => (Code::Internal, "failed"),
    }
}

/// What a code is in HTTP, and what is said of it, if that is not what the error says.
pub(super) fn status(code: Code) -> (StatusCode, Option<&'static str>) {
    use StatusCode as Http;
    match code {
        Code::InvalidArgument => (Http::BAD_REQUEST, None),
        Code::NotFound => (Http::NOT_FOUND, None),
        Code::Unauthenticated => (Http::UNAUTHORIZED, None),
        Code::PermissionDenied => (Http::FORBIDDEN, None),
        Code::Closed => (Http::CONFLICT, None),
        Code::LimitExceeded => (Http::UNPROCESSABLE_ENTITY, None),
        Code::Unimplemented => (Http::NOT_IMPLEMENTED, None),
        Code::Overloaded => (Http::SERVICE_UNAVAILABLE, None),
        Code::ShuttingDown => (Http::SERVICE_UNAVAILABLE, Some("the vat is shutting down")),
        Code::ObjectReset => (
            Http::SERVICE_UNAVAILABLE,
            Some("the object was reset while it worked on this; it is there again"),
        ),
        Code::StorageFailed => (
            Http::SERVICE_UNAVAILABLE,
            Some(
                "the object's storage failed, and what this wrote, if anything, was undone; the vat's log says why",
            ),
        ),
        Code::StorageDamaged => (
            Http::INTERNAL_SERVER_ERROR,
            Some("the object's database is damaged or gone, or of a later version of the vat"),
        ),
        Code::Disconnected => (
            Http::BAD_GATEWAY,
            Some("a connection that the object needed is gone"),
        ),
        Code::OutcomeUnknown => (
            Http::BAD_GATEWAY,
            Some(
                "whether what the object wrote is on the disk, nobody knows: read it before you try again",
            ),
        ),
        // Nobody writes SQL over HTTP but the class.
        Code::ApplicationFailed | Code::SqlRefused | Code::SqlFailed => {
            (Http::INTERNAL_SERVER_ERROR, Some("the object failed"))
        }
        Code::ActivationFailed => (
            Http::INTERNAL_SERVER_ERROR,
            Some("the object failed to wake up"),
        ),
        Code::Deadlock => (
            Http::INTERNAL_SERVER_ERROR,
            Some("the objects that this needs wait for each other"),
        ),
        // `Code` may grow; a code that is not known here is a fault of this file.
        Code::Internal | _ => (
            Http::INTERNAL_SERVER_ERROR,
            Some("a fault of the vat itself; its log has the details"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::Value;

    use super::*;

    fn told(problem: Problem) -> (u16, String, Value, HeaderMap) {
        let response = problem.into_response();
        let (head, body) = response.into_parts();
        let text = body.text(9999).now_or_never().unwrap().unwrap();
        let mut said: Value = serde_json::from_str(&text).unwrap();
        let code = head.headers[CODE].to_str().unwrap().to_owned();
        assert_eq!(said["error"]["code"], Value::from(code.as_str()));
        let message = said["error"]["message"].take();
        (head.status.as_u16(), code, message, head.headers)
    }

    #[test]
    fn every_code_has_a_status_and_what_failed_inside_stays_there() {
        for code in Code::ALL {
            let error = capnp::Error::failed(format!("remote exception: {code}: /secret"));
            let (status, told, message, headers) = super::tests::told(Problem::Object(error));
            assert_eq!(told, code.as_str());
            assert!((400..600).contains(&status), "{code}");
            let passes = status < 500 || matches!(code, Code::Overloaded | Code::Unimplemented);
            assert_eq!(message == "/secret", passes, "{code}");
            assert_eq!(headers.contains_key("retry-after"), status == 503, "{code}");
        }
        let kinds = [
            (ErrorKind::Failed, 422, Code::Internal),
            (ErrorKind::Overloaded, 503, Code::Overloaded),
            (ErrorKind::Disconnected, 502, Code::Disconnected),
            (ErrorKind::Unimplemented, 501, Code::Unimplemented),
        ];
        for (kind, expected, counted) in kinds {
            let own = || {
                Problem::Object(capnp::Error {
                    kind,
                    extra: "out-of-tea: none left".into(),
                })
            };
            let (status, code, message, headers) = told(own());
            assert_eq!((status, code.as_str()), (expected, "out-of-tea"));
            assert_eq!(message, "none left");
            assert_eq!(headers.contains_key("retry-after"), status == 503);
            let failure = own().failure().map(|failure| failure.code);
            assert_eq!(failure, (status >= 500).then_some(counted));
            let body = own().into_response().into_body().text(9999);
            let body: Value = serde_json::from_str(&body.now_or_never().unwrap().unwrap()).unwrap();
            assert_eq!(body["error"]["kind"], format!("{kind:?}").to_lowercase());
        }
        let plain = capnp::Error::failed("SELECT secret".into());
        let (status, code, message, _) = told(Problem::Object(plain));
        assert_eq!((status, code.as_str()), (500, "application-failed"));
        assert_eq!(message, "the object failed");
    }

    /// Results of a call that have no form in JSON.
    fn formless() -> CallError {
        let schemas = vatwerk::json::Schemas::load(vatwerk::CODE_GENERATOR_REQUEST).unwrap();
        let mut message = capnp::message::Builder::new_default();
        message.init_root::<capnp::any_pointer::Builder<'_>>();
        let results = message.get_root_as_reader().unwrap();
        CallError::Results(schemas.read_struct(0, results).unwrap_err())
    }

    #[test]
    fn what_http_has_words_for_is_told_with_them() {
        let (status, _, _, headers) = told(Problem::Method("POST"));
        assert_eq!((status, &headers["allow"]), (405, &"POST".parse().unwrap()));
        let (status, _, _, headers) = told(Problem::SocketVersion);
        assert_eq!(status, 426);
        assert_eq!(headers["sec-websocket-version"], "13");
        assert_eq!(told(Problem::LongBody(1)).0, 413);
        let body = |problem: Problem| {
            let text = problem.into_response().into_body().text(9999);
            let text = text.now_or_never().unwrap().unwrap();
            serde_json::from_str::<Value>(&text).unwrap()["error"]["delivery"].clone()
        };
        let reset = |text: &str| Problem::Object(capnp::Error::disconnected(text.into()));
        assert_eq!(body(Problem::Stopping), "not-delivered");
        assert_eq!(body(Problem::LongBody(1)), "not-delivered");
        let unfinished = Problem::Unfinished(Problem::LongBody(1).into());
        assert_eq!(body(unfinished), "delivery-unknown");
        assert_eq!(body(formless().into()), "delivered");
        assert_eq!(body(Error::ShuttingDown.into()), "not-delivered");
        assert_eq!(body(Error::NotFound("x".into()).into()), "not-delivered");
        assert_eq!(body(reset("object-reset: x")), "delivery-unknown");
        assert_eq!(
            body(reset("object-reset: x [not-delivered]")),
            "not-delivered"
        );
        assert_eq!(told(Problem::Stopping).0, 503);
    }
}
