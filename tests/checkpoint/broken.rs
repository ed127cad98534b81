//! Every way a checkpoint can be broken, and the error that says so.

use std::fs;
use std::path::Path;

use ascend_moe::checkpoint::{
    Checkpoint, CheckpointError, HostLayer, HostTensor, NamedTensor, TensorFile, write_tensors,
};
use ascend_moe::spec::{FloatType, Part, SpecError};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use crate::support::{Tensor, copy, data, edit_json, raw, rewrite, safetensors};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const GATE: &str = "model.layers.1.mlp.gate.weight";
const UP: &str = "model.layers.1.mlp.experts.3.up_proj.weight";

fn opened(dir: &Path) -> CheckpointError {
    Checkpoint::open(dir).unwrap_err()
}

/// The error of a single file of these bytes.
fn file_error(bytes: &[u8]) -> CheckpointError {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, bytes).unwrap();
    TensorFile::open(path).unwrap_err()
}

/// The error of layer 1 of the Qwen3-MoE checkpoint after its tensors were changed.
fn layer_error(edit: impl FnOnce(&mut Vec<Tensor>)) -> CheckpointError {
    let dir = copy("qwen3-moe");
    rewrite(&dir.path().join(WEIGHTS), edit);
    Checkpoint::open(dir.path()).unwrap().layer_weights(1).unwrap_err()
}

fn named<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

#[test]
fn folders() {
    let dir = copy("mixtral");
    assert!(matches!(opened(&dir.path().join("absent")), CheckpointError::NoFolder { .. }));
    assert!(matches!(opened(&dir.path().join(WEIGHTS)), CheckpointError::NotAFolder { .. }));
    fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::NoWeights { .. }));
    fs::create_dir(dir.path().join(WEIGHTS)).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::NotAFile { .. }));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::NoConfig { .. }));
}

#[test]
fn configurations() {
    let dir = copy("mixtral");
    let config = dir.path().join("config.json");
    for text in ["", "{", "{\"a\": Nan}", "\u{0}"] {
        fs::write(&config, text).unwrap();
        assert!(matches!(opened(dir.path()), CheckpointError::Json { file, .. } if file == config));
    }
    fs::write(&config, "[".repeat(100_000)).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::Json { .. }));
    fs::write(&config, "[]").unwrap();
    let error = opened(dir.path());
    assert!(matches!(&error, CheckpointError::Spec { source: SpecError::NotAnObject { .. }, .. }));
    assert!(error.to_string().contains("config.json"));
    fs::write(&config, vec![b' '; (16 << 20) + 1]).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::JsonTooLarge { .. }));
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::NotAFile { .. }));
}

/// Python writes numbers that JSON does not have.
#[test]
fn infinite_numbers() {
    let dir = copy("mixtral");
    let config = dir.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let with = |fields: &str| fs::write(&config, text.replacen('{', &format!("{{{fields},"), 1)).unwrap();
    with(r#""a": [0.0, Infinity, -Infinity, NaN], "b": "\" Infinity""#);
    Checkpoint::open(dir.path()).unwrap();
    with(r#""num_local_experts": NaN"#);
    // The field is there twice; the later one counts.
    Checkpoint::open(dir.path()).unwrap();
    fs::write(&config, text.replace("\"num_local_experts\": 4", "\"num_local_experts\": Infinity")).unwrap();
    let error = opened(dir.path());
    assert!(matches!(
        &error,
        CheckpointError::Spec { source: SpecError::Missing { field: "num_local_experts", .. }, .. }
    ));
}

#[test]
fn lengths_of_headers() {
    assert!(matches!(file_error(b""), CheckpointError::TooShort { bytes: 0, .. }));
    assert!(matches!(file_error(b"1234567"), CheckpointError::TooShort { bytes: 7, .. }));
    for claimed in [3, 100_000_001, u64::MAX, 1 << 63] {
        let bytes = [&claimed.to_le_bytes()[..], b"{}"].concat();
        assert!(matches!(file_error(&bytes), CheckpointError::HeaderLength { claimed: c, max: 2, .. } if c == claimed));
    }
    // A file that is long enough for a header the format forbids. It takes no room on the disk.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, 100_000_001_u64.to_le_bytes()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    assert!(matches!(
        TensorFile::open(path),
        Err(CheckpointError::HeaderLength { claimed: 100_000_001, max: 100_000_000, .. })
    ));
}

