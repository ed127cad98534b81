use ascend_moe::{DType, Result, Stream};

fn kept(stream: &Stream) -> Result<()> {
    let sequence = stream.sequence()?;
    let scratch = sequence.tensor(DType::F32, &[4])?;
    drop(sequence);
    println!("{:?}", scratch.shape());
    Ok(())
}

fn main() {}
