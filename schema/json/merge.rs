use std::collections::HashSet;

use capnp::{message, schema_capnp::code_generator_request, serialize};

use super::{SchemaError, load};

/// One request out of several: every node, every doc comment and every file of them, each once, from
/// the first request that has it. The compiler's version is that of the first.
pub fn merge(requests: &[&[u8]]) -> Result<Vec<u8>, SchemaError> {
    let messages = requests
        .iter()
        .map(|request| load::message(request))
        .collect::<Result<Vec<_>, _>>()?;
    let requests = messages
        .iter()
        .map(|message| Ok(message.get_root::<code_generator_request::Reader>()?))
        .collect::<Result<Vec<_>, SchemaError>>()?;

    let mut message = message::Builder::new_default();
    let mut merged = message.init_root::<code_generator_request::Builder>();
    if let Some(first) = requests.first() {
        merged.set_capnp_version(first.get_capnp_version()?)?;
    }

    let mut seen = HashSet::new();
    let mut nodes = Vec::new();
    for request in &requests {
        nodes.extend(
            request
                .get_nodes()?
                .iter()
                .filter(|it| seen.insert(it.get_id())),
        );
    }
    let mut list = merged.reborrow().init_nodes(length(nodes.len())?);
    for (i, node) in nodes.into_iter().enumerate() {
        list.set_with_caveats(i as u32, node)?;
    }

    let mut seen = HashSet::new();
    let mut infos = Vec::new();
    for request in &requests {
        let all = request.get_source_info()?;
        infos.extend(all.iter().filter(|it| seen.insert(it.get_id())));
    }
    let mut list = merged.reborrow().init_source_info(length(infos.len())?);
    for (i, info) in infos.into_iter().enumerate() {
        list.set_with_caveats(i as u32, info)?;
    }

    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for request in &requests {
        let all = request.get_requested_files()?;
        files.extend(all.iter().filter(|it| seen.insert(it.get_id())));
    }
    let mut list = merged.reborrow().init_requested_files(length(files.len())?);
    for (i, file) in files.into_iter().enumerate() {
        list.set_with_caveats(i as u32, file)?;
    }
    Ok(serialize::write_message_to_words(&message))
}

/// What a merged list may hold: more is refused when loaded.
fn length(count: usize) -> Result<u32, SchemaError> {
    match u32::try_from(count) {
        Ok(length) if count <= super::MAX_NODES => Ok(length),
        _ => Err(SchemaError::TooLarge("MAX_NODES")),
    }
}
