//! The jobs that are measured, with their goals, and what goes into them.

use moe_kernels::element::Float;

/// What a result is set against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The operations of the products at the peak for their type.
    Operations,
    /// The bytes of the weights of experts that have tokens, at the rate at which memory is read.
    WeightBytes,
}

/// A layer's experts at work: tokens that the router has sent to `top_k` experts each. From activations, expert ids and their
/// weights to the output: sorting, gathering, products, activation, weighting and adding are part of it, packing of weights
/// is not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Experts {
    /// Its short name.
    pub(crate) name: &'static str,
    /// What it stands for.
    pub(crate) what: &'static str,
    /// Tokens.
    pub(crate) tokens: usize,
    /// Width of a token.
    pub(crate) hidden: usize,
    /// Width within an expert.
    pub(crate) intermediate: usize,
    /// Experts.
    pub(crate) experts: usize,
    /// Experts of a token.
    pub(crate) top_k: usize,
    /// What limits it.
    pub(crate) bound: Bound,
    /// The share of the bound that is wanted.
    pub(crate) share: f64,
    /// The peers, with the speed that is wanted, theirs being 1. oneDNN prepacks bf16 on some CPUs only; `torch-linear`, without
    /// prepacked weights, stands in for it on others.
    pub(crate) peers: &'static [(&'static str, f64)],
}

/// Prefill of a small layer.
pub(crate) const W1: Experts = Experts {
    name: "W1",
    what: "prefill, small",
    tokens: 512,
    hidden: 2048,
    intermediate: 1024,
    experts: 32,
    top_k: 4,
    bound: Bound::Operations,
    share: 0.83,
    peers: &[("torch-onednn", 1.2), ("torch-linear", 1.2)],
};
/// Decoding of the same layer.
pub(crate) const W2: Experts = Experts {
    name: "W2",
    what: "decode, small",
    tokens: 8,
    bound: Bound::WeightBytes,
    share: 0.85,
    peers: &[("torch-grouped_mm", 1.5)],
    ..W1
};
/// Prefill of a slice of DeepSeek-V3.
pub(crate) const W3: Experts = Experts {
    name: "W3",
    what: "prefill, slice of DeepSeek-V3",
    tokens: 256,
    hidden: 7168,
    intermediate: 2048,
    experts: 16,
    top_k: 8,
    bound: Bound::Operations,
    share: 0.87,
    peers: &[("torch-onednn", 1.15), ("torch-linear", 1.15)],
};
/// Decoding of the same slice.
pub(crate) const W4: Experts = Experts {
    name: "W4",
    what: "decode, slice of DeepSeek-V3",
    tokens: 16,
    bound: Bound::WeightBytes,
    share: 0.90,
    peers: &[("torch-onednn", 1.3), ("torch-linear", 1.3)],
    ..W3
};

/// W1 in W8A8.
pub(crate) const W5: Experts =
    Experts { name: "W5", what: "prefill, small, W8A8", share: 0.76, peers: &[("torch-qlinear", 1.5)], ..W1 };
/// W3 in W8A8.
pub(crate) const W6: Experts = Experts {
    name: "W6",
    what: "prefill, slice of DeepSeek-V3, W8A8",
    share: 0.86,
    peers: &[("torch-qlinear", 1.15)],
    ..W3
};

impl std::fmt::Display for Experts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, what, tokens, hidden, intermediate, experts, top_k, .. } = self;
        write!(f, "{name}, {what}: T{tokens} H{hidden} I{intermediate} E{experts} k{top_k}")
    }
}

impl Experts {
    /// Expert ids `[tokens, top_k]`, those of a token distinct: the first of a shuffle for each token.
    pub(crate) fn expert_ids(&self) -> Vec<i32> {
        expert_ids(self.tokens, self.experts, self.top_k)
    }

    /// Operations of the three products.
    pub(crate) fn operations(&self) -> f64 {
        2.0 * (self.tokens * self.top_k * self.weights_per_expert()) as f64
    }

    /// Weights of the experts that have tokens.
    pub(crate) fn active_weights(&self) -> f64 {
        (self.active_experts() * self.weights_per_expert()) as f64
    }

    /// Experts that have tokens.
    pub(crate) fn active_experts(&self) -> usize {
        let ids = self.expert_ids();
        (0..self.experts).filter(|expert| ids.contains(&(*expert as i32))).count()
    }

    fn weights_per_expert(&self) -> usize {
        3 * self.hidden * self.intermediate
    }
}

/// Expert ids `[tokens, top_k]`, those of a token distinct: the first of a shuffle for each token.
pub(crate) fn expert_ids(tokens: usize, experts: usize, top_k: usize) -> Vec<i32> {
    let mut random = Random(0x9E37_79B9);
    let mut ids = Vec::with_capacity(tokens * top_k);
    for _ in 0..tokens {
        let mut all: Vec<i32> = (0..experts as i32).collect();
        for j in 0..top_k {
            all.swap(j, j + random.below(experts - j));
            ids.push(all[j]);
        }
    }
    ids
}

/// Small values of both signs, of which the first 65536 repeat.
pub(crate) fn values<T: Float>(len: usize, scale: f32) -> Vec<T> {
    let mut random = Random(7);
    let block: Vec<T> =
        (0..1 << 16).map(|_| T::from_f32((random.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * scale)).collect();
    block.iter().copied().cycle().take(len).collect()
}

/// Bytes that addresses of device memory are a multiple of, in CANN.
const DEVICE_ALIGN: usize = 512;

/// Values that begin where an allocation on a device may begin.
pub(crate) struct Device<T> {
    room: Vec<T>,
    start: usize,
}

impl<T: Copy> Device<T> {
    /// A copy of `values`.
    pub(crate) fn new(values: &[T]) -> Self {
        let most = DEVICE_ALIGN / size_of::<T>();
        let mut room: Vec<T> = Vec::with_capacity(values.len() + most);
        let start = room.as_ptr().align_offset(DEVICE_ALIGN).min(most);
        room.extend(values.iter().copied().cycle().take(start));
        room.extend_from_slice(values);
        Self { room, start }
    }
}

impl<T> std::ops::Deref for Device<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.room[self.start..]
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}
