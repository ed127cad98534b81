use ascend_moe::{Result, Sequence, Tensor, op};

fn in_place(sequence: &Sequence<'_>, tensor: &mut Tensor) -> Result<()> {
    op::muls(sequence, &tensor.view(), 2.0, &mut tensor.view_mut())
}

fn main() {}
