//! Calls of methods as JSON: of those that the class's schema opens. One that is not open is answered like one
//! that there is not.
//!
//! The JSON becomes a message on the thread of the vat if it is short, and on another one if it is long. Either way
//! the message is handed to the object as it is.
//!
//! The query of the URL may have `int64=string`: `Int64` and `UInt64` in the results are then strings, which a
//! reader with numbers of 53 bits keeps whole. Anything else there is refused.
//!
//! A method that takes a capability gets `null` for it, and one in the results is told as
//! `{"$capability": "Stub"}`: over HTTP there is nothing to hold it with.

use std::{panic::resume_unwind, rc::Rc};

use bytes::Bytes;
use capnp::message::{Builder, HeapAllocator};
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use tokio::task::spawn_blocking;
use vatwerk::{
    Delivery,
    json::{CallError, Int64, Method as Called},
};

use super::{
    Http, Problem,
    body::{Coming, arriving},
};
use crate::{
    Error,
    account::Counted,
    call::Message,
    fault,
    fetch::{Body, Response},
    metrics::Overload,
    object::ClassEntry,
};

/// The longest piece of an answer, in bytes.
const PIECE: usize = 64 << 10;

/// The longest JSON of a call that the thread of the vat reads, in bytes: that takes some milliseconds.
const SHORT: usize = 256 << 10;

/// The words of the first segment of a call's message: most calls fit.
const FIRST_WORDS: u32 = 64;

/// How many calls with longer JSON are read at a time, each on a thread of its own.
pub(super) const READERS: usize = 2;

/// Calls a method of the object of that name.
pub(super) async fn call(
    http: &Http,
    class: &Rc<ClassEntry>,
    name: &str,
    method: &str,
    head: &Parts,
    body: Coming,
) -> Result<Response, Problem> {
    if head.method != Method::POST {
        return Err(Problem::Method("POST"));
    }
    if !class.open_methods.iter().any(|open| open == method) {
        return Err(Problem::NotOpen {
            class: class.name,
            method: method.to_owned(),
            open: class.open_methods.clone(),
        });
    }
    if !is_json(&head.headers) {
        return Err(Problem::MediaType);
    }
    let int64 = int64(head.uri.query().unwrap_or_default())?;
    let (text, mut held) = read(http, body).await?;
    let text = String::from_utf8(text).map_err(|_| Problem::Json("not UTF-8".into()))?;
    let (method, params) = write(http, class.interface_id, method, text).await?;
    let segments = params.get_segments_for_output();
    let bytes = segments.iter().map(|segment| segment.len()).sum();
    held.set(0);
    // A message that has more than all the room goes alone.
    if !http.has_room(bytes) && http.held.sum() > 0 {
        return Err(http.no_room(None));
    }
    held.set(bytes);
    let at = (method.interface_id, method.ordinal);
    let called = http
        .directory
        .call(class, name, at, Message::written(params))?;
    let answer = called.await.map_err(CallError::Call)?;
    drop(held);
    let results = answer.get().map_err(CallError::Call)?;
    let longest = http.settings.limits.answer_bytes;
    let results = http.schemas.results_text(&method, results, int64, longest);
    let results = results.map_err(CallError::Results)?;
    if !http.has_room(results.len()) {
        return Err(http.no_room(Some(Delivery::Delivered)));
    }
    let held = http.held.count(results.len());
    let mut response = Response::new(in_pieces(results.into(), held));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// Results as they leave. `hyper` takes a piece whole, and an answer whose last piece it has is no
/// longer under way: a client that is slow to read a large one would be taken for idle. Each piece is a
/// copy, so that none of them keeps all of the text.
fn in_pieces(text: Bytes, held: Counted) -> Body {
    let length = text.len();
    let starts = (0..length).step_by(PIECE);
    let pieces = starts.map(move |at| {
        let _ = &held;
        Ok(Bytes::copy_from_slice(&text[at..length.min(at + PIECE)]))
    });
    Body::stream(stream::iter(pieces), Some(length as u64))
}

/// The form of 64-bit integers in the results, from the query of the URL: `int64=string` or `int64=number`, once.
/// A call has no other parameters there.
fn int64(query: &str) -> Result<Int64, Problem> {
    let mut form = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let told = pair.strip_prefix("int64=").filter(|_| form.is_none());
        let told = told.and_then(|told| told.parse().ok());
        form = Some(told.ok_or_else(|| Problem::Query(pair.to_owned()))?);
    }
    Ok(form.unwrap_or_default())
}