#[test]
fn headers_that_are_not_json() {
    let headers = [
        "",
        "{",
        "[]",
        "{}{}",
        "{\"a\": 3}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}",
        "{\"a\": {\"dtype\": \"F33\", \"shape\": [1], \"data_offsets\": [0, 4]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4, 8]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]}}",
    ];
    for header in headers {
        assert!(matches!(file_error(&raw(header, &[0; 4])), CheckpointError::Json { .. }), "{header}");
    }
    let mut not_utf8 = raw("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", &[0; 4]);
    not_utf8[10] = 0xFF;
    assert!(matches!(file_error(&not_utf8), CheckpointError::Json { .. }));
}

/// The error of a file of `available` bytes with F32 tensors `a`, `b`... of these shapes and offsets.
fn offsets_error(tensors: &[(&[u64], u64, u64)], available: usize) -> CheckpointError {
    let mut header = json!({"__metadata__": {"format": "pt"}});
    for ((shape, start, end), name) in tensors.iter().zip(["a", "b", "c"]) {
        header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
    }
    file_error(&raw(&header.to_string(), &vec![0; available]))
}

#[test]
fn offsets_that_lie() {
    use CheckpointError::{BeyondFile, Gap, ImpossibleSize, Overlap, TrailingBytes, WrongSpan};
    let is_b = |tensor: &str| tensor == "b";
    assert!(matches!(
        offsets_error(&[(&[4], 0, 16), (&[2], 8, 16)], 16),
        Overlap { tensor, start: 8, previous: 16, .. } if is_b(&tensor)
    ));
    assert!(matches!(
        offsets_error(&[(&[2], 0, 8), (&[2], 12, 20)], 20),
        Gap { tensor, start: 12, previous: 8, .. } if is_b(&tensor)
    ));
    assert!(matches!(offsets_error(&[(&[1], 4, 8)], 8), Gap { start: 4, previous: 0, .. }));
    assert!(matches!(
        offsets_error(&[(&[2], 0, 8), (&[2], 8, 16)], 15),
        BeyondFile { tensor, end: 16, available: 15, .. } if is_b(&tensor)
    ));
    assert!(matches!(offsets_error(&[(&[2], 0, 8)], 9), TrailingBytes { end: 8, available: 9, .. }));
    assert!(matches!(offsets_error(&[], 1), TrailingBytes { end: 0, available: 1, .. }));
    for (start, end) in [(0, 4), (0, 12), (8, 0), (u64::MAX, 8), (0, u64::MAX)] {
        assert!(matches!(offsets_error(&[(&[2], start, end)], 8), WrongSpan { needed: 8, .. }), "{start} {end}");
    }
    assert!(matches!(offsets_error(&[(&[1 << 40, 1 << 40], 0, 8)], 8), ImpossibleSize { .. }));
    assert!(matches!(offsets_error(&[(&[u64::MAX], 0, 8)], 8), ImpossibleSize { .. }));
    let half_a_byte = r#"{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}"#;
    assert!(matches!(file_error(&raw(half_a_byte, &[0])), ImpossibleSize { dtype: Dtype::F4, .. }));
}

/// Spans that fit their shapes and follow each other, whose sum wraps around to the length of the file.
#[test]
fn offsets_that_wrap_around() {
    let most = u64::MAX / 8 / 4 * 4;
    let mut header = json!({});
    let mut start = 0;
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        header[name] = json!({"dtype": "F32", "shape": [most / 4], "data_offsets": [start, start + most]});
        start += most;
    }
    let error = file_error(&raw(&header.to_string(), &[0; 8]));
    assert!(matches!(error, CheckpointError::BeyondFile { tensor, available: 8, .. } if tensor == "a"));
}

#[test]
fn a_file_cut_short() {
    let dir = copy("mixtral");
    let path = dir.path().join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::BeyondFile { .. }));
    fs::write(&path, &bytes[..100]).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::HeaderLength { max: 92, .. }));
}

