//! The verbs against a vat of the tests' own, over a real socket.

use std::{cell::RefCell, collections::BTreeMap, ops::Bound, rc::Rc};

use capnp::{Error, capability::FromClientHook, traits::HasTypeId};
use capnp_rpc::{RpcSystem, new_client, rpc_twoparty_capnp::Side, twoparty};
use clap::Parser;
use tokio::{net::UnixListener, task::LocalSet};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use vatwerk::{
    cell_capnp::cell,
    counter_capnp::counter,
    object_capnp::{namespace, stub},
    storage_capnp::{cursor, operations, range, sql, sql_value, storage},
    vat_capnp::{class_key, session, vat},
};

use super::{Failure, args::ClientVerb, run};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: ClientVerb,
}

type Pairs = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

struct Fake(Pairs);

impl vat::Server for Fake {
    async fn authenticate(
        self: Rc<Self>,
        _: vat::AuthenticateParams,
        mut results: vat::AuthenticateResults,
    ) -> capnp::Result<()> {
        let session: session::Client = new_client(Fake(self.0.clone()));
        results.get().set_session(session);
        Ok(())
    }

    async fn describe(
        self: Rc<Self>,
        _: vat::DescribeParams,
        mut results: vat::DescribeResults,
    ) -> capnp::Result<()> {
        results
            .get()
            .set_code_generator_request(vatwerk::CODE_GENERATOR_REQUEST);
        Ok(())
    }
}

impl session::Server for Fake {
    async fn namespace(
        self: Rc<Self>,
        params: session::NamespaceParams,
        mut results: session::NamespaceResults,
    ) -> capnp::Result<()> {
        let class = match params.get()?.get_key()?.which()? {
            class_key::ClassName(name) => name?.to_string()?,
            class_key::InterfaceId(_) => unreachable!("the verbs go by names"),
        };
        let namespace = Namespace(class, self.0.clone());
        results
            .get()
            .set_namespace(new_client::<namespace::Client, _>(namespace));
        Ok(())
    }

    async fn classes(
        self: Rc<Self>,
        _: session::ClassesParams,
        mut results: session::ClassesResults,
    ) -> capnp::Result<()> {
        let mut classes = results.get().init_classes(2);
        let all = [
            ("Cell", cell::Client::TYPE_ID),
            ("Counter", counter::Client::TYPE_ID),
        ];
        for (i, (name, id)) in all.into_iter().enumerate() {
            let mut class = classes.reborrow().get(i as u32);
            class.set_class_name(name);
            class.set_interface_id(id);
            class.set_object_count(i as u64);
        }
        Ok(())
    }
}

struct Namespace(String, Pairs);

impl namespace::Server for Namespace {
    async fn get_by_name(
        self: Rc<Self>,
        _: namespace::GetByNameParams,
        mut results: namespace::GetByNameResults,
    ) -> capnp::Result<()> {
        let object: stub::Client = match self.0.as_str() {
            "Cell" => new_client::<cell::Client, _>(Fake(self.1.clone())).cast_to(),
            _ => new_client::<counter::Client, _>(Fake(self.1.clone())).cast_to(),
        };
        results.get().set_object(object);
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: namespace::ListParams,
        mut results: namespace::ListResults,
    ) -> capnp::Result<()> {
        // One object to a page.
        let first = params.get()?.get_after()?.is_empty();
        let mut object = results.get().init_objects(1).get(0);
        object.set_id(&[u8::from(first); 32]);
        object.set_created_ms(5);
        if first {
            object.set_object_name("a");
            results.get().set_next("more");
        }
        Ok(())
    }
}

impl counter::Server for Fake {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        results.get().set_count(params.get()?.get_amount());
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        _: counter::GetResults,
    ) -> capnp::Result<()> {
        Err(Error::overloaded("storage-failed: no space".to_owned()))
    }

    async fn reset(
        self: Rc<Self>,
        _: counter::ResetParams,
        _: counter::ResetResults,
    ) -> capnp::Result<()> {
        Ok(())
    }
}

impl cell::Server for Fake {}
impl storage::Server for Fake {}
impl operations::Server for Fake {
    async fn get(
        self: Rc<Self>,
        params: operations::GetParams,
        mut results: operations::GetResults,
    ) -> capnp::Result<()> {
        let key = params.get()?.get_key()?.to_string()?;
        let mut value = results.get().init_value();
        match self.0.borrow().get(&key) {
            Some(bytes) => value.set_bytes(bytes),
            None => value.set_none(()),
        }
        Ok(())
    }

