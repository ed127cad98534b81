//! A layer's weights on the device, and where they come from.

use std::ops::Range;

use half::{bf16, f16};

use super::{LayerOptions, RouterPlan};
use crate::checkpoint::HostLayer;
use crate::dtype::DType;
use crate::error::Result;
use crate::pinned::PinnedBuffer;
use crate::spec::{FloatType, MoeSpec};
use crate::stream::Stream;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// Where a layer's weights come from. Each call fills host memory: row-major, little-endian, of the type asked for, and
/// exactly as long as [`MoeSpec::weight_bytes`] says. A part the layer does not have is never asked for.
///
/// `E` experts, `H` hidden, `I` intermediate, `S` the shared expert's width inside.
pub trait WeightSource {
    /// What the layer computes.
    fn spec(&self) -> &MoeSpec;

    /// Router weight `[E, H]`.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill_router(&self, dtype: FloatType, target: &mut [u8]) -> Result<()>;

    /// Choice bias `[E]`, fp32.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill_choice_bias(&self, target: &mut [u8]) -> Result<()>;

    /// Gate and up projections `[experts, 2I, H]`: of each expert the gate rows, then the up rows.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill_w13(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()>;

    /// Down projections `[experts, H, I]`.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill_w2(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()>;

    /// The shared expert's gate and up projections `[2S, H]`.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill_shared_w13(&self, dtype: FloatType, target: &mut [u8]) -> Result<()>;

    /// The shared expert's down projection `[H, S]`.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill_shared_w2(&self, dtype: FloatType, target: &mut [u8]) -> Result<()>;
}

impl WeightSource for HostLayer<'_> {
    fn spec(&self) -> &MoeSpec {
        self.spec()
    }

    fn fill_router(&self, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill_router(dtype, target)?)
    }

    fn fill_choice_bias(&self, target: &mut [u8]) -> Result<()> {
        Ok(self.fill_choice_bias(target)?)
    }

    fn fill_w13(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill_w13(experts, dtype, target)?)
    }

    fn fill_w2(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill_w2(experts, dtype, target)?)
    }

    fn fill_shared_w13(&self, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill_shared_w13(dtype, target)?)
    }

    fn fill_shared_w2(&self, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill_shared_w2(dtype, target)?)
    }
}

/// Type and shape of a weight tensor.
type Weight<const N: usize> = (DType, [usize; N]);

/// Types and shapes of a layer's weight tensors.
pub(super) struct WeightShapes {
    router: Weight<2>,
    choice_bias: Option<Weight<1>>,
    w13: Weight<3>,
    w2: Weight<3>,
    shared: Option<(Weight<2>, Weight<2>)>,
}

impl WeightShapes {
    pub(super) fn new(spec: &MoeSpec, options: LayerOptions, router: &RouterPlan) -> Self {
        let (experts, hidden, inner) = (spec.experts().num, spec.experts().hidden, spec.experts().intermediate);
        let dtype = DType::from(options.dtype);
        let shared = |width| ((dtype, [2 * width, hidden]), (dtype, [hidden, width]));
        Self {
            router: (router.logits.into(), [experts, hidden]),
            choice_bias: spec.router().choice_bias.then_some((DType::F32, [experts])),
            w13: (dtype, [experts, 2 * inner, hidden]),
            w2: (dtype, [experts, hidden, inner]),
            shared: spec.shared().map(|spec| shared(spec.intermediate)),
        }
    }

    /// Bytes of each tensor.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u64> {
        let router = [Some(bytes(self.router)), self.choice_bias.map(bytes)];
        let experts = [Some(bytes(self.w13)), Some(bytes(self.w2))];
        let shared = [self.shared.map(|(w13, _)| bytes(w13)), self.shared.map(|(_, w2)| bytes(w2))];
        router.into_iter().chain(experts).chain(shared).flatten()
    }

    /// Views without memory.
    pub(super) fn planned(&self) -> Result<(RouterViews<'static>, ExpertViews<'static>)> {
        fn view<const N: usize>((dtype, shape): Weight<N>) -> Result<TensorView<'static>> {
            TensorView::planned(dtype, &shape)
        }
        let router = RouterViews { weight: view(self.router)?, choice_bias: self.choice_bias.map(view).transpose()? };
        let shared = self.shared.map(|(w13, w2)| Ok::<_, crate::Error>((view(w13)?, view(w2)?))).transpose()?;
        Ok((router, ExpertViews { w13: view(self.w13)?, w2: view(self.w2)?, shared }))
    }
}

fn bytes<const N: usize>((dtype, shape): Weight<N>) -> u64 {
    shape.iter().product::<usize>() as u64 * dtype.bytes() as u64
}

/// The router's weights as a pass sees them: on the device, or planned.
#[derive(Clone, Copy)]
pub(super) struct RouterViews<'a> {
    /// `[E, H]`.
    pub(super) weight: TensorView<'a>,
    /// fp32 `[E]`.
    pub(super) choice_bias: Option<TensorView<'a>>,
}

