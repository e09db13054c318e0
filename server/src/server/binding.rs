//! Listening at the addresses of a vat.

use std::{rc::Rc, time::Duration};

use vatwerk::Address;

use crate::gateway::{Access, BindError, Listener, Permission};

/// Listens at one address after the other.
pub(super) struct Binding {
    access: Access,
    /// Why the vat does not listen at the first of its usual addresses that it cannot listen at.
    problem: Option<BindError>,
}

impl Binding {
    pub fn new(access: Access) -> Binding {
        Binding {
            access,
            problem: None,
        }
    }

    /// Listens at `addresses`. Where nobody has asked for them, `are_usual`, those that the vat cannot listen
    /// at are logged and left out; others are an error.
    pub async fn listen(
        &mut self,
        addresses: &[Address],
        are_usual: bool,
        permission: Permission,
        stall: Duration,
    ) -> Result<Vec<Rc<Listener>>, BindError> {
        let mut listeners = Vec::new();
        for address in addresses {
            match Listener::bind(address, permission, self.access).await {
                Ok(listener) => listeners.push(Rc::new(listener.with_stall(stall))),
                Err(error) if are_usual => {
                    tracing::warn!(
                        %address, %error,
                        "the vat does not listen at one of its usual addresses, and goes on without it: \
                         `--listen` and `--http` name others"
                    );
                    self.problem.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(listeners)
    }

    /// Refuses a vat that listens nowhere, `listeners` being none, because it cannot.
    pub fn check(self, listeners: usize) -> Result<(), BindError> {
        match self.problem {
            Some(problem) if listeners == 0 => Err(problem),
            _ => Ok(()),
        }
    }
}
