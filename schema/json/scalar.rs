//! Scalars: between JSON and the bits of a field or element.

use serde_json::{Number, Value};

use super::{
    Schemas,
    error::{self, Problem},
    node::{Kind, Type},
    raw::Width,
};

impl Type {
    /// Of a scalar: how many bits it takes.
    pub(super) fn width(&self) -> Option<Width> {
        Some(match self {
            Self::Void => Width::W0,
            Self::Bool => Width::W1,
            Self::Int8 | Self::UInt8 => Width::W8,
            Self::Int16 | Self::UInt16 | Self::Enum(_) => Width::W16,
            Self::Int32 | Self::UInt32 | Self::Float32 => Width::W32,
            Self::Int64 | Self::UInt64 | Self::Float64 => Width::W64,
            Self::Text
            | Self::Data
            | Self::Hex
            | Self::List(_)
            | Self::Struct(_)
            | Self::Interface(_)
            | Self::Capability
            | Self::AnyPointer => return None,
        })
    }

    /// Of an integer: its least and greatest value.
    fn range(&self) -> Option<(i128, i128)> {
        Some(match self {
            Self::Int8 => (i8::MIN.into(), i8::MAX.into()),
            Self::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Self::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Self::Int64 => (i64::MIN.into(), i64::MAX.into()),
            Self::UInt8 => (0, u8::MAX.into()),
            Self::UInt16 => (0, u16::MAX.into()),
            Self::UInt32 => (0, u32::MAX.into()),
            Self::UInt64 => (0, u64::MAX.into()),
            _ => return None,
        })
    }
}

/// A value of JSON where a scalar or a text may be wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given<'a> {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
    List,
    Object,
}

pub(super) fn mismatch(expected: impl Into<String>, got: Given<'_>) -> Problem {
    let got = match got {
        Given::Null => "null".to_owned(),
        Given::Bool(value) => value.to_string(),
        Given::Integer(value) => value.to_string(),
        Given::Float(value) => from_float(value).to_string(),
        Given::Text(text) => format!("{:?}", error::shorten(text)),
        Given::List => "a list".to_owned(),
        Given::Object => "an object".to_owned(),
    };
    Problem::Mismatch {
        expected: expected.into(),
        got,
    }
}

impl Schemas {
    /// The bits of a scalar, as they would be on the wire if the default were zero. Those above the
    /// type's width mean nothing.
    pub(super) fn encode(&self, ty: &Type, value: Given<'_>) -> Result<u64, Problem> {
        if let Some((least, greatest)) = ty.range() {
            let wide = ty.width() == Some(Width::W64);
            return match integer(value, wide) {
                Some(n) if (least..=greatest).contains(&n) => Ok(n as u64),
                Some(_) => Err(mismatch(format!("{ty:?} ({least} to {greatest})"), value)),
                None => Err(mismatch(format!("{ty:?}"), value)),
            };
        }
        let bits = match ty {
            Type::Void => matches!(value, Given::Null).then_some(0),
            Type::Bool => match value {
                Given::Bool(value) => Some(value.into()),
                _ => None,
            },
            Type::Float32 => float(value).and_then(|wide| {
                let narrow = wide as f32;
                (narrow.is_finite() || !wide.is_finite()).then(|| u64::from(narrow.to_bits()))
            }),
            Type::Float64 => float(value).map(f64::to_bits),
            Type::Enum(id) => return self.encode_enum(*id, value),
            _ => return Err(Problem::Schema(format!("{ty:?} is not a scalar"))),
        };
        let expected = match ty {
            Type::Void => "null".to_owned(),
            other => format!("{other:?}"),
        };
        bits.ok_or_else(|| mismatch(expected, value))
    }

    fn encode_enum(&self, id: u64, value: Given<'_>) -> Result<u64, Problem> {
        let names = match self.node(id).map(|node| &node.kind) {
            Some(Kind::Enum(names)) => names.as_slice(),
            _ => &[],
        };
        let number = match value {
            Given::Text(text) => names.iter().position(|name| name == text),
            other => integer(other, false)
                .and_then(|n| u16::try_from(n).ok())
                .map(usize::from),
        };
        number
            .map(|n| n as u64)
            .ok_or_else(|| mismatch(format!("one of {}", error::list(names)), value))
    }

    /// The JSON of a scalar's bits, the default applied. Those above the type's width are ignored.
    pub(super) fn decode(&self, ty: &Type, bits: u64) -> Value {
        match ty {
            Type::Bool => Value::Bool(bits & 1 != 0),
            Type::Int8 => Value::from(bits as i8),
            Type::Int16 => Value::from(bits as i16),
            Type::Int32 => Value::from(bits as i32),
            Type::Int64 => Value::from(bits as i64),
            Type::UInt8 => Value::from(bits as u8),
            Type::UInt16 => Value::from(bits as u16),
            Type::UInt32 => Value::from(bits as u32),
            Type::UInt64 => Value::from(bits),
            Type::Float32 => {
                let narrow = f32::from_bits(bits as u32);
                // By way of text, or 0.1 would become 0.10000000149011612.
                from_float(narrow.to_string().parse().unwrap_or(f64::from(narrow)))
            }
            Type::Float64 => from_float(f64::from_bits(bits)),
            Type::Enum(id) => match self.node(*id).map(|node| &node.kind) {
                Some(Kind::Enum(names)) => names
                    .get(usize::from(bits as u16))
                    .map_or(Value::from(bits as u16), |name| name.as_str().into()),
                _ => Value::from(bits as u16),
            },
            _ => Value::Null,
        }
    }
}

/// An integer; if `wide`, also one in a string, for callers whose numbers are all floats.
fn integer(value: Given<'_>, wide: bool) -> Option<i128> {
    /// Up to here, every integer has a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Given::Integer(n) => Some(n),
        Given::Float(n) => (n.fract() == 0.0 && n.abs() <= EXACT).then_some(n as i128),
        Given::Text(text) if wide => text.parse().ok(),
        _ => None,
    }
}

fn float(value: Given<'_>) -> Option<f64> {
    match value {
        Given::Integer(n) => Some(n as f64),
        Given::Float(n) => Some(n),
        Given::Text("NaN") => Some(f64::NAN),
        Given::Text("Infinity") => Some(f64::INFINITY),
        Given::Text("-Infinity") => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn from_float(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}
