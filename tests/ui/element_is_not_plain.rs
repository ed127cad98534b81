use ascend_moe::{Device, DeviceBuffer, Result};

fn boxed(device: &Device) -> Result<DeviceBuffer<Box<u8>>> {
    DeviceBuffer::from_slice(device, &[Box::new(1)])
}

fn main() {}
