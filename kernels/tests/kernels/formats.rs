//! Number formats of weights: every code, rounding at every boundary, and requantisation against plain arithmetic.
use moe_kernels::formats::float8::{E4M3, Overflow, e4m3_from_f32, e8m0, expand_e4m3, is_nan_e4m3};
use moe_kernels::formats::nibbles::{E2M1, E2M1_DOUBLED, expand_e2m1, int4_pair, pack_int4, unpack_int4};
use moe_kernels::formats::requantise::{INT4_LIMIT, INT8_LIMIT, QuantError, mxfp4_to_int8, symmetric};
use proptest::prelude::*;

/// The value of a code from its fields, in f64.
fn e4m3_by_definition(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from((code >> 3) & 15), f64::from(code & 7));
    let magnitude =
        if exponent == 0 { mantissa / 8.0 * 2f64.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[test]
fn every_code_of_e4m3() {
    for code in 0..=255u8 {
        let value = E4M3[usize::from(code)];
        assert_eq!(value.is_nan(), code == 0x7f || code == 0xff, "{code:#x}");
        assert_eq!(is_nan_e4m3(code), value.is_nan());
        if value.is_nan() {
            continue;
        }
        assert_eq!(f64::from(value), e4m3_by_definition(code), "{code:#x}");
        for overflow in [Overflow::Saturate, Overflow::Nan] {
            assert_eq!(e4m3_from_f32(value, overflow), code, "{code:#x} and back");
        }
        let mut out = [0.0];
        assert_eq!(expand_e4m3(&[code], 0.25, &mut out), !value.is_nan());
        assert_eq!(out[0].to_bits(), (value * 0.25).to_bits());
    }
    // All together, also at scales that lead to values at either end of f32.
    let codes: Vec<u8> = (0..=255).collect();
    for scale in [1.0, -3.7e-5, f32::MIN_POSITIVE, 1e-45, 7e35, f32::MAX] {
        let mut out = [0.0; 256];
        assert!(!expand_e4m3(&codes, scale, &mut out));
        let due = E4M3.map(|value| (value * scale).to_bits());
        assert_eq!(out.map(f32::to_bits), due);
        assert!(expand_e4m3(&codes[..0x7f], scale, &mut out) && !expand_e4m3(&codes[..0x80], scale, &mut out));
    }
}

/// Between two neighbours the nearer one, half way the even one.
#[test]
fn e4m3_rounds_to_nearest_even() {
    for code in 0..0x7eu8 {
        let (low, high) = (E4M3[usize::from(code)], E4M3[usize::from(code) + 1]);
        let middle = (low + high) / 2.0;
        let even = if code % 2 == 0 { code } else { code + 1 };
        for sign in [1.0f32, -1.0] {
            let with_sign = |code: u8| if sign > 0.0 { code } else { code | 0x80 };
            for (value, due) in [(middle.next_down(), code), (middle, even), (middle.next_up(), code + 1)] {
                assert_eq!(e4m3_from_f32(sign * value, Overflow::Saturate), with_sign(due), "{value}");
            }
        }
    }
    for (value, saturated, strict) in [
        (464.0f32, 0x7e, 0x7e),
        (464.0f32.next_up(), 0x7e, 0x7f),
        (f32::MAX, 0x7e, 0x7f),
        (f32::INFINITY, 0x7e, 0x7f),
        (f32::NEG_INFINITY, 0xfe, 0xff),
        (f32::from_bits(1), 0, 0),
        (-0.0, 0x80, 0x80),
    ] {
        assert_eq!(e4m3_from_f32(value, Overflow::Saturate), saturated, "{value}");
        assert_eq!(e4m3_from_f32(value, Overflow::Nan), strict, "{value}");
    }
    for overflow in [Overflow::Saturate, Overflow::Nan] {
        assert!(is_nan_e4m3(e4m3_from_f32(f32::NAN, overflow)));
    }
}

#[test]
fn every_code_of_e8m0_and_e2m1() {
    for code in 0..255u8 {
        assert_eq!(f64::from(e8m0(code)), 2f64.powi(i32::from(code) - 127), "{code}");
    }
    assert!(e8m0(255).is_nan());
    for byte in 0..=255u8 {
        let mut pair = [0.0; 2];
        expand_e2m1(&[byte], 4.0, &mut pair);
        let codes = [usize::from(byte & 15), usize::from(byte >> 4)];
        assert_eq!(pair.map(f32::to_bits), codes.map(|code| (4.0 * E2M1[code]).to_bits()));
        assert_eq!(codes.map(|code| f32::from(E2M1_DOUBLED[code])), codes.map(|code| 2.0 * E2M1[code]));
        let mut codes = [0; 2];
        unpack_int4(&[byte], &mut codes);
        assert_eq!(codes, int4_pair(byte));
        assert!(codes.iter().all(|code| (-8..8).contains(code)));
        let mut packed = [0];
        pack_int4(&codes, &mut packed);
        assert_eq!(packed, [byte]);
    }
}

#[test]
fn codes_of_every_number_are_packed_and_back() {
    for count in 0..70usize {
        let codes: Vec<i8> = (0..count).map(|at| (at * 5 % 16) as i8 - 8).collect();
        for bytes in [count / 2, count / 2 + 3, (count / 2).saturating_sub(3)] {
            let mut packed = vec![0xAA; bytes];
            pack_int4(&codes, &mut packed);
            let whole = bytes.min(count / 2);
            let mut back = vec![99; 2 * whole];
            unpack_int4(&packed, &mut back);
            assert_eq!(back, codes[..2 * whole], "{count} codes in {bytes} bytes");
            assert!(packed[whole..].iter().all(|byte| *byte == 0xAA));
        }
    }
}

#[test]
fn rows_at_the_edges() {
    let mut codes = [9; 3];
    let (scale, error) = symmetric(&[0.0; 3], INT8_LIMIT, &mut codes).unwrap();
    assert_eq!((codes, scale), ([0; 3], f32::MIN_POSITIVE));
    assert!(error.is_exact() && error.rms() == 0.0 && error.max() == 0.0);
    let (scale, _) = symmetric(&[f32::MAX, -f32::MAX, 1.0], INT8_LIMIT, &mut codes).unwrap();
    assert_eq!((codes, scale), ([127, -127, 0], f32::MAX / 127.0));
    let tiny = f32::from_bits(1);
    symmetric(&[tiny, -tiny, 0.0], INT4_LIMIT, &mut codes).unwrap();
    assert_eq!(codes, [0; 3]);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(symmetric(&[1.0, wrong, 2.0], INT8_LIMIT, &mut codes), None);
    }
    assert!(symmetric(&[], INT8_LIMIT, &mut []).unwrap().1.is_exact());
    // Half steps go to the even code.
    let (scale, _) = symmetric(&[127.0, 0.5, -1.5], INT8_LIMIT, &mut codes).unwrap();
    assert_eq!((codes, scale), ([127, 0, -2], 1.0));
}

