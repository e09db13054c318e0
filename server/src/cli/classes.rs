//! `classes`: what the vat serves.

use std::io;

use serde_json::json;
use vatwerk_client::{ClassInfo, LocalClient};

use super::{
    args::{ClassesArgs, Format},
    output::{Array, Failure, fields},
};

/// Prints name, interface id and number of objects of every class.
pub async fn classes(
    client: &LocalClient,
    args: &ClassesArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let answer = client.session().classes_request().send().promise.await?;
    let mut array = Array::default();
    for class in answer.get()?.get_classes()? {
        let class = ClassInfo::read(class)?;
        let id = format!("{:#018x}", class.interface_id);
        match args.target.output {
            Format::Text => {
                let (id, count) = (format!("@{id}"), class.object_count.to_string());
                fields(out, &[&class.name, &id, &count])?;
            }
            Format::Json => {
                let class = json!({
                    "className": class.name,
                    "interfaceId": id,
                    "objectCount": class.object_count,
                });
                array.push(out, &class)?;
            }
        }
    }
    if args.target.output == Format::Json {
        array.finish(out)?;
    }
    Ok(())
}
