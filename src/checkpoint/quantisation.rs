//! What a checkpoint says about how its weights are quantised, checked: methods and settings that are not known are refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::CheckpointError;

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Not quantised.
    Float(crate::spec::FloatType),
    /// FP8 E4M3, a scale for each block of so many rows and columns.
    Fp8Block {
        /// Rows and columns of a block.
        block: [usize; 2],
    },
    /// E2M1, an E8M0 scale for each 32 of a row.
    Mxfp4,
    /// int8, a scale for each output channel, or for each `group` of its inputs.
    Int8 {
        /// Inputs that share a scale; `None` for all of them.
        group: Option<usize>,
    },
    /// int4, the same.
    Int4 {
        /// Inputs that share a scale; `None` for all of them.
        group: Option<usize>,
    },
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(dtype) => f.write_str(dtype.name()),
            Self::Fp8Block { block: [rows, cols] } => write!(f, "FP8 E4M3 in blocks of {rows} x {cols}"),
            Self::Mxfp4 => f.write_str("MXFP4"),
            Self::Int8 { group: None } => f.write_str("int8 per channel"),
            Self::Int4 { group: None } => f.write_str("int4 per channel"),
            Self::Int8 { group: Some(group) } => write!(f, "int8 in groups of {group}"),
            Self::Int4 { group: Some(group) } => write!(f, "int4 in groups of {group}"),
        }
    }
}

/// What `config.json`, or msModelSlim's description of a checkpoint, says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Quantisation {
    /// Nothing.
    None,
    /// `fp8`, with the rows and columns of a block where there are blocks.
    Fp8 { block: Option<[usize; 2]> },
    /// `mxfp4`.
    Mxfp4,
    /// `compressed-tensors`.
    Compressed { schemes: Vec<Scheme> },
    /// msModelSlim's, by the name of the tensor.
    Ascend { types: BTreeMap<String, String>, group: Option<usize> },
}

/// The weights of a group of compressed-tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    kind: Kind,
    bits: u64,
    /// Inputs that share a scale.
    group: Option<usize>,
    /// Rows and columns of a block.
    pub(super) block: Option<[usize; 2]>,
    /// Whether activations are quantised to int8.
    int8_activations: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Float,
}

/// The fields that hold it.
const FIELDS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];

/// Types of msModelSlim whose weights are read.
const ASCEND: [&str; 6] = ["FLOAT", "W8A8_DYNAMIC", "W8A16", "W4A8_DYNAMIC", "W4A16", "W4A4_DYNAMIC"];

