//! Failures to inject, from a script.
//!
//! A script is a list of rules joined by `;`. A rule is `function@n=code`: the n-th call of the C function returns
//! `code` and does nothing else; `function@*=code` does so at every call. `function@n=device:code` lets the call
//! succeed and fails the n-th task it launches when the device executes it. Counting starts at 1.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use ascend_sys::{ALL_IDS, FunctionId, aclError};

/// A parsed fault script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultScript {
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    function: FunctionId,
    when: When,
    effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    Nth(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Return(i32),
    Device(aclError),
}

/// A fault script that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultScriptError {
    /// A rule that lacks `@` or `=`.
    #[error("{rule:?} is no rule; legal: function@n=code, function@*=code, function@n=device:code")]
    Form {
        /// The rule.
        rule: String,
    },
    /// A name that is not in the function list.
    #[error("{name:?} is no C function of the list in {rule:?}")]
    Function {
        /// The name.
        name: String,
        /// The rule.
        rule: String,
    },
    /// A position that is neither a number from 1 nor `*`.
    #[error("{position:?} is no position in {rule:?}; legal: a number from 1, or *")]
    Position {
        /// The position.
        position: String,
        /// The rule.
        rule: String,
    },
    /// A code that cannot be returned there.
    #[error("{code:?} is no code in {rule:?}; legal: {legal}")]
    Code {
        /// The code.
        code: String,
        /// The rule.
        rule: String,
        /// What is legal.
        legal: &'static str,
    },
}

impl FromStr for FaultScript {
    type Err = FaultScriptError;

    fn from_str(text: &str) -> Result<Self, FaultScriptError> {
        let rules = text.split(';').map(str::trim).filter(|rule| !rule.is_empty());
        Ok(Self { rules: rules.map(Rule::parse).collect::<Result<_, _>>()? })
    }
}

impl Rule {
    fn parse(rule: &str) -> Result<Self, FaultScriptError> {
        let form = || FaultScriptError::Form { rule: rule.to_owned() };
        let (target, code) = rule.split_once('=').ok_or_else(form)?;
        let (name, position) = target.split_once('@').ok_or_else(form)?;
        let (name, position, code) = (name.trim(), position.trim(), code.trim());
        let function = ALL_IDS
            .iter()
            .copied()
            .find(|id| id.name() == name)
            .ok_or_else(|| FaultScriptError::Function { name: name.to_owned(), rule: rule.to_owned() })?;
        let when =
            match position {
                "*" => When::Always,
                number => number.parse().ok().filter(|&n| n > 0).map(When::Nth).ok_or_else(|| {
                    FaultScriptError::Position { position: position.to_owned(), rule: rule.to_owned() }
                })?,
            };
        let bad = |legal| FaultScriptError::Code { code: code.to_owned(), rule: rule.to_owned(), legal };
        let effect = match code.strip_prefix("device:") {
            Some(code) => code
                .trim()
                .parse()
                .ok()
                .map(aclError)
                .filter(|code| code.is_device_fault())
                .map(Effect::Device)
                .ok_or_else(|| bad("device: and a code of a device fault, 507001 to 507999"))?,
            None => code
                .parse()
                .ok()
                .filter(|&code| code != 0)
                .map(Effect::Return)
                .ok_or_else(|| bad("a number other than 0, or device: and a code"))?,
        };
        Ok(Self { function, when, effect })
    }
}

impl fmt::Display for FaultScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.rules.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{}@", rule.function.name())?;
            match rule.when {
                When::Always => f.write_str("*")?,
                When::Nth(n) => write!(f, "{n}")?,
            }
            match rule.effect {
                Effect::Return(code) => write!(f, "={code}")?,
                Effect::Device(code) => write!(f, "=device:{}", code.0)?,
            }
        }
        Ok(())
    }
}

impl FaultScript {
    /// Whether the script has no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// A fault script at work: its rules and how often each was met.
pub(crate) struct Faults {
    rules: Vec<(Rule, AtomicU64)>,
}

impl Faults {
    pub(crate) fn new(script: &FaultScript) -> Self {
        Self { rules: script.rules.iter().map(|&rule| (rule, AtomicU64::new(0))).collect() }
    }

    /// Counts a C call; the code it has to return instead of being made.
    pub(crate) fn on_call(&self, id: FunctionId) -> Option<i32> {
        self.meet(id, |effect| match effect {
            Effect::Return(code) => Some(code),
            Effect::Device(_) => None,
        })
    }

    /// Counts a launched task; the code it has to fail with on the device.
    pub(crate) fn on_launch(&self, function: &str) -> Option<aclError> {
        if self.rules.is_empty() {
            return None;
        }
        let id = self.rules.iter().map(|(rule, _)| rule.function).find(|id| id.name() == function)?;
        self.meet(id, |effect| match effect {
            Effect::Device(code) => Some(code),
            Effect::Return(_) => None,
        })
    }

    fn meet<T>(&self, id: FunctionId, pick: impl Fn(Effect) -> Option<T>) -> Option<T> {
        let mut met = None;
        for (rule, count) in self.rules.iter().filter(|(rule, _)| rule.function == id) {
            let Some(value) = pick(rule.effect) else { continue };
            let nth = count.fetch_add(1, Ordering::Relaxed) + 1;
            if met.is_none() && (rule.when == When::Always || rule.when == When::Nth(nth)) {
                met = Some(value);
            }
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_prints_as_it_was_written() {
        let text = "aclrtMalloc@3=207001;aclnnMm@1=device:507015;aclrtMemcpyAsync@*=507899";
        let script: FaultScript = text.parse().unwrap();
        assert_eq!(script.to_string(), text);
        assert_eq!(" ; ".parse::<FaultScript>().unwrap(), FaultScript::default());
    }

    #[test]
    fn errors_name_the_rule() {
        let cases = [
            ("aclrtMalloc", "no rule"),
            ("aclrtMalloc=207001", "no rule"),
            ("aclrtMaloc@1=207001", "no C function"),
            ("aclrtMalloc@0=207001", "a number from 1"),
            ("aclrtMalloc@x=207001", "a number from 1"),
            ("aclrtMalloc@1=0", "other than 0"),
            ("aclrtMalloc@1=oops", "other than 0"),
            ("aclnnMm@1=device:107002", "507001 to 507999"),
        ];
        for (text, words) in cases {
            let message = text.parse::<FaultScript>().unwrap_err().to_string();
            assert!(message.contains(words) && message.contains(text), "{text}: {message}");
        }
    }

    #[test]
    fn the_nth_call_is_met_once_and_star_always() {
        let faults = Faults::new(&"aclrtMalloc@2=207001;aclrtFree@*=107000;aclnnMm@1=device:507015".parse().unwrap());
        let malloc: Vec<_> = (0..3).map(|_| faults.on_call(FunctionId::aclrtMalloc)).collect();
        assert_eq!(malloc, [None, Some(207_001), None]);
        assert_eq!(faults.on_call(FunctionId::aclrtFree), Some(107_000));
        assert_eq!(faults.on_call(FunctionId::aclrtFree), Some(107_000));
        assert_eq!(faults.on_call(FunctionId::aclnnMm), None, "a device fault never fails the call");
        assert_eq!(faults.on_launch("aclnnMm"), Some(aclError(507_015)));
        assert_eq!(faults.on_launch("aclnnMm"), None);
        assert_eq!(faults.on_launch("aclrtMalloc"), None);
    }
}