    async fn put(
        self: Rc<Self>,
        params: operations::PutParams,
        _: operations::PutResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (key, value) = (params.get_key()?.to_string()?, params.get_value()?.to_vec());
        self.0.borrow_mut().insert(key, value);
        Ok(())
    }

    async fn delete_multiple(
        self: Rc<Self>,
        params: operations::DeleteMultipleParams,
        mut results: operations::DeleteMultipleResults,
    ) -> capnp::Result<()> {
        let mut count = 0;
        for key in params.get()?.get_keys()? {
            count += u32::from(self.0.borrow_mut().remove(key?.to_str()?).is_some());
        }
        results.get().set_count(count);
        Ok(())
    }

    /// Two entries to a page.
    async fn page(
        self: Rc<Self>,
        params: operations::PageParams,
        mut results: operations::PageResults,
    ) -> capnp::Result<()> {
        let range = params.get()?.get_range()?;
        let from = match range.get_from().which()? {
            range::from::Beginning(()) => Bound::Unbounded,
            range::from::Start(key) => Bound::Included(key?.to_string()?),
            range::from::StartAfter(key) => Bound::Excluded(key?.to_string()?),
        };
        let to = match range.get_to().which()? {
            range::to::Last(()) => Bound::Unbounded,
            range::to::End(key) => Bound::Excluded(key?.to_string()?),
        };
        let limit = match range.get_limit().which()? {
            range::limit::Unlimited(()) => usize::MAX,
            range::limit::Entries(n) => n as usize,
        };
        let prefix = range.get_prefix()?.to_string()?;
        let pairs = self.0.borrow();
        let found = pairs.range((from, to));
        let mut found: Vec<_> = found.filter(|(key, _)| key.starts_with(&prefix)).collect();
        if range.get_reverse() {
            found.reverse();
        }
        found.truncate(limit);
        results.get().set_more(found.len() > 2);
        found.truncate(2);
        let mut entries = results.get().init_entries(found.len() as u32);
        for (i, (key, value)) in found.into_iter().enumerate() {
            let mut entry = entries.reborrow().get(i as u32);
            entry.set_key(key.as_str());
            entry.set_value(value);
        }
        Ok(())
    }

    async fn sql(
        self: Rc<Self>,
        _: operations::SqlParams,
        mut results: operations::SqlResults,
    ) -> capnp::Result<()> {
        results
            .get()
            .set_sql(new_client::<sql::Client, _>(Fake(self.0.clone())));
        Ok(())
    }
}

/// Whatever the query, the result is one row: the bindings, in columns that are all called `c`.
impl sql::Server for Fake {
    async fn exec(
        self: Rc<Self>,
        params: sql::ExecParams,
        mut results: sql::ExecResults,
    ) -> capnp::Result<()> {
        if params.get()?.get_query()?.is_empty() {
            return Err(Error::failed("sql-failed: no statement".to_owned()));
        }
        let mut row = capnp::message::Builder::new_default();
        row.set_root::<capnp::struct_list::Owned<sql_value::Owned>>(params.get()?.get_bindings()?)?;
        let cursor: cursor::Client = new_client(Cursor(row));
        results.get().set_cursor(cursor);
        Ok(())
    }
}

struct Cursor(capnp::message::Builder<capnp::message::HeapAllocator>);

impl Cursor {
    fn values(&self) -> capnp::Result<capnp::struct_list::Reader<'_, sql_value::Owned>> {
        self.0.get_root_as_reader()
    }
}

impl cursor::Server for Cursor {
    async fn columns(
        self: Rc<Self>,
        _: cursor::ColumnsParams,
        mut results: cursor::ColumnsResults,
    ) -> capnp::Result<()> {
        let count = self.values()?.len();
        let mut names = results.get().init_column_names(count);
        (0..count).for_each(|i| names.set(i, "c"));
        Ok(())
    }

    async fn next(
        self: Rc<Self>,
        _: cursor::NextParams,
        mut results: cursor::NextResults,
    ) -> capnp::Result<()> {
        results.get().set_done(true);
        let row = results.get().init_rows(1).get(0);
        Ok({ row }.set_values(self.values()?)?)
    }