impl Quantisation {
    /// What a configuration, which came from `file`, says.
    pub(super) fn read(config: &Value, file: &Path) -> Result<Self, CheckpointError> {
        let places = [Some(config), config.get("text_config")];
        let find = |field: &'static str| {
            let found = places.iter().flatten().find_map(|place| place.get(field).filter(|value| !value.is_null()))?;
            Some(Settings { file, path: field.to_owned(), value: found })
        };
        let Some(found) = FIELDS.into_iter().find_map(find) else { return Ok(Self::None) };
        match found.text("quant_method")? {
            "fp8" => found.fp8(),
            "mxfp4" => {
                found.only(&["quant_method", "modules_to_not_convert", "modules_to_convert", "dequantize", "dtype"])?;
                Ok(Self::Mxfp4)
            }
            "compressed-tensors" => found.compressed(),
            "ascend" => {
                found.only(&["quant_method", "group_size", "model_quant_type", "version"])?;
                Ok(Self::Ascend { types: BTreeMap::new(), group: found.group("group_size")? })
            }
            other => Err(found.unknown("quant_method", other, "fp8, mxfp4, compressed-tensors, ascend")),
        }
    }

    /// What a description of msModelSlim's, which came from `file`, says.
    pub(super) fn described(description: &Value, file: &Path) -> Result<Self, CheckpointError> {
        let settings = Settings { file, path: "quant_model_description".to_owned(), value: description };
        let Some(fields) = description.as_object() else {
            return Err(settings.unknown("", "no object", "an object of types by tensor"));
        };
        let mut types = BTreeMap::new();
        for (name, value) in fields {
            // What is no tensor says something of the whole, which the types of the tensors say again.
            if let Some(kind) = value.as_str().filter(|_| name.contains('.')) {
                types.insert(name.clone(), kind.to_owned());
            }
        }
        Ok(Self::Ascend { types, group: settings.group("group_size")? })
    }

    /// The rows and columns of a block of FP8, where they are said.
    pub(super) fn block(&self) -> Option<[usize; 2]> {
        match self {
            Self::Fp8 { block } => *block,
            Self::Compressed { schemes } => schemes.iter().find_map(|scheme| scheme.block),
            _ => None,
        }
    }

    /// The number of inputs that share a scale of whole numbers, where only one is said.
    pub(super) fn group(&self, bits: u64) -> Option<usize> {
        match self {
            Self::Compressed { schemes } => {
                let mut groups = schemes.iter().filter(|s| s.kind == Kind::Int && s.bits == bits).map(|s| s.group);
                let first = groups.next().flatten()?;
                groups.all(|group| group == Some(first)).then_some(first)
            }
            Self::Ascend { group, .. } => *group,
            _ => None,
        }
    }

    /// Whether int8 bytes hold an int4 each, which for the tensor `name` the description says.
    pub(super) fn int4_in_bytes(&self, name: &str) -> bool {
        match self {
            Self::Compressed { schemes } => {
                schemes.iter().all(|scheme| scheme.bits == 4) && schemes.iter().any(|scheme| scheme.kind == Kind::Int)
            }
            Self::Ascend { types, .. } => types.get(name).is_some_and(|kind| kind.starts_with("W4A")),
            _ => false,
        }
    }

    /// Whether what the tensor `name` of so many inputs, stored in this way, is multiplied with was int8 for whoever quantised it.
    pub(super) fn int8_activations(&self, name: &str, stored: Stored, inputs: usize) -> bool {
        match self {
            Self::Ascend { types, .. } => types.get(name).is_some_and(|kind| kind.contains("A8")),
            Self::Compressed { schemes } => {
                schemes.iter().any(|scheme| scheme.int8_activations && scheme.fits(stored, inputs))
            }
            _ => false,
        }
    }

    /// Why the tensor `name` of so many inputs may not be stored as it is: what would be legal.
    pub(super) fn refuses(&self, name: &str, stored: Stored, inputs: usize) -> Option<String> {
        let legal = |legal: bool, what: &str| (!legal).then(|| what.to_owned());
        match (self, stored) {
            (Self::None, _) | (_, Stored::Float(_)) => None,
            (Self::Fp8 { .. }, stored) => {
                legal(matches!(stored, Stored::Fp8Block { .. } | Stored::Mxfp4), "FP8, or MXFP4 for experts")
            }
            (Self::Mxfp4, stored) => legal(stored == Stored::Mxfp4, "MXFP4"),
            (Self::Ascend { types, .. }, stored) => {
                let integer = matches!(stored, Stored::Int8 { .. } | Stored::Int4 { .. });
                let known = types.is_empty() || types.get(name).is_some_and(|kind| ASCEND.contains(&kind.as_str()));
                legal(
                    integer && known,
                    "int8 or int4, of a type W8A8_DYNAMIC, W8A16, W4A8_DYNAMIC, W4A16 or W4A4_DYNAMIC",
                )
            }
            (Self::Compressed { schemes }, stored) => {
                let fits = schemes.iter().any(|scheme| scheme.fits(stored, inputs));
                (!fits).then(|| {
                    let all: Vec<String> = schemes.iter().map(Scheme::describe).collect();
                    all.join(" or ")
                })
            }
        }
    }
}