#[test]
fn a_name_twice_in_one_header() {
    let entry = |start, end| format!(r#"{{"dtype": "F32", "shape": [1], "data_offsets": [{start}, {end}]}}"#);
    let header = format!(r#"{{"a": {}, "b": {}, "a": {}}}"#, entry(0, 4), entry(4, 8), entry(8, 12));
    let error = file_error(&raw(&header, &[0; 12]));
    assert!(
        matches!(error, CheckpointError::DuplicateTensor { tensor, first, second } if tensor == "a" && first == second)
    );
}

#[test]
fn shards_that_are_missing() {
    let dir = copy("deepseek-v3");
    fs::remove_file(dir.path().join("model-00004-of-00010.safetensors")).unwrap();
    let error = opened(dir.path());
    assert!(matches!(error, CheckpointError::NoShard { shard, .. } if shard == "model-00004-of-00010.safetensors"));
}

#[test]
fn shards_out_of_the_folder() {
    let outside = data("mixtral").join(WEIGHTS);
    let entries =
        [outside.to_str().unwrap(), "../model.safetensors", "..", ".", "", "a/../b", "./x", "sub/x", "a\\b", "x/"];
    for entry in entries {
        let dir = copy("deepseek-v3");
        edit_json(&dir.path().join(INDEX), |index| index["weight_map"][GATE] = json!(entry));
        let error = opened(dir.path());
        assert!(
            matches!(&error, CheckpointError::ShardName { tensor, shard, .. } if tensor == GATE && shard == entry),
            "{entry:?}: {error}"
        );
    }
    let dir = copy("deepseek-v3");
    edit_json(&dir.path().join(INDEX), |index| index["weight_map"][GATE] = json!("nul\u{0}byte"));
    assert!(matches!(opened(dir.path()), CheckpointError::Io { .. }));
}

/// Hugging Face's cache keeps a snapshot as links to files elsewhere.
#[cfg(unix)]
#[test]
fn shards_may_be_links() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data("deepseek-v3")).unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    Checkpoint::open(dir.path()).unwrap().layer_weights(2).unwrap();
    let shard = dir.path().join("model-00001-of-00010.safetensors");
    fs::remove_file(&shard).unwrap();
    symlink(dir.path().join("gone"), &shard).unwrap();
    assert!(matches!(opened(dir.path()), CheckpointError::NoShard { .. }));
}

#[test]
fn tensors_in_the_wrong_shard() {
    let dir = copy("deepseek-v3");
    edit_json(&dir.path().join(INDEX), |index| {
        index["weight_map"][GATE] = json!("model-00001-of-00010.safetensors");
    });
    let error = opened(dir.path());
    assert!(matches!(
        error,
        CheckpointError::NotInShard { tensor, shard, .. }
            if tensor == GATE && shard.ends_with("model-00001-of-00010.safetensors")
    ));
    edit_json(&dir.path().join(INDEX), |index| {
        index["weight_map"][GATE] = json!("model-00005-of-00010.safetensors");
        index["weight_map"]["nowhere"] = json!("model-00001-of-00010.safetensors");
    });
    assert!(matches!(opened(dir.path()), CheckpointError::NotInShard { tensor, .. } if tensor == "nowhere"));
}

#[test]
fn a_tensor_in_two_shards() {
    let dir = copy("deepseek-v3");
    rewrite(&dir.path().join("model-00010-of-00010.safetensors"), |tensors| {
        tensors.push(Tensor::new(GATE, "F32", &[1], vec![0; 4]));
    });
    let error = opened(dir.path());
    assert!(
        matches!(error, CheckpointError::DuplicateTensor { tensor, first, second } if tensor == GATE && first != second)
    );
}