    async fn counts(
        self: Rc<Self>,
        _: cursor::CountsParams,
        _: cursor::CountsResults,
    ) -> capnp::Result<()> {
        Ok(())
    }
}

/// What each of the command lines prints, or how it fails. They share one vat.
fn verbs(lines: &[&[&str]]) -> Vec<Result<String, Failure>> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vat.sock");
    let address = format!("unix:{}", socket.display());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::task::spawn_local(async move {
            let pairs = Pairs::default();
            loop {
                let (reader, writer) = listener.accept().await.unwrap().0.into_split();
                let network = twoparty::VatNetwork::new(
                    reader.compat(),
                    writer.compat_write(),
                    Side::Server,
                    Default::default(),
                );
                let vat: vat::Client = new_client(Fake(pairs.clone()));
                let rpc = RpcSystem::new(Box::new(network), Some(vat.client));
                tokio::task::spawn_local(rpc);
            }
        });
        let mut outcomes = Vec::new();
        for line in lines {
            let words = ["vatwerk"].iter().chain(*line);
            let connect = ["--connect", &address];
            let cli = Cli::try_parse_from(words.chain(&connect)).unwrap();
            let mut out = Vec::new();
            let outcome = run(&cli.verb, &mut out).await;
            outcomes.push(outcome.map(|()| String::from_utf8(out).unwrap()));
        }
        outcomes
    })
}

/// Like [`verbs`], for those that must succeed.
fn printed(lines: &[&[&str]]) -> Vec<String> {
    let outcomes = verbs(lines).into_iter();
    outcomes.map(|outcome| outcome.unwrap()).collect()
}

