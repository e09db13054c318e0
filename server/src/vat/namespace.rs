//! All objects of one class, on the wire.

use std::rc::Rc;

use capnp::capability::FromClientHook;
use vatwerk::{
    ObjectId,
    object_capnp::{namespace, object_key},
};

use super::listing::{after_object, check_limit, cut, next_object, write_info, write_status};
use crate::{
    Error, Result, call,
    catalog::Listed,
    id,
    object::{ClassEntry, Directory, Seen},
};

/// The objects of a class whose names start with `prefix`; all of them if that is `None`.
pub(super) struct NamespaceService {
    directory: Directory,
    class: Rc<ClassEntry>,
    prefix: Option<String>,
}

impl NamespaceService {
    pub fn new(directory: Directory, class: Rc<ClassEntry>) -> NamespaceService {
        NamespaceService {
            directory,
            class,
            prefix: None,
        }
    }

    fn stub<C: FromClientHook>(&self, id: ObjectId, name: Option<&str>) -> C {
        self.directory.stub(&self.class, id, name)
    }

    /// Refuses names that a narrowed namespace does not reach.
    fn check_reach(&self, name: &str) -> Result<()> {
        id::check_name(name)?;
        match &self.prefix {
            Some(prefix) if !name.starts_with(prefix) => Err(Error::PermissionDenied(format!(
                "this namespace reaches names that start with {prefix:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses ids in a narrowed namespace: nobody can say what name an id was derived from.
    fn check_ids(&self) -> Result<()> {
        match &self.prefix {
            Some(_) => Err(Error::PermissionDenied(
                "this namespace was narrowed to names: it does not take ids".into(),
            )),
            None => Ok(()),
        }
    }

    fn parse_id(&self, bytes: &[u8]) -> Result<ObjectId> {
        self.check_ids()?;
        self.class.ids.parse(bytes)
    }

    fn id_of_name(&self, name: &str) -> Result<ObjectId> {
        self.check_reach(name)?;
        self.class.ids.of_name(name)
    }

    /// The object that a key stands for, and its name if the key has it.
    fn read_key<'a>(
        &self,
        key: object_key::Reader<'a>,
    ) -> capnp::Result<(ObjectId, Option<&'a str>)> {
        match key.which()? {
            object_key::ObjectName(name) => {
                let name = name?.to_str()?;
                Ok((self.id_of_name(name)?, Some(name)))
            }
            object_key::Id(id) => Ok((self.parse_id(id?)?, None)),
        }
    }

    /// The prefix of what starts with `prefix` and is within reach, if anything can be both.
    fn within_reach<'a>(&'a self, prefix: &'a str) -> Option<&'a str> {
        match &self.prefix {
            Some(reach) if reach.starts_with(prefix) => Some(reach),
            Some(reach) if !prefix.starts_with(reach.as_str()) => None,
            _ => Some(prefix),
        }
    }
}

impl namespace::Server for NamespaceService {
    async fn get_by_name(
        self: Rc<Self>,
        params: namespace::GetByNameParams,
        mut results: namespace::GetByNameResults,
    ) -> capnp::Result<()> {
        let name = params.get()?.get_object_name()?.to_str()?;
        let id = self.id_of_name(name)?;
        results.get().set_object(self.stub(id, Some(name)));
        Ok(())
    }

    async fn get(
        self: Rc<Self>,
        params: namespace::GetParams,
        mut results: namespace::GetResults,
    ) -> capnp::Result<()> {
        let id = self.parse_id(params.get()?.get_id()?)?;
        results.get().set_object(self.stub(id, None));
        Ok(())
    }

    async fn get_existing(
        self: Rc<Self>,
        params: namespace::GetExistingParams,
        mut results: namespace::GetExistingResults,
    ) -> capnp::Result<()> {
        let id = self.parse_id(params.get()?.get_id()?)?;
        let listed = self.directory.find(&self.class, id).await?;
        let listed = listed.ok_or_else(|| {
            Error::NotFound(format!("no object {id} of class {}", self.class.name))
        })?;
        results
            .get()
            .set_object(self.stub(id, listed.name.as_deref()));
        Ok(())
    }

    async fn id_from_name(
        self: Rc<Self>,
        params: namespace::IdFromNameParams,
        mut results: namespace::IdFromNameResults,
    ) -> capnp::Result<()> {
        let name = params.get()?.get_object_name()?.to_str()?;
        results.get().set_id(self.id_of_name(name)?.as_bytes());
        Ok(())
    }

    async fn id_from_string(
        self: Rc<Self>,
        params: namespace::IdFromStringParams,
        mut results: namespace::IdFromStringResults,
    ) -> capnp::Result<()> {
        self.check_ids()?;
        let id = self
            .class
            .ids
            .parse_text(params.get()?.get_text()?.to_str()?)?;
        results.get().set_id(id.as_bytes());
        Ok(())
    }

    async fn new_unique_id(
        self: Rc<Self>,
        _: namespace::NewUniqueIdParams,
        mut results: namespace::NewUniqueIdResults,
    ) -> capnp::Result<()> {
        self.check_ids()?;
        results.get().set_id(self.class.ids.unique().as_bytes());
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: namespace::ListParams,
        mut results: namespace::ListResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let Some(prefix) = self.within_reach(params.get_prefix()?.to_str()?) else {
            return Ok(());
        };
        let after = after_object(params.get_after()?.to_str()?)?;
        let limit = params.get_limit();
        check_limit(limit)?;
        let Self {
            directory, class, ..
        } = &*self;
        let mut page = directory.list(class, prefix, &after, limit + 1).await?;
        let mut results = results.get();
        if let Some(last) = cut(&mut page, limit) {
            results.set_next(next_object(last));
        }
        let mut list = results.init_objects(page.len() as u32);
        for (i, listed) in page.iter().enumerate() {
            write_info(list.reborrow().get(i as u32), listed);
        }
        Ok(())
    }

    async fn restrict(
        self: Rc<Self>,
        params: namespace::RestrictParams,
        mut results: namespace::RestrictResults,
    ) -> capnp::Result<()> {
        let prefix = params.get()?.get_prefix()?.to_str()?;
        if let Some(reach) = &self.prefix
            && !prefix.starts_with(reach.as_str())
        {
            return Err(Error::PermissionDenied(format!(
                "this namespace reaches names that start with {reach:?}"
            ))
            .into());
        }
        let narrowed = NamespaceService {
            directory: self.directory.clone(),
            class: self.class.clone(),
            prefix: Some(prefix.to_owned()),
        };
        results.get().set_namespace(call::serve(narrowed));
        Ok(())
    }

    async fn delete(
        self: Rc<Self>,
        params: namespace::DeleteParams,
        mut results: namespace::DeleteResults,
    ) -> capnp::Result<()> {
        let (id, _) = self.read_key(params.get()?.get_key()?)?;
        let existed = self.directory.delete(&self.class, id).await?;
        results.get().set_existed(existed);
        Ok(())
    }

    async fn reset(
        self: Rc<Self>,
        params: namespace::ResetParams,
        mut results: namespace::ResetResults,
    ) -> capnp::Result<()> {
        let (id, _) = self.read_key(params.get()?.get_key()?)?;
        results.get().set_was_awake(self.directory.reset(id).await?);
        Ok(())
    }

    async fn show(
        self: Rc<Self>,
        params: namespace::ShowParams,
        mut results: namespace::ShowResults,
    ) -> capnp::Result<()> {
        let (id, name) = self.read_key(params.get()?.get_key()?)?;
        let Seen {
            listed,
            status,
            alarm_ms,
            file_bytes,
        } = self.directory.look(&self.class, id).await?;
        let mut to = results.get().init_status();
        to.set_exists(listed.is_some());
        let listed = listed.unwrap_or_else(|| Listed {
            id,
            name: name.map(str::to_owned),
            created_ms: 0,
            written_ms: None,
            bytes: None,
        });
        write_info(to.reborrow().init_info(), &listed);
        write_status(to, status, alarm_ms, file_bytes);
        Ok(())
    }

    async fn count(
        self: Rc<Self>,
        params: namespace::CountParams,
        mut results: namespace::CountResults,
    ) -> capnp::Result<()> {
        let Some(prefix) = self.within_reach(params.get()?.get_prefix()?.to_str()?) else {
            return Ok(());
        };
        let count = self.directory.count(&self.class, prefix).await?;
        results.get().set_count(count);
        Ok(())
    }
}
