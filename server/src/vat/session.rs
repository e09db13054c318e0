//! What one credential may reach.

use std::rc::Rc;

use capnp::capability::{self, FromClientHook};
use vatwerk::vat_capnp::{class_key, session};

use super::{
    VERSION,
    listing::{after_alarm, check_limit, cut, next_alarm},
    namespace::NamespaceService,
};
use crate::{Error, call, object::Directory};

/// A session. All of them reach every class.
pub struct Session {
    directory: Directory,
    started_ms: i64,
}

impl Session {
    pub(super) fn new(directory: Directory, started_ms: i64) -> Session {
        Session {
            directory,
            started_ms,
        }
    }
}

impl session::Server for Session {
    async fn namespace(
        self: Rc<Self>,
        params: session::NamespaceParams,
        mut results: session::NamespaceResults,
    ) -> capnp::Result<()> {
        let class = match params.get()?.get_key()?.which()? {
            class_key::ClassName(name) => self.directory.class_by_name(name?.to_str()?)?,
            class_key::InterfaceId(id) => self.directory.class_by_interface(id)?,
        };
        let namespace = NamespaceService::new(self.directory.clone(), class);
        results.get().set_namespace(call::serve(namespace));
        Ok(())
    }

    async fn classes(
        self: Rc<Self>,
        _: session::ClassesParams,
        mut results: session::ClassesResults,
    ) -> capnp::Result<()> {
        let classes = self.directory.classes().await?;
        let mut list = results.get().init_classes(classes.len() as u32);
        for (i, (class, count)) in classes.into_iter().enumerate() {
            let mut info = list.reborrow().get(i as u32);
            info.set_class_name(class.name);
            info.set_interface_id(class.interface_id);
            info.set_object_count(count);
        }
        Ok(())
    }

    async fn restore(
        self: Rc<Self>,
        params: session::RestoreParams,
        mut results: session::RestoreResults,
    ) -> capnp::Result<()> {
        let reference = params.get()?.get_sturdy_ref()?;
        let saved = self.directory.saved(reference).await?.ok_or_else(|| {
            Error::NotFound("no reference was saved as these bytes, or it was forgotten".into())
        })?;
        let class = self.directory.class_by_interface(saved.class)?;
        let stub: capability::Client = self.directory.stub(&class, saved.id, saved.name.as_deref());
        results
            .get()
            .init_cap()
            .set_as_capability(stub.into_client_hook());
        Ok(())
    }

    async fn forget(
        self: Rc<Self>,
        params: session::ForgetParams,
        mut results: session::ForgetResults,
    ) -> capnp::Result<()> {
        let reference = params.get()?.get_sturdy_ref()?;
        let existed = self.directory.forget(reference).await?;
        results.get().set_existed(existed);
        Ok(())
    }

    async fn server_info(
        self: Rc<Self>,
        _: session::ServerInfoParams,
        mut results: session::ServerInfoResults,
    ) -> capnp::Result<()> {
        let resident = self.directory.resident().await;
        let mut info = results.get().init_info();
        info.set_version(VERSION);
        info.set_started_ms(self.started_ms);
        info.set_resident_objects(resident);
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
        let mut page = self.directory.alarms(after, limit + 1).await?;
        let mut results = results.get();
        if let Some(last) = cut(&mut page, limit) {
            results.set_next(next_alarm(last.due_ms, last.object));
        }
        let mut list = results.init_alarms(page.len() as u32);
        for (i, pending) in page.iter().enumerate() {
            let mut alarm = list.reborrow().get(i as u32);
            let interface_id = pending.object.class;
            let class = self.directory.class_by_interface(interface_id);
            alarm.set_class_name(class.map_or("", |class| class.name));
            alarm.set_interface_id(interface_id);
            alarm.set_id(pending.object.object.as_bytes());
            alarm.set_object_name(pending.name.as_deref().unwrap_or_default());
            alarm.set_due_ms(pending.due_ms);
        }
        Ok(())
    }
}