#[test]
fn call_prints_one_line_of_json() {
    let calls = verbs(&[
        &["call", "Counter", "x", "increment", r#"{"amount": 5}"#],
        &["call", "Counter", "x", "increment"],
        &["call", "Counter", "x", "reset"],
        &["call", "Counter", "x", "get"],
        &["call", "Counter", "x", "increment", r#"{"amount": "five"}"#],
        &["call", "Counter", "x", "jump"],
        &["call", "Chat", "x", "post"],
        &["call", "Counter", "x", "identify"],
    ]);
    let texts = calls.iter().map(|call| match call {
        Ok(text) => text.clone(),
        Err(failure) => failure.message().unwrap(),
    });
    let texts: Vec<_> = texts.collect();
    assert_eq!(texts[0], "{\"count\":5}\n");
    assert_eq!(texts[1], "{\"count\":1}\n");
    assert_eq!(texts[2], "{}\n");
    assert_eq!(texts[3], "error: storage-failed: no space");
    assert!(
        texts[4].starts_with("error: invalid-argument: "),
        "{}",
        texts[4]
    );
    assert!(
        texts[4].contains("increment(amount :Int64 = 1)"),
        "{}",
        texts[4]
    );
    assert_eq!(
        texts[5],
        "error: unimplemented: `Counter` has no method `jump`; it has: increment, get, reset"
    );
    assert!(texts[6].starts_with("error: not-found: no class `Chat` here"));
    // It is known, but the fake does not have it.
    assert!(
        texts[7].starts_with("error: unimplemented: "),
        "{}",
        texts[7]
    );
}

#[test]
fn kv_reads_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob").display().to_string();
    std::fs::write(&path, [0, 159]).unwrap();
    let copy = dir.path().join("copy").display().to_string();
    let out = printed(&[
        &["kv", "Cell", "x", "put", "b", "some text"],
        &["kv", "Cell", "x", "put", "c", "--json", r#"{"n": 1}"#],
        &["kv", "Cell", "x", "put", "a", "--file", &path],
        &["kv", "Cell", "x", "get", "b"],
        &["kv", "Cell", "x", "get", "c"],
        &["kv", "Cell", "x", "get", "a", "--file", &copy],
        &["kv", "Cell", "x", "list"],
        &["kv", "Cell", "x", "list", "--reverse", "--output", "json"],
        &["kv", "Cell", "x", "list", "--start", "b", "--end", "c"],
        &[
            "kv", "Cell", "x", "list", "--prefix", "z", "--output", "json",
        ],
        &["kv", "Cell", "x", "list", "--limit", "1"],
        &["kv", "Cell", "x", "delete", "a", "c", "missing"],
        &["kv", "Cell", "x", "list"],
    ]);
    assert_eq!(out[..3], ["", "", ""]);
    assert_eq!(out[3], "some text\n");
    assert_eq!(out[4], "{\"n\":1}\n");
    assert_eq!(std::fs::read(copy).unwrap(), [0, 159]);
    assert_eq!(out[6], "a\t\"AJ8=\"\nb\t\"some text\"\nc\t{\"n\":1}\n");
    let reversed: serde_json::Value = serde_json::from_str(&out[7]).unwrap();
    let keys: Vec<_> = reversed
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["key"])
        .collect();
    assert_eq!(keys, ["c", "b", "a"]);
    assert_eq!(out[8], "b\t\"some text\"\n");
    assert_eq!(out[9], "[]\n");
    assert_eq!(out[10], "a\t\"AJ8=\"\n");
    assert_eq!(out[11], "2\n");
    assert_eq!(out[12], "b\t\"some text\"\n");
}

#[test]
fn kv_and_sql_say_why_they_fail() {
    let failed = verbs(&[
        &["kv", "Cell", "x", "get", "nothing"],
        &["kv", "Counter", "x", "get", "nothing"],
        &["sql", "Counter", "x", "SELECT 1"],
        &["sql", "Cell", "x", ""],
    ]);
    let texts = failed
        .into_iter()
        .map(|f| f.unwrap_err().message().unwrap());
    let texts: Vec<_> = texts.collect();
    assert_eq!(texts[0], "error: not-found: no key \"nothing\"");
    for text in &texts[1..3] {
        assert!(
            text.starts_with("error: unimplemented: objects of `Counter`"),
            "{text}"
        );
    }
    assert_eq!(texts[3], "error: sql-failed: no statement");
}

#[test]
fn sql_loses_nothing() {
    let query = ["sql", "Cell", "x", "SELECT ?, ?, ?, ?"];
    let params = [
        "-9223372036854775808",
        "\"text\"",
        "null",
        r#"{"base64":"AP8="}"#,
    ];
    let params = params.iter().flat_map(|param| ["--param", param]);
    let text: Vec<_> = query.into_iter().chain(params).collect();
    let json: Vec<_> = text.iter().copied().chain(["--output", "json"]).collect();
    let out = printed(&[&text, &json]);
    for cell in ["-9223372036854775808", "text", "x'00ff'"] {
        assert!(out[0].contains(cell), "{}", out[0]);
    }
    assert_eq!(
        out[1],
        "[\n{\"c\":-9223372036854775808,\"c:2\":\"text\",\"c:3\":null,\"c:4\":\"AP8=\"}\n]\n"
    );
}

#[test]
fn listings_go_through_all_pages() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let out = printed(&[
        &["objects", "list", "Counter"],
        &[
            "objects", "list", "Counter", "--limit", "1", "--output", "json",
        ],
        &["classes"],
        &["schema", "export", &folder],
    ]);
    let (one, zero) = ("01".repeat(32), "00".repeat(32));
    assert_eq!(out[0], format!("a\t{one}\t5\n\t{zero}\t5\n"));
    let listed: serde_json::Value = serde_json::from_str(&out[1]).unwrap();
    assert_eq!(listed[0]["id"], *one);
    assert_eq!(listed[1], serde_json::Value::Null);
    assert_eq!(
        out[2],
        "Cell\t@0xe48c9cf682361897\t0\nCounter\t@0xb8f725b103f79538\t1\n"
    );
    assert!(dir.path().join("vatwerk/storage.capnp").exists());
    assert_eq!(
        std::fs::read(dir.path().join("vat.cgr")).unwrap(),
        vatwerk::CODE_GENERATOR_REQUEST
    );
}

#[test]
fn bad_usage_is_refused_before_anything_is_called() {
    for line in [
        &["call", "Counter", "x", "get", "{"][..],
        &["kv", "Cell", "x", "put", "key"],
        &["kv", "Cell", "x", "put", "key", "text", "--json", "1"],
        &["kv", "Cell", "x", "delete"],
        &["kv", "Cell", "x", "list", "--limit", "0"],
        &["classes", "--output", "xml"],
    ] {
        let parsed = Cli::try_parse_from(["vatwerk"].iter().chain(line));
        assert_eq!(parsed.err().unwrap().exit_code(), 2, "{line:?}");
    }
}
