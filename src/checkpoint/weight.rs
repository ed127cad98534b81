//! The tensors that make up a weight, by whichever layout it is stored in: its codes, their scales, and what stands beside them.

use moe_kernels::formats::nibbles::MXFP4_BLOCK;
use safetensors::Dtype;

use super::convert::{float_type, to_i64};
use super::matrix::Matrix;
use super::quantisation::{Quantisation, Stored};
use super::stored::{Codes, Layout, ScaleType, Scales, StoredMatrix, Zeros};
use super::{Checkpoint, CheckpointError, TensorRef};
use crate::spec::FloatType;

/// What scales are called, behind the whole name of a weight; the last goes with MXFP4's `_blocks`.
const SCALES: [&str; 4] = ["_scale_inv", "_scales_inv", "_scale", "_scales"];
/// Behind its name, what belongs to a weight that is quantised.
const BESIDE: [&str; 7] = ["_scale_inv", "_scales_inv", "_scale", "_scales", "_zero_point", "_offset", "_shape"];
/// Behind its name, what stands for it.
const INSTEAD: [&str; 3] = ["_packed", "_blocks", "_nz"];
/// In place of `weight` at the end of its name: DeepSeek-V4's scales, and what msModelSlim works out ahead of time from the codes.
const IN_PLACE: [&str; 2] = ["scale", "scale_bias"];

/// A weight of two axes, or of more where the last two are its matrices.
#[derive(Debug, Clone)]
pub(crate) struct Weight<'a> {
    /// The tensor of its codes.
    pub(crate) tensor: TensorRef<'a>,
    file: &'a std::path::Path,
    /// Its axes, whatever the packing.
    pub(crate) shape: Vec<usize>,
    codes: Codes,
    layout: Layout,
    scales: Option<Scales<'a>>,
    zeros: Option<Zeros<'a>>,
    /// The other tensors it is made of.
    pub(super) beside: Vec<&'a str>,
    /// Whether its matrices are `[in, out]`, where its scales say so.
    pub(super) turned: Option<bool>,
}

/// Rows and columns of the matrices, and how many there are.
fn matrices(shape: &[usize]) -> (usize, usize, usize) {
    match shape {
        // An axis of none makes any product possible.
        [outer @ .., rows, cols] => (outer.iter().fold(1, |all: usize, axis| all.saturating_mul(*axis)), *rows, *cols),
        [cols] => (1, 1, *cols),
        [] => (1, 1, 1),
    }
}

impl<'a> Weight<'a> {
    /// How many matrices it holds.
    pub(crate) fn count(&self) -> usize {
        matrices(&self.shape).0
    }

    /// The inputs of one of them, which are its rows where it is turned.
    pub(crate) fn inputs(&self, turned: bool) -> usize {
        let (_, rows, cols) = matrices(&self.shape);
        if turned { rows } else { cols }
    }

    /// How it is stored.
    pub(crate) fn stored(&self) -> Stored {
        Matrix::whole(self.matrix(0), self.turned == Some(true)).stored_as()
    }

    /// One of its matrices; the first where it has two axes.
    pub(crate) fn matrix(&self, index: usize) -> StoredMatrix<'a> {
        let (_, rows, cols) = matrices(&self.shape);
        let bytes = self.codes.bytes(self.layout, rows, cols);
        let part = |all: &'a [u8], each: usize| all.get(index * each..(index + 1) * each).unwrap_or_default();
        let grid = |block: [usize; 2]| [rows.div_ceil(block[0].max(1)), cols.div_ceil(block[1].max(1))];
        let scales = self.scales.map(|scales| {
            let each = grid(scales.block).iter().product::<usize>() * scales.kind.bytes();
            Scales { bytes: part(scales.bytes, each), ..scales }
        });
        let zeros = self.zeros.zip(self.scales).map(|(zeros, scales)| {
            let [grid_rows, grid_cols] = grid(scales.block);
            match zeros {
                Zeros::Float(dtype, all) => Zeros::Float(dtype, part(all, grid_rows * grid_cols * dtype.bytes())),
                Zeros::Int8(all) => Zeros::Int8(part(all, grid_rows * grid_cols)),
                Zeros::Int4Words(all) => Zeros::Int4Words(part(all, grid_rows.div_ceil(8) * grid_cols * 4)),
            }
        });
        let (name, file) = (self.tensor.name, self.file);
        let (bytes, codes, layout) = (part(self.tensor.bytes, bytes), self.codes, self.layout);
        StoredMatrix { name, file, bytes, codes, layout, rows, cols, scales, zeros }
    }
}

