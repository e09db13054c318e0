//! Whether the classes that a vat is to serve fit those that it has served, and what becomes of the
//! ledger.

/// A class in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The id of its interface, which is the class's identity.
    pub interface_id: u64,
    /// The name it was last served under; empty if only versions without a ledger have served it.
    pub name: String,
    /// The schema it was last served with; empty if only versions without a ledger have served it.
    pub schema: Vec<u8>,
    /// Whether it was retired: nobody misses it.
    pub retired: bool,
    /// How many objects of it have come into being.
    pub objects: u64,
}

/// A class that is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served<'a> {
    /// The name it is to be served under.
    pub name: &'a str,
    /// The id of its interface.
    pub interface_id: u64,
    /// The schema that describes it.
    pub schema: &'a [u8],
}

/// What is different from what the ledger says of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The ledger does not know it, or not what it is called.
    Added(Served<'a>),
    /// It has another name.
    Renamed {
        /// Its name so far.
        from: String,
        /// What it is now. The schema may be another, too.
        class: Served<'a>,
    },
    /// It has another schema, which is compatible.
    Changed(Served<'a>),
    /// It is served again after it was retired. Its alarms are missing from the index.
    PutBack(Served<'a>),
    /// It is to be retired.
    Retired {
        /// The id of its interface.
        interface_id: u64,
        /// The name it was served under; may be empty.
        name: String,
    },
}

/// Why classes cannot be served on this folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Its objects would be left alone, without anybody saying so.
    #[error(
        "class {} (interface @{interface_id:#018x}) is not served, and objects of it are there: \
         {objects}. Put the class back, or leave them where they are with `--retire {retire}`",
        called(class)
    )]
    Missing {
        /// Its name; empty if nobody knows.
        class: String,
        /// The id of its interface.
        interface_id: u64,
        /// How many objects it has.
        objects: u64,
        /// What to call it when it is retired: its name, or its id if that is not enough.
        retire: String,
    },
    /// A class is to be retired and served.
    #[error("class {class} cannot be retired while it is served")]
    RetiredAndServed {
        /// What it was called.
        class: String,
    },
    /// A class is to be retired that never was served.
    #[error("class {class} cannot be retired: it was never served here")]
    Unknown {
        /// What it was called.
        class: String,
    },
    /// A class is to be retired, and the name is that of several.
    #[error(
        "several classes were called {class}: retire one by its interface id, which is one of {}",
        hexadecimal(interface_ids)
    )]
    Ambiguous {
        /// The name.
        class: String,
        /// The ids of their interfaces.
        interface_ids: Vec<u64>,
    },
    /// Its interface is not one that callers, and saved references, could take for the earlier one.
    #[error("class {class} is not compatible with what was served before: {reason}")]
    Incompatible {
        /// Its name.
        class: String,
        /// What is incompatible.
        reason: String,
    },
}

fn called(name: &str) -> &str {
    match name {
        "" => "of unknown name",
        name => name,
    }
}

fn hexadecimal(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("{id:#018x}")).collect();
    ids.join(", ")
}

/// Compares what the ledger says with what is to be served. `retire` has names of classes, or the ids
/// of their interfaces as `0x...`. `compatible` tells whether the second schema can replace the first
/// as far as the interface of that id goes, or why not.
///
/// A class with objects must be served or retired. One without is just left, and may come back.
pub fn reconcile<'a>(
    ledger: &[LedgerEntry],
    served: &[Served<'a>],
    retire: &[String],
    compatible: impl Fn(&[u8], &[u8], u64) -> Result<(), String>,
) -> Result<Vec<Change<'a>>, LedgerError> {
    let retired = retire
        .iter()
        .map(|class| resolve(class, ledger, served))
        .collect::<Result<Vec<u64>, _>>()?;
    let mut changes = Vec::new();
    for entry in ledger {
        let id = entry.interface_id;
        match served.iter().find(|class| class.interface_id == id) {
            Some(class) => changes.extend(served_before(entry, *class, &compatible)?),
            None if entry.retired => {}
            None if retired.contains(&id) => changes.push(Change::Retired {
                interface_id: id,
                name: entry.name.clone(),
            }),
            None if entry.objects == 0 => {}
            None => {
                return Err(LedgerError::Missing {
                    class: entry.name.clone(),
                    interface_id: id,
                    objects: entry.objects,
                    retire: match named(&entry.name, ledger, served)[..] {
                        [_] if !entry.name.is_empty() => entry.name.clone(),
                        _ => format!("{id:#018x}"),
                    },
                });
            }
        }
    }
    let is_new = |class: &&Served<'a>| {
        ledger
            .iter()
            .all(|entry| entry.interface_id != class.interface_id)
    };
    changes.extend(served.iter().filter(is_new).copied().map(Change::Added));
    Ok(changes)
}