/// The experts' weights as a pass sees them: on the device, or planned.
#[derive(Clone, Copy)]
pub(super) struct ExpertViews<'a> {
    /// `[E, 2I, H]`, gate rows first.
    pub(super) w13: TensorView<'a>,
    /// `[E, H, I]`.
    pub(super) w2: TensorView<'a>,
    /// `[2S, H]` and `[H, S]`.
    pub(super) shared: Option<(TensorView<'a>, TensorView<'a>)>,
}

/// The router's weights on the device.
pub(super) struct RouterWeights {
    weight: Tensor,
    choice_bias: Option<Tensor>,
}

impl RouterWeights {
    pub(super) fn views(&self) -> RouterViews<'_> {
        RouterViews { weight: self.weight.view(), choice_bias: self.choice_bias.as_ref().map(Tensor::view) }
    }
}

/// The experts' weights on the device.
pub(super) struct ExpertWeights {
    w13: Tensor,
    w2: Tensor,
    shared: Option<(Tensor, Tensor)>,
}

impl ExpertWeights {
    pub(super) fn views(&self) -> ExpertViews<'_> {
        let shared = self.shared.as_ref().map(|(w13, w2)| (w13.view(), w2.view()));
        ExpertViews { w13: self.w13.view(), w2: self.w2.view(), shared }
    }
}

/// Bytes of the pinned buffer that weights pass through: the largest part that is copied at once.
pub(super) fn staging_bytes(spec: &MoeSpec, options: LayerOptions, router: &RouterPlan) -> usize {
    let model = spec.weight_bytes(options.dtype);
    let router = spec.experts().num * spec.experts().hidden * router.logits.bytes();
    let parts = [model.choice_bias, model.expert_w13, model.expert_w2, model.shared_w13, model.shared_w2];
    parts.into_iter().fold(router, usize::max)
}

/// Copies weights to the device through one pinned buffer, and tells how far it is.
pub(super) struct Upload<'a> {
    stream: &'a Stream,
    source: &'a dyn WeightSource,
    options: LayerOptions,
    plan: &'a RouterPlan,
    shapes: WeightShapes,
    staging: PinnedBuffer<u8>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        source: &'a dyn WeightSource,
        options: LayerOptions,
        plan: &'a RouterPlan,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let shapes = WeightShapes::new(source.spec(), options, plan);
        let staging = PinnedBuffer::alloc_zeroed(stream.device(), staging_bytes(source.spec(), options, plan))?;
        let total = shapes.bytes().sum();
        progress(0, total);
        Ok(Self { stream, source, options, plan, shapes, staging, done: 0, total, progress })
    }

    pub(super) fn router(&mut self) -> Result<RouterWeights> {
        let (source, logits) = (self.source, self.plan.logits);
        let mut weight = self.tensor(self.shapes.router)?;
        self.fill(weight.view_mut(), |target| source.fill_router(logits, target))?;
        let mut choice_bias = self.shapes.choice_bias.map(|bias| self.tensor(bias)).transpose()?;
        if let Some(bias) = &mut choice_bias {
            self.fill(bias.view_mut(), |target| source.fill_choice_bias(target))?;
        }
        Ok(RouterWeights { weight, choice_bias })
    }

    pub(super) fn experts(&mut self) -> Result<ExpertWeights> {
        let (source, dtype) = (self.source, self.options.dtype);
        let (mut w13, mut w2) = (self.tensor(self.shapes.w13)?, self.tensor(self.shapes.w2)?);
        for expert in 0..source.spec().experts().num {
            let one = expert..expert + 1;
            self.fill(w13.view_mut().rows(one.clone())?, |target| source.fill_w13(one.clone(), dtype, target))?;
            self.fill(w2.view_mut().rows(one.clone())?, |target| source.fill_w2(one.clone(), dtype, target))?;
        }
        let shared = match self.shapes.shared {
            None => None,
            Some((up, down)) => {
                let (mut up, mut down) = (self.tensor(up)?, self.tensor(down)?);
                self.fill(up.view_mut(), |target| source.fill_shared_w13(dtype, target))?;
                self.fill(down.view_mut(), |target| source.fill_shared_w2(dtype, target))?;
                Some((up, down))
            }
        };
        Ok(ExpertWeights { w13, w2, shared })
    }

    fn tensor<const N: usize>(&self, (dtype, shape): Weight<N>) -> Result<Tensor> {
        // SAFETY: `router` and `experts` fill every tensor before they give it away.
        unsafe { Tensor::uninit(self.stream.device(), dtype, &shape) }
    }

    fn fill(&mut self, mut target: TensorViewMut<'_>, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let elements = target.desc().elements().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let bytes = elements * target.dtype().bytes();
        // The buffer is as long as the largest part, see `staging_bytes`.
        let staged = self.staging.get_mut(..bytes).unwrap_or_default();
        fill(staged)?;
        // Pinned memory is aligned for every element type.
        match target.dtype() {
            DType::F32 => target.copy_from_host::<f32>(self.stream, bytemuck::cast_slice(staged))?,
            DType::Bf16 => target.copy_from_host::<bf16>(self.stream, bytemuck::cast_slice(staged))?,
            DType::F16 => target.copy_from_host::<f16>(self.stream, bytemuck::cast_slice(staged))?,
            other => return Err(crate::Error::dtype("weight", other, "f32, bf16 or f16")),
        }
        self.done += bytes as u64;
        (self.progress)(self.done, self.total);
        Ok(())
    }
}
