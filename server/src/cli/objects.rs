//! `objects`: the objects of a class.

use std::io;

use serde_json::json;
use vatwerk::limit_capnp::MAX_LISTED_OBJECTS;
use vatwerk_client::{LocalClient, Page};

use super::{
    args::{Format, ObjectsArgs, ObjectsVerb},
    output::{Array, Failure, fields},
};

/// Prints the objects of a class, page after page.
pub async fn objects(
    client: &LocalClient,
    args: &ObjectsArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let ObjectsVerb::List {
        class,
        prefix,
        limit,
    } = &args.verb;
    let namespace = client.namespace_named(class).capability();
    let mut left = limit.unwrap_or(u64::MAX);
    let mut after = Some(String::new());
    let mut array = Array::default();
    while let Some(last) = after.filter(|_| left > 0) {
        let mut request = namespace.list_request();
        request.get().set_prefix(prefix.as_str());
        request.get().set_after(last.as_str());
        let limit = left.min(MAX_LISTED_OBJECTS.into());
        request.get().set_limit(limit as u32);
        let answer = request.send().promise.await?;
        let page = Page::read(answer.get()?)?;
        left = left.saturating_sub(page.objects.len() as u64);
        for object in page.objects {
            match args.target.output {
                Format::Text => {
                    let name = object.name.unwrap_or_default();
                    let (id, created) = (object.id.to_string(), object.created_ms.to_string());
                    fields(out, &[&name, &id, &created])?;
                }
                Format::Json => {
                    let object = json!({
                        "name": object.name,
                        "id": object.id.to_string(),
                        "createdMs": object.created_ms,
                    });
                    array.push(out, &object)?;
                }
            }
        }
        after = page.next;
    }
    if args.target.output == Format::Json {
        array.finish(out)?;
    }
    Ok(())
}
