//! Which layers of a model are mixtures of experts.

use super::config::Fields;
use super::{MAX_LAYERS, SpecError};

/// The rule of a family where `mlp_layer_types` does not say it.
#[derive(Clone, Copy)]
pub(super) enum Layers {
    /// All.
    All,
    /// All from the number that a field says on, every `moe_layer_freq`-th of them.
    FirstDense(&'static str),
    /// All but the first so many.
    From(usize),
    /// Every `decoder_sparse_step`-th, but those of `mlp_only_layers`.
    SparseStep,
    /// Every so many, from an offset on: two fields with their defaults.
    Period((&'static str, usize), (&'static str, usize)),
    /// `moe_layer_interval`, `moe_layer_start_index`, `moe_layer_end_index`.
    Interval,
    /// `moe_layers`, or every `interleave_moe_layer_step`-th.
    Interleaved,
    /// Those that a list of block types calls `moe`, or a pattern `E`.
    Blocks,
    /// Those that `moe_layers_enum` lists.
    Listed,
    /// All where `enable_moe_block` says so, else none.
    Enabled,
}

/// Fields that a list of the kinds of all layers is made from.
const FROM_FIELDS: &[&str] = &[
    "first_k_dense_replace",
    "moe_layer_freq",
    "decoder_sparse_step",
    "mlp_only_layers",
    "moe_layer_interval",
    "moe_layer_start_index",
    "moe_layer_end_index",
    "interleave_moe_layer_step",
    "moe_layers",
    "moe_layers_enum",
    "expert_layer_period",
    "expert_layer_offset",
];

impl Layers {
    /// The fields, for people.
    pub(super) const fn rule(self) -> &'static str {
        match self {
            Self::All | Self::From(_) => "`num_hidden_layers`",
            Self::FirstDense(..) => "`first_k_dense_replace` and `moe_layer_freq`",
            Self::SparseStep => "`decoder_sparse_step` and `mlp_only_layers`",
            Self::Period(..) => "`expert_layer_period` and `expert_layer_offset`",
            Self::Interval => "`moe_layer_interval`, `moe_layer_start_index` and `moe_layer_end_index`",
            Self::Interleaved => "`moe_layers` and `interleave_moe_layer_step`",
            Self::Blocks => "`layers_block_type`",
            Self::Listed => "`moe_layers_enum`",
            Self::Enabled => "`enable_moe_block`",
        }
    }

    /// The numbers of the layers that are mixtures, ascending, and whether each chooses experts by token id, which `hashed`
    /// families do in their first `num_hash_layers` layers where no list says otherwise.
    pub(super) fn read(
        self,
        fields: &Fields<'_>,
        num_layers: usize,
        hashed: bool,
    ) -> Result<Vec<(usize, bool)>, SpecError> {
        let hash_layers = if hashed { fields.size_or("num_hash_layers", 0, 0..=MAX_LAYERS)? } else { 0 };
        if let Some(kinds) = fields.texts("mlp_layer_types")? {
            // A list that says it for each layer goes before the fields that it was made from.
            FROM_FIELDS.iter().for_each(|field| fields.seen(field));
            // Longer lists go on with layers that predict further tokens.
            if kinds.len() < num_layers {
                return Err(SpecError::Conflict {
                    first: "mlp_layer_types",
                    first_value: format!("a list of {}", kinds.len()),
                    second: "num_hidden_layers",
                    second_value: num_layers.to_string(),
                });
            }
            let mut layers = Vec::new();
            for (layer, kind) in kinds.into_iter().enumerate().take(num_layers) {
                match kind {
                    "dense" => {}
                    "sparse" | "moe" => layers.push((layer, false)),
                    "hash_moe" => layers.push((layer, true)),
                    other => {
                        return Err(SpecError::Unsupported {
                            field: "mlp_layer_types",
                            value: format!("{other:?}"),
                            legal: "\"dense\", \"sparse\", \"moe\" and \"hash_moe\"".to_owned(),
                        });
                    }
                }
            }
            let hashed = layers.iter().filter(|(_, hashed)| *hashed).count();
            if fields.is_written("num_hash_layers") && hash_layers > 0 && hash_layers != hashed {
                return Err(SpecError::Conflict {
                    first: "num_hash_layers",
                    first_value: hash_layers.to_string(),
                    second: "mlp_layer_types",
                    second_value: format!("{hashed} of \"hash_moe\""),
                });
            }
            return Ok(layers);
        }
        let mut plain = self.numbers(fields, num_layers)?;
        if let Some(flags) = Self::flags(fields, num_layers)? {
            plain.retain(|layer| flags.get(*layer) == Some(&1));
        }
        Ok(plain.into_iter().map(|layer| (layer, layer < hash_layers)).collect())
    }

