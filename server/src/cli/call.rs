//! `call`: any method of any class.

use std::io;

use capnp::capability::FromClientHook;
use vatwerk::{
    Code,
    json::{CallError, Schemas},
};
use vatwerk_client::{ClassInfo, LocalClient};

use super::{
    args::CallArgs,
    json,
    output::{Failure, line},
};

/// Calls the method and prints its results as one line of JSON: `{}` if it has none.
pub async fn call(
    client: &LocalClient,
    args: &CallArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let described = client.vat().await?.describe_request().send().promise;
    let listed = client.session().classes_request().send().promise;
    let (described, listed) = futures::try_join!(described, listed)?;
    let schemas = Schemas::load(described.get()?.get_code_generator_request()?)
        .map_err(|error| Failure::Here(Code::Internal, error.to_string()))?;
    let classes = listed.get()?.get_classes()?.iter().map(ClassInfo::read);
    let classes = classes.collect::<capnp::Result<Vec<_>>>()?;
    let class = find(&classes, &args.class)?;

    let object = client.namespace_named(&args.class).get(&args.name);
    let results = schemas
        .call(
            &object.cast_to(),
            class.interface_id,
            &args.method,
            args.params.clone(),
            args.int64,
        )
        .await
        .map_err(|error| failure(&args.class, error))?;
    Ok(line(out, &json::text(&results))?)
}

fn find<'c>(classes: &'c [ClassInfo], name: &str) -> Result<&'c ClassInfo, Failure> {
    classes
        .iter()
        .find(|class| class.name == name)
        .ok_or_else(|| {
            let known: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
            let known = known.join(", ");
            let said = format!("no class `{name}` here; there is: {known}");
            Failure::Here(Code::NotFound, said)
        })
}

fn failure(class: &str, error: CallError) -> Failure {
    match error {
        CallError::Call(error) => error.into(),
        CallError::NoMethod { .. } => {
            Failure::Here(Code::Unimplemented, format!("`{class}` has {error}"))
        }
        CallError::Params { .. } => Failure::Here(Code::InvalidArgument, error.to_string()),
        other => Failure::Here(Code::Internal, other.to_string()),
    }
}
