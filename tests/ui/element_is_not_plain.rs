use ascend_moe::{Device, Result, Tensor};

// A `bool` has forbidden bit patterns; the bytes of a `Bool` tensor are read as `u8`.
fn flags(device: &Device) -> Result<Tensor> {
    Tensor::from_slice(device, &[true, false], &[2])
}

fn main() {}
