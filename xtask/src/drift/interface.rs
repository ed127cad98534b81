//! The interface as plain data, from the list and from headers alike, and the comparison of the two.
//!
//! Types are written as the list writes them (`*const aclTensor`, `i64`, `c_char`); arrays as `[c_char; 128]`, function
//! pointers as `fn(*mut c_void)`.

use std::collections::BTreeMap;
use std::fmt;

use ascend_sys::header::{CALLBACKS, STRUCTS};
use ascend_sys::{CONSTANT_TYPES, FLAGS, FUNCTIONS, HANDLE_TYPES, OPAQUE_TYPES, c_param};

/// Structs that callers fill and that carry their own size, so that a longer one of a later release is no difference.
const GROWING_STRUCTS: [&str; 1] = ["HcclCommConfig"];

/// A function: parameters as type and name, and what it returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prototype {
    pub(crate) params: Vec<(String, String)>,
    pub(crate) returns: String,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Another name for a type.
    Alias(String),
    /// A struct nothing is known of.
    Opaque,
    /// A struct: name and type of each field.
    Struct(Vec<(String, String)>),
}

/// Functions, types and constants by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) functions: BTreeMap<String, Prototype>,
    pub(crate) types: BTreeMap<String, Shape>,
    pub(crate) constants: BTreeMap<String, i64>,
}

/// How alike the two must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// In everything, parameter names and `const` included.
    Identical,
    /// In what a call depends on: types, order and values. `const` and names vary between releases.
    Abi,
}

/// One thing that the list and the headers say differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) listed: String,
    pub(crate) found: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Names that agree.
    pub(crate) agreeing: usize,
    /// Names of the list that the headers lack: another release may have them.
    pub(crate) missing: Vec<String>,
    /// Names that differ only in `const` or in the names of parameters.
    pub(crate) cosmetic: Vec<Difference>,
    /// Names that differ.
    pub(crate) differences: Vec<Difference>,
}

impl Interface {
    /// What the list says.
    pub(crate) fn of_list() -> Self {
        let spelled = |ty: &str| ty.replace("* ", "*");
        let functions = FUNCTIONS.iter().map(|function| {
            let params = function.params.iter().map(|(name, ty)| (spelled(ty), c_param(name).to_owned())).collect();
            (function.name.to_owned(), Prototype { params, returns: spelled(function.returns) })
        });

        let mut types = BTreeMap::new();
        types.extend(OPAQUE_TYPES.iter().map(|name| (name.to_string(), Shape::Opaque)));
        types.extend(HANDLE_TYPES.iter().map(|name| (name.to_string(), Shape::Alias("*mut c_void".to_owned()))));
        types.extend(CONSTANT_TYPES.iter().map(|ty| (ty.c_type.to_owned(), Shape::Alias(ty.repr.to_owned()))));
        types.extend(CALLBACKS.iter().map(|(name, parameter)| {
            let pointee = rust_scalar(parameter.trim_end_matches('*'));
            (name.to_string(), Shape::Alias(format!("fn(*mut {pointee})")))
        }));
        types.extend(STRUCTS.iter().map(|item| {
            let fields = item.fields.iter().map(|field| {
                let element = rust_scalar(field.c_type);
                let ty = field.len.map_or(element.to_owned(), |len| format!("[{element}; {len}]"));
                (field.name.to_owned(), ty)
            });
            (item.name.to_owned(), Shape::Struct(fields.collect()))
        }));

        let constants = CONSTANT_TYPES.iter().flat_map(|ty| ty.members).chain(FLAGS);
        let constants = constants.map(|constant| (constant.name.to_owned(), constant.value)).collect();
        Self { functions: functions.collect(), types, constants }
    }

    /// The type that an alias stands for in the end.
    fn resolve(&self, name: &str) -> String {
        let mut current = name;
        // Longer chains do not occur; a circle would never end.
        for _ in 0..8 {
            match self.types.get(current) {
                Some(Shape::Alias(target)) => current = target,
                _ => break,
            }
        }
        abi(current)
    }
}

fn rust_scalar(c: &str) -> &str {
    match c {
        "char" => "c_char",
        "void" => "c_void",
        "uint32_t" => "u32",
        other => other,
    }
}

