//! What user SQL may do: everything in its own database, except reach the vat's own tables, open
//! transactions, or leave the database.

use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{CachedStatement, Connection};

use super::costs;
use super::text::starts_with_word;
use super::toggles::{Toggle, UNRESOLVED};

/// The start of the names of the vat's own tables, in any case of letters.
pub(super) const RESERVED: &str = "_vw_";

pub(super) const RESERVED_HINT: &str = "names that start with `_vw_` are the vat's own";
pub(super) const ONE_DATABASE: &str =
    "an object has one database, `main`: ATTACH, DETACH and VACUUM are not available";
const TRANSACTION_HINT: &str = "use the transactions of the storage (`transaction`), not those of \
                                SQL: writes without an await between them are one commit anyway";

/// Marks SQL of the vat's own. User SQL never starts with a comment when it is prepared, so a
/// statement that was prepared with trust is never found in the cache for it.
macro_rules! ours {
    ($sql:literal) => {
        concat!("/**/", $sql)
    };
}
pub(super) use ours;

/// A statement of the vat's own, marked with [`ours`].
pub(super) fn cached<'c>(
    connection: &'c Connection,
    sql: &str,
) -> rusqlite::Result<CachedStatement<'c>> {
    debug_assert!(sql.starts_with(ours!("")), "{sql}");
    connection.prepare_cached(sql)
}

/// Stands between user SQL and the database.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Shared>);

// SQLite's hooks must be `Send`, though everything here happens on one thread.
#[derive(Default)]
struct Shared {
    trusted: AtomicU32,
    hint: Mutex<Option<&'static str>>,
    alters: AtomicBool,
    writes: AtomicBool,
    pragma: AtomicBool,
    analyzes: AtomicBool,
    compiled: AtomicBool,
    schema: AtomicBool,
    toggle: Mutex<Option<(Toggle, bool)>>,
    reading: AtomicBool,
    unresolved: AtomicBool,
    /// The functions and modules of the class.
    own: Mutex<HashSet<String>>,
    /// The panic of a function of the class, on its way past SQLite.
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

/// While it lives, SQL is ours and may do anything, except for what triggers and views do in it:
/// these are the user's.
pub(super) struct Trusted(Gate);

impl Drop for Trusted {
    fn drop(&mut self) {
        self.0.0.trusted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// While it lives, a statement may write the tables of statistics, if it is one that does.
pub(super) struct Statistics(Gate);

impl Drop for Statistics {
    fn drop(&mut self) {
        self.0.0.analyzes.store(false, Ordering::Relaxed);
    }
}

/// What the authorizer saw of a statement beyond what it decided.
pub(super) struct Seen {
    /// It is an `ALTER TABLE`, whose new name SQLite does not show.
    pub(super) alters: bool,
    /// It writes, though SQLite calls it read-only.
    pub(super) writes: bool,
    /// It may not be run again without being prepared again: what is seen is seen only then, and
    /// some pragmas do their work then.
    pub(super) once: bool,
    /// It was compiled, and not found among those that were.
    pub(super) compiled: bool,
    /// It changes what is in the schema.
    pub(super) schema: bool,
    /// It turns something on or off for the connection.
    pub(super) toggle: Option<(Toggle, bool)>,
}

impl Gate {
    pub(super) fn install(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let seen = self.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            seen.authorize(&context)
        }))
    }

    pub(super) fn trust(&self) -> Trusted {
        self.0.trusted.fetch_add(1, Ordering::Relaxed);
        Trusted(self.clone())
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.0.trusted.load(Ordering::Relaxed) > 0
    }

    /// While the result lives, the tables of statistics may be written: by a statement of SQLite's
    /// that does so, if `sql` is one.
    pub(super) fn statistics(&self, sql: &str) -> Statistics {
        let analyzes = starts_with_word(sql, "analyze") || starts_with_word(sql, "pragma");
        self.0.analyzes.store(analyzes, Ordering::Relaxed);
        Statistics(self.clone())
    }

    /// Forgets what was seen, before a statement is prepared. `reading`: a cursor is open; `unresolved`:
    /// foreign keys are violated.
    pub(super) fn begin(&self, reading: bool, unresolved: bool) {
        self.0.compiled.store(false, Ordering::Relaxed);
        self.0.schema.store(false, Ordering::Relaxed);
        self.0.reading.store(reading, Ordering::Relaxed);
        self.0.unresolved.store(unresolved, Ordering::Relaxed);
        *self.toggle() = None;
        self.0.alters.store(false, Ordering::Relaxed);
        self.0.writes.store(false, Ordering::Relaxed);
        self.0.pragma.store(false, Ordering::Relaxed);
        *self.hint() = None;
    }

