//! Calls of objects, with parameters and results as JSON.

use std::fmt;

use capnp::{
    any_pointer,
    capability::{FromClientHook, Promise, Request, Response},
    traits::HasTypeId,
};
use serde_json::Value;

use super::{Int64, JsonError, Method, Schemas};
use crate::object_capnp::stub;

/// Why a call did not succeed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The object has no such method.
    NoMethod {
        /// What was called.
        method: String,
        /// The methods of the object's class.
        known: Vec<String>,
    },
    /// The parameters do not fit the method.
    Params {
        /// Why.
        error: JsonError,
        /// The method as a line of a schema.
        signature: String,
    },
    /// The call failed.
    Call(capnp::Error),
    /// The results have no form in JSON.
    Results(JsonError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod { method, known } => {
                write!(f, "no method `{method}`; it has: {}", known.join(", "))
            }
            Self::Params { error, signature } => write!(f, "{error}; it is {signature}"),
            Self::Call(error) => error.fmt(f),
            Self::Results(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

type Answer = Promise<Response<any_pointer::Owned>, capnp::Error>;

/// The parameters of a call: a JSON object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Params {
    /// The object; `null` is an empty one.
    Value(Value),
    /// JSON, of which no tree of values is made; no text at all is an empty object. A member that is there
    /// twice is refused.
    Text(String),
}

impl From<Value> for Params {
    fn from(value: Value) -> Params {
        Params::Value(value)
    }
}

impl From<String> for Params {
    fn from(text: String) -> Params {
        Params::Text(text)
    }
}

impl Schemas {
    /// Calls a method of an object, by its name. `class` is the interface of the object's class; beside
    /// its methods an object has those of `Stub`. Parameters are a JSON object, and so are the results, with 64-bit
    /// integers in this form.
    /// The call is sent, and the parameters are dropped, when this is first polled.
    pub async fn call(
        &self,
        object: &stub::Client,
        class: u64,
        method: &str,
        params: impl Into<Params>,
        int64: Int64,
    ) -> Result<Value, CallError> {
        let (method, answer) = self.send(object, class, method, &params.into())?;
        let answer = answer.await.map_err(CallError::Call)?;
        let results = answer.get().map_err(CallError::Call)?;
        self.read_results(&method, results, int64)
            .map_err(CallError::Results)
    }

    /// Finds a method as [`Schemas::call`] does, and writes the parameters of a call of it into a message that is
    /// empty. Any thread may do that, and [`Schemas::results_text`] reads the results.
    pub fn write_call(
        &self,
        class: u64,
        method: &str,
        params: impl Into<Params>,
        target: any_pointer::Builder<'_>,
    ) -> Result<Method, CallError> {
        let method = self.find(class, method)?;
        self.write(&method, &params.into(), target)?;
        Ok(method)
    }

    fn send(
        &self,
        object: &stub::Client,
        class: u64,
        method: &str,
        params: &Params,
    ) -> Result<(Method, Answer), CallError> {
        let method = self.find(class, method)?;
        let hook = object.as_client_hook();
        let mut request: Request<any_pointer::Owned, any_pointer::Owned> =
            hook.new_call(method.interface_id, method.ordinal, None);
        self.write(&method, params, request.get())?;
        Ok((method, request.send().promise))
    }

    fn find(&self, class: u64, method: &str) -> Result<Method, CallError> {
        self.method(class, method)
            .or_else(|| self.method(stub::Client::TYPE_ID, method))
            .ok_or_else(|| self.unknown(class, method))
    }

    fn write(
        &self,
        method: &Method,
        params: &Params,
        target: any_pointer::Builder<'_>,
    ) -> Result<(), CallError> {
        let written = match params {
            Params::Value(value) => self.write_params(method, value, target),
            Params::Text(text) => self.write_text(method.params, text, target),
        };
        written.map_err(|error| CallError::Params {
            error,
            signature: self.signature(method),
        })
    }

    fn unknown(&self, class: u64, method: &str) -> CallError {
        let interface = self.interface(class);
        let methods = interface.map(|interface| interface.methods());
        CallError::NoMethod {
            method: method.to_owned(),
            known: methods
                .into_iter()
                .flatten()
                .map(|method| method.name)
                .collect(),
        }
    }
}
