//! Golden files about number formats: the example's answers to all of them, and proof that a wrong answer would be found.

use std::collections::BTreeMap;
use std::path::Path;

use ascend_moe::Device;
use ascend_moe::checkpoint::TensorFile;
use libtest_mimic::Trial;
use safetensors::Dtype;
use serde::Deserialize;

use crate::files::{self, FORMATS};
use crate::fillings::Rig;
use crate::golden_example::answer::answer;
use crate::{Case, case, trial};

/// How a tensor is compared with the due one.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Check {
    Exact,
    /// NaN is equal to NaN.
    ExactNanInf,
    Close {
        atol: f64,
        rtol: f64,
    },
    /// A share of the values may differ by so much.
    IntMaxDiff {
        max: f64,
        frac: f64,
    },
    /// Values next to the middle between two codes may be either; in the middle they are the even one.
    IntOffByOneAtTies {
        x: String,
        scale: String,
    },
}

#[derive(Debug, Deserialize)]
struct Meta {
    checks: BTreeMap<String, Check>,
    #[serde(default)]
    optional: Vec<String>,
    #[serde(default)]
    exclude_rows: Vec<usize>,
}

/// A tensor: its axes and values.
#[derive(Clone, Debug)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f64>,
}

type Tensors = BTreeMap<String, Tensor>;

fn tensors(file: &TensorFile) -> Tensors {
    let of = |tensor: ascend_moe::checkpoint::TensorRef<'_>| {
        let values = match tensor.dtype {
            Dtype::U8 => tensor.bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Dtype::I8 => tensor.bytes.iter().map(|byte| f64::from(*byte as i8)).collect(),
            Dtype::I32 => file.integers(tensor.name).unwrap().1.into_iter().map(|value| value as f64).collect(),
            Dtype::F8_E4M3 => Vec::new(),
            _ => file.values(tensor.name).unwrap().data.into_iter().map(f64::from).collect(),
        };
        (tensor.name.to_owned(), Tensor { shape: tensor.shape.to_vec(), values })
    };
    file.tensors().map(of).collect()
}

struct Golden {
    meta: Meta,
    due: Tensors,
}

impl Golden {
    fn open(stem: &str) -> Self {
        let file = TensorFile::open(files::golden(stem)).unwrap();
        Self { meta: serde_json::from_str(&file.metadata()["golden"]).unwrap(), due: tensors(&file) }
    }

    /// The values of the rows that count.
    fn counted(&self, tensor: &Tensor) -> Vec<f64> {
        let rows = tensor.shape[0];
        let each = tensor.values.len() / rows;
        let counts = (0..rows).filter(|row| !self.meta.exclude_rows.contains(row));
        counts.flat_map(|row| &tensor.values[row * each..(row + 1) * each]).copied().collect()
    }

    /// Whether a tensor is right.
    fn is_right(&self, name: &str, found: &Tensor) -> bool {
        if found.shape != self.due[name].shape {
            return false;
        }
        let (found, due) = (self.counted(found), self.counted(&self.due[name]));
        let pairs = || found.iter().copied().zip(due.iter().copied());
        match &self.meta.checks[name] {
            Check::Exact => pairs().all(|(found, due)| found == due),
            Check::ExactNanInf => pairs().all(|(found, due)| found == due || (found.is_nan() && due.is_nan())),
            Check::Close { atol, rtol } => pairs().all(|(found, due)| (found - due).abs() <= atol + rtol * due.abs()),
            Check::IntMaxDiff { max, frac } => {
                let others = pairs().filter(|(found, due)| found != due).count();
                pairs().all(|(found, due)| (found - due).abs() <= *max) && others as f64 <= frac * due.len() as f64
            }
            Check::IntOffByOneAtTies { x, scale } => {
                let (x, scale) = (self.counted(&self.due[x]), self.counted(&self.due[scale]));
                let each = x.len() / scale.len();
                let near = |at: usize| {
                    let value = x[at] / scale[at / each];
                    let middle = value.floor() + 0.5;
                    value != middle && (value - middle).abs() < 1e-4 * (value.abs() / 64.0).max(1.0)
                };
                pairs().enumerate().all(|(at, (found, due))| found == due || ((found - due).abs() <= 1.0 && near(at)))
            }
        }
    }

    /// Names of tensors that are missing or not right.
    fn wrong(&self, answer: &Tensors) -> Vec<&str> {
        let is_wrong = |name: &&str| match answer.get(*name) {
            Some(found) => !self.is_right(name, found),
            None => !self.meta.optional.iter().any(|optional| optional == name),
        };
        self.meta.checks.keys().map(String::as_str).filter(is_wrong).collect()
    }
}

pub(crate) fn cases() -> Vec<Case> {
    FORMATS
        .into_iter()
        .map(|stem| case(format!("formats::{stem}"), move |rig: &Rig| right(&rig.device, stem)))
        .collect()
}

fn answered(device: &Device, file: &Path) -> Tensors {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("answer.safetensors");
    answer(device, file, &out).unwrap();
    tensors(&TensorFile::open(out).unwrap())
}

fn right(device: &Device, stem: &str) {
    let golden = Golden::open(stem);
    let answer = answered(device, &files::golden(stem));
    assert_eq!(golden.wrong(&answer), [""; 0], "{stem}");
    // What may be left out is answered all the same.
    assert_eq!(golden.meta.checks.keys().collect::<Vec<_>>(), answer.keys().collect::<Vec<_>>(), "{stem}");
}

/// Cases that need no device.
pub(crate) fn trials() -> Vec<Trial> {
    FORMATS.map(|stem| trial(format!("judge::{stem}"), move || judge_is_strict(stem))).into()
}

/// The judge takes the file's own answer and refuses others.
fn judge_is_strict(stem: &str) {
    let golden = Golden::open(stem);
    assert_eq!(golden.wrong(&golden.due), [""; 0]);
    for name in golden.meta.checks.keys() {
        let changed = |change: &dyn Fn(&mut Tensor)| {
            let mut answer = golden.due.clone();
            change(answer.get_mut(name).unwrap());
            golden.wrong(&answer)
        };
        let largest = golden.due[name]
            .values
            .iter()
            .filter(|value| value.is_finite())
            .fold(0.0, |most: f64, v| most.max(v.abs()));
        assert_eq!(changed(&|tensor| tensor.values[0] += 0.1 * largest + 2.0), [name.as_str()]);
        assert_eq!(changed(&|tensor| tensor.values[0] = f64::NAN), [name.as_str()]);
        assert_eq!(changed(&|tensor| tensor.shape.push(1)), [name.as_str()]);
        let mut without = golden.due.clone();
        without.remove(name);
        assert_eq!(golden.wrong(&without).is_empty(), golden.meta.optional.contains(name));
    }
}
