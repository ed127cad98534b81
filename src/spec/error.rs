//! Why a description of a model is refused: the field, its value, and what would be legal.

/// A model's description that is not legal, or not supported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The configuration, or its nested `text_config`, is not a JSON object.
    #[error("`{field}` is {found}; legal is a JSON object")]
    NotAnObject {
        /// `config.json` or the nested field.
        field: &'static str,
        /// The JSON type found.
        found: &'static str,
    },
    /// A field without which the layer is not known.
    #[error("field `{field}` is missing; legal is {legal}")]
    Missing {
        /// The field.
        field: &'static str,
        /// What it may be.
        legal: String,
    },
    /// A field of another JSON type.
    #[error("field `{field}` is {value}; legal is {legal}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        value: String,
        /// What it may be.
        legal: &'static str,
    },
    /// A size or an index outside what is possible.
    #[error("field `{field}` is {value}; legal is {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Smallest legal value.
        min: usize,
        /// Largest legal value.
        max: usize,
    },
    /// A factor that is zero, negative, infinite or not a number.
    #[error("field `{field}` is {value}; legal is a finite number above 0")]
    NotPositive {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// The epsilon of the weights' normalisation is negative, infinite or not a number.
    #[error("the normalisation's epsilon is {value}; legal is a finite number, 0 or above")]
    Epsilon {
        /// Its value.
        value: f64,
    },
    /// The least divisor of the weights' normalisation is negative, infinite or not a number.
    #[error("the least divisor of the normalisation (its floor) is {value}; legal is a finite number, 0 or above")]
    Floor {
        /// Its value.
        value: f64,
    },
    /// Something that works on a gate, in experts without one.
    #[error("{what} needs experts with a gate projection; these have none")]
    NoGate {
        /// What needs it.
        what: &'static str,
    },
    /// A bias on the choice beside a table that chooses.
    #[error("a choice bias beside a table of experts by token id: the table alone chooses, so keep one of them")]
    BiasedTable,
    /// Experts that give back their input or a function of it, of another width than the layer's output.
    #[error("copy or constant experts beside latent projections; legal is one of the two")]
    LatentCopies,
    /// A norm of a latent projection that is not there.
    #[error("a norm of the latent projection in a layer without one; legal is both or no norm")]
    NoLatent,
    /// The sparse mixer, which makes a weight from who was chosen before, beside another choice than the best.
    #[error(
        "weights of the sparse mixer beside a choice by bias, groups or a table; legal is a plain choice of the best"
    )]
    MixedChoice,
    /// Experts that every token gets, beside what leaves no place for them.
    #[error(
        "experts that every token gets (`always`) beside {what}; legal is a plain choice of the best, all experts with weights"
    )]
    AlwaysBeside {
        /// What they stand beside.
        what: &'static str,
    },
    /// Experts taken in each group that do not come out even, or more than a group holds.
    #[error("top-k is {top_k} over {n_group} groups of {per_group} experts, the same number from each; legal is a \
             multiple of {n_group} up to {most}", most = n_group * per_group)]
    TopKPerGroup {
        /// Experts per token.
        top_k: usize,
        /// Groups.
        n_group: usize,
        /// Experts in a group.
        per_group: usize,
    },
    /// A field with a value that this version does not compute.
    #[error("field `{field}` is {value}, which is not supported here; legal is {legal}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        value: String,
        /// What is supported.
        legal: String,
    },
    /// A field about mixtures of experts that no family reads: leaving it out could change the result.
    #[error(
        "field `{field}` is {value}, and what it does is not known here; legal is to leave it out, or off \
             (null, false, 0, empty)"
    )]
    UnknownField {
        /// The field, shortened.
        field: String,
        /// Its value, shortened.
        value: String,
    },
    /// A family that is known, and does something that no axis of a layer says.
    #[error("`model_type` {model_type:?} is known and not supported: it has {what}")]
    OffAxes {
        /// The model type.
        model_type: &'static str,
        /// What it does.
        what: &'static str,
    },
    /// A model type that is not known.
    #[error("`model_type` {model_type:?} is not known; known are {known}")]
    UnknownFamily {
        /// The model type.
        model_type: String,
        /// All known ones.
        known: String,
    },
    /// Two fields that mean the same disagree.
    #[error("fields `{first}` ({first_value}) and `{second}` ({second_value}) mean the same and differ; keep one")]
    Conflict {
        /// One field.
        first: &'static str,
        /// Its value, shortened.
        first_value: String,
        /// The other field.
        second: &'static str,
        /// Its value, shortened.
        second_value: String,
    },
    /// More experts per token than there are, or none.
    #[error("top-k (`num_experts_per_tok`) is {top_k}; legal is 1 to {experts}, the number of experts")]
    TopK {
        /// Experts per token.
        top_k: usize,
        /// Experts.
        experts: usize,
    },
    /// The experts do not split evenly into groups.
    #[error("{experts} experts do not divide into {n_group} groups (`n_group`); legal is a divisor of {experts}")]
    UnevenGroups {
        /// Experts.
        experts: usize,
        /// Groups.
        n_group: usize,
    },
    /// More groups are kept than there are, or none.
    #[error("`topk_group` is {topk_group}; legal is 1 to {n_group}, the number of groups")]
    TopkGroup {
        /// Groups kept for a token.
        topk_group: usize,
        /// Groups.
        n_group: usize,
    },
    /// A group's score is the sum of its two best experts, and there is only one.
    #[error("{per_group} expert a group is too few for a group score that sums the best two; legal is 2 or more")]
    SmallGroups {
        /// Experts in a group.
        per_group: usize,
    },
    /// The groups that are kept hold fewer experts than a token takes.
    #[error("top-k is {top_k}, but {topk_group} groups of {per_group} experts are kept; legal is 1 to {left}",
            left = topk_group * per_group)]
    TopKInGroups {
        /// Experts per token.
        top_k: usize,
        /// Groups kept for a token.
        topk_group: usize,
        /// Experts in a group.
        per_group: usize,
    },
    /// The sizes are possible one by one, the layer they make is not.
    #[error("a layer of {elements} weights is beyond what is possible; legal is up to {max}")]
    LayerTooLarge {
        /// Weights of one layer.
        elements: u128,
        /// Largest legal number.
        max: usize,
    },
    /// No layer of the model is a mixture of experts.
    #[error("none of the {num_layers} layers is a mixture of experts by {rule}")]
    NoMoeLayer {
        /// Layers.
        num_layers: usize,
        /// The fields that say which layers are.
        rule: &'static str,
    },
}
