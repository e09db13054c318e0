//! A row of a result, and how it becomes a Rust value.

use std::rc::Rc;

use serde::Deserializer;
use serde::de::value::{Error as DecodeError, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::SqlValue;
use crate::{Error, Result};

/// One row of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    columns: Rc<[String]>,
    values: Vec<SqlValue>,
}

impl Row {
    pub(super) fn new(columns: Rc<[String]>, values: Vec<SqlValue>) -> Row {
        Row { columns, values }
    }

    /// The names of the columns, as SQLite gives them; several may be equal.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, one for each column.
    pub fn values(&self) -> &[SqlValue] {
        &self.values
    }

    /// The values, one for each column.
    pub fn into_values(self) -> Vec<SqlValue> {
        self.values
    }

    /// The value of the column of that name; of several, the last.
    pub fn get(&self, column: &str) -> Option<&SqlValue> {
        let at = self.columns.iter().rposition(|name| name == column)?;
        self.values.get(at)
    }

    /// The row as a `T`: a struct or map by the names of the columns (of several columns of one
    /// name the last counts), a tuple or sequence by their order, anything else from the only
    /// column. `invalid-argument` when it does not fit.
    pub fn decode<T: DeserializeOwned>(self) -> Result<T> {
        T::deserialize(self).map_err(|error: DecodeError| {
            Error::InvalidArgument(format!("the row does not fit the type asked for: {error}"))
        })
    }

    fn only(mut self) -> Result<Decode, DecodeError> {
        match (self.values.pop(), self.values.len()) {
            (Some(value), 0) => Ok(Decode(value)),
            _ => Err(DecodeError::custom("it has not exactly one column")),
        }
    }

    fn map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let columns = self.columns;
        let fields = self
            .values
            .into_iter()
            .enumerate()
            .filter_map(|(at, value)| {
                let name = columns.get(at)?;
                let repeated = columns[at + 1..].contains(name);
                (!repeated).then(|| (name.clone(), Decode(value)))
            });
        visitor.visit_map(MapDeserializer::new(fields))
    }

    fn seq<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let mut values = SeqDeserializer::new(self.values.into_iter().map(Decode));
        let value = visitor.visit_seq(&mut values)?;
        values.end()?;
        Ok(value)
    }
}

/// What a row and a value answer alike.
macro_rules! tuple_and_newtype {
    () => {
        fn deserialize_tuple<V: Visitor<'de>>(
            self,
            _: usize,
            visitor: V,
        ) -> Result<V::Value, DecodeError> {
            self.deserialize_seq(visitor)
        }

        fn deserialize_newtype_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            visitor: V,
        ) -> Result<V::Value, DecodeError> {
            visitor.visit_newtype_struct(self)
        }
    };
}

macro_rules! only_column {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.only()?.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Row {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    tuple_and_newtype!();

    only_column! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_option
    }

    forward_to_deserialize_any! {
        i128 u128 unit unit_struct identifier ignored_any
    }
}

/// A value on its way to becoming a Rust value.
struct Decode(SqlValue);

impl<'de> IntoDeserializer<'de, DecodeError> for Decode {
    type Deserializer = Decode;

    fn into_deserializer(self) -> Decode {
        self
    }
}

impl<'de> Deserializer<'de> for Decode {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            SqlValue::Null => visitor.visit_unit(),
            SqlValue::Integer(value) => visitor.visit_i64(value),
            SqlValue::Real(value) => visitor.visit_f64(value),
            SqlValue::Text(text) => visitor.visit_string(text),
            SqlValue::Blob(bytes) => visitor.visit_byte_buf(bytes),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            SqlValue::Integer(value @ (0 | 1)) => visitor.visit_bool(value == 1),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            SqlValue::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            SqlValue::Blob(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.into_iter())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.0 {
            SqlValue::Text(text) => visitor.visit_enum(text.into_deserializer()),
            other => Decode(other).deserialize_any(visitor),
        }
    }

    tuple_and_newtype!();

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    fn row(fields: &[(&str, SqlValue)]) -> Row {
        Row::new(
            fields.iter().map(|(name, _)| (*name).to_owned()).collect(),
            fields.iter().map(|(_, value)| value.clone()).collect(),
        )
    }

    #[test]
    fn becomes_structs_tuples_and_plain_values() {
        #[derive(Deserialize, PartialEq, Debug)]
        #[serde(rename_all = "lowercase")]
        enum Kind {
            Warm,
        }
        #[derive(Deserialize, PartialEq, Debug)]
        struct Thing {
            id: i64,
            on: bool,
            kind: Kind,
            ratio: f64,
            data: Vec<u8>,
            note: Option<String>,
        }
        let fields = [
            ("id", 1.into()),
            ("id", i64::MAX.into()),
            ("on", true.into()),
            ("kind", "warm".into()),
            ("ratio", 2.into()),
            ("data", vec![1u8, 2].into()),
            ("note", SqlValue::Null),
        ];
        let thing: Thing = row(&fields).decode().unwrap();
        let expected = Thing {
            id: i64::MAX,
            on: true,
            kind: Kind::Warm,
            ratio: 2.0,
            data: vec![1, 2],
            note: None,
        };
        assert_eq!(thing, expected);
        let map: BTreeMap<String, i64> = row(&fields[..2]).decode().unwrap();
        assert_eq!(map, BTreeMap::from([("id".into(), i64::MAX)]));
        assert_eq!(
            row(&fields[..2]).decode::<(i64, i64)>().unwrap(),
            (1, i64::MAX)
        );
        assert_eq!(row(&fields[..1]).decode::<i64>().unwrap(), 1);
        assert_eq!(row(&fields[6..]).decode::<Option<i64>>().unwrap(), None);
        for error in [
            row(&fields[..2]).decode::<i64>().err(),
            row(&fields[3..4]).decode::<i64>().err(),
            row(&fields[..2]).decode::<(i64,)>().map(|_| 0).err(),
        ] {
            assert!(
                matches!(error, Some(Error::InvalidArgument(_))),
                "{error:?}"
            );
        }
    }
}
