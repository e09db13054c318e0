//! The functions for mathematics, as SQLite documents them: <https://www.sqlite.org/lang_mathfunc.html>.
//! The SQLite that is built in is compiled without its own.

use std::f64::consts::{LN_10, PI};
use std::ffi::{CStr, c_int};

use rusqlite::{Connection, ffi};

use super::functions::register;

type Unary = fn(f64) -> f64;

type Binary = fn(f64, f64) -> f64;

/// What is not a number becomes null, in SQLite.
static UNARY: [(&CStr, Unary); 20] = [
    (c"acos", f64::acos),
    (c"acosh", f64::acosh),
    (c"asin", f64::asin),
    (c"asinh", f64::asinh),
    (c"atan", f64::atan),
    (c"atanh", f64::atanh),
    (c"cos", f64::cos),
    (c"cosh", f64::cosh),
    (c"degrees", |x| x * (180.0 / PI)),
    (c"exp", f64::exp),
    (c"ln", |x| of_positive(x, f64::ln)),
    (c"log", |x| of_positive(x, f64::log10)),
    (c"log10", |x| of_positive(x, f64::log10)),
    (c"log2", |x| of_positive(x, f64::log2)),
    (c"radians", |x| x * (PI / 180.0)),
    (c"sin", f64::sin),
    (c"sinh", f64::sinh),
    (c"sqrt", f64::sqrt),
    (c"tan", f64::tan),
    (c"tanh", f64::tanh),
];

/// These leave integers as they are.
static ROUNDING: [(&CStr, Unary); 4] = [
    (c"ceil", f64::ceil),
    (c"ceiling", f64::ceil),
    (c"floor", f64::floor),
    (c"trunc", f64::trunc),
];

static BINARY: [(&CStr, Binary); 5] = [
    (c"atan2", f64::atan2),
    (c"log", logarithm),
    (c"mod", |x, y| x % y),
    (c"pow", f64::powf),
    (c"power", f64::powf),
];

fn of_positive(x: f64, function: Unary) -> f64 {
    if x > 0.0 { function(x) } else { f64::NAN }
}

fn logarithm(base: f64, x: f64) -> f64 {
    let base = of_positive(base, f64::ln);
    if base > 0.0 {
        // As exact as there is, for the usual base.
        return match (base - LN_10).abs() < f64::EPSILON {
            true => of_positive(x, f64::log10),
            false => of_positive(x, f64::ln) / base,
        };
    }
    f64::NAN
}

/// Gives the connection all of them.
pub(super) fn install(connection: &Connection) -> rusqlite::Result<()> {
    for entry in &UNARY {
        let data = std::ptr::from_ref(&entry.1).cast_mut().cast();
        register(connection, entry.0, 1, data, unary)?;
    }
    for entry in &ROUNDING {
        let data = std::ptr::from_ref(&entry.1).cast_mut().cast();
        register(connection, entry.0, 1, data, rounding)?;
    }
    for entry in &BINARY {
        let data = std::ptr::from_ref(&entry.1).cast_mut().cast();
        register(connection, entry.0, 2, data, binary)?;
    }
    register(connection, c"pi", 0, std::ptr::null_mut(), pi)
}

/// The number that an argument is, if it is one.
///
/// # Safety
///
/// There is such an argument.
unsafe fn number(arguments: *mut *mut ffi::sqlite3_value, at: usize) -> Option<f64> {
    // SAFETY: the caller vouches for the argument.
    unsafe {
        let value = *arguments.add(at);
        matches!(
            ffi::sqlite3_value_numeric_type(value),
            ffi::SQLITE_INTEGER | ffi::SQLITE_FLOAT
        )
        .then(|| ffi::sqlite3_value_double(value))
    }
}

unsafe extern "C" fn unary(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with one argument, and the data is what `install` has given it.
    unsafe {
        let function = *ffi::sqlite3_user_data(context).cast::<Unary>();
        if let Some(x) = number(arguments, 0) {
            ffi::sqlite3_result_double(context, function(x));
        }
    }
}

