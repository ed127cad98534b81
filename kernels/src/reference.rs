//! The same operators as plain scalar loops, one element at a time, serial: what the kernels are tested against, bit for bit but for
//! the float GEMMs and the activations, which state how far they may be from it.
//!
//! Arguments, results and errors are those of the kernel of the same name; only the way there differs.

use std::ops::Range;

use crate::combine::{Finalize, Held, Rounding, Unpermute};
use crate::element::Float;
use crate::error::{self, KernelError};
use crate::exp::exp;
use crate::gating::{self, Division, Dropped, Gating, GroupScore, Score};
use crate::gemm::{Bias, Weight};
use crate::group_list::Group;
use crate::grouped_gemm::Expert;
use crate::nz::NzLayout;
use crate::view::{Mat, MatMut, NdView, NdViewMut, broadcast_shape};

fn at<T: Float>(weight: &Weight<'_, T>, k: usize, n: usize) -> f32 {
    let value = match weight {
        Weight::Strided(mat) => mat.get(k, n),
        Weight::Nz(mat) => mat.get(k, n),
        Weight::NzTransposed(mat) => mat.get(n, k),
        Weight::Antiquant(weight) => weight.get(k, n),
    };
    value.map_or(0.0, T::to_f32)
}

fn bias_at<T: Float>(bias: &Option<Bias<'_, T>>, n: usize) -> Option<f32> {
    match bias {
        Some(Bias::F32(bias)) => bias.get(n).copied(),
        Some(Bias::Same(bias)) => bias.get(n).map(|b| b.to_f32()),
        None => None,
    }
}

/// [`crate::gemm::gemm`].
///
/// # Errors
/// As there.
pub fn gemm<T: Float, O: Float>(
    x: Mat<'_, T>,
    w: Weight<'_, T>,
    bias: Option<Bias<'_, T>>,
    out: MatMut<'_, O>,
) -> Result<(), KernelError> {
    let rows = 0..x.rows();
    grouped_gemm(x, &[Expert { weight: w, bias }], &[Group { expert: 0, rows }], out)
}

