//! SQL functions and extensions that a class brings along.

use std::collections::HashSet;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::Value;
use rusqlite::{Connection, ffi};

use super::authorizer::Gate;
use super::{SqlValue, costs, fault, functions};
use crate::{Error, Result};

/// The entry point of an SQLite extension that is compiled in, with `SQLITE_CORE`: the third argument is
/// null.
pub type Extension = unsafe extern "C" fn(
    *mut ffi::sqlite3,
    *mut *mut c_char,
    *const ffi::sqlite3_api_routines,
) -> c_int;

/// Adds SQL functions of a class's own to the database of an object; see
/// [`Class::sql_functions`](crate::Class::sql_functions).
///
/// The vat does not bound what they take: while one runs every object of the vat waits, and the time limit of
/// SQL is looked at only when it has returned. One that panics ends its statement, and then the instance, as any
/// panic of the class does. `invalid-argument` for a name that is SQLite's or the vat's.
pub struct SqlFunctions<'c> {
    connection: &'c Connection,
    gate: &'c Gate,
}

/// What a class does with them.
pub(crate) type Register = fn(&mut SqlFunctions<'_>) -> Result<()>;

impl SqlFunctions<'_> {
    /// Adds a function of `arguments` arguments, or of any number of them, whose answer depends on nothing
    /// else: indexes, generated columns and checks may call it. If a later version of the class answers
    /// otherwise, its migrations must `REINDEX`.
    pub fn deterministic(
        &mut self,
        name: &str,
        arguments: Option<u8>,
        function: impl Fn(&[SqlValue]) -> Result<SqlValue> + Send + 'static,
    ) -> Result<()> {
        let flags = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
        self.add(name, arguments, flags, function)
    }

    /// Adds a function whose answer may change from call to call: for statements, views and triggers.
    pub fn volatile(
        &mut self,
        name: &str,
        arguments: Option<u8>,
        function: impl Fn(&[SqlValue]) -> Result<SqlValue> + Send + 'static,
    ) -> Result<()> {
        self.add(name, arguments, FunctionFlags::SQLITE_INNOCUOUS, function)
    }

    /// Adds what an extension has: the functions and modules with these `names`.
    ///
    /// # Safety
    ///
    /// `entry` is the entry point of an extension for the SQLite that the vat is built with, and neither it
    /// nor what it adds reaches beyond the connection.
    pub unsafe fn extension(&mut self, entry: Extension, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| self.claim(name))?;
        let mut message = std::ptr::null_mut();
        // SAFETY: the caller vouches for the entry point; the handle is that of a connection that is open.
        let code = unsafe { entry(self.connection.handle(), &raw mut message, std::ptr::null()) };
        // SAFETY: an extension allocates its message by SQLite, or leaves it null.
        unsafe { ffi::sqlite3_free(message.cast()) };
        functions::check(code).map_err(|error| fault::convert(&error, 0))
    }

    pub(super) fn of<'c>(connection: &'c Connection, gate: &'c Gate) -> SqlFunctions<'c> {
        SqlFunctions { connection, gate }
    }

    fn add(
        &mut self,
        name: &str,
        arguments: Option<u8>,
        flags: FunctionFlags,
        function: impl Fn(&[SqlValue]) -> Result<SqlValue> + Send + 'static,
    ) -> Result<()> {
        self.claim(name)?;
        let gate = self.gate.clone();
        let call = move |context: &Context<'_>| -> rusqlite::Result<Value> {
            let arguments = (0..context.len()).map(|at| SqlValue::from(context.get_raw(at)));
            let arguments: Vec<SqlValue> = arguments.collect();
            let called = catch_unwind(AssertUnwindSafe(|| function(&arguments)));
            let value = called.unwrap_or_else(|panic| {
                *gate.panicked() = Some(panic);
                Err(Error::SqlFailed("a function of the class panicked".into()))
            });
            value
                .map(Value::from)
                .map_err(|error| rusqlite::Error::UserFunctionError(Box::new(error)))
        };
        let flags = flags | FunctionFlags::SQLITE_UTF8;
        let count = arguments.map_or(-1, c_int::from);
        self.connection
            .create_scalar_function(name, count, flags, call)
            .map_err(|error| fault::convert(&error, 0))
    }

    /// Lets user SQL have a name that nobody has.
    fn claim(&self, name: &str) -> Result<()> {
        let lower = name.to_ascii_lowercase();
        if costs::of(name).is_some() || lower.starts_with("sqlite_") || lower.contains('\0') {
            return Err(Error::InvalidArgument(format!(
                "the SQL function `{name}` of a class has a name of SQLite's or the vat's"
            )));
        }
        self.gate.own().insert(lower);
        Ok(())
    }
}

