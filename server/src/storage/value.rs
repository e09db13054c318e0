//! Values of SQL.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// A value of SQLite's. Text that is not UTF-8 is read with replacement characters; a real that is
/// not a number is stored as null.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SqlValue {
    /// No value.
    #[default]
    Null,
    /// An integer of 64 bits.
    Integer(i64),
    /// A floating point number of 64 bits.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl SqlValue {
    /// The size of the text or blob, in bytes; zero for the rest.
    pub(super) fn len(&self) -> usize {
        match self {
            SqlValue::Text(text) => text.len(),
            SqlValue::Blob(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            SqlValue::Null => ValueRef::Null,
            SqlValue::Integer(value) => ValueRef::Integer(*value),
            SqlValue::Real(value) => ValueRef::Real(*value),
            SqlValue::Text(text) => ValueRef::Text(text.as_bytes()),
            SqlValue::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<ValueRef<'_>> for SqlValue {
    fn from(value: ValueRef<'_>) -> SqlValue {
        match value {
            ValueRef::Null => SqlValue::Null,
            ValueRef::Integer(value) => SqlValue::Integer(value),
            ValueRef::Real(value) => SqlValue::Real(value),
            ValueRef::Text(bytes) => SqlValue::Text(String::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Blob(bytes) => SqlValue::Blob(bytes.to_vec()),
        }
    }
}

macro_rules! from {
    ($($source:ty, $value:ident => $result:expr;)*) => {$(
        impl From<$source> for SqlValue {
            fn from($value: $source) -> SqlValue {
                $result
            }
        }
    )*};
}

from! {
    bool, value => SqlValue::Integer(value.into());
    i8, value => SqlValue::Integer(value.into());
    i16, value => SqlValue::Integer(value.into());
    i32, value => SqlValue::Integer(value.into());
    i64, value => SqlValue::Integer(value);
    u8, value => SqlValue::Integer(value.into());
    u16, value => SqlValue::Integer(value.into());
    u32, value => SqlValue::Integer(value.into());
    f32, value => SqlValue::Real(value.into());
    f64, value => SqlValue::Real(value);
    &str, value => SqlValue::Text(value.to_owned());
    String, value => SqlValue::Text(value);
    &String, value => SqlValue::Text(value.clone());
    &[u8], value => SqlValue::Blob(value.to_vec());
    Vec<u8>, value => SqlValue::Blob(value);
}

impl<T: Into<SqlValue>> From<Option<T>> for SqlValue {
    fn from(value: Option<T>) -> SqlValue {
        value.map_or(SqlValue::Null, Into::into)
    }
}

/// The bindings of one statement, in order: `()`, an array or vector of [`SqlValue`] or of anything
/// that becomes one, or a tuple of up to eight such.
pub trait Bindings {
    /// The values.
    fn into_values(self) -> Vec<SqlValue>;
}

impl Bindings for () {
    fn into_values(self) -> Vec<SqlValue> {
        Vec::new()
    }
}

impl<T: Into<SqlValue>, const N: usize> Bindings for [T; N] {
    fn into_values(self) -> Vec<SqlValue> {
        self.into_iter().map(Into::into).collect()
    }
}

impl Bindings for &[SqlValue] {
    fn into_values(self) -> Vec<SqlValue> {
        self.to_vec()
    }
}

impl<T: Into<SqlValue>> Bindings for Vec<T> {
    fn into_values(self) -> Vec<SqlValue> {
        self.into_iter().map(Into::into).collect()
    }
}

macro_rules! tuple {
    ($($name:ident)+) => {
        impl<$($name: Into<SqlValue>),+> Bindings for ($($name,)+) {
            #[allow(non_snake_case)]
            fn into_values(self) -> Vec<SqlValue> {
                let ($($name,)+) = self;
                vec![$($name.into()),+]
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
tuple!(A B C D E F G);
tuple!(A B C D E F G H);
