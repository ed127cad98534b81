//! Reading fields of a `config.json`, each with its JSON type and its legal values checked.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::SpecError;

/// The fields of a configuration, and which of them were looked at. A field that is not written has its class' default,
/// where that is known; one that is `null` counts as absent, as in the modelling code.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    defaults: Option<&'a Map<String, Value>>,
    seen: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(field: &'static str, value: &'a Value) -> Result<Self, SpecError> {
        match value {
            Value::Object(map) => Ok(Self { map, defaults: None, seen: RefCell::default() }),
            other => Err(SpecError::NotAnObject { field, found: json_type(other) }),
        }
    }

    /// The same fields with defaults for those that are not written.
    pub(super) fn with_defaults(self, defaults: &'a Value) -> Self {
        Self { defaults: defaults.as_object(), ..self }
    }

    /// Whether the field is written, be it as `null`.
    pub(super) fn is_written(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Whether the field is written as a list; this does not count as having looked at it.
    pub(super) fn is_list(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_array)
    }

    /// Whether the field is written, or has a default, be it as `null`.
    pub(super) fn is_known(&self, field: &str) -> bool {
        self.is_written(field) || self.defaults.is_some_and(|defaults| defaults.contains_key(field))
    }

    /// Demands that one of the names is written or has a default, be it as `null`: where classes differ in what the
    /// absence means.
    pub(super) fn known(&self, names: &[&'static str], legal: &str) -> Result<(), SpecError> {
        if names.iter().any(|name| self.is_known(name)) {
            return Ok(());
        }
        Err(SpecError::Missing { field: names.first().copied().unwrap_or_default(), legal: legal.to_owned() })
    }

    /// Notes that a field was looked at, or is of no account.
    pub(super) fn seen(&self, field: &str) {
        self.seen.borrow_mut().insert(field.to_owned());
    }

    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.seen(field);
        let value = self.map.get(field).or_else(|| self.defaults?.get(field));
        value.filter(|value| !value.is_null())
    }

    pub(super) fn nested(&self, field: &'static str) -> Result<Self, SpecError> {
        Self::new(field, self.require(field, || "a JSON object".to_owned())?)
    }

    /// All fields, with those of a nested object among them.
    pub(super) fn with_nested(&self, field: &'static str) -> Result<Value, SpecError> {
        let mut all = self.map.clone();
        let nested = self.nested(field)?;
        all.extend(nested.map.iter().filter(|(name, _)| *name != "model_type").map(|(k, v)| (k.clone(), v.clone())));
        Ok(Value::Object(all))
    }

    pub(super) fn text(&self, field: &'static str, legal: impl Fn() -> String) -> Result<&'a str, SpecError> {
        let value = self.require(field, legal)?;
        value.as_str().ok_or_else(|| wrong_type(field, value, "a string"))
    }

    pub(super) fn size(&self, field: &'static str, legal: RangeInclusive<usize>) -> Result<usize, SpecError> {
        let value = self.require(field, || format!("an integer, {} to {}", legal.start(), legal.end()))?;
        as_size(field, value, legal)
    }

    pub(super) fn size_or(
        &self,
        field: &'static str,
        default: usize,
        legal: RangeInclusive<usize>,
    ) -> Result<usize, SpecError> {
        self.get(field).map_or(Ok(default), |value| as_size(field, value, legal))
    }

    /// A size that goes by several names; those that are written agree.
    pub(super) fn size_of(
        &self,
        names: &'static [&'static str],
        legal: RangeInclusive<usize>,
    ) -> Result<usize, SpecError> {
        match self.agreed(names)? {
            Some((name, value)) => as_size(name, value, legal),
            None => self.size(names.first().copied().unwrap_or_default(), legal),
        }
    }

    /// The same with a default where none is written.
    pub(super) fn size_of_or(
        &self,
        names: &'static [&'static str],
        default: usize,
        legal: RangeInclusive<usize>,
    ) -> Result<usize, SpecError> {
        self.agreed(names)?.map_or(Ok(default), |(name, value)| as_size(name, value, legal))
    }

    /// The value of a field that goes by several names.
    fn agreed(&self, names: &'static [&'static str]) -> Result<Option<(&'static str, &'a Value)>, SpecError> {
        let mut found: Option<(&'static str, &'a Value)> = None;
        let written = names.iter().any(|name| self.map.get(*name).is_some_and(|value| !value.is_null()));
        for &name in names {
            let value = self.get(name).filter(|_| !written || self.map.contains_key(name));
            match (value, found) {
                (Some(value), Some((first, known))) if value != known => {
                    return Err(conflict(first, known, name, value));
                }
                (Some(value), None) => found = Some((name, value)),
                _ => {}
            }
        }
        Ok(found)
    }

    pub(super) fn positive(&self, field: &'static str) -> Result<f64, SpecError> {
        const LEGAL: &str = "a number above 0";
        let value = self.require(field, || LEGAL.to_owned())?;
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(number),
            Some(value) => Err(SpecError::NotPositive { field, value }),
            None => Err(wrong_type(field, value, LEGAL)),
        }
    }

    pub(super) fn not_negative(&self, field: &'static str) -> Result<f64, SpecError> {
        const LEGAL: &str = "a number, 0 or above";
        let value = self.require(field, || LEGAL.to_owned())?;
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or_else(|| wrong_type(field, value, LEGAL))
    }

    /// A list of strings; `None` if absent.
    pub(super) fn texts(&self, field: &'static str) -> Result<Option<Vec<&'a str>>, SpecError> {
        const LEGAL: &str = "a list of strings";
        let Some(value) = self.get(field) else { return Ok(None) };
        let items = value.as_array().ok_or_else(|| wrong_type(field, value, LEGAL))?;
        items
            .iter()
            .map(|item| item.as_str().ok_or_else(|| wrong_type(field, item, LEGAL)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A list of limits, one for each layer, 0 for `null`; empty if absent.
    pub(super) fn limits(&self, field: &'static str) -> Result<Vec<f64>, SpecError> {
        const LEGAL: &str = "a list of numbers, 0 or above, or null";
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| wrong_type(field, value, LEGAL))?;
        let limit = |item: &Value| match item {
            Value::Null => Ok(0.0),
            item => item.as_f64().filter(|limit| *limit >= 0.0).ok_or_else(|| wrong_type(field, item, LEGAL)),
        };
        items.iter().map(limit).collect()
    }

    /// A flag that goes by several names; those that are written agree.
    pub(super) fn flag_of(&self, names: &'static [&'static str]) -> Result<bool, SpecError> {
        let agreed = self.agreed(names)?.map(|(name, _)| name);
        self.flag(agreed.or(names.first().copied()).unwrap_or_default())
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<bool, SpecError> {
        const LEGAL: &str = "true or false";
        let value = self.require(field, || LEGAL.to_owned())?;
        value.as_bool().ok_or_else(|| wrong_type(field, value, LEGAL))
    }

    /// A list of indices; empty if absent.
    pub(super) fn indices(&self, field: &'static str, legal: RangeInclusive<usize>) -> Result<Vec<usize>, SpecError> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| as_size(field, item, legal.clone())).collect(),
            Some(other) => Err(wrong_type(field, other, "a list of integers")),
        }
    }

    /// Refuses fields that would change the result and have another value than the one that is computed.
    pub(super) fn only(&self, fixed: &[(&'static str, Only)]) -> Result<(), SpecError> {
        for (field, only) in fixed {
            self.seen(field);
            if let Some(value) = self.map.get(*field).filter(|value| !value.is_null())
                && !only.allows(value)
            {
                return Err(SpecError::Unsupported { field, value: shown(value), legal: only.to_string() });
            }
        }
        Ok(())
    }

    /// The same for those among `fixed` that nothing has looked at: a family that reads a field knows what to do with it.
    pub(super) fn only_unread(&self, fixed: &[(&'static str, Only)]) -> Result<(), SpecError> {
        let unread = fixed.iter().filter(|(field, _)| !self.seen.borrow().contains(*field)).copied();
        self.only(&unread.collect::<Vec<_>>())
    }

    /// Refuses fields about something, by parts of their names, that nothing has looked at and that are not off: nobody knows
    /// whether they change the result. Those of no account are left out.
    pub(super) fn nothing_else(&self, about: &[&str], of_no_account: &[&str]) -> Result<(), SpecError> {
        let named = |field: &str, parts: &[&str]| parts.iter().any(|part| field.contains(part));
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(true) => false,
        };
        let unknown = self.map.iter().find(|(field, value)| {
            named(field, about) && !named(field, of_no_account) && !self.seen.borrow().contains(*field) && !off(value)
        });
        match unknown {
            Some((field, value)) => {
                Err(SpecError::UnknownField { field: field.chars().take(60).collect(), value: shown(value) })
            }
            None => Ok(()),
        }
    }

    fn require(&self, field: &'static str, legal: impl Fn() -> String) -> Result<&'a Value, SpecError> {
        self.get(field).ok_or_else(|| SpecError::Missing { field, legal: legal() })
    }
}

/// The only value a field may have, besides being absent or `null`.
#[derive(Clone, Copy)]
pub(super) enum Only {
    Absent,
    Text(&'static str),
    OneOf(&'static [&'static str]),
    /// An object with this `name`.
    Named(&'static str),
    Number(f64),
    Flag(bool),
    EmptyList,
}

impl Only {
    fn allows(self, value: &Value) -> bool {
        match self {
            Self::Absent => false,
            Self::Text(text) => value.as_str() == Some(text),
            Self::OneOf(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Self::Named(text) => value.get("name").and_then(Value::as_str) == Some(text),
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
            Self::OneOf(texts) => write!(f, "one of {texts:?} or null"),
            Self::Named(text) => write!(f, "{{\"name\": {text:?}}} or null"),
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