impl Scheme {
    fn fits(&self, stored: Stored, inputs: usize) -> bool {
        // A group of all inputs is a scale per output.
        let integer = |bits, group| {
            let groups = self.group == group || self.group == Some(group.unwrap_or(inputs));
            self.kind == Kind::Int && self.bits == bits && groups
        };
        match stored {
            Stored::Int8 { group } => integer(8, group),
            Stored::Int4 { group } => integer(4, group),
            Stored::Fp8Block { block } => {
                self.kind == Kind::Float && self.bits == 8 && self.block.is_none_or(|legal| legal == block)
            }
            Stored::Mxfp4 => self.kind == Kind::Float && self.bits == 4,
            Stored::Float(_) => true,
        }
    }

    fn describe(&self) -> String {
        let kind = if self.kind == Kind::Int { "int" } else { "float" };
        let scales = match (self.group, self.block) {
            (Some(group), _) => format!("in groups of {group}"),
            (None, Some([rows, cols])) => format!("in blocks of {rows} x {cols}"),
            (None, None) => "per channel".to_owned(),
        };
        format!("{kind}{} {scales}", self.bits)
    }
}

/// An object of the configuration.
struct Settings<'a> {
    file: &'a Path,
    path: String,
    value: &'a Value,
}

impl<'a> Settings<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    fn below(&self, field: &str) -> Option<Self> {
        let value = self.get(field)?;
        Some(Self { file: self.file, path: format!("{}.{field}", self.path), value })
    }

    fn unknown(&self, field: &str, found: impl ToString, legal: &str) -> CheckpointError {
        let field = if field.is_empty() { self.path.clone() } else { format!("{}.{field}", self.path) };
        let (file, found, legal) = (self.file.to_path_buf(), found.to_string(), legal.to_owned());
        CheckpointError::UnknownQuantisation { file, field, found, legal }
    }

    /// No other field has a value.
    fn only(&self, legal: &[&str]) -> Result<(), CheckpointError> {
        let none = Map::new();
        let fields = self.value.as_object().unwrap_or(&none);
        match fields.iter().find(|(name, value)| !legal.contains(&name.as_str()) && !is_nothing(value)) {
            None => Ok(()),
            Some((name, value)) => {
                Err(self.unknown(name, value, &format!("none of that name, but {}", legal.join(", "))))
            }
        }
    }

    fn text(&self, field: &str) -> Result<&'a str, CheckpointError> {
        match self.get(field) {
            Some(Value::String(text)) => Ok(text),
            other => Err(self.unknown(field, other.map_or("absent".to_owned(), Value::to_string), "a text")),
        }
    }

    /// A text that is one of these where it is there.
    fn one_of(&self, field: &str, legal: &[&str]) -> Result<(), CheckpointError> {
        match self.get(field) {
            None => Ok(()),
            Some(Value::String(text)) if legal.contains(&text.as_str()) => Ok(()),
            Some(other) => Err(self.unknown(field, other, &legal.join(", "))),
        }
    }

    /// A number of inputs; absent, 0 and -1 stand for all of them.
    fn group(&self, field: &str) -> Result<Option<usize>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(-1 | 0) => Ok(None),
                Some(group) if group > 0 => Ok(usize::try_from(group).ok()),
                _ => Err(self.unknown(field, value, "a whole number of inputs")),
            },
        }
    }

    fn block(&self, field: &str) -> Result<Option<[usize; 2]>, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let sizes: Vec<usize> = value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|size| usize::try_from(size.as_u64()?).ok().filter(|size| *size > 0))
            .collect();
        match (sizes.as_slice(), value.as_array().map(Vec::len)) {
            (&[rows, cols], Some(2)) => Ok(Some([rows, cols])),
            _ => Err(self.unknown(field, value, "two whole numbers above 0")),
        }
    }

    fn fp8(&self) -> Result<Quantisation, CheckpointError> {
        self.only(&[
            "quant_method",
            "fmt",
            "scale_fmt",
            "activation_scheme",
            "weight_block_size",
            "modules_to_not_convert",
            "modules_to_convert",
            "ignored_layers",
            "dequantize",
            "dtype",
        ])?;
        self.one_of("fmt", &["e4m3", "float8_e4m3fn"])?;
        self.one_of("scale_fmt", &["ue8m0", "float", "float32"])?;
        self.one_of("activation_scheme", &["dynamic"])?;
        Ok(Quantisation::Fp8 { block: self.block("weight_block_size")? })
    }

    fn compressed(&self) -> Result<Quantisation, CheckpointError> {
        self.only(&[
            "quant_method",
            "config_groups",
            "format",
            "ignore",
            "quantization_status",
            "global_compression_ratio",
            "kv_cache_scheme",
            "version",
            "ascend_moe_layout",
        ])?;
        self.one_of("ascend_moe_layout", &["fractal_nz"])?;
        const FORMATS: [&str; 6] = [
            "int-quantized",
            "pack-quantized",
            "float-quantized",
            "naive-quantized",
            "mixed-precision",
            "mxfp4-pack-quantized",
        ];
        self.one_of("format", &FORMATS)?;
        self.one_of("quantization_status", &["compressed"])?;
        let groups = self.below("config_groups").ok_or_else(|| self.unknown("config_groups", "absent", "an object"))?;
        let names: Vec<&String> = groups.value.as_object().into_iter().flatten().map(|(name, _)| name).collect();
        let mut schemes = Vec::new();
        for group in names.into_iter().filter_map(|name| groups.below(name)) {
            group.only(&["weights", "input_activations", "targets", "format"])?;
            group.one_of("format", &FORMATS)?;
            if let Some(inputs) = group.below("input_activations")
                && inputs.get("dynamic") != Some(&Value::Bool(true))
            {
                let found = inputs.get("dynamic").map_or("absent".to_owned(), Value::to_string);
                return Err(inputs.unknown(
                    "dynamic",
                    found,
                    "true: scales of activations that are stored are not read",
                ));
            }
            let weights = group.below("weights").ok_or_else(|| group.unknown("weights", "absent", "an object"))?;
            let int8_activations = group.below("input_activations").is_some_and(|inputs| {
                let is = |field, value: Value| inputs.get(field) == Some(&value);
                is("num_bits", 8.into()) && is("type", "int".into())
            });
            schemes.push(Scheme { int8_activations, ..weights.scheme()? });
        }
        Ok(Quantisation::Compressed { schemes })
    }

    fn scheme(&self) -> Result<Scheme, CheckpointError> {
        self.only(&[
            "num_bits",
            "type",
            "strategy",
            "group_size",
            "block_structure",
            "symmetric",
            "dynamic",
            "observer",
            "observer_kwargs",
            "scale_dtype",
            "zp_dtype",
        ])?;
        if self.get("dynamic").is_some_and(|dynamic| *dynamic != Value::Bool(false)) {
            return Err(self.unknown("dynamic", "true", "false"));
        }
        let kind = match self.text("type")? {
            "int" => Kind::Int,
            "float" => Kind::Float,
            other => return Err(self.unknown("type", other, "int, float")),
        };
        let bits = match self.get("num_bits").and_then(Value::as_u64) {
            Some(bits @ (4 | 8)) => bits,
            _ => return Err(self.unknown("num_bits", self.get("num_bits").unwrap_or(&Value::Null), "4, 8")),
        };
        let (group, block) = match self.text("strategy")? {
            "channel" | "tensor" => (None, None),
            "group" => match self.group("group_size")? {
                Some(group) => (Some(group), None),
                None => return Err(self.unknown("group_size", "absent", "a whole number above 0")),
            },
            "block" => match self.block("block_structure")? {
                Some(block) => (None, Some(block)),
                None => return Err(self.unknown("block_structure", "absent", "two whole numbers above 0")),
            },
            other => return Err(self.unknown("strategy", other, "channel, tensor, group, block")),
        };
        Ok(Scheme { kind, bits, group, block, int8_activations: false })
    }
}

/// A value that switches nothing on.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
