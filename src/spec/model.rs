//! A whole model as its `config.json` describes it: type, layers, and the spec of each mixture-of-experts layer.

use serde_json::Value;

use super::config::{Fields, conflict, shown};
use super::defaults::defaults;
use super::families::{FAMILIES, NESTED, OFF_AXES, WRAPPERS};
use super::{FloatType, MoeSpec, SpecError, TensorNames};

/// Most layers of a model.
pub const MAX_LAYERS: usize = 10_000;

/// A model with mixture-of-experts layers, read from its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    model_type: &'static str,
    family: &'static str,
    dtype: FloatType,
    num_layers: usize,
    moe_layers: Vec<usize>,
    /// Of each of these.
    moe: Vec<MoeSpec>,
    names: TensorNames,
}

impl ModelSpec {
    /// Reads a parsed `config.json`. Fields that do not touch the mixture-of-experts layers are ignored; those that
    /// would change their result and are not supported are refused.
    ///
    /// # Errors
    /// [`SpecError`] names the field, its value and what would be legal.
    pub fn from_config(config: &Value) -> Result<Self, SpecError> {
        let root = Fields::new("config.json", config)?;
        let outer = model_type(&root)?;
        let flat;
        let config = match NESTED.iter().find(|(name, _)| *name == outer) {
            None => config,
            Some((_, field)) => {
                flat = root.with_nested(field)?;
                &flat
            }
        };
        let wrapper = WRAPPERS.iter().find(|known| known.name == outer && root.get("text_config").is_some());
        let (name, fields) = match wrapper {
            Some(wrapper) => {
                let nested = root.nested("text_config")?;
                (wrapper.text_type.map_or_else(|| model_type(&nested), Ok)?, nested)
            }
            None => (outer, Fields::new("config.json", config)?),
        };
        let defaults = defaults(name);
        let fields = &fields.with_defaults(&defaults);
        let family = FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(|| refused(name))?;
        let num_layers = match family.layers.listed(fields)? {
            Some(listed) => listed,
            None => fields.size_of(&["num_hidden_layers", "num_layers", "n_layers"], 1..=MAX_LAYERS)?,
        };
        let layout = family.read(fields, num_layers)?;
        if layout.moe.is_empty() {
            return Err(SpecError::NoMoeLayer { num_layers, rule: layout.rule });
        }
        Ok(Self {
            model_type: family.names.iter().find(|known| **known == name).copied().unwrap_or_default(),
            family: family.name(),
            dtype: dtype(fields, &root)?,
            num_layers,
            moe_layers: layout.moe.iter().map(|(layer, _)| *layer).collect(),
            moe: layout.moe.into_iter().map(|(_, spec)| spec).collect(),
            names: TensorNames {
                transposed: family.transposed || wrapper.is_some_and(|wrapper| wrapper.transposed),
                interleaved: family.interleaved || wrapper.is_some_and(|wrapper| wrapper.interleaved),
            },
        })
    }

    /// The `model_type` of the language model.
    pub const fn model_type(&self) -> &'static str {
        self.model_type
    }

    /// The family it belongs to: the first of the model types whose layers compute the same.
    pub const fn family(&self) -> &'static str {
        self.family
    }

    /// The type the model is published to run in.
    pub const fn dtype(&self) -> FloatType {
        self.dtype
    }

    /// All layers, dense ones included.
    pub const fn num_layers(&self) -> usize {
        self.num_layers
    }

    /// The numbers of the mixture-of-experts layers, ascending, at least one.
    pub fn moe_layers(&self) -> &[usize] {
        &self.moe_layers
    }

    /// The mixture of experts in layer `layer`, or `None` if that layer is dense or not there.
    pub fn moe(&self, layer: usize) -> Option<&MoeSpec> {
        self.moe_layers.binary_search(&layer).ok().and_then(|index| self.moe.get(index))
    }

    /// How its tensors are called.
    pub const fn names(&self) -> &TensorNames {
        &self.names
    }
}

fn model_type<'a>(fields: &Fields<'a>) -> Result<&'a str, SpecError> {
    fields.text("model_type", || format!("one of {}", known()))
}

/// Why a model type is not read.
fn refused(name: &str) -> SpecError {
    match OFF_AXES.iter().find(|(known, _)| *known == name) {
        Some((model_type, what)) => SpecError::OffAxes { model_type, what },
        None => SpecError::UnknownFamily { model_type: name.chars().take(60).collect(), known: known() },
    }
}

fn known() -> String {
    let families =
        FAMILIES.iter().flat_map(|family| family.names).copied().chain(WRAPPERS.iter().map(|wrapper| wrapper.name));
    families.collect::<Vec<_>>().join(", ")
}

/// `dtype`, or `torch_dtype` as it was called before; of the text model where there is one, else of the file.
fn dtype(fields: &Fields<'_>, root: &Fields<'_>) -> Result<FloatType, SpecError> {
    const LEGAL: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::Bf16];
    const NAMES: [&str; 2] = ["dtype", "torch_dtype"];
    let [new, old] = NAMES;
    let legal = || LEGAL.map(FloatType::name).join(", ");
    let (field, value) = [fields, root]
        .into_iter()
        .find_map(|fields| match (fields.get(new), fields.get(old)) {
            (Some(a), Some(b)) if a != b => Some(Err(conflict(new, a, old, b))),
            (Some(value), _) => Some(Ok((new, value))),
            (None, Some(value)) => Some(Ok((old, value))),
            (None, None) => None,
        })
        .unwrap_or_else(|| Err(SpecError::Missing { field: new, legal: legal() }))?;
    value.as_str().and_then(FloatType::from_name).ok_or_else(|| SpecError::Unsupported {
        field,
        value: shown(value),
        legal: legal(),
    })
}
