//! Stubs that outlive the connection: they ask again for what they name.

use std::{cell::RefCell, rc::Rc};

use capnp::{Error, capability::FromClientHook, private::capability::ClientHook};
use vatwerk::{Code, ObjectId, vat_capnp::session};

use super::life::{Line, Lives, follow};
use crate::call::{Call, Target, settled};

/// Which object of a class.
pub(super) enum Key {
    Name(String),
    Id(ObjectId),
}

/// One object, whatever connection leads to it.
pub(super) struct Name {
    lives: Rc<Lives>,
    interface_id: u64,
    key: Key,
    asked: RefCell<Option<Asked>>,
}

struct Asked {
    line: Rc<Line>,
    stub: Box<dyn ClientHook>,
}

impl Name {
    pub fn new(lives: Rc<Lives>, interface_id: u64, key: Key) -> Name {
        Name {
            lives,
            interface_id,
            key,
            asked: RefCell::default(),
        }
    }

    /// The object's stub on the connection of now.
    fn stub(&self) -> Box<dyn ClientHook> {
        let Some(life) = self.lives.current() else {
            return stopped();
        };
        let line = life.line();
        let asked = self.asked.borrow();
        let known = asked
            .as_ref()
            .filter(|asked| Rc::ptr_eq(&asked.line, &line));
        let known = known.map(|asked| asked.stub.add_ref());
        drop(asked);
        // The same again, so that calls keep their order.
        let stub = known.unwrap_or_else(|| {
            let stub = self.ask(&line.session);
            let before = self.asked.replace(Some(Asked {
                line,
                stub: stub.add_ref(),
            }));
            drop(before);
            stub
        });
        settled(stub)
    }

    fn ask(&self, session: &session::Client) -> Box<dyn ClientHook> {
        let mut request = session.namespace_request();
        request.get().init_key().set_interface_id(self.interface_id);
        let namespace = request.send().pipeline.get_namespace();
        match &self.key {
            Key::Name(name) => {
                let mut request = namespace.get_by_name_request();
                request.get().set_object_name(name);
                let answer = request.send();
                let stub = answer.pipeline.get_object();
                follow(answer);
                stub.into_client_hook()
            }
            Key::Id(id) => {
                let mut request = namespace.get_request();
                request.get().set_id(id.as_bytes());
                let answer = request.send();
                let stub = answer.pipeline.get_object();
                follow(answer);
                stub.into_client_hook()
            }
        }
    }
}

fn stopped() -> Box<dyn ClientHook> {
    let code = Code::Disconnected;
    let error = Error {
        kind: code.kind(),
        extra: format!("{code}: the vat is stopped"),
    };
    capnp_rpc::new_broken_cap(error).hook
}

impl Target for Name {
    fn deliver(&self, call: Call) {
        call.forward_to(self.stub().as_ref());
    }

    fn resolved(&self) -> Option<Box<dyn ClientHook>> {
        Some(self.stub())
    }
}
