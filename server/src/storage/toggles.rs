//! Pragmas that turn something on or off for a whole connection: user SQL has them for the rest of one
//! `exec`, after which the vat sets them back.

use std::cell::Cell;
use std::os::raw::c_int;

use rusqlite::config::DbConfig::{
    SQLITE_DBCONFIG_ENABLE_FKEY as FOREIGN_KEYS,
    SQLITE_DBCONFIG_LEGACY_ALTER_TABLE as LEGACY_ALTER_TABLE,
};
use rusqlite::{Connection, ffi};

use super::{Attached, Inner, authorizer::ours, functions};
use crate::{Error, Result};

/// A boolean pragma that user SQL may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toggle {
    CaseSensitiveLike,
    /// Lasts as long as the transaction, and not only the exec: SQLite ends it there.
    DeferForeignKeys,
    ForeignKeys,
    IgnoreCheckConstraints,
    LegacyAlterTable,
    RecursiveTriggers,
    ReverseUnorderedSelects,
}

const NAMES: [(&str, Toggle); 7] = [
    ("case_sensitive_like", Toggle::CaseSensitiveLike),
    ("defer_foreign_keys", Toggle::DeferForeignKeys),
    ("foreign_keys", Toggle::ForeignKeys),
    ("ignore_check_constraints", Toggle::IgnoreCheckConstraints),
    ("legacy_alter_table", Toggle::LegacyAlterTable),
    ("recursive_triggers", Toggle::RecursiveTriggers),
    ("reverse_unordered_selects", Toggle::ReverseUnorderedSelects),
];

impl Toggle {
    /// The pragma of that name, in any case of letters.
    pub(super) fn named(name: &str) -> Option<Toggle> {
        let mut all = NAMES.iter();
        let found = all.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, toggle)| *toggle)
    }

    /// The value of a connection that nobody has set.
    fn usual(self) -> bool {
        self == Toggle::ForeignKeys
    }

    /// Whether a statement that sets it says nothing to those after it: none does in the last place.
    pub(super) fn is_lost(self, on: bool) -> bool {
        self != Toggle::DeferForeignKeys && on != self.usual()
    }
}

/// Why a pragma in the last place of an exec is refused.
pub(super) const LOST: &str = "a setting ends with its exec, and this one has no statement after it: put \
                               the pragma and what it is for into one exec";

/// Why `foreign_keys` and `defer_foreign_keys = OFF` are refused while keys are violated.
pub(super) const UNRESOLVED: &str = "foreign keys that are deferred are violated in this transaction, and \
                                     SQLite would forget it: mend them, or commit, first";

/// The toggles that the exec at hand has set.
#[derive(Default)]
pub(super) struct Toggled {
    any: Cell<bool>,
    like: Cell<bool>,
    /// Foreign keys were not enforced.
    unchecked: Cell<bool>,
    /// Whether they may be deferred in the open transaction.
    deferred: Cell<bool>,
}

impl Toggled {
    /// Whether the rows of the exec must be read before it ends: `LIKE` cannot change under a statement.
    pub(super) fn reads_whole(&self) -> bool {
        self.like.get()
    }

    /// Whether the database may hold keys without a parent.
    pub(super) fn is_unchecked(&self) -> bool {
        self.unchecked.get()
    }
}

/// Whether foreign keys are violated in the open transaction so far.
pub(super) fn is_unresolved(connection: &Connection) -> bool {
    let (mut current, mut highest): (c_int, c_int) = (0, 0);
    // SAFETY: the handle is that of a connection that is open, and both numbers are written to.
    let code = unsafe {
        ffi::sqlite3_db_status(
            connection.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut current,
            &raw mut highest,
            0,
        )
    };
    code != ffi::SQLITE_OK || current != 0
}

impl Inner {
    /// Does what the pragma says that was just compiled. SQLite ignores `foreign_keys` in a transaction,
    /// and an exec of several statements is one; the keys are checked when it ends.
    pub(super) fn toggle(&self, connection: &Attached, toggle: Toggle, on: bool) -> Result<()> {
        let failed = |error| self.judge(connection, &error);
        if toggle == Toggle::DeferForeignKeys {
            self.toggled.deferred.set(true);
            // Without a transaction it would last into another turn.
            return self.begin(connection);
        }
        self.toggled.any.set(true);
        match toggle {
            Toggle::CaseSensitiveLike => {
                self.toggled.like.set(true);
                let _trusted = self.gate.trust();
                functions::install_like(connection, on).map_err(failed)?;
            }
            Toggle::ForeignKeys => {
                if !on {
                    self.toggled.unchecked.set(true);
                }
                let set = connection.set_db_config(FOREIGN_KEYS, on);
                set.map_err(failed)?;
            }
            _ => {}
        }
        // What was compiled before would be compiled anew, which nobody would measure.
        connection.flush_prepared_statement_cache();
        Ok(())
    }

    /// Defers no foreign keys any more in a transaction that goes on, in which none is violated.
    pub(super) fn end_deferral(&self, connection: &Connection) -> Result<()> {
        if !self.toggled.deferred.replace(false) {
            return Ok(());
        }
        self.run(connection, ours!("PRAGMA defer_foreign_keys = OFF"))
    }

    /// Sets everything back that an exec has set, whatever came of it.
    pub(super) fn restore_toggles(&self, connection: &Attached) -> Result<()> {
        let toggled = &self.toggled;
        if !toggled.any.replace(false) {
            return Ok(());
        }
        toggled.unchecked.set(false);
        let _trusted = self.gate.trust();
        let restore = || {
            if toggled.like.replace(false) {
                functions::install_like(connection, false)?;
            }
            connection.set_db_config(FOREIGN_KEYS, true)?;
            connection.set_db_config(LEGACY_ALTER_TABLE, false)?;
            connection.execute_batch(ours!(
                "PRAGMA ignore_check_constraints = OFF; PRAGMA recursive_triggers = OFF; \
                 PRAGMA reverse_unordered_selects = OFF"
            ))
        };
        let restored = restore();
        connection.flush_prepared_statement_cache();
        // What is left on would be on for others.
        restored.map_err(|error| {
            let text = super::fault::text(&error);
            let reset = format!("the settings of an exec could not be set back: {text}");
            self.latch(connection, Error::ObjectReset(reset))
        })
    }
}

#[cfg(test)]
mod tests;
