//! `kv`: an object's keys and values.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use capnp::capability::FromClientHook;
use serde_json::json;
use vatwerk::{
    Code,
    limit_capnp::MAX_KEYS_PER_CALL,
    storage_capnp::{operations, range, value},
};
use vatwerk_client::LocalClient;

use super::{
    args::{Format, KvArgs, KvVerb, PutValue},
    cbor, json,
    output::{Array, Failure, fields, line},
};

/// Does what `kv` was asked to.
pub async fn kv(
    client: &LocalClient,
    args: &KvArgs,
    out: &mut dyn io::Write,
) -> Result<(), Failure> {
    let keys = Keys {
        storage: client
            .namespace_named(&args.class)
            .get(&args.name)
            .cast_to(),
        class: &args.class,
        format: args.target.output,
    };
    match &args.verb {
        KvVerb::Get { key, file } => keys.get(key, file.as_deref(), out).await,
        KvVerb::Put { key, value } => keys.put(key, value).await,
        KvVerb::Delete { keys: wanted } => keys.delete(wanted, out).await,
        KvVerb::List {
            prefix,
            start,
            end,
            reverse,
            limit,
        } => {
            let query = Query {
                prefix,
                start: start.as_deref(),
                end: end.as_deref(),
                reverse: *reverse,
                limit: *limit,
            };
            keys.list(query, out).await
        }
    }
}

struct Keys<'a> {
    storage: operations::Client,
    class: &'a str,
    format: Format,
}

/// What `list` asks for.
struct Query<'a> {
    prefix: &'a str,
    start: Option<&'a str>,
    end: Option<&'a str>,
    reverse: bool,
    limit: Option<u32>,
}

impl Keys<'_> {
    fn failed(&self, error: capnp::Error) -> Failure {
        Failure::of_storage(self.class, error)
    }

    async fn get(
        &self,
        key: &str,
        file: Option<&Path>,
        out: &mut dyn io::Write,
    ) -> Result<(), Failure> {
        let mut request = self.storage.get_request();
        request.get().set_key(key);
        let answer = request.send().promise.await.map_err(|e| self.failed(e))?;
        let stored = match answer.get()?.get_value()?.which()? {
            value::None(()) => {
                return Err(Failure::Here(Code::NotFound, format!("no key {key:?}")));
            }
            value::Bytes(bytes) => bytes?,
        };
        match (file, self.format) {
            (Some(path), _) if path == Path::new("-") => out.write_all(&cbor::to_bytes(stored))?,
            (Some(path), _) => fs::write(path, cbor::to_bytes(stored))
                .map_err(|error| Failure::File(path.display().to_string(), error))?,
            (None, Format::Text) => line(out, &cbor::to_text(stored))?,
            (None, Format::Json) => line(out, &json::text(&cbor::to_json(stored)))?,
        }
        Ok(())
    }

    async fn put(&self, key: &str, value: &PutValue) -> Result<(), Failure> {
        let stored = match value {
            PutValue {
                file: Some(path), ..
            } => cbor::encode_bytes(read(path)?),
            PutValue {
                json: Some(json), ..
            } => cbor::encode(json),
            PutValue { text, .. } => cbor::encode(text.as_deref().unwrap_or_default()),
        };
        let mut request = self.storage.put_request();
        request.get().set_key(key);
        request.get().set_value(&stored);
        request.send().promise.await.map_err(|e| self.failed(e))?;
        Ok(())
    }

    async fn delete(&self, keys: &[String], out: &mut dyn io::Write) -> Result<(), Failure> {
        let mut count = 0;
        for some in keys.chunks(MAX_KEYS_PER_CALL as usize) {
            let mut request = self.storage.delete_multiple_request();
            let mut list = request.get().init_keys(some.len() as u32);
            for (i, key) in some.iter().enumerate() {
                list.set(i as u32, key.as_str());
            }
            let answer = request.send().promise.await.map_err(|e| self.failed(e))?;
            count += answer.get()?.get_count();
        }
        let text = match self.format {
            Format::Text => count.to_string(),
            Format::Json => json!({ "deleted": count }).to_string(),
        };
        Ok(line(out, &text)?)
    }

    async fn list(&self, query: Query<'_>, out: &mut dyn io::Write) -> Result<(), Failure> {
        let mut array = Array::default();
        let mut left = query.limit;
        let mut last: Option<String> = None;
        while left != Some(0) {
            let mut request = self.storage.page_request();
            query.write(request.get().init_range(), last.as_deref(), left);
            let answer = request.send().promise.await.map_err(|e| self.failed(e))?;
            let page = answer.get()?;
            let entries = page.get_entries()?;
            for entry in entries {
                let (key, value) = (entry.get_key()?.to_str()?, entry.get_value()?);
                match self.format {
                    Format::Text => fields(out, &[key, &json::text(&cbor::to_json(value))])?,
                    Format::Json => {
                        let entry = json!({ "key": key, "value": cbor::to_json(value) });
                        array.push(out, &entry)?;
                    }
                }
                last = Some(key.to_owned());
            }
            left = left.map(|left| left.saturating_sub(entries.len()));
            if !page.get_more() || entries.is_empty() {
                break;
            }
        }
        if self.format == Format::Json {
            array.finish(out)?;
        }
        Ok(())
    }
}

impl Query<'_> {
    /// The range that follows the last key of the page before.
    fn write(&self, mut range: range::Builder<'_>, last: Option<&str>, left: Option<u32>) {
        range.set_prefix(self.prefix);
        range.set_reverse(self.reverse);
        let (after, before) = if self.reverse {
            (None, last)
        } else {
            (last, None)
        };
        match (after, self.start) {
            (Some(after), _) => range.reborrow().init_from().set_start_after(after),
            (None, Some(start)) => range.reborrow().init_from().set_start(start),
            (None, None) => range.reborrow().init_from().set_beginning(()),
        }
        match before.or(self.end) {
            Some(end) => range.reborrow().init_to().set_end(end),
            None => range.reborrow().init_to().set_last(()),
        }
        match left {
            Some(entries) => range.init_limit().set_entries(entries),
            None => range.init_limit().set_unlimited(()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    bytes.map_err(|error| Failure::File(path.display().to_string(), error))
}