impl Checkpoint {
    /// Whether there is a weight of this name in any layout.
    pub(crate) fn has_weight(&self, name: &str) -> bool {
        self.find(name).is_some() || INSTEAD.iter().any(|end| self.find(&format!("{name}{end}")).is_some())
    }

    /// The name of the weight that a tensor belongs to: its own, or that of the weight whose scales or codes it holds.
    pub(crate) fn weight_of<'n>(&self, tensor: &'n str) -> std::borrow::Cow<'n, str> {
        if let Some(base) = INSTEAD.iter().find_map(|end| tensor.strip_suffix(end)) {
            return base.into();
        }
        if let Some(base) =
            BESIDE.iter().find_map(|end| tensor.strip_suffix(end)).filter(|base| self.is_quantised(base))
        {
            return base.into();
        }
        let stem = IN_PLACE.iter().find_map(|end| tensor.strip_suffix(end)).filter(|stem| stem.ends_with('.'));
        match stem.map(|stem| format!("{stem}weight")).filter(|base| self.is_quantised(base)) {
            Some(base) => base.into(),
            None => tensor.into(),
        }
    }

    /// Whether a weight of this name is there and is quantised.
    pub(crate) fn is_quantised(&self, name: &str) -> bool {
        match self.find(name) {
            Some(tensor) => is_code(tensor.dtype) && (Parts { checkpoint: self, name }).scales(tensor).is_ok(),
            None => self.has_weight(name),
        }
    }

    /// The weight of this name, in whichever layout it is there.
    pub(crate) fn weight(&self, name: &str) -> Result<Weight<'_>, CheckpointError> {
        let found = Parts { checkpoint: self, name };
        let tensor_at = |end: &str| self.find(&format!("{name}{end}"));
        if let Some(blocks) = tensor_at("_blocks") {
            return found.blocks(blocks);
        }
        if let Some(packed) = tensor_at("_packed") {
            return found.packed(packed);
        }
        if let Some(fractals) = tensor_at("_nz") {
            return found.fractals(fractals);
        }
        let tensor = self.tensor(name)?;
        match tensor.dtype {
            Dtype::F8_E4M3 => {
                let shape = tensor.shape.to_vec();
                found.quantised(tensor, shape, Codes::E4m3)
            }
            Dtype::F4 => {
                let shape = tensor.shape.to_vec();
                found.quantised(tensor, shape, Codes::E2m1)
            }
            Dtype::I8 | Dtype::U8 => found.bytes(tensor),
            dtype => match float_type(dtype) {
                Some(dtype) => Ok(found.float(tensor, dtype)),
                None => Err(CheckpointError::WrongDtype {
                    file: self.path_of(name).to_path_buf(),
                    tensor: name.to_owned(),
                    found: tensor.dtype,
                    legal: "F32, F16 or BF16, or codes with scales in F8_E4M3, I8, U8 or I32",
                }),
            },
        }
    }
}

/// Whether codes of this type mean nothing without scales.
fn is_code(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F4 | Dtype::I8 | Dtype::U8)
}

/// The tensors around the name of a weight that is quantised.
struct Parts<'a, 'n> {
    checkpoint: &'a Checkpoint,
    name: &'n str,
}