/// Whether the body is said to be JSON, or nothing is said of it.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(said) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = said.as_bytes().split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| {
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/json")
    })
}

/// Writes a call into a message, on the thread of the vat or, if its JSON is long, on another one.
async fn write(
    http: &Http,
    class: u64,
    method: &str,
    text: String,
) -> Result<(Called, Builder<HeapAllocator>), CallError> {
    let is_short = text.len() <= SHORT;
    let (schemas, method) = (http.schemas.clone(), method.to_owned());
    let write = move || {
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(FIRST_WORDS));
        let method = schemas.write_call(class, &method, text, message.init_root())?;
        Ok((method, message))
    };
    if is_short {
        return write();
    }
    let place = http.readers.clone().acquire_owned().await;
    let written = spawn_blocking(move || {
        // As long as it is read, also for a client that is gone.
        let _place = place;
        write()
    });
    written
        .await
        .unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
}

/// The whole body, for which there has to be room beside those of others.
async fn read(http: &Http, body: Coming) -> Result<(Vec<u8>, Counted), Problem> {
    let limits = &http.settings.limits;
    let limit = limits.json_bytes as u64;
    let (mut body, broken) = arriving(body, Some(limit), limits.pace())?;
    let mut held = http.held.count(0);
    let mut whole = Vec::new();
    while let Some(piece) = body.piece().await {
        let piece = piece.map_err(|error| broken.why().unwrap_or(Problem::Object(error)))?;
        if !http.has_room(piece.len()) {
            return Err(http.no_room(None));
        }
        held.set(held.bytes() + piece.len());
        whole.extend_from_slice(&piece);
    }
    Ok((whole, held))
}

impl Http {
    /// Says that bodies take all the room that they may have; `ran` says whether a call has run.
    pub(super) fn no_room(&self, ran: Option<Delivery>) -> Problem {
        self.directory.metrics().overloaded(Overload::HttpBytes);
        let error = Error::Overloaded {
            what: "the vat (bytes of calls and answers over HTTP, `held_bytes`)",
            limit: self.settings.limits.held_bytes as u64,
        };
        let delivery = ran.unwrap_or(Delivery::NotDelivered);
        Problem::Object(fault::mark(error.into(), delivery))
    }

    /// Whether so many bytes more may be held.
    fn has_room(&self, bytes: usize) -> bool {
        self.held.sum().saturating_add(bytes) <= self.settings.limits.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::account::Account;

    #[test]
    fn the_query_of_a_call_says_the_form_of_integers_and_nothing_else() {
        let cases = [
            ("", Some(Int64::Number)),
            ("&", Some(Int64::Number)),
            ("int64=number", Some(Int64::Number)),
            ("int64=string", Some(Int64::String)),
            ("int64=string&", Some(Int64::String)),
            ("int64", None),
            ("int64=", None),
            ("int64=String", None),
            ("int64=string&int64=string", None),
            ("amount=5", None),
            ("int64=string&amount=5", None),
            ("INT64=string", None),
        ];
        for (query, form) in cases {
            assert_eq!(int64(query).ok(), form, "{query}");
        }
    }

    #[test]
    fn long_results_leave_in_pieces() {
        let account = Account::default();
        let text = "0123456789".repeat(PIECE / 4);
        let body = in_pieces(text.clone().into(), account.count(text.len()));
        assert_eq!(body.length(), Some(text.len() as u64));
        let pieces = body.into_pieces().map(Result::unwrap);
        assert_eq!(account.sum(), text.len());
        let pieces: Vec<_> = pieces.collect().now_or_never().unwrap();
        assert_eq!(pieces.len(), 3);
        assert_eq!(account.sum(), 0);
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(pieces.concat(), text.as_bytes());
    }

    #[test]
    fn what_is_said_to_be_something_else_is_not_taken_for_json() {
        let cases = [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/x-www-form-urlencoded", false),
            ("text/plain", false),
            ("application/jsonp", false),
        ];
        for (said, is) in cases {
            let said = HeaderValue::from_static(said);
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, said)]);
            assert_eq!(is_json(&headers), is);
        }
        assert!(is_json(&HeaderMap::new()));
    }
}