/// [`crate::grouped_gemm::grouped_gemm`].
///
/// # Errors
/// [`KernelError::Dim`] when the shapes disagree; groups are taken as they are, rows outside the matrices are left out.
pub fn grouped_gemm<T: Float, O: Float>(
    x: Mat<'_, T>,
    experts: &[Expert<'_, T>],
    groups: &[Group],
    mut out: MatMut<'_, O>,
) -> Result<(), KernelError> {
    for expert in experts {
        error::dim("expert weight, axis K", x.cols(), expert.weight.k())?;
        error::dim("expert weight, axis N", out.cols(), expert.weight.n())?;
    }
    for group in groups {
        let Some(expert) = experts.get(group.expert) else { continue };
        for m in group.rows.clone() {
            let mut row = Vec::new();
            for n in 0..out.cols() {
                let mut sum = 0f32;
                for k in 0..x.cols() {
                    sum += x.get(m, k).map_or(0.0, T::to_f32) * at(&expert.weight, k, n);
                }
                if let Some(bias) = bias_at(&expert.bias, n) {
                    sum += bias;
                }
                row.push(O::from_f32(sum));
            }
            out.write_row(m, row);
        }
    }
    Ok(())
}

/// [`crate::grouped_gemm::k_grouped_gemm`], or with `adds` [`crate::grouped_gemm::k_grouped_gemm_add`], into contiguous
/// outputs `[groups, M, N]`.
///
/// # Errors
/// [`KernelError::Dim`] when K disagrees; groups are taken as they are.
pub fn k_grouped_gemm<T: Float, O: Float>(
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    groups: &[Group],
    out: &mut [O],
    adds: bool,
) -> Result<(), KernelError> {
    error::dim("w, axis K", x.cols(), w.rows())?;
    let size = (x.rows() * w.cols()).max(1);
    for (expert, out) in out.chunks_exact_mut(size).enumerate() {
        let range = groups.iter().find(|group| group.expert == expert).map_or(0..0, |group| group.rows.clone());
        for (at, out) in out.iter_mut().enumerate() {
            let (m, n) = (at / w.cols(), at % w.cols());
            let mut sum = 0f32;
            for k in range.clone() {
                sum += x.get(m, k).map_or(0.0, T::to_f32) * w.get(k, n).map_or(0.0, T::to_f32);
            }
            match adds {
                false => *out = O::from_f32(sum),
                true if range.is_empty() => {}
                true => *out = O::from_f32(sum + out.to_f32()),
            }
        }
    }
    Ok(())
}

/// [`crate::nz::pack`] of one contiguous `[rows, cols]` matrix.
///
/// # Errors
/// As there.
pub fn pack_nz<T: bytemuck::Pod>(src: &[T], rows: usize, cols: usize) -> Result<Vec<T>, KernelError> {
    error::length("src", error::product("shape", &[rows, cols])?, src.len())?;
    let layout = NzLayout::new(rows, cols, size_of::<T>())?;
    let mut dst = vec![T::zeroed(); layout.storage_len()];
    for r in 0..rows {
        for c in 0..cols {
            let c0 = 32 / size_of::<T>();
            let fractal = (c / c0) * rows.div_ceil(16) + r / 16;
            dst[fractal * 16 * c0 + (r % 16) * c0 + c % c0] = src[r * cols + c];
        }
    }
    Ok(dst)
}

/// [`crate::elementwise::map2`].
///
/// # Errors
/// As there.
pub fn map2<A: Copy, B: Copy, O: Copy>(
    a: &NdView<'_, A>,
    b: &NdView<'_, B>,
    out: &mut NdViewMut<'_, O>,
    f: impl Fn(A, B) -> O,
) -> Result<(), KernelError> {
    let shape = broadcast_shape(a.shape(), b.shape())?;
    if shape != out.shape() {
        return Err(KernelError::OutputShape { expected: shape, actual: out.shape().to_vec() });
    }
    let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
    for linear in 0..shape.iter().product() {
        let mut rest = linear;
        let mut offsets = [0, 0, 0];
        for axis in (0..shape.len()).rev() {
            let index = rest % shape[axis];
            rest /= shape[axis];
            offsets[0] += index * a.strides()[axis];
            offsets[1] += index * b.strides()[axis];
            offsets[2] += index * out.strides()[axis];
        }
        out.data_mut()[offsets[2]] = f(a.data()[offsets[0]], b.data()[offsets[1]]);
    }
    Ok(())
}

/// [`crate::activation::swiglu`].
///
/// # Errors
/// As there.
pub fn swiglu<T: Float>(x: &[T], shape: &[usize], axis: usize, out: &mut [T]) -> Result<(), KernelError> {
    error::range("axis", axis, 0, shape.len().saturating_sub(1))?;
    error::length("x", error::product("shape", shape)?, x.len())?;
    error::length("out", x.len() / 2, out.len())?;
    let size = shape.get(axis).copied().unwrap_or(0);
    let half = error::divide("size of the halved axis", size, 2)?;
    let outer: usize = shape.iter().take(axis).product();
    let inner: usize = shape.iter().skip(axis + 1).product();
    for o in 0..outer {
        for d in 0..half {
            for i in 0..inner {
                let gate = x[(o * size + d) * inner + i].to_f32();
                let up = x[(o * size + half + d) * inner + i].to_f32();
                let value = if size_of::<T>() == 4 {
                    let sigmoid = 1.0 / (1.0 + (-gate).exp());
                    sigmoid * gate * up
                } else {
                    gate / (1.0 + (-gate).exp()) * up
                };
                out[(o * half + d) * inner + i] = T::from_f32(value);
            }
        }
    }
    Ok(())
}

/// Whether score `a` goes before score `b` when both could be chosen and `a` has the lower index.
fn not_worse(a: f32, b: f32) -> bool {
    a.is_nan() || (!b.is_nan() && a >= b)
}

/// The index of the best score among the indices that are left, the lowest one of equals.
fn best(scores: &[f32], left: &[usize]) -> Option<usize> {
    left.iter().copied().reduce(|best, next| if not_worse(scores[best], scores[next]) { best } else { next })
}

/// The best `n` indices in order.
fn best_of(scores: &[f32], mut left: Vec<usize>, n: usize) -> Vec<usize> {
    let mut chosen = Vec::new();
    for _ in 0..n {
        if let Some(next) = best(scores, &left) {
            left.retain(|i| *i != next);
            chosen.push(next);
        }
    }
    chosen
}

/// [`crate::gating::gating_top_k`].
///
/// # Errors
/// As there.
pub fn gating_top_k<T: Float, W: Float>(
    gating: &Gating,
    logits: &[T],
    experts: usize,
    bias: Option<&[T]>,
    weights: &mut [W],
    indices: &mut [i32],
    scores_out: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let tokens = gating::check(gating, logits.len(), experts, bias.map(<[T]>::len))?;
    error::length("weights", tokens * gating.top_k, weights.len())?;
    error::length("indices", tokens * gating.top_k, indices.len())?;
    let mut all_scores = Vec::new();
    for t in 0..tokens {
        let x: Vec<f32> = (0..experts).map(|e| logits[t * experts + e].to_f32()).collect();
        let scores: Vec<f32> = match gating.score {
            Score::Sigmoid => x.iter().map(|x| 1.0 / (1.0 + exp(-x))).collect(),
            Score::SqrtSoftplus => x.iter().map(|x| (exp(*x) + 1.0).ln().sqrt()).collect(),
            Score::Softmax(division) => {
                let mut max = f32::NEG_INFINITY;
                for x in &x {
                    max = max.max(*x);
                }
                let exps: Vec<f32> = x.iter().map(|x| exp(x - max)).collect();
                let mut sum = 0.0;
                for e in &exps {
                    sum += e;
                }
                match division {
                    Division::ByQuotient => exps.iter().map(|e| e / sum).collect(),
                    Division::ByReciprocal => exps.iter().map(|e| e * (1.0 / sum)).collect(),
                }
            }
        };
        let mut biased: Vec<f32> =
            (0..experts).map(|e| bias.map_or(scores[e], |bias| scores[e] + bias[e].to_f32())).collect();
        let mut candidates: Vec<usize> = (0..experts).collect();
        if let Some(groups) = gating.groups {
            let members = experts / groups.count;
            let group_scores: Vec<f32> = (0..groups.count)
                .map(|g| {
                    let summed = match groups.score {
                        GroupScore::Max => 1,
                        GroupScore::TopSum(best) => best,
                    };
                    let mut sum = 0.0;
                    for e in best_of(&biased, (g * members..(g + 1) * members).collect(), summed) {
                        sum += biased[e];
                    }
                    sum
                })
                .collect();
            let kept = best_of(&group_scores, (0..groups.count).collect(), groups.keep);
            let is_kept = |e: usize| kept.contains(&(e / members));
            match groups.dropped {
                Dropped::Removed if members > 1 => candidates.retain(|e| is_kept(*e)),
                Dropped::Removed => {}
                Dropped::Zeroed => (0..experts).filter(|e| !is_kept(*e)).for_each(|e| biased[e] *= 0.0),
            }
        }
        let chosen = best_of(&biased, candidates, gating.top_k);
        let mut sum = 0.0;
        for e in &chosen {
            sum += scores[*e];
        }
        for (j, e) in chosen.iter().enumerate() {
            let mut weight = scores[*e];
            match gating.renormalise {
                None => {}
                Some(Division::ByQuotient) => weight /= sum + gating.eps,
                Some(Division::ByReciprocal) => weight *= 1.0 / (sum + gating.eps),
            }
            weights[t * gating.top_k + j] = W::from_f32(weight * gating.scale);
            indices[t * gating.top_k + j] = *e as i32;
        }
        all_scores.extend(scores);
    }
    if let Some(out) = scores_out {
        error::length("scores", all_scores.len(), out.len())?;
        out.copy_from_slice(&all_scores);
    }
    Ok(())
}

/// The sorted slots of [`crate::init_routing::Routing::sorted`].
pub fn sorted_slots(expert_ids: &[i32], experts: Range<usize>) -> Vec<u32> {
    let mut sorted = Vec::new();
    for expert in experts {
        for (slot, id) in expert_ids.iter().enumerate() {
            if i64::from(*id) == expert as i64 {
                sorted.push(slot as u32);
            }
        }
    }
    sorted
}

/// [`crate::combine::finalize`].
///
/// # Errors
/// As there.
pub fn finalize<T: Float, S: Float>(operands: &Finalize<'_, T, S>, out: &mut [T]) -> Result<(), KernelError> {
    let tokens = operands.check(out.len())?;
    let Finalize { hidden, top_k, .. } = *operands;
    let round = |value: f32| match operands.rounding {
        Rounding::Once => value,
        Rounding::EachStep => T::from_f32(value).to_f32(),
    };
    for t in 0..tokens {
        for h in 0..hidden {
            let mut terms = Vec::new();
            terms.extend(operands.x1.map(|x1| x1[t * hidden + h].to_f32()));
            terms.extend(operands.x2.map(|x2| x2[t * hidden + h].to_f32()));
            for j in 0..top_k {
                let Some(row) = operands.row(tokens, t, j) else { continue };
                let mut term = operands.expanded[row * hidden + h].to_f32();
                if let Some(bias) = operands.bias {
                    let expert = bias.expert_ids[t * top_k + j] as usize;
                    term = round(term + bias.bias[expert * hidden + h].to_f32());
                }
                if let Some(scales) = operands.scales {
                    term = round(term * scales[t * top_k + j].to_f32());
                }
                terms.push(term);
            }
            let sum = terms.into_iter().reduce(|sum, term| round(sum + term));
            out[t * hidden + h] = T::from_f32(sum.unwrap_or(0.0));
        }
    }
    Ok(())
}

/// [`crate::combine::unpermute`].
///
/// # Errors
/// As there.
pub fn unpermute<T: Float, P: Float>(operands: &Unpermute<'_, T, P>, out: &mut [T]) -> Result<(), KernelError> {
    let rows = operands.check(out.len())?;
    let Unpermute { hidden, top_k, .. } = *operands;
    for t in 0..out.len() / hidden {
        for h in 0..hidden {
            let mut sum = None;
            for j in 0..top_k {
                let index = operands.sorted_indices[t * top_k + j];
                let prob = operands.prob(t * top_k + j);
                let (first, end) = match operands.held {
                    Held::First | Held::All => (0, rows),
                    Held::Range { start, end } => (start, end),
                };
                if prob == 0.0 || index < 0 || !(first..end).contains(&(index as usize)) {
                    continue;
                }
                let term = operands.permuted[(index as usize - first) * hidden + h].to_f32() * prob;
                sum = Some(sum.map_or(term, |sum: f32| sum + term));
            }
            out[t * hidden + h] = T::from_f32(sum.unwrap_or(0.0));
        }
    }
    Ok(())
}
