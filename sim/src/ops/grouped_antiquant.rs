//! Integer weights of grouped products of floats.

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use moe_kernels::antiquant_gemm::{AntiquantExpert, antiquant_gemm, expanded};
use moe_kernels::element::Float;
use moe_kernels::gemm::Bias;
use moe_kernels::group_list::Group;
use moe_kernels::int_gemm::IntWeight;
use moe_kernels::quant_gemm::Rounding;
use moe_kernels::view::{Mat, MatMut};

use super::OpError;
use super::grouped_quant::{each, load_weights};
use super::view::Device;
use crate::executor::Args;

/// The weights of a call one by one, with what makes numbers of them.
pub(super) struct Integers<'a, T> {
    weights: Vec<IntWeight<'a>>,
    scales: Vec<Vec<T>>,
    offsets: Vec<Vec<T>>,
    /// Whether they are one tensor.
    single: bool,
}

impl<'a, T: Float> Integers<'a, T> {
    /// `None` where the weights are floats.
    pub(super) fn load(args: &Args, device: &Device<'a>, list: &[&TensorDesc]) -> Result<Option<Self>, OpError> {
        let dtype = list.first().map(|weight| weight.unpacked().dtype);
        if !matches!(dtype, Some(aclDataType::INT8 | aclDataType::INT4)) {
            return Ok(None);
        }
        let weights = load_weights(args, device, list)?;
        let factors = |name| {
            let mut all = Vec::new();
            let given = if args.is_given(name) { args.tensors(name) } else { &[] };
            for (tensor, experts) in given.iter().flatten().zip(&weights) {
                all.extend(each(&device.packed::<T>(name, tensor)?, experts.len()).map(<[T]>::to_vec));
            }
            Ok::<_, OpError>(all)
        };
        let (scales, offsets) = (factors("antiquantScaleOptional")?, factors("antiquantOffsetOptional")?);
        let single = weights.len() == 1;
        Ok(Some(Self { weights: weights.into_iter().flatten().collect(), scales, offsets, single }))
    }

    pub(super) fn experts<'e>(
        &'e self,
        biases: impl Iterator<Item = Option<Bias<'e, T>>>,
    ) -> Vec<AntiquantExpert<'e, T>> {
        let biases = biases.chain(std::iter::repeat(None));
        let expert = |((index, weight), bias): ((usize, &IntWeight<'e>), _)| AntiquantExpert {
            weight: *weight,
            scale: self.scales.get(index).map_or(&[], Vec::as_slice),
            offset: self.offsets.get(index).map(Vec::as_slice),
            bias,
        };
        self.weights.iter().enumerate().zip(biases).map(expert).collect()
    }

    /// Groups of rows of one x.
    pub(super) fn multiply(
        &self,
        x: Mat<'_, T>,
        experts: &[AntiquantExpert<'_, T>],
        groups: &[Group],
        out: MatMut<'_, T>,
    ) -> Result<(), OpError> {
        match self.single {
            true => Ok(antiquant_gemm(x, experts, groups, Rounding::Faithful, out)?),
            false => Ok(expanded(x, experts, groups, out)?),
        }
    }
}
