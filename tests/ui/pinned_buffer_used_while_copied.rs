use ascend_moe::{DeviceBuffer, PinnedBuffer, Result, Stream};

fn write_under_way(stream: &Stream, target: &mut DeviceBuffer<u8>, mut source: PinnedBuffer<u8>) -> Result<()> {
    let pending = target.upload(stream, source)?;
    source[0] = 1;
    pending.wait().map(drop)
}

fn main() {}