/// What is different about a class that the ledger knows.
fn served_before<'a>(
    entry: &LedgerEntry,
    class: Served<'a>,
    compatible: &impl Fn(&[u8], &[u8], u64) -> Result<(), String>,
) -> Result<Option<Change<'a>>, LedgerError> {
    let is_same = entry.schema == class.schema;
    if !is_same && !entry.schema.is_empty() {
        compatible(&entry.schema, class.schema, class.interface_id).map_err(|reason| {
            LedgerError::Incompatible {
                class: class.name.to_owned(),
                reason,
            }
        })?;
    }
    Ok(if entry.retired {
        Some(Change::PutBack(class))
    } else if entry.name.is_empty() {
        Some(Change::Added(class))
    } else if entry.name != class.name {
        let from = entry.name.clone();
        Some(Change::Renamed { from, class })
    } else {
        (!is_same).then_some(Change::Changed(class))
    })
}

/// Which class is to be retired.
fn resolve(class: &str, ledger: &[LedgerEntry], served: &[Served<'_>]) -> Result<u64, LedgerError> {
    let id = class
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let ids = match id {
        Some(id) => vec![id],
        None => named(class, ledger, served),
    };
    let class = class.to_owned();
    match ids[..] {
        [id] if served.iter().any(|class| class.interface_id == id) => {
            Err(LedgerError::RetiredAndServed { class })
        }
        [id] if ledger.iter().any(|entry| entry.interface_id == id) => Ok(id),
        [] | [_] => Err(LedgerError::Unknown { class }),
        _ => Err(LedgerError::Ambiguous {
            class,
            interface_ids: ids,
        }),
    }
}

/// The classes that have, or had, a name.
fn named(name: &str, ledger: &[LedgerEntry], served: &[Served<'_>]) -> Vec<u64> {
    let before = ledger
        .iter()
        .map(|entry| (&*entry.name, entry.interface_id));
    let now = served.iter().map(|class| (class.name, class.interface_id));
    let mut ids: Vec<u64> = before
        .chain(now)
        .filter(|(other, _)| *other == name)
        .map(|(_, id)| id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(interface_id: u64, name: &str, objects: u64) -> LedgerEntry {
        LedgerEntry {
            interface_id,
            name: name.into(),
            schema: b"v1".into(),
            retired: false,
            objects,
        }
    }

    fn retired(entry: LedgerEntry) -> LedgerEntry {
        LedgerEntry {
            retired: true,
            ..entry
        }
    }

    fn served(interface_id: u64, name: &'static str) -> Served<'static> {
        Served {
            name,
            interface_id,
            schema: b"v1",
        }
    }

    fn changed(class: Served<'static>) -> Served<'static> {
        Served {
            schema: b"v2",
            ..class
        }
    }

    /// What the ledger has, what is to be served and retired, and the outcome.
    type Case<'a, T> = (&'a [LedgerEntry], &'a [Served<'static>], &'a [&'a str], T);

    fn outcome(
        ledger: &[LedgerEntry],
        classes: &[Served<'static>],
        retire: &[&str],
    ) -> Result<Vec<Change<'static>>, LedgerError> {
        let retire: Vec<String> = retire.iter().map(|&class| class.into()).collect();
        reconcile(ledger, classes, &retire, |old, new, _| match (old, new) {
            (b"v1", b"v2") => Ok(()),
            _ => Err("something is gone".into()),
        })
    }

    #[test]
    fn what_fits_is_told_as_changes() {
        let from = || String::from("Room");
        let unknown = [LedgerEntry {
            schema: vec![],
            ..entry(1, "", 3)
        }];
        let (room, hall) = (served(1, "Room"), served(1, "Hall"));
        let gone = |name: &str| Change::Retired {
            interface_id: 1,
            name: name.into(),
        };
        let cases: [Case<'_, Vec<Change<'_>>>; 14] = [
            (&[], &[], &[], vec![]),
            (&[], &[room], &[], vec![Change::Added(room)]),
            (&[entry(1, "Room", 3)], &[room], &[], vec![]),
            (
                &[entry(1, "Room", 3)],
                &[hall],
                &[],
                vec![Change::Renamed {
                    from: from(),
                    class: hall,
                }],
            ),
            (
                &[entry(1, "Room", 3)],
                &[changed(hall)],
                &[],
                vec![Change::Renamed {
                    from: from(),
                    class: changed(hall),
                }],
            ),
            (
                &[entry(1, "Room", 0)],
                &[changed(room)],
                &[],
                vec![Change::Changed(changed(room))],
            ),
            (
                &[retired(entry(1, "Room", 3))],
                &[changed(room)],
                &[],
                vec![Change::PutBack(changed(room))],
            ),
            (&[retired(entry(1, "Room", 3))], &[], &["Room"], vec![]),
            (&[entry(1, "Room", 0)], &[], &[], vec![]),
            (&[entry(1, "Room", 0)], &[], &["Room"], vec![gone("Room")]),
            (
                &[entry(1, "Room", 3)],
                &[],
                &["Room", "0x1", "0x0000000000000001"],
                vec![gone("Room")],
            ),
            // Another class took over the name.
            (
                &[entry(1, "Room", 3)],
                &[served(2, "Room")],
                &["0x1"],
                vec![gone("Room"), Change::Added(served(2, "Room"))],
            ),
            // An earlier version kept no ledger.
            (&unknown, &[room], &[], vec![Change::Added(room)]),
            (&unknown, &[], &["0x1"], vec![gone("")]),
        ];
        for (n, (ledger, classes, retire, expected)) in cases.into_iter().enumerate() {
            assert_eq!(outcome(ledger, classes, retire), Ok(expected), "case {n}");
        }
    }

    #[test]
    fn what_does_not_fit_says_what_to_do() {
        let room = || entry(0xa1, "Room", 3);
        let incompatible = Served {
            schema: b"v0",
            ..served(0xa1, "Room")
        };
        let cases: [Case<'_, &str>; 10] = [
            (
                &[room()],
                &[],
                &[],
                "class Room (interface @0x00000000000000a1) is not served, and objects of it are \
                 there: 3. Put the class back, or leave them where they are with `--retire Room`",
            ),
            (
                &[entry(0xa1, "", 3)],
                &[],
                &[],
                "class of unknown name (interface @0x00000000000000a1) is not served, and objects \
                 of it are there: 3. Put the class back, or leave them where they are with \
                 `--retire 0x00000000000000a1`",
            ),
            // The name would not tell which.
            (
                &[room()],
                &[served(0xa2, "Room")],
                &[],
                "class Room (interface @0x00000000000000a1) is not served, and objects of it are \
                 there: 3. Put the class back, or leave them where they are with \
                 `--retire 0x00000000000000a1`",
            ),
            (
                &[room()],
                &[served(0xa1, "Room")],
                &["Room"],
                "class Room cannot be retired while it is served",
            ),
            (
                &[],
                &[served(0xa1, "Room")],
                &["0xa1"],
                "class 0xa1 cannot be retired while it is served",
            ),
            (
                &[entry(0xa2, "Cart", 0)],
                &[],
                &["Room"],
                "class Room cannot be retired: it was never served here",
            ),
            (
                &[],
                &[],
                &["0xa1"],
                "class 0xa1 cannot be retired: it was never served here",
            ),
            (
                &[room()],
                &[served(0xa2, "Room")],
                &["Room"],
                "several classes were called Room: retire one by its interface id, which is one of \
                 0x00000000000000a1, 0x00000000000000a2",
            ),
            (
                &[room()],
                &[incompatible],
                &[],
                "class Room is not compatible with what was served before: something is gone",
            ),
            (
                &[retired(room())],
                &[incompatible],
                &[],
                "class Room is not compatible with what was served before: something is gone",
            ),
        ];
        for (ledger, classes, retire, expected) in cases {
            let error = outcome(ledger, classes, retire).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
