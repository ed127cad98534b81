//! Quantised checkpoints: every layout expands to exactly the values it stands for, and gives the codes that it holds.

use ascend_moe::checkpoint::{Checkpoint, HostLayer, QuantError, Stored};
use ascend_moe::spec::{FloatType, Part};
use half::{bf16, f16};

use crate::layouts::{ALL, Layout, stored_as};
use crate::support::floats;

const PARTS: [Part; 2] = [Part::W13, Part::W2];

fn values(layer: &HostLayer<'_>, part: Part, dtype: FloatType) -> Vec<u8> {
    let mut bytes = vec![0xAA; layer.spec().fill_bytes(part, dtype) * layer.spec().experts().num];
    layer.fill(part, 0..layer.spec().experts().num, dtype, &mut bytes).unwrap();
    bytes
}

/// E, N and K of a part.
fn sizes(layer: &HostLayer<'_>, part: Part) -> [usize; 3] {
    layer.spec().shape(part).unwrap().try_into().unwrap()
}

fn int8(layer: &HostLayer<'_>, part: Part) -> (Vec<i8>, Vec<f32>, QuantError) {
    let [experts, rows, cols] = sizes(layer, part);
    let (mut codes, mut scales) = (vec![99; experts * rows * cols], vec![f32::NAN; experts * rows]);
    let error = layer.fill_int8(part, 0..experts, &mut codes, &mut scales).unwrap();
    (codes, scales, error)
}

fn int4(layer: &HostLayer<'_>, part: Part, group: Option<usize>) -> (Vec<i8>, Vec<f32>, QuantError) {
    let [experts, rows, cols] = sizes(layer, part);
    let groups = cols / group.unwrap_or(cols);
    let (mut packed, mut scales) = (vec![0x99; experts * rows * cols / 2], vec![f32::NAN; experts * rows * groups]);
    let error = layer.fill_int4(part, 0..experts, group, &mut packed, &mut scales).unwrap();
    let codes = packed.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]).collect();
    (codes, scales, error)
}

/// What codes in groups of so many stand for.
fn dequantised(codes: &[i8], scales: &[f32], group: usize) -> Vec<f32> {
    codes.iter().enumerate().map(|(at, code)| f32::from(*code) * scales[at / group]).collect()
}

/// The measure of an error, in plain arithmetic.
fn measured(values: &[f32], found: &[f32]) -> [f64; 2] {
    let pairs =
        || values.iter().zip(found).map(|(value, found)| (f64::from(*value), f64::from(*value) - f64::from(*found)));
    let squares =
        pairs().fold([0.0, 0.0], |[values, errors], (value, error)| [values + value * value, errors + error * error]);
    let most = pairs()
        .fold([0.0f64, 0.0], |[values, errors], (value, error)| [values.max(value.abs()), errors.max(error.abs())]);
    [(squares[1] / squares[0]).sqrt(), most[1] / most[0]]
}

#[test]
fn every_layout_expands_to_its_values() {
    for layout in ALL {
        let (quantised, plain) = stored_as("qwen3-moe", layout);
        let [quantised, plain] = [&quantised, &plain].map(|dir| Checkpoint::open(dir.path()).unwrap());
        for index in [0, 1] {
            let (layer, due) = (quantised.layer_weights(index).unwrap(), plain.layer_weights(index).unwrap());
            for part in PARTS {
                let exact = floats(&values(&due, part, FloatType::F32));
                assert_eq!(floats(&values(&layer, part, FloatType::F32)), exact, "{layout:?} {part:?}");
                let halves = values(&layer, part, FloatType::Bf16);
                let rounded: Vec<u8> = exact.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
                assert_eq!(halves, rounded, "{layout:?} {part:?}");
                let halves = values(&layer, part, FloatType::F16);
                let rounded: Vec<u8> = exact.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
                assert_eq!(halves, rounded, "{layout:?} {part:?}");
            }
        }
    }
}

#[test]
fn every_layout_is_told() {
    for layout in ALL {
        let due = match layout {
            Layout::Fp8 | Layout::Fp8PowersOfTwo | Layout::Fp8E8m0 => Stored::Fp8Block { block: [16, 16] },
            Layout::Mxfp4 => Stored::Mxfp4,
            Layout::Int8 | Layout::ModelSlimInt8 => Stored::Int8 { group: None },
            Layout::Int4(group) => Stored::Int4 { group },
            Layout::Int4Zeros => Stored::Int4 { group: Some(16) },
            Layout::Int4Bytes | Layout::ModelSlimInt4 => Stored::Int4 { group: None },
        };
        let checkpoint = Checkpoint::open(stored_as("qwen3-moe", layout).0.path()).unwrap();
        let layer = checkpoint.layer_weights(0).unwrap();
        assert_eq!(PARTS.map(|part| layer.stored(part)), [Some(due); 2], "{layout:?}");
        assert_eq!(layer.stored(Part::Router), Some(Stored::Float(FloatType::F32)));
        assert_eq!(layer.stored(Part::SharedW13), None);
    }
}

/// Whatever the layout, codes times scales are as near to the values as is told; where the layout has such codes, they are it.
#[test]
fn codes_of_every_layout() {
    for layout in ALL {
        let (quantised, _plain) = stored_as("qwen3-moe", layout);
        let checkpoint = Checkpoint::open(quantised.path()).unwrap();
        let layer = checkpoint.layer_weights(1).unwrap();
        for part in PARTS {
            let [.., cols] = sizes(&layer, part);
            let exact = floats(&values(&layer, part, FloatType::F32));
            let check =
                |(codes, scales, error): (Vec<i8>, Vec<f32>, QuantError), group: usize, free: bool, most: f64| {
                    let found = dequantised(&codes, &scales, group);
                    let [rms, max] = measured(&exact, &found);
                    if free {
                        assert_eq!(found, exact, "{layout:?} {part:?}");
                        assert!(error.is_exact());
                    } else {
                        assert!(error.rms() > 0.0 && error.rms() < most, "{layout:?} {part:?}: {}", error.rms());
                    }
                    assert!((error.rms() - rms).abs() <= 1e-4 * rms && (error.max() - max).abs() <= 1e-4 * max);
                };
            let channel_int4 = matches!(layout, Layout::Int4(None) | Layout::Int4Bytes | Layout::ModelSlimInt4);
            let as_int8 = channel_int4 || matches!(layout, Layout::Int8 | Layout::ModelSlimInt8);
            // These random weights have exponents near each other.
            check(int8(&layer, part), cols, as_int8 || layout == Layout::Mxfp4, 0.02);
            check(int4(&layer, part, None), cols, channel_int4, 0.3);
            check(int4(&layer, part, Some(16)), 16, channel_int4 || layout == Layout::Int4(Some(16)), 0.3);
        }
    }
}