/// A type as the calling convention sees it on LP64: C's integers by their width, pointers without `const`.
fn abi(ty: &str) -> String {
    if let Some(pointee) = ty.strip_prefix("*const ").or_else(|| ty.strip_prefix("*mut ")) {
        return format!("*{}", abi(pointee));
    }
    if let Some(parameter) = ty.strip_prefix("fn(").and_then(|rest| rest.strip_suffix(')')) {
        return format!("fn({})", abi(parameter));
    }
    match ty {
        "c_schar" => "i8",
        "c_uchar" => "u8",
        "c_short" => "i16",
        "c_ushort" => "u16",
        "c_int" => "i32",
        "c_uint" => "u32",
        "c_long" | "c_longlong" => "i64",
        "c_ulong" | "c_ulonglong" => "u64",
        other => other,
    }
    .to_owned()
}

/// Compares the headers with the list. What only the headers have is no concern of the list.
pub(crate) fn compare(listed: &Interface, found: &Interface, exactness: Exactness) -> Report {
    let mut report = Report::default();
    for (name, prototype) in &listed.functions {
        match found.functions.get(name) {
            None => report.missing.push(name.clone()),
            Some(other) => {
                let same = prototype.abi() == other.abi();
                report.enter(name, prototype, other, prototype == other, same, exactness);
            }
        }
    }
    for (name, shape) in &listed.types {
        match found.types.get(name) {
            None => report.missing.push(name.clone()),
            Some(other) => {
                let same = same_shape(listed, name, shape, found, other);
                // An alias may be spelled in its own ways; what it comes to is what counts.
                report.enter(name, shape, other, same, same, exactness);
            }
        }
    }
    for (name, value) in &listed.constants {
        match found.constants.get(name) {
            None => report.missing.push(name.clone()),
            Some(other) => report.enter(name, value, other, value == other, value == other, exactness),
        }
    }
    report
}

fn same_shape(listed: &Interface, name: &str, shape: &Shape, found: &Interface, other: &Shape) -> bool {
    match (shape, other) {
        (Shape::Opaque, Shape::Opaque | Shape::Struct(_)) => true,
        // A name for another opaque struct.
        (Shape::Opaque, Shape::Alias(target)) => matches!(found.types.get(target), None | Some(Shape::Opaque)),
        (Shape::Alias(_), Shape::Alias(_)) => listed.resolve(name) == found.resolve(name),
        (Shape::Struct(fields), Shape::Struct(others)) => {
            let grown = GROWING_STRUCTS.contains(&name) && others.len() > fields.len();
            (others.len() == fields.len() || grown)
                && fields.iter().zip(others).all(|((a, x), (b, y))| a == b && listed.resolve(x) == found.resolve(y))
        }
        (Shape::Struct(_), Shape::Alias(target)) => {
            found.types.get(target).is_some_and(|other| same_shape(listed, name, shape, found, other))
        }
        _ => false,
    }
}

impl Prototype {
    fn abi(&self) -> (Vec<String>, String) {
        (self.params.iter().map(|(ty, _)| abi(ty)).collect(), abi(&self.returns))
    }
}

impl Report {
    /// Files a name by how much of it agrees: all of it, or what a call depends on.
    fn enter<T: fmt::Display>(
        &mut self,
        name: &str,
        listed: &T,
        found: &T,
        all: bool,
        abi: bool,
        exactness: Exactness,
    ) {
        let difference = || Difference { name: name.to_owned(), listed: listed.to_string(), found: found.to_string() };
        match (all, abi, exactness) {
            (true, ..) => self.agreeing += 1,
            (false, true, Exactness::Abi) => {
                self.agreeing += 1;
                self.cosmetic.push(difference());
            }
            _ => self.differences.push(difference()),
        }
    }
}

impl fmt::Display for Prototype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params: Vec<String> = self.params.iter().map(|(ty, name)| format!("{name}: {ty}")).collect();
        write!(f, "({}) -> {}", params.join(", "), self.returns)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(target) => write!(f, "= {target}"),
            Self::Opaque => f.write_str("opaque struct"),
            Self::Struct(fields) => {
                let fields: Vec<String> = fields.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
                write!(f, "{{ {} }}", fields.join(", "))
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Difference { name, listed, found } in &self.differences {
            writeln!(f, "different: {name}\n  list:    {listed}\n  headers: {found}")?;
        }
        for Difference { name, listed, found } in &self.cosmetic {
            writeln!(f, "same but for const or names: {name}\n  list:    {listed}\n  headers: {found}")?;
        }
        for name in &self.missing {
            writeln!(f, "not in the headers: {name}")?;
        }
        writeln!(
            f,
            "{} agree ({} of them but for const or names), {} not in the headers, {} different",
            self.agreeing,
            self.cosmetic.len(),
            self.missing.len(),
            self.differences.len()
        )
    }
}
