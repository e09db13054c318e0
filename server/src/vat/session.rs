//! What one credential may reach.

use std::rc::Rc;

use vatwerk::vat_capnp::{class_key, session};

use super::{
    VERSION,
    listing::{after_alarm, check_limit, cut, next_alarm},
    namespace::NamespaceService,
};
use crate::{
    Error, call,
    object::{Host, Stub},
};

/// A session. All of them reach every class.
pub struct Session {
    host: Rc<Host>,
    started_ms: i64,
}

impl Session {
    pub(super) fn new(host: Rc<Host>, started_ms: i64) -> Session {
        Session { host, started_ms }
    }
}

impl session::Server for Session {
    async fn namespace(
        self: Rc<Self>,
        params: session::NamespaceParams,
        mut results: session::NamespaceResults,
    ) -> capnp::Result<()> {
        let class = match params.get()?.get_key()?.which()? {
            class_key::ClassName(name) => self.host.classes.by_name(name?.to_str()?)?,
            class_key::InterfaceId(id) => self.host.classes.by_interface(id)?,
        };
        let namespace = NamespaceService::new(self.host.clone(), class.clone());
        results.get().set_namespace(call::serve(namespace));
        Ok(())
    }

    async fn classes(
        self: Rc<Self>,
        _: session::ClassesParams,
        mut results: session::ClassesResults,
    ) -> capnp::Result<()> {
        self.host.catalog_is_durable().await?;
        let mut classes: Vec<_> = self.host.classes.iter().collect();
        classes.sort_unstable_by_key(|class| class.name);
        let mut list = results.get().init_classes(classes.len() as u32);
        for (i, class) in classes.into_iter().enumerate() {
            let mut info = list.reborrow().get(i as u32);
            info.set_class_name(class.name);
            info.set_interface_id(class.interface_id);
            info.set_object_count(self.host.catalog.count(class.interface_id)?);
        }
        Ok(())
    }

    async fn restore(
        self: Rc<Self>,
        params: session::RestoreParams,
        mut results: session::RestoreResults,
    ) -> capnp::Result<()> {
        let saved = self
            .host
            .catalog
            .saved(params.get()?.get_sturdy_ref()?)?
            .ok_or_else(|| {
                Error::NotFound("no reference was saved as these bytes, or it was forgotten".into())
            })?;
        self.host.catalog_is_durable().await?;
        let cap = Stub::restore(&self.host, &saved)?;
        results.get().init_cap().set_as_capability(cap);
        Ok(())
    }

    async fn forget(
        self: Rc<Self>,
        params: session::ForgetParams,
        mut results: session::ForgetResults,
    ) -> capnp::Result<()> {
        let existed = self.host.catalog.forget(params.get()?.get_sturdy_ref()?)?;
        self.host.catalog_is_durable().await?;
        results.get().set_existed(existed);
        Ok(())
    }

    async fn server_info(
        self: Rc<Self>,
        _: session::ServerInfoParams,
        mut results: session::ServerInfoResults,
    ) -> capnp::Result<()> {
        let mut info = results.get().init_info();
        info.set_version(VERSION);
        info.set_started_ms(self.started_ms);
        info.set_resident_objects(self.host.resident() as u64);
        Ok(())
    }

    async fn alarms(
        self: Rc<Self>,
        params: session::AlarmsParams,
        mut results: session::AlarmsResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let after = after_alarm(params.get_after()?.to_str()?)?;
        let limit = params.get_limit();
        check_limit(limit)?;
        self.host.write_notes()?;
        let mut page = self.host.catalog.alarms(after, limit + 1)?;
        self.host.catalog_is_durable().await?;
        let mut results = results.get();
        if let Some(last) = cut(&mut page, limit) {
            results.set_next(next_alarm(last.due_ms, last.object));
        }
        let mut list = results.init_alarms(page.len() as u32);
        for (i, pending) in page.iter().enumerate() {
            let mut alarm = list.reborrow().get(i as u32);
            let interface_id = pending.object.class;
            let class = self.host.classes.by_interface(interface_id);
            alarm.set_class_name(class.map_or("", |class| class.name));
            alarm.set_interface_id(interface_id);
            alarm.set_id(pending.object.object.as_bytes());
            alarm.set_object_name(pending.name.as_deref().unwrap_or_default());
            alarm.set_due_ms(pending.due_ms);
        }
        Ok(())
    }
}