#[test]
fn indices_that_are_none() {
    let dir = copy("deepseek-v3");
    for text in ["", "{}", "[]", r#"{"weight_map": []}"#, r#"{"weight_map": {"a": 1}}"#] {
        fs::write(dir.path().join(INDEX), text).unwrap();
        assert!(matches!(opened(dir.path()), CheckpointError::Json { file, .. } if file.ends_with(INDEX)), "{text}");
    }
    fs::write(dir.path().join(INDEX), r#"{"weight_map": {}}"#).unwrap();
    let empty = Checkpoint::open(dir.path()).unwrap();
    assert!(matches!(empty.layer_weights(1), Err(CheckpointError::NoTensor { .. })));
}

#[test]
fn layers_with_a_tensor_missing() {
    let error = layer_error(|tensors| tensors.retain(|t| t.name != UP));
    assert!(matches!(error, CheckpointError::NoTensor { tensor, .. } if tensor == UP));
    let dir = copy("deepseek-v3");
    let bias = "model.layers.2.mlp.gate.e_score_correction_bias";
    rewrite(&dir.path().join("model-00009-of-00010.safetensors"), |tensors| tensors.retain(|t| t.name != bias));
    edit_json(&dir.path().join(INDEX), |index| {
        index["weight_map"].as_object_mut().unwrap().remove(bias);
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(matches!(checkpoint.layer_weights(2), Err(CheckpointError::NoTensor { tensor, .. }) if tensor == bias));
    checkpoint.layer_weights(1).unwrap();
}

#[test]
fn layers_with_a_wrong_shape() {
    let error = layer_error(|tensors| named(tensors, UP).shape.reverse());
    assert!(matches!(
        error,
        CheckpointError::WrongShape { tensor, found, legal, .. }
            if tensor == UP && found == [64, 32] && legal == [32, 64]
    ));
    let error = layer_error(|tensors| named(tensors, GATE).shape = vec![512]);
    assert!(matches!(error, CheckpointError::WrongShape { tensor, .. } if tensor == GATE));
}

#[test]
fn layers_with_a_wrong_type() {
    let error = layer_error(|tensors| named(tensors, UP).dtype = "I32".into());
    assert!(matches!(error, CheckpointError::WrongDtype { tensor, found: Dtype::I32, .. } if tensor == UP));
    let error = layer_error(|tensors| {
        let gate = named(tensors, GATE);
        gate.dtype = "F64".into();
        gate.bytes.extend_from_within(..);
    });
    assert!(matches!(error, CheckpointError::WrongDtype { tensor, found: Dtype::F64, .. } if tensor == GATE));
}

#[test]
fn tensors_that_have_no_place() {
    for extra in [
        "experts.3.up_proj.bias",
        "gate.e_score_correction_bias",
        "experts.8.up_proj.weight",
        "shared_expert_gate.weight",
    ] {
        let name = format!("model.layers.1.mlp.{extra}");
        let error = layer_error(|tensors| tensors.push(Tensor::new(&name, "F32", &[1], vec![0; 4])));
        assert!(matches!(error, CheckpointError::UnexpectedTensor { tensor, .. } if tensor == name));
    }
}

/// Tables of experts by token id.
#[test]
fn tables() {
    const TABLE: &str = "model.layers.0.ffn.gate.tid2eid";
    type Edit = fn(&mut Tensor);
    let layer = |edit: Edit, then: fn(Result<HostLayer<'_>, CheckpointError>)| {
        let dir = copy("deepseek-v4");
        rewrite(&dir.path().join(WEIGHTS), |tensors| edit(named(tensors, TABLE)));
        then(Checkpoint::open(dir.path()).unwrap().layer_weights(0));
    };
    fn fill(layer: &HostLayer<'_>) -> Result<(), CheckpointError> {
        let mut table = vec![0; layer.spec().fill_bytes(Part::ExpertTable, FloatType::F32)];
        layer.fill(Part::ExpertTable, 0..0, FloatType::F32, &mut table)
    }
    layer(|_| {}, |layer| fill(&layer.unwrap()).unwrap());
    // Row 3 holds the 8-byte ids behind three rows of four.
    layer(
        |table| table.bytes[3 * 4 * 8..][..8].copy_from_slice(&16i64.to_le_bytes()),
        |layer| match fill(&layer.unwrap()).unwrap_err() {
            error @ CheckpointError::ExpertId { row: 3, id: 16, experts: 16, .. } => {
                assert!(error.to_string().contains("legal are 0 to 15"), "{error}");
            }
            other => panic!("{other:?}"),
        },
    );
    layer(
        |table| table.bytes[..8].copy_from_slice(&(-1i64).to_le_bytes()),
        |layer| {
            let error = fill(&layer.unwrap()).unwrap_err();
            assert!(matches!(error, CheckpointError::ExpertId { row: 0, id: -1, .. }), "{error:?}");
        },
    );
    layer(
        |table| table.dtype = "F64".into(),
        |layer| assert!(matches!(layer.unwrap_err(), CheckpointError::WrongDtype { legal: "I32 or I64", .. })),
    );
    layer(
        |table| table.shape.reverse(),
        |layer| assert!(matches!(layer.unwrap_err(), CheckpointError::WrongShape { tensor, .. } if tensor == TABLE)),
    );
    layer(
        |table| table.name = "model.layers.0.ffn.gate.other".into(),
        |layer| assert!(matches!(layer.unwrap_err(), CheckpointError::NoTensor { tensor, .. } if tensor == TABLE)),
    );
}

#[test]
fn writing_what_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = HostTensor { shape: vec![2], data: vec![0.0; 2] };
    let wrong = HostTensor { shape: vec![3], data: vec![0.0; 2] };
    let absurd = HostTensor { shape: vec![usize::MAX, usize::MAX], data: vec![] };
    let path = dir.path().join("x.safetensors");
    for wrong in [wrong, absurd] {
        assert!(matches!(write_tensors(&path, &[NamedTensor::of("a", &wrong)]), Err(CheckpointError::Values { .. })));
    }
    assert!(matches!(
        write_tensors(&path, &[NamedTensor::of("a", &tensor), NamedTensor::of("a", &tensor)]),
        Err(CheckpointError::DuplicateTensor { .. })
    ));
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("x"), "").unwrap();
    for target in [folder.clone(), dir.path().join("absent/x"), "/".into()] {
        assert!(
            matches!(write_tensors(&target, &[NamedTensor::of("a", &tensor)]), Err(CheckpointError::Io { .. })),
            "{target:?}"
        );
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [folder]);
}

/// A file with tensors of several types, one of them empty.
fn sample() -> Vec<u8> {
    safetensors(&[
        Tensor::new("layers.1.mlp.input", "F32", &[2, 3], vec![1; 24]),
        Tensor::new("h", "BF16", &[5], vec![2; 10]),
        Tensor::new("empty", "F16", &[0, 4], vec![]),
        Tensor::new("ids", "I64", &[2], vec![3; 16]),
    ])
}

/// Opens the bytes as a file and reads all of it.
fn read_all(bytes: &[u8]) -> Result<usize, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, bytes).unwrap();
    let file = TensorFile::open(path)?;
    let mut read = 0;
    for tensor in file.tensors() {
        read += tensor.bytes.len();
        let bits = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize();
        assert_eq!(tensor.bytes.len() * 8, bits, "{}", tensor.name);
        if let Ok(values) = file.values(tensor.name) {
            assert_eq!(values.data.len(), tensor.shape.iter().product::<usize>());
        }
    }
    Ok(read)
}