impl From<SqlValue> for Value {
    fn from(value: SqlValue) -> Value {
        match value {
            SqlValue::Null => Value::Null,
            SqlValue::Integer(value) => Value::Integer(value),
            SqlValue::Real(value) => Value::Real(value),
            SqlValue::Text(text) => Value::Text(text),
            SqlValue::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

impl Gate {
    /// The functions and modules of the class, in lower case.
    pub(super) fn own(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.own_names()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Storage;
    use super::super::testing::{TestResult, code, fresh};
    use super::*;
    use crate::panics::caught;

    fn register(functions: &mut SqlFunctions<'_>) -> Result<()> {
        functions.deterministic("Doubled", Some(1), |arguments| match arguments {
            [SqlValue::Integer(number)] => Ok((number * 2).into()),
            other => Err(Error::InvalidArgument(format!("not a number: {other:?}"))),
        })?;
        functions.volatile("count_of", None, |arguments| {
            Ok((arguments.len() as i64).into())
        })?;
        functions.volatile("panics", Some(0), |_| panic!("told to"))?;
        for taken in ["LIKE", "sqlite_mine", "abs"] {
            let refused = functions.volatile(taken, Some(1), |_| Ok(SqlValue::Null));
            assert_eq!(code(refused), "invalid-argument", "{taken}");
        }
        // SAFETY: it adds one function, and does nothing else.
        unsafe { functions.extension(extension, &["answer"]) }
    }

    unsafe extern "C" fn extension(
        connection: *mut ffi::sqlite3,
        _: *mut *mut c_char,
        _: *const ffi::sqlite3_api_routines,
    ) -> c_int {
        unsafe extern "C" fn answer(
            context: *mut ffi::sqlite3_context,
            _: c_int,
            _: *mut *mut ffi::sqlite3_value,
        ) {
            // SAFETY: SQLite calls it with its context.
            unsafe { ffi::sqlite3_result_int(context, 42) }
        }
        let data = std::ptr::null_mut();
        // SAFETY: the connection is open, and the names end with a NUL.
        unsafe {
            for name in [c"answer", c"hidden"] {
                let (name, flags) = (name.as_ptr(), ffi::SQLITE_UTF8);
                let call = Some(answer as functions::Function);
                ffi::sqlite3_create_function_v2(
                    connection, name, 0, flags, data, call, None, None, None,
                );
            }
        }
        ffi::SQLITE_OK
    }

    #[test]
    fn a_class_has_functions_and_extensions_of_its_own() -> TestResult {
        let (_folder, storage) = fresh();
        storage.register_functions(register);
        storage.exec(
            "CREATE TABLE t (a, b AS (doubled(a)) STORED); CREATE INDEX i ON t (doubled(a)); \
             INSERT INTO t (a) VALUES (1), (20)",
        )?;
        assert_eq!(
            storage.integers("SELECT b FROM t WHERE doubled(a) = 40")?,
            [40]
        );
        assert_eq!(storage.integers("SELECT count_of(1, 'x', NULL)")?, [3]);
        assert_eq!(storage.integers("SELECT ANSWER()")?, [42]);
        storage.enter_turn();
        storage.kv().put("k", &1)?;
        let error = storage.exec("INSERT INTO t (a) VALUES ('x')").unwrap_err();
        assert!(error.to_string().contains("not a number"), "{error}");
        let panic = caught(|| storage.exec("SELECT panics()")).err();
        assert_eq!(panic.expect("it goes on").message, "told to");
        storage.exec("SELECT 1")?;
        // One that an extension has not named, and one that may not be in an index.
        assert_eq!(code(storage.exec("SELECT hidden()")), "sql-refused");
        assert_eq!(
            code(storage.exec("CREATE INDEX j ON t (count_of(a))")),
            "sql-failed"
        );
        assert!(storage.commit_turn()?.is_some());
        Ok(())
    }

    #[test]
    fn another_class_has_none_of_them() {
        let (_folder, storage): (_, Storage) = fresh();
        assert_eq!(code(storage.exec("SELECT doubled(1)")), "sql-failed");
    }
}
