//! Why a checkpoint is refused: the file, the tensor, the rule.

use std::path::PathBuf;

use safetensors::Dtype;

use super::Stored;
use crate::spec::SpecError;

/// A checkpoint, or a file of tensors, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused to read or write.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing at the path of the checkpoint.
    #[error("checkpoint folder {} does not exist", dir.display())]
    NoFolder {
        /// The path.
        dir: PathBuf,
    },
    /// The path of the checkpoint is not a folder.
    #[error("{} is not a folder; legal is the folder that holds `config.json` and the weights", dir.display())]
    NotAFolder {
        /// The path.
        dir: PathBuf,
    },
    /// A folder, a device or a pipe stands where a file should.
    #[error("{} is not a regular file", file.display())]
    NotAFile {
        /// The path.
        file: PathBuf,
    },
    /// The folder holds no `config.json`.
    #[error("no `config.json` in {}", dir.display())]
    NoConfig {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds no safetensors weights.
    #[error(
        "no weights in {}; legal is `model.safetensors`, or `model.safetensors.index.json` with its shards",
        dir.display()
    )]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// A JSON file that is larger than any real one.
    #[error("{} is larger than {max} bytes, the most a file of its kind may have", file.display())]
    JsonTooLarge {
        /// The file.
        file: PathBuf,
        /// Most bytes.
        max: u64,
    },
    /// A file, or a safetensors header, is not the JSON it should be.
    #[error("{}: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// `config.json` describes no model that is supported.
    #[error("{}: {source}", file.display())]
    Spec {
        /// The file.
        file: PathBuf,
        /// The field and the rule.
        source: SpecError,
    },
    /// The index names a shard by something else than a plain file name.
    #[error("{}: tensor `{tensor}` is in {shard:?}; legal is the name of a file in the same folder", index.display())]
    ShardName {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The entry.
        shard: String,
    },
    /// A shard that the index names is not there.
    #[error("{} names the shard {shard:?}, which is not in its folder", index.display())]
    NoShard {
        /// The index.
        index: PathBuf,
        /// The shard.
        shard: String,
    },
    /// The index says a tensor is in a shard that does not hold it.
    #[error("{}: tensor `{tensor}` is not in {}, where the index has it", index.display(), shard.display())]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: PathBuf,
    },
    /// A tensor is there twice, in two files or in one.
    #[error("tensor `{tensor}` is there twice, in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other, or the same again.
        second: PathBuf,
    },
    /// A file too short to be safetensors.
    #[error("{}: {bytes} bytes are too few; a safetensors file starts with the 8 bytes of its header's length",
            file.display())]
    TooShort {
        /// The file.
        file: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The header's length is impossible.
    #[error("{}: the header claims {claimed} bytes; legal is up to {max}", file.display())]
    HeaderLength {
        /// The file.
        file: PathBuf,
        /// The length claimed.
        claimed: u64,
        /// The most: what the file holds, and no more than 100 MB.
        max: u64,
    },
    /// A tensor's shape and type make no number of bytes that a file could hold.
    #[error("{}: tensor `{tensor}` {dtype} {shape:?} has no possible size in bytes", file.display())]
    ImpossibleSize {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor's offsets do not span what its shape and type need.
    #[error("{}: tensor `{tensor}` {dtype} {shape:?} needs {needed} bytes, its offsets are {offsets:?}",
            file.display())]
    WrongSpan {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes it needs.
        needed: usize,
        /// Start and end, counted from the end of the header.
        offsets: (usize, usize),
    },
    /// A tensor ends beyond the file.
    #[error("{}: tensor `{tensor}` ends at byte {end} of {available}; the file is cut short, or its header lies",
            file.display())]
    BeyondFile {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it ends, counted from the end of the header.
        end: usize,
        /// Bytes after the header.
        available: usize,
    },
    /// Two tensors share bytes.
    #[error("{}: tensor `{tensor}` starts at byte {start}, inside the one before, which ends at {previous}",
            file.display())]
    Overlap {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it starts, counted from the end of the header.
        start: usize,
        /// Where the tensor before it ends.
        previous: usize,
    },
    /// Bytes before a tensor that belong to none.
    #[error("{}: tensor `{tensor}` starts at byte {start}, the one before ends at {previous}; no byte may be left out",
            file.display())]
    Gap {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it starts, counted from the end of the header.
        start: usize,
        /// Where the tensor before it ends.
        previous: usize,
    },
    /// Bytes after the last tensor.
    #[error("{}: the last tensor ends at byte {end} of {available}; no byte may be left over", file.display())]
    TrailingBytes {
        /// The file.
        file: PathBuf,
        /// Where the last tensor ends, counted from the end of the header.
        end: usize,
        /// Bytes after the header.
        available: usize,
    },
    /// A tensor that is asked for, or that the layer needs, is not there.
    #[error("tensor `{tensor}` is not in {}", place.display())]
    NoTensor {
        /// The tensor.
        tensor: String,
        /// The file or the checkpoint's folder.
        place: PathBuf,
    },
    /// A tensor of the layer has another shape than the configuration says.
    #[error("{}: tensor `{tensor}` has shape {found:?}; by `config.json` it is {legal:?}", file.display())]
    WrongShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// What it should be.
        legal: Vec<usize>,
    },
    /// A tensor has a type that is not read.
    #[error("{}: tensor `{tensor}` is {found}; legal is {legal}", file.display())]
    WrongDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Dtype,
        /// What is read.
        legal: &'static str,
    },
    /// The configuration names a way of quantising, or a setting of one, that is not read.
    #[error("{}: `{field}` is {found}; legal is {legal}", file.display())]
    UnknownQuantisation {
        /// The file that says so.
        file: PathBuf,
        /// The field, with those it is in.
        field: String,
        /// Its value.
        found: String,
        /// What is read.
        legal: String,
    },
    /// A weight is quantised in another way than the configuration says.
    #[error("{}: tensor `{tensor}` is {found}; by the configuration it is {legal}", file.display())]
    Quantised {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// How it is stored.
        found: Stored,
        /// What the configuration says.
        legal: String,
    },
    /// Codes of a quantised weight that are not laid out in any way that is known.
    #[error("{}: tensor `{tensor}` {dtype} {shape:?} is no layout of codes that is known; legal is {legal}", file.display())]
    Layout {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// What is read.
        legal: String,
    },
    /// A quantised weight without its scales.
    #[error("{}: tensor `{tensor}` {found} has no scales; legal is one of {legal}", file.display())]
    NoScales {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// Its type.
        found: Dtype,
        /// Names that its scales may have.
        legal: String,
    },
    /// Scales, or zero points, of another shape than their weight needs.
    #[error("{}: tensor `{tensor}` has shape {found:?}; legal is {legal}", file.display())]
    ScaleShape {
        /// The file.
        file: PathBuf,
        /// The scales.
        tensor: String,
        /// Their shape.
        found: Vec<usize>,
        /// What it should be, for a weight of which shape.
        legal: String,
    },
    /// Inputs that are no whole number of groups.
    #[error("{}: tensor `{tensor}` has {size} inputs, which groups of {group} do not divide", file.display())]
    GroupSize {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// Inputs of a group.
        group: usize,
        /// Its inputs.
        size: usize,
    },
    /// Scales for a number of groups that does not divide the inputs.
    #[error("{}: tensor `{tensor}` has {size} inputs and scales for {groups} groups, which do not divide them",
            file.display())]
    GroupCount {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// Groups of a row.
        groups: usize,
        /// Its inputs.
        size: usize,
    },
    /// An odd number of 4-bit codes, which are stored in pairs.
    #[error("{}: tensor `{tensor}` has {count} codes of 4 bits in a line; legal is an even number", file.display())]
    OddNibbles {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// Codes of a line.
        count: usize,
    },
    /// A scale that is infinite or not a number.
    #[error("{}: tensor `{tensor}`, row {row}, column {col} is {value}; a scale is a finite number", file.display())]
    BadScale {
        /// The file.
        file: PathBuf,
        /// The scales.
        tensor: String,
        /// Row of the scale in its matrix.
        row: usize,
        /// Its column.
        col: usize,
        /// Its value.
        value: f32,
    },
    /// A code that stands for no number.
    #[error("{}: tensor `{tensor}`, row {row}, column {col} is the code {code:#04x}, which is no number", file.display())]
    NotANumber {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// Row of the code in its matrix.
        row: usize,
        /// Its column.
        col: usize,
        /// The code.
        code: u8,
    },
    /// A weight to be quantised has a value that is infinite or not a number.
    #[error("{}: tensor `{tensor}`, line {row} holds a value that is infinite or no number, which has no code", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// Row of its matrix, or column where it is transposed.
        row: usize,
    },
    /// Weights of one layer's experts that are quantised in different ways.
    #[error("tensor `{tensor}` is {found}, and `{first}` {as_first}; the experts of a layer are stored alike")]
    MixedFormats {
        /// The weight.
        tensor: String,
        /// How it is stored.
        found: Stored,
        /// One before it.
        first: String,
        /// How that is stored.
        as_first: Stored,
    },
    /// A part of a layer that is no matrix of an expert has no codes.
    #[error("{part} have no codes; legal are the projections of routed and shared experts")]
    NoCodes {
        /// The part.
        part: &'static str,
    },
    /// int4 of a part in groups that are not possible.
    #[error(
        "{part} have {inputs} inputs, which cannot be int4 in groups of {group}; legal is an even number of inputs \
             that the groups divide"
    )]
    Groups {
        /// The part.
        part: &'static str,
        /// Its inputs.
        inputs: usize,
        /// Inputs of a group.
        group: usize,
    },
    /// The layer's block holds a tensor that the model has no use for, so it is not the model it claims to be.
    #[error("{}: tensor `{tensor}` has no place in a layer of this `model_type`", file.display())]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The layer is dense or beyond the model.
    #[error("layer {layer} is not a mixture of experts; legal is {}", listed(moe_layers))]
    NotAMoeLayer {
        /// The layer.
        layer: usize,
        /// Those that are.
        moe_layers: Vec<usize>,
    },
    /// A table of experts by token id names one that is not there.
    #[error("tensor `{tensor}`, row {row}, names expert {id}; legal are 0 to {last}", last = experts.saturating_sub(1))]
    ExpertId {
        /// The tensor.
        tensor: String,
        /// The token id.
        row: usize,
        /// What it names.
        id: i64,
        /// Experts that the router knows.
        experts: usize,
    },
    /// A range of experts that the layer does not have.
    #[error("experts {start}..{end} are asked for; legal is a range within 0..{experts}")]
    ExpertRange {
        /// First expert.
        start: usize,
        /// One past the last.
        end: usize,
        /// Experts of the layer.
        experts: usize,
    },
    /// A destination of another size than what is written into it.
    #[error("the destination for {what} has {bytes} bytes; legal is {needed}")]
    Destination {
        /// What is written.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// What it should be.
        needed: usize,
    },
    /// Values that do not fill a shape.
    #[error("tensor `{tensor}` has {values} values for the shape {shape:?}")]
    Values {
        /// The tensor.
        tensor: String,
        /// Values given.
        values: usize,
        /// The shape.
        shape: Vec<usize>,
    },
}

/// Ascending numbers, runs of them as `first-last`.
fn listed(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some((run.first()?, run.last()?)));
    let texts: Vec<String> =
        runs.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect();
    texts.join(", ")
}