/// MXFP4 codes of a row and the exponents of its blocks.
fn packed(rows: &[(u8, [u8; 2])]) -> (Vec<u8>, Vec<u8>) {
    let bytes = rows.iter().flat_map(|(_, [first, rest])| {
        let mut block = vec![*rest; 16];
        block[0] = *first;
        block
    });
    (bytes.collect(), rows.iter().map(|(exponent, _)| *exponent).collect())
}

#[test]
fn blocks_of_exponents_far_apart_have_no_exact_int8() {
    let mut codes = [0; 64];
    // The largest and the smallest code: 12 * 2^3 fits, 12 * 2^4 does not.
    let (bytes, exponents) = packed(&[(103, [0x77, 0]), (100, [0x11, 0])]);
    assert_eq!(mxfp4_to_int8(&bytes, &exponents, &mut codes), Some(2f32.powi(-28)));
    assert_eq!((codes[0], codes[32]), (96, 1));
    let (bytes, exponents) = packed(&[(104, [0x77, 0]), (100, [0x11, 0])]);
    assert_eq!(mxfp4_to_int8(&bytes, &exponents, &mut codes), None);
    // What a block does not hold does not count: its zeros, and the places that all of its codes leave empty.
    let (bytes, exponents) = packed(&[(254, [0x07, 0]), (0, [0, 0])]);
    assert_eq!(mxfp4_to_int8(&bytes, &exponents, &mut codes), None, "6 * 2^127 is no number of f32");
    let (bytes, exponents) = packed(&[(200, [0x0f, 0]), (3, [0, 0x08])]);
    assert_eq!(mxfp4_to_int8(&bytes, &exponents, &mut codes), Some(2f32.powi(74)));
    assert_eq!(codes[0], -3);
    let (bytes, exponents) = packed(&[(0, [0, 0]), (255, [0, 0])]);
    assert!(mxfp4_to_int8(&bytes, &exponents, &mut codes).is_some());
    assert_eq!(codes, [0; 64]);
}

