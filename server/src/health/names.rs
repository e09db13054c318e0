//! The names of what runs.

use std::collections::HashMap;

use vatwerk::json::Schemas;

use super::Runs;

/// The names of a vat's classes and of their methods.
#[derive(Default)]
pub struct Names {
    classes: HashMap<u64, &'static str>,
    methods: HashMap<(u64, u16), String>,
}

impl Names {
    /// The names of classes, each given with the id of its interface, and of all methods that their
    /// schemas know.
    pub fn new(classes: impl Iterator<Item = (u64, &'static str)>, schemas: &Schemas) -> Names {
        let methods = schemas
            .interfaces()
            .flat_map(|interface| interface.methods());
        let named = methods.map(|method| ((method.interface_id, method.ordinal), method.name));
        Names {
            classes: classes.collect(),
            methods: named.collect(),
        }
    }

    /// The name of the class with that interface.
    pub fn class(&self, interface_id: u64) -> &'static str {
        self.classes.get(&interface_id).copied().unwrap_or("?")
    }

    /// The name of what runs: a method of the schema as it is called there; `activate` (with `create`
    /// and migrations), `fetch`, `alarm`, `web_socket` and `wait_until` after the parts of a class; and
    /// a method that no schema knows by its interface and its number.
    pub fn method(&self, runs: Runs) -> String {
        self.known(runs).map_or_else(
            || match runs {
                Runs::Method {
                    interface_id,
                    ordinal,
                } => format!("@{interface_id:#018x} method {ordinal}"),
                _ => "other".to_owned(),
            },
            str::to_owned,
        )
    }

    /// The name of what runs as a label of metrics, of which there are as many as the schemas have methods: `other` stands for
    /// all that they do not know.
    pub fn label(&self, runs: Runs) -> &str {
        self.known(runs).unwrap_or("other")
    }

    fn known(&self, runs: Runs) -> Option<&str> {
        Some(match runs {
            Runs::Method {
                interface_id,
                ordinal,
            } => self.methods.get(&(interface_id, ordinal))?,
            Runs::Waking => "activate",
            Runs::Fetch => "fetch",
            Runs::Alarms => "alarm",
            Runs::Socket => "web_socket",
            Runs::Background => "wait_until",
            Runs::GivingBack => "vacuum",
        })
    }
}