#[test]
fn the_sample_is_whole() {
    assert_eq!(read_all(&sample()).unwrap(), 50);
}

proptest! {
    /// Bytes of the header changed at random: an error, or a file all of whose bytes belong to its tensors.
    #[test]
    fn changed_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = sample();
        let header = bytes.len() - 50;
        for (at, byte) in changes {
            bytes[at.index(header)] = byte;
        }
        if let Ok(read) = read_all(&bytes) {
            prop_assert!(read <= 50);
        }
    }

    /// A number in the header changed, which keeps it JSON.
    #[test]
    fn changed_numbers_never_panic(
        which in any::<prop::sample::Index>(),
        number in prop_oneof![0_u64..64, any::<u64>()],
    ) {
        let bytes = sample();
        let text = String::from_utf8(bytes[8..bytes.len() - 50].to_vec()).unwrap();
        // The numbers stand between brackets and commas; those inside names do not.
        let mut parts: Vec<String> = text.split_inclusive(['[', ',', ']']).map(str::to_owned).collect();
        let is_number = |i: &usize| parts[*i].starts_with(|c: char| c.is_ascii_digit());
        let numbers: Vec<usize> = (0..parts.len()).filter(is_number).collect();
        let part = &mut parts[*which.get(&numbers)];
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
        *part = format!("{number}{rest}");
        let _ = read_all(&raw(&parts.concat(), &bytes[bytes.len() - 50..]));
    }

    /// A file cut anywhere is refused.
    #[test]
    fn cut_files_are_refused(at in any::<prop::sample::Index>()) {
        let bytes = sample();
        prop_assert!(read_all(&bytes[..at.index(bytes.len())]).is_err());
    }
}