unsafe extern "C" fn rounding(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: as for `unary`.
    unsafe {
        if ffi::sqlite3_value_numeric_type(*arguments) == ffi::SQLITE_INTEGER {
            return ffi::sqlite3_result_int64(context, ffi::sqlite3_value_int64(*arguments));
        }
        unary(context, count, arguments);
    }
}

unsafe extern "C" fn binary(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: as for `unary`, with two arguments.
    unsafe {
        let function = *ffi::sqlite3_user_data(context).cast::<Binary>();
        if let (Some(x), Some(y)) = (number(arguments, 0), number(arguments, 1)) {
            ffi::sqlite3_result_double(context, function(x, y));
        }
    }
}

unsafe extern "C" fn pi(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: the context is that of a function that is being called.
    unsafe { ffi::sqlite3_result_double(context, PI) }
}

#[cfg(test)]
mod tests {
    use super::super::SqlValue;
    use super::super::testing::{TestResult, fresh};

    #[test]
    fn they_answer_as_sqlite_says() -> TestResult {
        let (_folder, storage) = fresh();
        for (call, expected) in [
            ("acos(1)", Some(0.0)),
            ("acosh(1)", Some(0.0)),
            ("asin(0)", Some(0.0)),
            ("asinh(0)", Some(0.0)),
            ("atan(1) * 4", Some(std::f64::consts::PI)),
            ("atan2(1, -1) * 4 / 3", Some(std::f64::consts::PI)),
            ("atanh(0)", Some(0.0)),
            ("ceil(1.2)", Some(2.0)),
            ("ceiling(-1.2)", Some(-1.0)),
            ("cos(0)", Some(1.0)),
            ("cosh(0)", Some(1.0)),
            ("degrees(pi())", Some(180.0)),
            ("exp(0)", Some(1.0)),
            ("floor(-1.2)", Some(-2.0)),
            ("ln(exp(1))", Some(1.0)),
            ("log(1000)", Some(3.0)),
            ("log10('1000')", Some(3.0)),
            ("log(10, 1000)", Some(3.0)),
            ("log(3, 81)", Some(4.0)),
            ("log2(8)", Some(3.0)),
            ("mod(11.5, 3)", Some(2.5)),
            ("pow(2, 10)", Some(1024.0)),
            ("power(-2, 3)", Some(-8.0)),
            ("radians(180)", Some(std::f64::consts::PI)),
            ("sin(0)", Some(0.0)),
            ("sinh(0)", Some(0.0)),
            ("sqrt(2) * sqrt(2)", Some(2.0)),
            ("tan(pi() / 4)", Some(1.0)),
            ("tanh(0)", Some(0.0)),
            ("trunc(-1.7)", Some(-1.0)),
            ("sqrt(-1)", None),
            ("acos(2)", None),
            ("ln(0)", None),
            ("log(1, 5)", None),
            ("log(-2)", None),
            ("mod(1, 0)", None),
            ("sin('x')", None),
            ("sin(NULL)", None),
            ("pow(2, x'00')", None),
        ] {
            let found = storage.sql().exec(&format!("SELECT {call}"), ())?.one()?;
            match (expected, &found.values()[0]) {
                (Some(expected), SqlValue::Real(found)) => {
                    assert!((expected - found).abs() < 1e-12, "{call}: {found}");
                }
                (expected, found) => {
                    assert_eq!((expected, found), (None, &SqlValue::Null), "{call}");
                }
            }
        }
        // An integer stays what it is, and an index may be on any of them.
        let integers = "SELECT trunc(9007199254740993) UNION ALL SELECT floor('7')";
        assert_eq!(storage.integers(integers)?, [9_007_199_254_740_993, 7]);
        storage
            .exec("CREATE TABLE t (a, b AS (sqrt(a)) STORED); CREATE INDEX i ON t (floor(a))")
            .map_err(Into::into)
    }
}
