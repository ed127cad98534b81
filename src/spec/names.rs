//! How the tensors of a mixture-of-experts layer are called in a published checkpoint.

/// A projection of an expert, each a torch linear weight `[out, in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// `[I, H]`, into the activation.
    Gate,
    /// `[I, H]`, multiplied by the activated gate.
    Up,
    /// `[H, I]`, back to the hidden width.
    Down,
}

/// Naming of the tensors of a model. Every tensor of layer `n` starts with [`TensorNames::block`]`(n)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorNames {
    /// What stands before the layer's number.
    pub(super) layers: &'static str,
    /// The block inside a layer.
    pub(super) block: &'static str,
    /// Gate, up and down of an expert.
    pub(super) projections: [&'static str; 3],
}

impl TensorNames {
    /// What the names of all tensors of layer `layer`'s block start with, with the dot.
    pub fn block(&self, layer: usize) -> String {
        format!("{}.{layer}.{}.", self.layers, self.block)
    }

    /// Router weight `[E, H]`.
    pub fn router(&self, layer: usize) -> String {
        format!("{}gate.weight", self.block(layer))
    }

    /// Choice bias `[E]`.
    pub fn choice_bias(&self, layer: usize) -> String {
        format!("{}gate.e_score_correction_bias", self.block(layer))
    }

    /// A projection of a routed expert.
    pub fn expert(&self, layer: usize, expert: usize, projection: Projection) -> String {
        format!("{}experts.{expert}.{}.weight", self.block(layer), self.projection(projection))
    }

    /// A projection of the shared expert.
    pub fn shared(&self, layer: usize, projection: Projection) -> String {
        format!("{}shared_experts.{}.weight", self.block(layer), self.projection(projection))
    }

    fn projection(&self, projection: Projection) -> &'static str {
        let [gate, up, down] = self.projections;
        match projection {
            Projection::Gate => gate,
            Projection::Up => up,
            Projection::Down => down,
        }
    }
}