    pub(super) fn seen(&self) -> Seen {
        let alters = self.0.alters.load(Ordering::Relaxed);
        Seen {
            alters,
            writes: self.0.writes.load(Ordering::Relaxed),
            once: alters || self.0.pragma.load(Ordering::Relaxed),
            compiled: self.0.compiled.load(Ordering::Relaxed),
            schema: alters || self.0.schema.load(Ordering::Relaxed),
            toggle: *self.toggle(),
        }
    }

    /// Why the last refusal, if there is more to say than SQLite does.
    pub(super) fn take_hint(&self) -> Option<&'static str> {
        self.hint().take()
    }

    /// The panic of a function of the class, to be kept while SQLite ends its statement.
    pub(super) fn panicked(&self) -> std::sync::MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.0
            .panicked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn own_names(&self) -> &Mutex<HashSet<String>> {
        &self.0.own
    }

    /// Whether the action is the use of a function or module of the class's own.
    fn is_own(&self, action: &AuthAction<'_>) -> bool {
        let name = match action {
            AuthAction::Function { function_name } => function_name,
            AuthAction::CreateVtable { module_name, .. }
            | AuthAction::DropVtable { module_name, .. } => module_name,
            _ => return false,
        };
        self.own().contains(&name.to_ascii_lowercase())
    }

    fn toggle(&self) -> std::sync::MutexGuard<'_, Option<(Toggle, bool)>> {
        self.0.toggle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a pragma sets, or says why it cannot now.
    fn note_toggle(&self, toggle: Toggle, on: bool) -> Result<(), &'static str> {
        if toggle == Toggle::CaseSensitiveLike && self.0.reading.load(Ordering::Relaxed) {
            return Err("it cannot change while a cursor is open");
        }
        let forgets = match toggle {
            Toggle::ForeignKeys => true,
            Toggle::DeferForeignKeys => !on,
            _ => false,
        };
        if forgets && self.0.unresolved.load(Ordering::Relaxed) {
            return Err(UNRESOLVED);
        }
        *self.toggle() = Some((toggle, on));
        Ok(())
    }

    fn hint(&self) -> std::sync::MutexGuard<'_, Option<&'static str>> {
        self.0.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authorize(&self, context: &AuthContext<'_>) -> Authorization {
        // The accessor is the trigger or view that the action is part of.
        if self.is_trusted() && context.accessor.is_none() {
            return Authorization::Allow;
        }
        self.0.compiled.store(true, Ordering::Relaxed);
        match context.action {
            AuthAction::AlterTable { .. } => self.0.alters.store(true, Ordering::Relaxed),
            AuthAction::CreateTable { .. }
            | AuthAction::CreateView { .. }
            | AuthAction::CreateIndex { .. }
            | AuthAction::CreateTrigger { .. }
            | AuthAction::CreateVtable { .. } => self.0.schema.store(true, Ordering::Relaxed),
            AuthAction::Pragma {
                pragma_name,
                pragma_value,
            } => {
                self.0.pragma.store(true, Ordering::Relaxed);
                if let Some(toggle) = Toggle::named(pragma_name)
                    && let Some(value) = pragma_value
                    && let Err(hint) = self.note_toggle(toggle, listed(&ON, value))
                {
                    *self.hint() = Some(hint);
                    return Authorization::Deny;
                }
                if pragma_name.eq_ignore_ascii_case("optimize") {
                    self.0.writes.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        let decided = if self.0.analyzes.load(Ordering::Relaxed) {
            Ok(Authorization::Allow)
        } else {
            statistics(context)
        };
        match decided.and_then(|decided| decide(context, self).map(|()| decided)) {
            Ok(decided) => decided,
            Err(hint) => {
                *self.hint() = Some(hint);
                Authorization::Deny
            }
        }
    }
}

/// Refuses with a hint for the caller.
fn decide(context: &AuthContext<'_>, gate: &Gate) -> Result<(), &'static str> {
    use AuthAction as A;
    // Where other actions carry the database, this one may carry a column.
    if let A::AlterTable {
        database_name,
        table_name,
    } = context.action
    {
        if !database_name.eq_ignore_ascii_case("main") {
            return Err(ONE_DATABASE);
        }
        return visible(table_name);
    }
    match context.database_name {
        None | Some("main") => {}
        // SQLite looks at the temporary schema by itself; nothing can be created there.
        Some("temp") => {
            return match context.action {
                A::Read { table_name, .. } | A::Update { table_name, .. } => visible(table_name),
                _ => Err("temporary tables, views, indexes and triggers are not available"),
            };
        }
        Some(_) => return Err(ONE_DATABASE),
    }
    match context.action {
        // Rebuilding an index shows nothing and changes nothing, and `REINDEX` alone means all.
        A::Select | A::Recursive | A::Analyze { .. } | A::Reindex { .. } => Ok(()),
        A::Read { table_name, .. } => visible(table_name).and_then(|()| eponymous(table_name)),
        A::CreateTable { table_name }
        | A::DropTable { table_name }
        | A::Insert { table_name }
        | A::Delete { table_name }
        | A::Update { table_name, .. } => visible(table_name),
        A::CreateView { view_name } | A::DropView { view_name } => visible(view_name),
        A::CreateIndex {
            index_name,
            table_name,
        }
        | A::DropIndex {
            index_name,
            table_name,
        } => visible(index_name).and_then(|()| visible(table_name)),
        A::CreateTrigger {
            trigger_name,
            table_name,
        }
        | A::DropTrigger {
            trigger_name,
            table_name,
        } => visible(trigger_name).and_then(|()| visible(table_name)),
        A::CreateVtable {
            table_name,
            module_name,
        }
        | A::DropVtable {
            table_name,
            module_name,
        } => {
            if !listed(&MODULES, module_name) && !gate.is_own(&context.action) {
                return Err("virtual tables may be of fts5, fts5vocab, rtree and rtree_i32");
            }
            visible(table_name)
        }
        A::Function { function_name } if costs::of(function_name).is_some() => Ok(()),
        A::Function { .. } if gate.is_own(&context.action) => Ok(()),
        A::Function { .. } => Err("the function is not on the list of functions for user SQL"),
        A::Pragma {
            pragma_name,
            pragma_value,
        } => pragma(pragma_name, pragma_value),
        A::Transaction { .. } | A::Savepoint { .. } => Err(TRANSACTION_HINT),
        A::Attach { .. } | A::Detach { .. } => Err(ONE_DATABASE),
        A::Unknown { code, .. } => {
            tracing::warn!(code, "refused SQL of a kind this vat does not know");
            Err("this kind of statement is not available")
        }
        _ => Err("temporary tables, views, indexes and triggers are not available"),
    }
}

/// The tables that ANALYZE writes hold samples of the keys of every index, those of the vat's own
/// tables too.
fn statistics(context: &AuthContext<'_>) -> Result<Authorization, &'static str> {
    use AuthAction as A;
    let (A::Read { table_name, .. }
    | A::Insert { table_name }
    | A::Update { table_name, .. }
    | A::Delete { table_name }) = context.action
    else {
        return Ok(Authorization::Allow);
    };
    if strip_prefix(table_name, "sqlite_stat").is_none() {
        return Ok(Authorization::Allow);
    }
    match context.action {
        // An r-tree looks for its size there, and does not work when it is refused. It finds null.
        A::Read { .. } if table_name.eq_ignore_ascii_case("sqlite_stat1") => {
            Ok(Authorization::Ignore)
        }
        _ => Err("the statistics of ANALYZE are for SQLite alone"),
    }
}

fn visible(name: &str) -> Result<(), &'static str> {
    // The index of a primary key of ours carries our name further in.
    let name = strip_prefix(name, "sqlite_autoindex_").unwrap_or(name);
    match strip_prefix(name, RESERVED) {
        Some(_) => Err(RESERVED_HINT),
        None => Ok(()),
    }
}

fn strip_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Modules that are tables without being created, and that show more than the caller's own rows.
fn eponymous(name: &str) -> Result<(), &'static str> {
    if listed(&["dbstat", "fts3tokenize", "fts4aux"], name) {
        return Err("virtual tables may be of fts5, fts5vocab, rtree and rtree_i32");
    }
    Ok(())
}

fn pragma(name: &str, value: Option<&str>) -> Result<(), &'static str> {
    let read_only = ["data_version", "page_size"];
    let named = [
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    ];
    if listed(&read_only, name) {
        return match value {
            None => Ok(()),
            Some(_) => Err("this pragma can be read, not set"),
        };
    }
    if Toggle::named(name).is_some() {
        return match value {
            Some(value) if !listed(&ON, value) && !listed(&OFF, value) => {
                Err("this pragma takes a boolean")
            }
            _ => Ok(()),
        };
    }
    if listed(&named, name) {
        return value.map_or(Ok(()), visible);
    }
    if name.eq_ignore_ascii_case("optimize") {
        return Ok(());
    }
    Err("the pragma is not on the list of pragmas for user SQL")
}

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| entry.eq_ignore_ascii_case(name))
}

const ON: [&str; 4] = ["true", "yes", "on", "1"];
const OFF: [&str; 4] = ["false", "no", "off", "0"];

const MODULES: [&str; 4] = ["fts5", "fts5vocab", "rtree", "rtree_i32"];

#[cfg(test)]
mod tests;