proptest! {
    #[test]
    fn symmetric_codes_are_the_nearest(
        values in prop::collection::vec(-1e3f32..1e3, 1..200),
        exponent in -100i32..100,
        limit in prop::sample::select(vec![INT8_LIMIT, INT4_LIMIT]),
    ) {
        let values: Vec<f32> = values.iter().map(|value| value * 2f32.powi(exponent)).collect();
        let mut codes = vec![0; values.len()];
        let (scale, error) = symmetric(&values, limit, &mut codes).unwrap();
        let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        prop_assert_eq!(scale, (largest / f32::from(limit)).max(f32::MIN_POSITIVE));
        let mut found = Vec::new();
        for (value, code) in values.iter().zip(&codes) {
            prop_assert_eq!(f32::from(*code), (value / scale).round_ties_even());
            prop_assert!(code.abs() <= limit);
            found.push(f32::from(*code) * scale);
        }
        let due = QuantError::between(&values, &found);
        prop_assert!((error.max() - due.max()).abs() <= 1e-5 * due.max() + 1e-6);
        prop_assert!((error.rms() - due.rms()).abs() <= 1e-5 * due.rms() + 1e-6);
        prop_assert!((error.max() - due.max()).abs() <= 1e-5 * due.max() + 1e-6);
    }

    #[test]
    fn an_error_is_its_formula(pairs in prop::collection::vec((-1e3..1e3f32, -1.0..1.0f32), 0..70)) {
        let (values, became): (Vec<f32>, Vec<f32>) = pairs.iter().map(|(value, off)| (*value, value + off)).unzip();
        let found = QuantError::between(&values, &became);
        let error = |(value, became): (&f32, &f32)| f64::from(*value) - f64::from(*became);
        let errors: Vec<f64> = values.iter().zip(&became).map(error).collect();
        let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let most = |values: &[f64]| values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        let values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        let near = |found: f64, due: f64| found == due || (found - due).abs() <= 1e-12 * due;
        prop_assert!(errors.iter().all(|error| *error == 0.0) || near(found.rms(), (squares(&errors) / squares(&values)).sqrt()));
        prop_assert!(errors.iter().all(|error| *error == 0.0) || near(found.max(), most(&errors) / most(&values)));
        prop_assert_eq!(found.is_exact(), errors.iter().all(|error| *error == 0.0));
    }

    #[test]
    fn near_exponents_merge_without_loss(
        codes in prop::collection::vec(any::<u8>(), 16 * 4),
        lowest in 0u8..250,
        above in prop::collection::vec(0u8..=3, 4),
    ) {
        let exponents: Vec<u8> = above.iter().map(|above| lowest + above).collect();
        let mut int8 = vec![0; 128];
        let scale = mxfp4_to_int8(&codes, &exponents, &mut int8).unwrap();
        for (block, (packed, exponent)) in codes.chunks(16).zip(&exponents).enumerate() {
            let mut values = [0.0; 32];
            expand_e2m1(packed, e8m0(*exponent), &mut values);
            for (value, code) in values.iter().zip(&int8[block * 32..]) {
                prop_assert_eq!(*value, f32::from(*code) * scale);
            }
        }
    }
}
