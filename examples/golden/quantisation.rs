//! Answers to golden files about number formats. A file lists the tensors that it asks for; each is worked out from those of the
//! others that are inputs: codes and scales, activations, a whole chain of quantised products.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use ascend_moe::checkpoint::{HostTensor, NamedTensor, TensorFile, write_tensors};
use half::bf16;
use moe_kernels::activation::swiglu;
use moe_kernels::formats::float8::{E4M3, E8M0_NAN, Overflow, e4m3_from_f32, e8m0, is_nan_e4m3};
use moe_kernels::formats::nibbles::{E2M1, pack_int4, unpack_int4};
use moe_kernels::formats::requantise::{INT8_LIMIT, symmetric};
use moe_kernels::gemm::Weight;
use moe_kernels::int_gemm::{IntProblem, IntWeight, int_gemms};
use moe_kernels::view::{Mat, MatMut};

use super::formats::{fp8, mxfp4, turned};
use super::meta::Meta;

/// An answer: its axes and values.
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
}

struct Answer {
    shape: Vec<usize>,
    values: Values,
}

impl From<HostTensor> for Answer {
    fn from(tensor: HostTensor) -> Self {
        Self { shape: tensor.shape, values: Values::F32(tensor.data) }
    }
}

/// Works out every tensor that the file asks for and writes them.
pub(crate) fn answer(file: &TensorFile, meta: &Meta, out: &Path) -> Result<()> {
    let source = Source { file, group: meta.group };
    let mut answers = Vec::new();
    for name in meta.checks.keys() {
        match source.answer(name)? {
            Some(answer) => answers.push((name, answer)),
            None if meta.optional.contains(name) => {}
            None => bail!("{name:?} is asked for, and not understood"),
        }
    }
    let tensors: Vec<NamedTensor<'_>> = answers
        .iter()
        .map(|(name, Answer { shape, values })| match values {
            Values::F32(values) => NamedTensor::f32(name, shape, values),
            Values::Bf16(values) => NamedTensor::bf16(name, shape, values),
            Values::I8(values) => NamedTensor::i8(name, shape, values),
            Values::U8(values) => NamedTensor::u8(name, shape, values),
            Values::I32(values) => NamedTensor::i32(name, shape, values),
        })
        .collect();
    Ok(write_tensors(out, &tensors)?)
}

/// The inputs of a file.
struct Source<'a> {
    file: &'a TensorFile,
    /// Columns that share a scale of int4.
    group: Option<usize>,
}

