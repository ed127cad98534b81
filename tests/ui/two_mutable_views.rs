use ascend_moe::{Result, Stream, Tensor};

fn twice(tensor: &mut Tensor, stream: &Stream) -> Result<()> {
    let mut first = tensor.view_mut();
    let mut second = tensor.view_mut();
    first.copy_from_host(stream, &[1.0f32])?;
    second.copy_from_host(stream, &[2.0f32])
}

fn main() {}
