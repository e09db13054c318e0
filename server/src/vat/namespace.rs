//! All objects of one class, on the wire.

use std::rc::Rc;

use capnp::capability::FromClientHook;
use vatwerk::{ObjectId, limit_capnp, object_capnp::namespace};

use crate::{
    Error, Result, call,
    catalog::{After, Listed},
    id,
    object::{ClassEntry, Host, Stub},
};

/// The objects of a class whose names start with `prefix`; all of them if that is `None`.
pub(super) struct NamespaceService {
    host: Rc<Host>,
    class: Rc<ClassEntry>,
    prefix: Option<String>,
}

impl NamespaceService {
    pub fn new(host: Rc<Host>, class: Rc<ClassEntry>) -> NamespaceService {
        NamespaceService {
            host,
            class,
            prefix: None,
        }
    }

    fn stub<C: FromClientHook>(&self, id: ObjectId, name: Option<&str>) -> C {
        C::new(Stub::capability(&self.host, &self.class, id, name))
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
}

impl namespace::Server for NamespaceService {
    async fn get_by_name(
        self: Rc<Self>,
        params: namespace::GetByNameParams,
        mut results: namespace::GetByNameResults,
    ) -> capnp::Result<()> {
        let name = params.get()?.get_object_name()?.to_str()?;
        self.check_reach(name)?;
        let id = self.class.ids.of_name(name)?;
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
        let listed = self
            .host
            .catalog
            .find(self.class.interface_id, id)?
            .ok_or_else(|| {
                Error::NotFound(format!("no object {id} of class {}", self.class.name))
            })?;
        self.host.catalog_is_durable().await?;
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
        self.check_reach(name)?;
        results
            .get()
            .set_id(self.class.ids.of_name(name)?.as_bytes());
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
        let prefix = params.get_prefix()?.to_str()?;
        let prefix = match &self.prefix {
            // What was asked for lies within reach, or the other way round, or they do not meet.
            Some(reach) if reach.starts_with(prefix) => reach,
            Some(reach) if !prefix.starts_with(reach.as_str()) => return Ok(()),
            _ => prefix,
        };
        let after = self.read_cursor(params.get_after()?.to_str()?)?;
        let limit = params.get_limit();
        if !(1..=limit_capnp::MAX_LISTED_OBJECTS).contains(&limit) {
            return Err(Error::InvalidArgument(format!(
                "the limit of a listing is 1 to {}, not {limit}",
                limit_capnp::MAX_LISTED_OBJECTS
            ))
            .into());
        }
        // One more than asked for tells whether there is another page.
        let mut page =
            self.host
                .catalog
                .list(self.class.interface_id, prefix, &after, limit + 1)?;
        self.host.catalog_is_durable().await?;
        let more = page.len() > limit as usize;
        page.truncate(limit as usize);
        let mut results = results.get();
        if more && let Some(last) = page.last() {
            results.set_next(cursor(last));
        }
        let mut list = results.init_objects(page.len() as u32);
        for (i, listed) in page.iter().enumerate() {
            let mut info = list.reborrow().get(i as u32);
            info.set_id(listed.id.as_bytes());
            info.set_object_name(listed.name.as_deref().unwrap_or_default());
            info.set_created_ms(listed.created_ms);
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
            host: self.host.clone(),
            class: self.class.clone(),
            prefix: Some(prefix.to_owned()),
        };
        results.get().set_namespace(call::serve(narrowed));
        Ok(())
    }
}

/// Where the page after this object starts, as text: `n` and its name, or `i` and its id.
fn cursor(last: &Listed) -> String {
    match &last.name {
        Some(name) => format!("n{name}"),
        None => format!("i{}", last.id),
    }
}

impl NamespaceService {
    fn read_cursor(&self, text: &str) -> Result<After> {
        if text.is_empty() {
            return Ok(After::Beginning);
        }
        if let Some(name) = text.strip_prefix('n') {
            return Ok(After::Name(name.to_owned()));
        }
        let id = text
            .strip_prefix('i')
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| {
                Error::InvalidArgument("`after` is not the `next` of an earlier page".into())
            })?;
        Ok(After::Id(id))
    }
}