impl Source<'_> {
    fn has(&self, name: &str) -> bool {
        self.file.tensors().any(|tensor| tensor.name == name)
    }

    /// The tensor of this name, `None` where its inputs are not there.
    fn answer(&self, name: &str) -> Result<Option<Answer>> {
        Ok(Some(match name {
            // What is no number counts as 0 here; `code_is_nan` tells which those are.
            "code_values" | "code_is_nan" if self.has("codes") => self.per_code(name)?,
            "cast_saturating_u8" if self.has("x") => self.cast(Overflow::Saturate)?,
            "cast_nonsaturating_u8" if self.has("x") => self.cast(Overflow::Nan)?,
            "e2m1_values" => Answer { shape: vec![E2M1.len()], values: Values::F32(E2M1.to_vec()) },
            "e8m0_values" => {
                let values: Vec<f32> = (0..E8M0_NAN).map(e8m0).collect();
                Answer { shape: vec![values.len()], values: Values::F32(values) }
            }
            "dequant" => match self.weight()? {
                Some(weight) => weight.into(),
                None => return Ok(None),
            },
            "dequant_kn" if self.has("blocks") => turned(mxfp4(self.file, "blocks", "scales")?)?.into(),
            "edge_dequant" if self.has("edge_blocks") => mxfp4(self.file, "edge_blocks", "edge_scales")?.into(),
            "w_int4" | "packed_u8" | "packed_i32" if self.has("packed_u8") || self.has("w_int4") => self.int4(name)?,
            "q" | "scale" if self.has("x") => self.per_token(name)?,
            "acc" | "output" | "output_bias" | "output_bf16" if self.has("a") && self.has("w") => self.product(name)?,
            "acc1" | "gmm1_dequant" | "act" | "act_q" | "act_scale" | "acc2" | "output" if self.has("w2") => {
                return self.chain(name).map(Some);
            }
            "output" => match self.weight()? {
                Some(weight) => self.applied(&weight)?,
                None => return Ok(None),
            },
            _ => return Ok(None),
        }))
    }

    /// What each E4M3 code stands for: whether that is no number, and its value, which then counts as 0.
    fn per_code(&self, name: &str) -> Result<Answer> {
        let codes = self.file.tensor("codes")?;
        let value = |code: &u8| if is_nan_e4m3(*code) { 0.0 } else { E4M3[usize::from(*code)] };
        let values = match name {
            "code_values" => Values::F32(codes.bytes.iter().map(value).collect()),
            _ => Values::U8(codes.bytes.iter().map(|code| u8::from(is_nan_e4m3(*code))).collect()),
        };
        Ok(Answer { shape: codes.shape.to_vec(), values })
    }

    fn cast(&self, overflow: Overflow) -> Result<Answer> {
        let x = self.file.values("x")?;
        let values = x.data.iter().map(|value| e4m3_from_f32(*value, overflow)).collect();
        Ok(Answer { shape: x.shape, values: Values::U8(values) })
    }

    /// The weight, expanded, whatever it is stored in.
    fn weight(&self) -> Result<Option<HostTensor>> {
        if self.has("weight_scale_inv") {
            let codes = if self.has("w_fp8") { "w_fp8" } else { "w_u8" };
            return fp8(self.file, codes, "weight_scale_inv").map(Some);
        }
        if self.has("blocks") {
            return mxfp4(self.file, "blocks", "scales").map(Some);
        }
        if !self.has("packed_u8") && !self.has("w_int4") {
            return Ok(None);
        }
        let (shape, codes) = self.codes()?;
        let scales = self.file.values("scale")?;
        let cols = shape.last().copied().unwrap_or(1);
        let group = self.group.unwrap_or(cols);
        ensure!(
            group > 0 && cols.is_multiple_of(group) && scales.data.len() * group == codes.len(),
            "int4 {shape:?} in groups of {group} with scales {:?}",
            scales.shape
        );
        let data = codes.iter().enumerate().map(|(at, code)| f32::from(*code) * scales.data[at / group]).collect();
        Ok(Some(HostTensor { shape, data }))
    }

    /// int4 codes `[rows, cols]`.
    fn codes(&self) -> Result<(Vec<usize>, Vec<i8>)> {
        if self.has("w_int4") {
            return self.int8("w_int4");
        }
        let packed = self.file.tensor("packed_u8")?;
        let mut codes = vec![0; packed.bytes.len() * 2];
        unpack_int4(packed.bytes, &mut codes);
        let mut shape = packed.shape.to_vec();
        shape.last_mut().into_iter().for_each(|cols| *cols *= 2);
        Ok((shape, codes))
    }

    /// int4 one to an int8, two to a byte or eight to an int32, whichever of them the file does not ask for.
    fn int4(&self, name: &str) -> Result<Answer> {
        let (mut shape, codes) = self.codes()?;
        let mut packed = vec![0; codes.len() / 2];
        pack_int4(&codes, &mut packed);
        let (each, values) = match name {
            "packed_u8" => (2, Values::U8(packed)),
            "packed_i32" => {
                let words = packed.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
                (8, Values::I32(words))
            }
            _ => {
                let mut codes = vec![0; packed.len() * 2];
                unpack_int4(&packed, &mut codes);
                (1, Values::I8(codes))
            }
        };
        let cols = shape.last_mut();
        ensure!(cols.as_ref().is_some_and(|cols| cols.is_multiple_of(each)), "{name} of an odd number of codes");
        cols.into_iter().for_each(|cols| *cols /= each);
        Ok(Answer { shape, values })
    }

    fn int8(&self, name: &str) -> Result<(Vec<usize>, Vec<i8>)> {
        let tensor = self.file.tensor(name)?;
        Ok((tensor.shape.to_vec(), tensor.bytes.iter().map(|byte| *byte as i8).collect()))
    }

    /// Each row of x in int8, with its scale.
    fn per_token(&self, name: &str) -> Result<Answer> {
        let x = self.file.values("x")?;
        let cols = x.shape.last().copied().unwrap_or(1);
        let (codes, scales) = quantised_rows(&x.data, cols)?;
        Ok(match name {
            "q" => Answer { shape: x.shape, values: Values::I8(codes) },
            _ => {
                let outer = x.shape.split_last().map(|(_, outer)| outer).unwrap_or_default();
                Answer { shape: [outer, &[1]].concat(), values: Values::F32(scales) }
            }
        })
    }

    /// `x @ weight^T`, of each matrix of the weight.
    fn applied(&self, weight: &HostTensor) -> Result<Answer> {
        let x = self.file.values("x")?;
        let ([tokens, depth], [outer @ .., rows, cols]) = (&x.shape[..], &weight.shape[..]) else {
            bail!("x {:?} and a weight {:?}", x.shape, weight.shape)
        };
        ensure!(depth == cols, "x {:?} and a weight {:?}", x.shape, weight.shape);
        let dot =
            |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32;
        let mut values = Vec::new();
        for matrix in weight.data.chunks((rows * cols).max(1)) {
            values.extend(x.data.chunks(*cols).flat_map(|x| matrix.chunks(*cols).map(move |w| dot(x, w))));
        }
        Ok(Answer { shape: [outer, &[*tokens, *rows]].concat(), values: Values::F32(values) })
    }

    /// int8 activations with an int8 weight.
    fn product(&self, name: &str) -> Result<Answer> {
        let ((a_shape, a), (w_shape, w)) = (self.int8("a")?, self.int8("w")?);
        let (&[tokens, depth], &[cols, _]) = (&a_shape[..], &w_shape[..]) else {
            bail!("a {a_shape:?} and w {w_shape:?}")
        };
        let accumulators = grouped(&a, &w, [tokens, depth, cols], &[tokens])?;
        let shape = vec![tokens, cols];
        if name == "acc" {
            return Ok(Answer { shape, values: Values::I32(accumulators) });
        }
        let mut values = self.scaled(&accumulators, "a_scale", "w_scale", &[tokens])?;
        if name == "output_bias" {
            let bias = self.file.values("bias")?.data;
            values.chunks_mut(cols).for_each(|row| row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias));
        }
        let values = match name {
            "output_bf16" => Values::Bf16(values.into_iter().map(bf16::from_f32).collect()),
            _ => Values::F32(values),
        };
        Ok(Answer { shape, values })
    }

    /// Two grouped products with a gated activation between them, quantised by row.
    fn chain(&self, name: &str) -> Result<Answer> {
        let ((a_shape, a), (w1_shape, w1), (w2_shape, w2)) = (self.int8("a")?, self.int8("w1")?, self.int8("w2")?);
        let (&[tokens, depth], &[_, both, _], &[_, cols, inner]) = (&a_shape[..], &w1_shape[..], &w2_shape[..]) else {
            bail!("a {a_shape:?}, w1 {w1_shape:?} and w2 {w2_shape:?}")
        };
        let ends = self.file.integers("group_list_cumsum")?.1;
        let ends = ends.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>()?;
        let acc1 = grouped(&a, &w1, [tokens, depth, both], &ends)?;
        let first = self.scaled(&acc1, "a_scale", "w1_scale", &ends)?;
        let mut act = vec![0.0; tokens * inner];
        swiglu(&first, &[tokens, both], 1, &mut act)?;
        let (act_q, act_scale) = quantised_rows(&act, inner)?;
        let acc2 = grouped(&act_q, &w2, [tokens, inner, cols], &ends)?;
        let output = dequantised(&acc2, &act_scale, &self.file.values("w2_scale")?.data, &ends)?;
        let (shape, values) = match name {
            "acc1" => ([tokens, both], Values::I32(acc1)),
            "gmm1_dequant" => ([tokens, both], Values::F32(first)),
            "act" => ([tokens, inner], Values::F32(act)),
            "act_q" => ([tokens, inner], Values::I8(act_q)),
            "act_scale" => ([tokens, 1], Values::F32(act_scale)),
            "acc2" => ([tokens, cols], Values::I32(acc2)),
            _ => ([tokens, cols], Values::F32(output)),
        };
        Ok(Answer { shape: shape.to_vec(), values })
    }

    fn scaled(&self, accumulators: &[i32], rows: &str, cols: &str, ends: &[usize]) -> Result<Vec<f32>> {
        dequantised(accumulators, &self.file.values(rows)?.data, &self.file.values(cols)?.data, ends)
    }
}

