//! A vat that is just real enough for the verbs: it keeps one map of keys, answers any SQL with its
//! bindings, and makes pages short.

use std::{cell::RefCell, collections::BTreeMap, ops::Bound, rc::Rc};

use capnp::{Error, capability::FromClientHook, traits::HasTypeId};
use capnp_rpc::new_client;
use vatwerk::{
    cell_capnp::cell,
    counter_capnp::counter,
    object_capnp::{ObjectState, namespace, object_key, stub},
    storage_capnp::{cursor, operations, range, sql, sql_value, storage},
    vat_capnp::{class_key, session, vat},
};

pub type Pairs = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

pub struct Fake(pub Pairs);

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

    /// One alarm to a page.
    async fn alarms(
        self: Rc<Self>,
        params: session::AlarmsParams,
        mut results: session::AlarmsResults,
    ) -> capnp::Result<()> {
        let first = params.get()?.get_after()?.is_empty();
        let mut alarm = results.get().init_alarms(1).get(0);
        alarm.set_id(&[u8::from(first); 32]);
        alarm.set_due_ms(if first { 7 } else { 8 });
        if first {
            alarm.set_class_name("Counter");
            alarm.set_object_name("a");
            results.get().set_next("more");
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
            object.set_written_ms(6);
            object.set_bytes(4096);
            results.get().set_next("more");
        }
        Ok(())
    }

    async fn count(
        self: Rc<Self>,
        params: namespace::CountParams,
        mut results: namespace::CountResults,
    ) -> capnp::Result<()> {
        let count = params.get()?.get_prefix()?.len() as u64;
        results.get().set_count(count);
        Ok(())
    }

    /// Those with a name are there and awake.
    async fn show(
        self: Rc<Self>,
        params: namespace::ShowParams,
        mut results: namespace::ShowResults,
    ) -> capnp::Result<()> {
        let mut status = results.get().init_status();
        match params.get()?.get_key()?.which()? {
            object_key::ObjectName(name) => {
                let mut info = status.reborrow().init_info();
                info.set_id(&[1; 32]);
                info.set_object_name(name?);
                info.set_created_ms(5);
                status.set_exists(true);
                status.set_state(ObjectState::Awake);
                status.set_queued(2);
                status.reborrow().init_alarm().set_due_ms(7);
                status.set_activated_ms(6);
            }
            object_key::Id(id) => status.init_info().set_id(id?),
        }
        Ok(())
    }

    /// Says that the object existed if it is given by its name.
    async fn delete(
        self: Rc<Self>,
        params: namespace::DeleteParams,
        mut results: namespace::DeleteResults,
    ) -> capnp::Result<()> {
        let key = params.get()?.get_key()?.which()?;
        let existed = matches!(key, object_key::ObjectName(_));
        results.get().set_existed(existed);
        Ok(())
    }

    /// Says that the object was awake if it is given by its name.
    async fn reset(
        self: Rc<Self>,
        params: namespace::ResetParams,
        mut results: namespace::ResetResults,
    ) -> capnp::Result<()> {
        let key = params.get()?.get_key()?.which()?;
        let was_awake = matches!(key, object_key::ObjectName(_));
        results.get().set_was_awake(was_awake);
        Ok(())
    }
}

impl counter::Server for Fake {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        let amount = params.get()?.get_amount();
        if amount < 0 {
            std::future::pending::<()>().await;
        }
        results.get().set_count(amount);
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
        { row }.set_values(self.values()?)
    }

    async fn counts(
        self: Rc<Self>,
        _: cursor::CountsParams,
        _: cursor::CountsResults,
    ) -> capnp::Result<()> {
        Ok(())
    }
}
