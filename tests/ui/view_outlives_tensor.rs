use ascend_moe::{DType, Device, Result, Tensor};

fn dangling(device: &Device) -> Result<()> {
    let view = {
        let tensor = Tensor::zeros(device, DType::F32, &[4])?;
        tensor.view()
    };
    println!("{:?}", view.shape());
    Ok(())
}

fn main() {}
