//! `call`: any method of any class.

use std::io;

use capnp::traits::HasTypeId;
use vatwerk::{
    Code,
    json::{Method, Schemas},
    object_capnp::stub,
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
    let method = find(&schemas, &classes, args)?;

    let object = client.namespace_named(&args.class).get(&args.name);
    let mut request = object.new_call::<capnp::any_pointer::Owned, capnp::any_pointer::Owned>(
        method.interface_id,
        method.ordinal,
        None,
    );
    schemas
        .write_params(&method, &args.params, request.get())
        .map_err(|error| {
            let wanted = schemas.signature(&method);
            Failure::Here(Code::InvalidArgument, format!("{error}; it is {wanted}"))
        })?;
    let answer = request.send().promise.await?;
    let results = schemas
        .read_results(&method, answer.get()?)
        .map_err(|error| Failure::Here(Code::Internal, error.to_string()))?;
    Ok(line(out, &json::text(&results))?)
}

/// The method, of the class or of what every object answers.
fn find(schemas: &Schemas, classes: &[ClassInfo], args: &CallArgs) -> Result<Method, Failure> {
    let Some(class) = classes.iter().find(|class| class.name == args.class) else {
        let known: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
        return Err(Failure::Here(
            Code::NotFound,
            format!(
                "no class `{}` here; there is: {}",
                args.class,
                known.join(", ")
            ),
        ));
    };
    schemas
        .method(class.interface_id, &args.method)
        .or_else(|| schemas.method(stub::Client::TYPE_ID, &args.method))
        .ok_or_else(|| {
            let methods: Vec<_> = schemas
                .answers(class.interface_id)
                .into_iter()
                .filter_map(|id| schemas.interface(id))
                .flat_map(|interface| interface.methods())
                .map(|method| method.name)
                .collect();
            Failure::Here(
                Code::Unimplemented,
                format!(
                    "`{}` has no method `{}`; it has: {}",
                    args.class,
                    args.method,
                    methods.join(", ")
                ),
            )
        })
}
