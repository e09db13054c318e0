//! Failures of the vat's side over HTTP, as the log and the numbers are told of them.

use std::{rc::Rc, time::Duration};

use http::StatusCode;
use vatwerk::{Code, Delivery};

use super::{Http, problem::status};
use crate::{fault, metrics::HttpKind, object::ClassEntry};

/// The object that a request is for.
#[derive(Clone)]
pub(super) struct About {
    pub class: Rc<ClassEntry>,
    pub name: String,
    pub kind: HttpKind,
}

/// A failure that is not the client's.
#[derive(Debug)]
pub(super) struct Failure {
    /// The status that the client sees; `None` if the head of the answer has left, and the answer breaks off.
    pub status: Option<StatusCode>,
    pub code: Code,
    /// The error with its code, in the words of whatever failed.
    pub reason: String,
}

impl Failure {
    /// The failure of an answer that breaks off because of `error`, unless the client is to blame.
    pub fn broken_off(error: capnp::Error) -> Option<Failure> {
        let (code, reason) = words(error);
        // A code of the class's own says nothing of that.
        let code = code.unwrap_or(Code::ApplicationFailed);
        status(code).0.is_server_error().then_some(Failure {
            status: None,
            code,
            reason,
        })
    }
}

/// The code of an error, if it is one of the list, and the error without the mark of its delivery.
pub(super) fn words(error: capnp::Error) -> (Option<Code>, String) {
    let error = fault::coded(error);
    let (text, _) = Delivery::split(&error.extra);
    (Code::split(text).0, text.to_owned())
}

impl Http {
    /// Counts an answer, which took that long. `about` is `None` of a request that has reached no object.
    pub(super) fn count(&self, about: Option<&About>, status: StatusCode, took: Duration) {
        let metrics = self.directory.metrics();
        match about {
            Some(about) => {
                let class = metrics.class(about.class.name);
                class.http_answered(about.kind, status, took);
            }
            None => metrics.http_answered(status, took),
        }
    }

    /// Counts a failure, and logs it unless the same of the same object was logged within the last minute.
    /// `about` is `None` of a request that has reached no object.
    pub(super) fn tell(&self, about: Option<&About>, failure: &Failure) {
        let class = about.map_or("", |about| about.class.name);
        self.directory.metrics().http_failed(class, failure.code);
        // The object has logged why it was reset, and the vat that it stops; and whoever hides what failed logs
        // it.
        let is_reset = matches!(failure.code, Code::ObjectReset | Code::ShuttingDown);
        if is_reset || fault::is_told(&failure.reason) {
            return;
        }
        let id = about.and_then(|about| about.class.ids.of_name(&about.name).ok());
        let reason = &failure.reason;
        let Some(more) = self.directory.is_news(id, reason) else {
            return;
        };
        let status = failure.status.map(|status| status.as_u16());
        match about.zip(id) {
            Some((about, id)) => {
                let name = &about.name;
                tracing::warn!(class, %id, name, status, reason, more, "a request over HTTP failed");
            }
            None => tracing::warn!(status, reason, more, "a request over HTTP failed"),
        }
    }
}