    /// `moe_layer_freq` where that is a list of 0 and 1, one for each layer.
    fn flags(fields: &Fields<'_>, num_layers: usize) -> Result<Option<Vec<usize>>, SpecError> {
        if !fields.is_list("moe_layer_freq") {
            return Ok(None);
        }
        let flags = fields.indices("moe_layer_freq", 0..=1)?;
        if flags.len() < num_layers {
            return Err(SpecError::Conflict {
                first: "moe_layer_freq",
                first_value: format!("a list of {}", flags.len()),
                second: "num_hidden_layers",
                second_value: num_layers.to_string(),
            });
        }
        Ok(Some(flags))
    }

    /// Layers, where a list of blocks or a pattern says how many there are.
    pub(super) fn listed(self, fields: &Fields<'_>) -> Result<Option<usize>, SpecError> {
        match (self, fields.get("hybrid_override_pattern").and_then(serde_json::Value::as_str)) {
            (Self::Blocks, pattern) => {
                let blocks = fields.texts("layers_block_type")?.map(|blocks| blocks.len());
                Ok(blocks.or(pattern.map(str::len)).filter(|layers| (1..=MAX_LAYERS).contains(layers)))
            }
            _ => Ok(None),
        }
    }

    fn numbers(self, fields: &Fields<'_>, num_layers: usize) -> Result<Vec<usize>, SpecError> {
        let count = |field, default| fields.size_or(field, default, 0..=MAX_LAYERS);
        let step = |field, default| fields.size_or(field, default, 1..=MAX_LAYERS);
        let all = 0..num_layers;
        Ok(match self {
            Self::All => all.collect(),
            Self::Enabled => {
                if fields.flag("enable_moe_block")? {
                    all.collect()
                } else {
                    Vec::new()
                }
            }
            Self::From(first) => all.skip(first).collect(),
            Self::FirstDense(field) => {
                let first = fields.size(field, 0..=MAX_LAYERS)?;
                let freq = match Self::flags(fields, num_layers)? {
                    Some(_) => 1,
                    None => step("moe_layer_freq", 1)?,
                };
                all.skip(first).filter(|layer| layer.is_multiple_of(freq)).collect()
            }
            Self::SparseStep => {
                let step = step("decoder_sparse_step", 1)?;
                let dense = fields.indices("mlp_only_layers", 0..=MAX_LAYERS)?;
                all.filter(|layer| (layer + 1).is_multiple_of(step) && !dense.contains(layer)).collect()
            }
            Self::Period((period, period_default), (offset, offset_default)) => {
                let (period, offset) = (step(period, period_default)?, count(offset, offset_default)?);
                all.filter(|layer| layer % period == offset % period).collect()
            }
            Self::Interval => {
                let interval = step("moe_layer_interval", 1)?;
                let start = count("moe_layer_start_index", 1)?;
                // -1, the default, is the last layer.
                let end = match fields.get("moe_layer_end_index").and_then(serde_json::Value::as_i64) {
                    None | Some(-1) => num_layers,
                    Some(_) => fields.size("moe_layer_end_index", 0..=MAX_LAYERS)? + 1,
                };
                fields.seen("moe_layer_end_index");
                all.filter(|layer| (layer + 1).is_multiple_of(interval) && (start..end).contains(layer)).collect()
            }
            Self::Interleaved => {
                if fields.get("moe_layers").is_some() {
                    fields.seen("interleave_moe_layer_step");
                    let mut listed = fields.indices("moe_layers", 0..=num_layers.saturating_sub(1))?;
                    listed.sort_unstable();
                    listed.dedup();
                    listed
                } else {
                    let step = step("interleave_moe_layer_step", 1)?;
                    all.filter(|layer| (layer + 1).is_multiple_of(step)).collect()
                }
            }
            Self::Blocks => {
                let by_name = ["layers_block_type", "layer_types"].into_iter().find(|f| fields.get(f).is_some());
                match by_name {
                    Some(field) => {
                        let kinds = fields.texts(field)?.unwrap_or_default().into_iter().enumerate();
                        kinds.filter(|(_, kind)| *kind == "moe").map(|(layer, _)| layer).collect()
                    }
                    None => {
                        let pattern = fields.text("hybrid_override_pattern", || {
                            "a pattern with an E for each mixture of experts".to_owned()
                        })?;
                        pattern.chars().enumerate().filter(|(_, kind)| *kind == 'E').map(|(layer, _)| layer).collect()
                    }
                }
            }
            Self::Listed => match fields.get("moe_layers_enum").and_then(serde_json::Value::as_str) {
                Some(text) => {
                    let numbers: Result<Vec<usize>, _> = text.split(',').map(|part| part.trim().parse()).collect();
                    let mut listed = numbers.map_err(|_| SpecError::Unsupported {
                        field: "moe_layers_enum",
                        value: format!("{text:?}"),
                        legal: "numbers of layers with commas between them".to_owned(),
                    })?;
                    listed.retain(|layer| *layer < num_layers);
                    listed.sort_unstable();
                    listed.dedup();
                    listed
                }
                None => {
                    let listed = fields.indices("moe_layers_enum", 0..=MAX_LAYERS)?;
                    if listed.is_empty() { (3..num_layers).collect() } else { listed }
                }
            },
        })
    }
}