/// int8 codes and a scale for each row.
fn quantised_rows(values: &[f32], cols: usize) -> Result<(Vec<i8>, Vec<f32>)> {
    let (mut codes, mut scales) = (vec![0; values.len()], Vec::new());
    for (values, codes) in values.chunks(cols.max(1)).zip(codes.chunks_mut(cols.max(1))) {
        let Some((scale, _)) = symmetric(values, INT8_LIMIT, codes) else { bail!("a value that has no code") };
        scales.push(scale);
    }
    Ok((codes, scales))
}

/// Accumulators of rows `[m, k]` in groups that end so with weights `[groups, n, k]`.
fn grouped(x: &[i8], w: &[i8], [m, k, n]: [usize; 3], ends: &[usize]) -> Result<Vec<i32>> {
    ensure!(
        x.len() == m * k && w.len() == ends.len() * n * k && ends.last() == Some(&m),
        "groups {ends:?} of {m} rows"
    );
    let mut accumulators = vec![0; m * n];
    let (x, mut rest) = (Mat::row_major(x, m, k)?, MatMut::row_major(&mut accumulators, m, n)?);
    let (mut problems, mut start) = (Vec::new(), 0);
    for (group, &end) in ends.iter().enumerate() {
        ensure!((start..=m).contains(&end), "groups {ends:?} of {m} rows");
        let weight = Mat::row_major(&w[group * n * k..(group + 1) * n * k], n, k)?.transposed();
        let (out, behind) = rest.split_rows(end - start);
        problems.push(IntProblem { x, rows: start..end, weight: IntWeight::Int8(Weight::Strided(weight)), out });
        (rest, start) = (behind, end);
    }
    int_gemms(problems, |_, accumulators, out| out.copy_from_slice(accumulators))?;
    Ok(accumulators)
}

/// Accumulators times the scales of their columns, which each group of rows has its own of, times those of their rows.
fn dequantised(accumulators: &[i32], rows: &[f32], cols: &[f32], ends: &[usize]) -> Result<Vec<f32>> {
    let n = cols.len() / ends.len().max(1);
    ensure!(
        n * rows.len() == accumulators.len(),
        "{} accumulators, {} rows, {n} columns",
        accumulators.len(),
        rows.len()
    );
    let of_row = |row: usize| ends.iter().filter(|end| **end <= row).count() * n;
    let lines = accumulators.chunks(n.max(1)).zip(rows).enumerate();
    Ok(lines
        .flat_map(|(row, (line, scale))| {
            let scales = cols.get(of_row(row)..).unwrap_or_default();
            line.iter().zip(scales).map(move |(value, col)| *value as f32 * col * scale)
        })
        .collect())
}
