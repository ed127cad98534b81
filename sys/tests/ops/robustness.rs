//! No call makes a row panic, whatever its arguments: validation answers, and so does every rule by itself, also where
//! rules before it are broken.

use ascend_sys::ops::{Dims, MAX_RANK, Phase, TensorDesc, format_cast_storage};
use ascend_sys::{OPERATORS, aclDataType, aclFormat};

use crate::build::{Built, I64, V8_5, V9_1, Value, scalar, tensor};
use crate::legal;

/// A small deterministic generator (the constants of Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn int(&mut self) -> i64 {
        self.pick(&[i64::MIN, -65536, -2, -1, 0, 1, 2, 3, 4, 8, 16, 32, 64, 65535, 65536, 1 << 40, i64::MAX])
    }

    fn dims(&mut self, rank: usize) -> Dims {
        Dims::collect((0..rank).map(|_| self.int())).unwrap()
    }

    fn tensor(&mut self) -> TensorDesc {
        let (rank, odd) = (self.below(MAX_RANK + 1), self.below(MAX_RANK + 1));
        let shape = self.dims(rank);
        let strides = match self.below(3) {
            0 => shape.contiguous_strides(),
            1 => self.dims(rank),
            _ => self.dims(odd),
        };
        let format = aclFormat(self.pick(&[-1, 0, 2, 2, 2, 3, 29, 29, 30, 47]));
        let dtype = aclDataType(self.pick(&[-1, 0, 1, 2, 3, 9, 9, 11, 12, 13, 16, 27, 27, 29, 99]));
        TensorDesc { dtype, format, shape, strides, offset: self.int(), storage: self.dims(odd), data: 0 }
    }

    fn maybe_tensor(&mut self) -> Option<TensorDesc> {
        (self.below(4) > 0).then(|| self.tensor())
    }

    fn value(&mut self, like: &Value) -> Value {
        match like {
            Value::Tensor(_) => Value::Tensor(self.maybe_tensor()),
            Value::Tensors(_) => {
                let length = self.pick(&[0, 1, 1, 2, 3, 129]);
                Value::Tensors((self.below(4) > 0).then(|| (0..length).map(|_| self.maybe_tensor()).collect()))
            }
            Value::Scalar(_) => Value::Scalar((self.below(4) > 0).then(|| scalar(self.tensor().dtype, f64::NAN))),
            Value::Ints(_) => {
                let length = self.below(4);
                Value::Ints((self.below(4) > 0).then(|| (0..length).map(|_| self.int()).collect()))
            }
            Value::Int(_) => Value::Int(self.int()),
            Value::Float(_) => Value::Float(self.pick(&[f64::NAN, f64::INFINITY, -0.0, 1e300])),
            Value::Bool(_) => Value::Bool(self.below(2) == 0),
            Value::DType(_) => Value::DType(self.tensor().dtype),
            Value::Text(_) => {
                let texts = [None, Some(c""), Some(c"dynamic"), Some(c"static"), Some(c"nonsense"), Some(c"\xff")];
                Value::Text(self.pick(&texts))
            }
        }
    }
}

fn judge(call: &Built) {
    if let Err(violation) = call.validate() {
        assert!(!violation.to_string().is_empty());
    }
    let answers = call.with(|call| call.operator.row().rules.iter().map(|rule| (rule.check)(call)).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| answer.as_ref().err().is_none_or(|found| !found.is_empty())));
}

#[test]
fn random_arguments() {
    let mut random = Random(1);
    for operator in OPERATORS {
        for _ in 0..3000 {
            let mut call = Built::new(operator.id).on(random.pick(&[V8_5, V9_1]));
            call.values.iter_mut().for_each(|value| *value = random.value(value));
            judge(&call);
        }
    }
}

#[test]
fn legal_calls_with_random_changes() {
    let mut random = Random(2);
    for operator in OPERATORS {
        for legal in legal(operator.id) {
            for _ in 0..500 {
                let mut call = legal.clone();
                for _ in 0..=random.below(3) {
                    let index = random.below(call.values.len());
                    call.values[index] = random.value(&call.values[index]);
                }
                judge(&call);
            }
        }
    }
}

#[test]
fn random_storages() {
    let mut random = Random(3);
    for _ in 0..20000 {
        let source = random.tensor();
        let format = aclFormat(random.pick(&[-1, 0, 2, 3, 29, 29, 29]));
        if let Ok(storage) = format_cast_storage(&source, format, aclDataType(random.pick(&[-1, -1, 0, 1, 99]))) {
            assert!(storage.iter().all(|&dim| dim >= 0));
        }
    }
}

#[test]
fn arguments_of_another_call() {
    for operator in OPERATORS {
        let refused = |call: &Built, what: &str| {
            let violation = call.validate().unwrap_err();
            let answer = (violation.rule, violation.code.0, violation.phase);
            assert_eq!(answer, ("arguments", 161002, Phase::One), "{} {what}", operator.name);
        };
        let base = crate::base(operator.id);
        let mut short = base.clone();
        short.values.pop();
        refused(&short, "with an argument too few");
        let mut long = base.clone();
        long.values.push(Value::Int(0));
        refused(&long, "with an argument too many");
        for index in 0..base.values.len() {
            let mut call = base.clone();
            let is_int = matches!(call.values[index], Value::Int(_));
            call.values[index] = if is_int { Value::Tensor(Some(tensor(I64, &[1]))) } else { Value::Int(0) };
            refused(&call, operator.params[index].0);
        }
        let other = OPERATORS.iter().find(|other| other.id != operator.id).unwrap();
        let violation = base.with(|call| {
            let call = ascend_sys::ops::Call { operator: other.id, ..*call };
            operator.id.row().validate(&call).unwrap_err()
        });
        assert_eq!((violation.rule, violation.operator), ("arguments", operator.id));
    }
}
