//! What keeps an instance awake while it has nothing to do: capabilities of its own that others hold.

use std::rc::Rc;

use super::{instance::Instance, life::Life, slot::Slot};

/// Keeps one instance awake while it lives. Instances that come later are not concerned.
pub(crate) struct KeepAwake {
    life: Rc<Life>,
    slot: Rc<Slot>,
}

impl KeepAwake {
    /// Counts one more reason for the instance to stay awake.
    pub(super) fn new(instance: &Instance) -> KeepAwake {
        let (life, slot) = (instance.life.clone(), instance.slot.clone());
        life.pins.set(life.pins.get() + 1);
        KeepAwake { life, slot }
    }
}

impl Drop for KeepAwake {
    fn drop(&mut self) {
        self.life.pins.set(self.life.pins.get() - 1);
        self.slot.stir();
    }
}
