//! `schema`: the files that another language needs.

use std::{fs, io, path::Path};

use vatwerk::Code;
use vatwerk_client::LocalClient;

use super::output::Failure;

/// What the compiled schema of a vat is called in the folder.
const COMPILED: &str = "vat.cgr";

/// Writes the schema files of the wire contract into a folder, to be put on an import path.
pub fn export(dir: &Path) -> Result<(), Failure> {
    for (path, text) in vatwerk::SCHEMA_FILES {
        write(&dir.join(path), text.as_bytes())?;
    }
    Ok(())
}

/// Writes everything that a vat serves beside them: compiled, as `capnp compile -o-` prints it, and the
/// schemas of its own classes as text.
pub async fn export_vat(client: &LocalClient, dir: &Path) -> Result<(), Failure> {
    let vat = client.vat().await?;
    let answer = vat.describe_request().send().promise.await?;
    let compiled = answer.get()?.get_code_generator_request()?;
    write(&dir.join(COMPILED), compiled)?;
    let files = vatwerk::text::files(compiled)
        .map_err(|error| Failure::Here(Code::Internal, error.to_string()))?;
    for file in files {
        write(&dir.join(file.path), file.text.as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let made = match path.parent() {
        Some(folder) => fs::create_dir_all(folder),
        None => Ok(()),
    };
    made.and_then(|()| fs::write(path, bytes))
        .map_err(|error: io::Error| Failure::File(path.display().to_string(), error))
}
