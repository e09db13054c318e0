//! What a connection meets: the vat, sessions and namespaces, as `schema/vatwerk/vat.capnp` and
//! `object.capnp` say.

mod listing;
mod namespace;
mod session;

use std::rc::Rc;

use vatwerk::{
    json::{self, SchemaError},
    vat_capnp::{credential, vat},
};

pub use session::Session;

use crate::{
    Error, call,
    object::{Directory, Registry},
};

/// The version of this vat, as it tells its callers.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bootstrap capability of every connection.
pub struct Vat {
    directory: Directory,
    description: Rc<[u8]>,
    started_ms: i64,
}

impl Vat {
    /// The vat in front of the objects of `directory`. `description` is what [`describe`] made of its
    /// classes.
    pub fn new(directory: Directory, description: Vec<u8>, started_ms: i64) -> Vat {
        Vat {
            directory,
            description: description.into(),
            started_ms,
        }
    }
}

/// The schema of everything that a vat with these classes serves: a CodeGeneratorRequest.
pub fn describe(classes: &Registry) -> Result<Vec<u8>, SchemaError> {
    let mut requests = vec![vatwerk::CODE_GENERATOR_REQUEST];
    requests.extend(classes.iter().map(|class| class.schema));
    json::merge(&requests)
}

impl vat::Server for Vat {
    async fn authenticate(
        self: Rc<Self>,
        params: vat::AuthenticateParams,
        mut results: vat::AuthenticateResults,
    ) -> capnp::Result<()> {
        match params.get()?.get_credential()?.which()? {
            credential::None(()) => {
                let session = Session::new(self.directory.clone(), self.started_ms);
                results.get().set_session(call::serve(session));
                Ok(())
            }
            credential::Token(_) => {
                Err(Error::Unauthenticated("this vat was configured without tokens").into())
            }
        }
    }

    async fn describe(
        self: Rc<Self>,
        _: vat::DescribeParams,
        mut results: vat::DescribeResults,
    ) -> capnp::Result<()> {
        let mut results = results.get();
        results.set_version(VERSION);
        results.set_code_generator_request(&self.description);
        Ok(())
    }
}