impl<'a> Parts<'a, '_> {
    /// gpt-oss: U8 `[.., N, K / 32, 16]` and E8M0 `[.., N, K / 32]`.
    fn blocks(&self, tensor: TensorRef<'a>) -> Result<Weight<'a>, CheckpointError> {
        let bytes = MXFP4_BLOCK / 2;
        let shape = match (tensor.shape, tensor.dtype) {
            ([outer @ .., groups, found], Dtype::U8) if *found == bytes && !outer.is_empty() => {
                [outer, &[groups.saturating_mul(MXFP4_BLOCK)]].concat()
            }
            _ => return Err(self.layout(tensor, format!("U8 [.., N, K / {MXFP4_BLOCK}, {bytes}]"))),
        };
        self.quantised(tensor, shape, Codes::E2m1)
    }

    /// A weight that is not quantised.
    fn float(&self, tensor: TensorRef<'a>, dtype: FloatType) -> Weight<'a> {
        Weight {
            shape: tensor.shape.to_vec(),
            codes: Codes::Float(dtype),
            layout: Layout::Rows,
            scales: None,
            zeros: None,
            beside: Vec::new(),
            turned: None,
            file: self.checkpoint.path_of(tensor.name),
            tensor,
        }
    }

    /// This library's own: FRACTAL_NZ of the transpose of each matrix of a tensor `_shape`, in BF16, int8, or int4 in bytes.
    fn fractals(&self, tensor: TensorRef<'a>) -> Result<Weight<'a>, CheckpointError> {
        let codes = match tensor.dtype {
            Dtype::I8 => Codes::Int8,
            Dtype::U8 => Codes::Int4RowPairs,
            dtype => match float_type(dtype) {
                Some(dtype) => Codes::Float(dtype),
                None => return Err(self.layout(tensor, "BF16, I8, or U8 of two int4".to_owned())),
            },
        };
        let shape = self.shape().unwrap_or_default();
        let (outer, rows, cols) = matrices(&shape);
        let due = outer.checked_mul(codes.bytes(Layout::Nz, rows, cols));
        if shape.len() < 2 || due != Some(tensor.bytes.len()) {
            return Err(self.layout(tensor, format!("FRACTAL_NZ of the shape {shape:?}")));
        }
        let weight = match codes {
            Codes::Float(dtype) => self.float(tensor, dtype),
            _ => self.quantised(tensor, shape.clone(), codes)?,
        };
        Ok(Weight { layout: Layout::Nz, shape, beside: self.beside(), turned: Some(false), ..weight })
    }

    /// What a tensor `_shape` says.
    fn shape(&self) -> Option<Vec<usize>> {
        let sizes = to_i64(self.checkpoint.find(&format!("{}_shape", self.name))?)?;
        // Sizes whose product no file could have are none.
        let shape: Option<Vec<usize>> =
            sizes.iter().map(|size| usize::try_from(*size).ok().filter(|size| *size < 1 << 31)).collect();
        shape.filter(|shape| shape.iter().try_fold(1_usize, |all, size| all.checked_mul(*size)).is_some())
    }

    /// compressed-tensors: I32 `[N, ceil(K / 8)]` of int4 with a tensor `_shape`, or U8 `[N, K / 2]` of MXFP4.
    fn packed(&self, tensor: TensorRef<'a>) -> Result<Weight<'a>, CheckpointError> {
        let Some((words, outer)) = tensor.shape.split_last() else {
            return Err(self.layout(tensor, "a matrix".to_owned()));
        };
        match tensor.dtype {
            Dtype::U8 => {
                let shape = [outer, &[words.saturating_mul(2)]].concat();
                self.quantised(tensor, shape, Codes::E2m1)
            }
            Dtype::I32 => {
                let shape = match self.checkpoint.find(&format!("{}_shape", self.name)) {
                    None => [outer, &[words.saturating_mul(8)]].concat(),
                    Some(_) => {
                        let shape = self.shape().unwrap_or_default();
                        match shape.split_last() {
                            Some((cols, rows)) if rows == outer && cols.div_ceil(8) == *words => shape,
                            _ => {
                                return Err(
                                    self.layout(tensor, format!("I32 [.., N, ceil(K / 8)] of the shape {shape:?}"))
                                );
                            }
                        }
                    }
                };
                self.quantised(tensor, shape, Codes::Int4Words)
            }
            _ => Err(self.layout(tensor, "I32 of eight int4, or U8 of two E2M1".to_owned())),
        }
    }

    /// Bytes: int8; or two E2M1 along K where the scales are E8M0; or two int4 along N where there are scales for twice the rows.
    fn bytes(&self, tensor: TensorRef<'a>) -> Result<Weight<'a>, CheckpointError> {
        let scales = self.scales(tensor)?;
        let shape = tensor.shape.to_vec();
        if scales.dtype == Dtype::F8_E8M0 {
            let doubled = shape.split_last().map(|(cols, outer)| [outer, &[cols.saturating_mul(2)]].concat());
            return self.quantised(tensor, doubled.unwrap_or_default(), Codes::E2m1);
        }
        if tensor.dtype == Dtype::U8 {
            return Err(self.layout(tensor, "I8, or U8 with scales of F8_E8M0".to_owned()));
        }
        let ([.., rows, cols], [.., scale_rows, _]) = (&shape[..], scales.shape) else {
            return self.quantised(tensor, shape, Codes::Int8);
        };
        let pairs = scale_rows.div_ceil(2) == *rows && *scale_rows > *rows;
        if !pairs {
            return self.quantised(tensor, shape, Codes::Int8);
        }
        if !scale_rows.is_multiple_of(2) {
            let (file, tensor) = (self.path(), self.name.to_owned());
            return Err(CheckpointError::OddNibbles { file, tensor, count: *scale_rows });
        }
        let outer = shape.get(..shape.len() - 2).unwrap_or_default();
        let unpacked = [outer, &[*scale_rows, *cols]].concat();
        self.quantised(tensor, unpacked, Codes::Int4RowPairs)
    }

    /// The tensor of scales.
    fn scales(&self, tensor: TensorRef<'a>) -> Result<TensorRef<'a>, CheckpointError> {
        let stem = self.name.strip_suffix("weight");
        let names = SCALES.iter().map(|end| format!("{}{end}", self.name));
        let names = names.chain(stem.map(|stem| format!("{stem}scale")));
        names.clone().find_map(|name| self.checkpoint.find(&name)).ok_or_else(|| CheckpointError::NoScales {
            file: self.path(),
            tensor: self.name.to_owned(),
            found: tensor.dtype,
            legal: names.collect::<Vec<_>>().join(", "),
        })
    }

    fn quantised(&self, tensor: TensorRef<'a>, shape: Vec<usize>, codes: Codes) -> Result<Weight<'a>, CheckpointError> {
        let said = self.checkpoint.quantisation();
        let refused = |stored: Stored, legal: String| {
            let (file, tensor) = (self.path(), self.name.to_owned());
            CheckpointError::Quantised { file, tensor, found: stored, legal }
        };
        let (_, rows, cols) = matrices(&shape);
        if *said == Quantisation::None {
            let stored = codes.stored([rows, cols], None);
            return Err(refused(stored, "not quantised, as there is no `quantization_config`".to_owned()));
        }
        let found = self.scales(tensor)?;
        let kind = match found.dtype {
            Dtype::F8_E8M0 => ScaleType::E8m0,
            Dtype::U8 if codes == Codes::E2m1 => ScaleType::E8m0,
            dtype => ScaleType::Float(float_type(dtype).ok_or_else(|| CheckpointError::WrongDtype {
                file: self.checkpoint.path_of(found.name).to_path_buf(),
                tensor: found.name.to_owned(),
                found: dtype,
                legal: "F32, F16, BF16 or F8_E8M0, and U8 beside MXFP4",
            })?),
        };
        let block = self.grid(found, &shape, codes)?;
        let scales = Scales { name: found.name, bytes: found.bytes, kind, cols: cols.div_ceil(block[1].max(1)), block };
        let zeros = self.zeros(found, &shape, block)?;
        // Outputs have scales of their own, inputs share them.
        let turned = match block {
            [1, 1] => None,
            [1, _] => Some(false),
            [_, 1] => Some(true),
            _ => None,
        };
        let codes = if codes == Codes::Int8 && said.int4_in_bytes(self.name) { Codes::Int4Bytes } else { codes };
        let group = (turned == Some(false) && block[1] < cols).then_some(block[1]);
        let stored = codes.stored(block, group);
        if let Some(legal) = said.refuses(self.name, stored, cols) {
            return Err(refused(stored, legal));
        }
        Ok(Weight {
            shape,
            codes,
            layout: Layout::Rows,
            scales: Some(scales),
            zeros,
            beside: self.beside(),
            turned,
            file: self.checkpoint.path_of(tensor.name),
            tensor,
        })
    }

    /// Rows and columns of what a scale is for.
    fn grid(&self, scales: TensorRef<'a>, shape: &[usize], codes: Codes) -> Result<[usize; 2], CheckpointError> {
        let (outer, rows, cols) = matrices(shape);
        let wrong = |legal: String| CheckpointError::ScaleShape {
            file: self.checkpoint.path_of(scales.name).to_path_buf(),
            tensor: scales.name.to_owned(),
            found: scales.shape.to_vec(),
            legal: format!("{legal}, for a weight {shape:?}"),
        };
        let lead = shape.get(..shape.len().saturating_sub(2)).unwrap_or_default();
        let [grid_rows, grid_cols] = match scales.shape.strip_prefix(lead) {
            Some(&[rows, cols]) => [rows, cols],
            Some(&[rows]) => [rows, 1],
            Some(&[]) => [1, 1],
            _ => return Err(wrong(format!("{lead:?} ahead of the scales of a matrix"))),
        };
        let said = self.checkpoint.quantisation();
        let divides = |group: usize, size: usize| match size.is_multiple_of(group.max(1)) {
            true => Ok(()),
            false => {
                let (file, tensor) = (self.path(), self.name.to_owned());
                Err(CheckpointError::GroupSize { file, tensor, group, size })
            }
        };
        if outer == 0 || rows == 0 || cols == 0 {
            return Err(wrong("those of a weight that is not empty".to_owned()));
        }
        if codes == Codes::E2m1 {
            divides(MXFP4_BLOCK, cols)?;
            let due = [rows, cols / MXFP4_BLOCK];
            return if [grid_rows, grid_cols] == due { Ok([1, MXFP4_BLOCK]) } else { Err(wrong(format!("{due:?}"))) };
        }
        if let (Codes::E4m3, Some(block)) = (codes, said.block()) {
            let due = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
            return if [grid_rows, grid_cols] == due { Ok(block) } else { Err(wrong(format!("{due:?}"))) };
        }
        let bits = if codes == Codes::Int8 && !said.int4_in_bytes(self.name) { 8 } else { 4 };
        if let Some(group) = said.group(bits).filter(|_| codes.is_integer()) {
            divides(group, cols)?;
            let due = [rows, cols / group];
            return if [grid_rows, grid_cols] == due { Ok([1, group]) } else { Err(wrong(format!("{due:?}"))) };
        }
        match [grid_rows, grid_cols] {
            [1, 1] => Ok([rows, cols]),
            [found, groups] if found == rows && groups > 0 => {
                divides(groups, cols).map_err(|_| CheckpointError::GroupCount {
                    file: self.path(),
                    tensor: self.name.to_owned(),
                    groups,
                    size: cols,
                })?;
                Ok([1, cols / groups])
            }
            [groups, found] if found == cols && groups > 0 && rows.is_multiple_of(groups) => Ok([rows / groups, 1]),
            _ => Err(wrong(format!("{:?}, or as many columns as there are groups", [rows, 1]))),
        }
    }

    /// What is taken from codes ahead of their scales.
    fn zeros(
        &self,
        scales: TensorRef<'a>,
        shape: &[usize],
        block: [usize; 2],
    ) -> Result<Option<Zeros<'a>>, CheckpointError> {
        let at = |end: &str| self.checkpoint.find(&format!("{}{end}", self.name));
        let Some(found) = at("_offset").or_else(|| at("_zero_point")) else { return Ok(None) };
        let (outer, rows, cols) = matrices(shape);
        let [grid_rows, grid_cols] = [rows.div_ceil(block[0].max(1)), cols.div_ceil(block[1].max(1))];
        let elements = found.bytes.len() * 8 / found.dtype.bitsize();
        let (zeros, due) = match found.dtype {
            Dtype::I8 => (Zeros::Int8(found.bytes), outer * grid_rows * grid_cols),
            Dtype::I32 => (Zeros::Int4Words(found.bytes), outer * grid_rows.div_ceil(8) * grid_cols),
            dtype => match float_type(dtype) {
                Some(dtype) => (Zeros::Float(dtype, found.bytes), outer * grid_rows * grid_cols),
                None => {
                    let (file, legal) =
                        (self.checkpoint.path_of(found.name).to_path_buf(), "I8, I32, F32, F16 or BF16");
                    let tensor = found.name.to_owned();
                    return Err(CheckpointError::WrongDtype { file, tensor, found: dtype, legal });
                }
            },
        };
        if elements == due {
            return Ok(Some(zeros));
        }
        Err(CheckpointError::ScaleShape {
            file: self.checkpoint.path_of(found.name).to_path_buf(),
            tensor: found.name.to_owned(),
            found: found.shape.to_vec(),
            legal: format!(
                "{:?}, as its scales, or 32-bit words of eight along the rows, for a weight {shape:?}",
                scales.shape
            ),
        })
    }

    /// The names of all tensors that belong to it besides its codes.
    fn beside(&self) -> Vec<&'a str> {
        let stem = self.name.strip_suffix("weight");
        let ends = BESIDE.iter().map(|end| format!("{}{end}", self.name));
        let in_place = stem.into_iter().flat_map(|stem| IN_PLACE.iter().map(move |end| format!("{stem}{end}")));
        ends.chain(in_place).filter_map(|name| self.checkpoint.find(&name)).map(|tensor| tensor.name).collect()
    }

    fn layout(&self, tensor: TensorRef<'a>, legal: String) -> CheckpointError {
        CheckpointError::Layout {
            file: self.path(),
            tensor: tensor.name.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            legal,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        let names = ["", "_packed", "_blocks", "_nz"].map(|end| format!("{}{end}", self.name));
        let there = names.iter().find(|name| self.checkpoint.find(name).is_some());
        self.checkpoint.path_of(there.map_or(self.name, String::as_str)).to_path_buf()
    }
}
