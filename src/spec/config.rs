//! Reading fields of a `config.json`, each with its JSON type and its legal values checked.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::SpecError;

/// The fields of a configuration. A field that is `null` counts as absent, as in the modelling code.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn new(field: &'static str, value: &'a Value) -> Result<Self, SpecError> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(SpecError::NotAnObject { field, found: json_type(other) }),
        }
    }

    /// Whether the field is written at all, be it as `null`.
    pub(super) fn is_written(self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    pub(super) fn get(self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn nested(self, field: &'static str) -> Result<Self, SpecError> {
        Self::new(field, self.require(field, || "a JSON object".to_owned())?)
    }

    pub(super) fn text(self, field: &'static str, legal: impl Fn() -> String) -> Result<&'a str, SpecError> {
        let value = self.require(field, legal)?;
        value.as_str().ok_or_else(|| wrong_type(field, value, "a string"))
    }

    pub(super) fn size(self, field: &'static str, legal: RangeInclusive<usize>) -> Result<usize, SpecError> {
        let value = self.require(field, || format!("an integer, {} to {}", legal.start(), legal.end()))?;
        as_size(field, value, legal)
    }

    pub(super) fn size_or(
        self,
        field: &'static str,
        default: usize,
        legal: RangeInclusive<usize>,
    ) -> Result<usize, SpecError> {
        self.get(field).map_or(Ok(default), |value| as_size(field, value, legal))
    }

    /// A size that goes by two names; if both are written they agree.
    pub(super) fn size_of_either(
        self,
        names: [&'static str; 2],
        legal: RangeInclusive<usize>,
    ) -> Result<usize, SpecError> {
        let [first, second] = names;
        match (self.get(first), self.get(second)) {
            (Some(a), Some(b)) if a != b => Err(conflict(first, a, second, b)),
            (None, Some(value)) => as_size(second, value, legal),
            _ => self.size(first, legal),
        }
    }

    pub(super) fn positive(self, field: &'static str) -> Result<f64, SpecError> {
        const LEGAL: &str = "a number above 0";
        let value = self.require(field, || LEGAL.to_owned())?;
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(number),
            Some(value) => Err(SpecError::NotPositive { field, value }),
            None => Err(wrong_type(field, value, LEGAL)),
        }
    }

    pub(super) fn flag(self, field: &'static str) -> Result<bool, SpecError> {
        const LEGAL: &str = "true or false";
        let value = self.require(field, || LEGAL.to_owned())?;
        value.as_bool().ok_or_else(|| wrong_type(field, value, LEGAL))
    }

    /// A list of indices; empty if absent.
    pub(super) fn indices(self, field: &'static str, legal: RangeInclusive<usize>) -> Result<Vec<usize>, SpecError> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| as_size(field, item, legal.clone())).collect(),
            Some(other) => Err(wrong_type(field, other, "a list of integers")),
        }
    }

    /// Refuses fields that would change the result and have another value than the one that is computed.
    pub(super) fn only(self, fixed: &[(&'static str, Only)]) -> Result<(), SpecError> {
        for (field, only) in fixed {
            if let Some(value) = self.get(field)
                && !only.allows(value)
            {
                return Err(SpecError::Unsupported { field, value: shown(value), legal: only.to_string() });
            }
        }
        Ok(())
    }

    fn require(self, field: &'static str, legal: impl Fn() -> String) -> Result<&'a Value, SpecError> {
        self.get(field).ok_or_else(|| SpecError::Missing { field, legal: legal() })
    }
}

/// The only value a field may have, besides being absent or `null`.
#[derive(Clone, Copy)]
pub(super) enum Only {
    Absent,
    Text(&'static str),
    Number(f64),
    Flag(bool),
    EmptyList,
}

impl Only {
    fn allows(self, value: &Value) -> bool {
        match self {
            Self::Absent => false,
            Self::Text(text) => value.as_str() == Some(text),
            Self::Number(number) => value.as_f64() == Some(number),
            Self::Flag(flag) => value.as_bool() == Some(flag),
            Self::EmptyList => value.as_array().is_some_and(Vec::is_empty),
        }
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "null"),
            Self::Text(text) => write!(f, "{text:?} or null"),
            Self::Number(number) => write!(f, "{number} or null"),
            Self::Flag(flag) => write!(f, "{flag} or null"),
            Self::EmptyList => write!(f, "[] or null"),
        }
    }
}

pub(super) fn conflict(first: &'static str, a: &Value, second: &'static str, b: &Value) -> SpecError {
    SpecError::Conflict { first, first_value: shown(a), second, second_value: shown(b) }
}

/// A value as it stands in the file, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn as_size(field: &'static str, value: &Value, legal: RangeInclusive<usize>) -> Result<usize, SpecError> {
    let Some(number) = value.as_number().filter(|n| n.is_u64() || n.is_i64()) else {
        return Err(wrong_type(field, value, "an integer"));
    };
    number
        .as_u64()
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| legal.contains(n))
        .ok_or_else(|| SpecError::OutOfRange { field, value: shown(value), min: *legal.start(), max: *legal.end() })
}

fn wrong_type(field: &'static str, value: &Value, legal: &'static str) -> SpecError {
    SpecError::WrongType { field, value: shown(value), legal }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
