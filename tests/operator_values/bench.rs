//! Tensors of random layout on a strict simulator, and the check of what an operator wrote.

use std::ops::Range;

use ascend_moe::{Cann, DType, Device, Result, Sequence, Stream, Tensor, TensorView, TensorViewMut};
use ascend_sys::ops::TensorDesc;
use cann_sim::{Config, Mode, Sim};
use half::{bf16, f16};

use crate::number::{Due, Float, Int, Number};
use crate::random::{Random, Values};

/// A simulator with a device and a stream, and the random choices of one case. Dropped in the order of the fields.
pub(crate) struct Bench {
    pub(crate) stream: Stream,
    device: Device,
    sim: Sim,
    pub(crate) random: Random,
    case: String,
}

/// Runs a property on many cases; each has its own seed.
pub(crate) fn cases(name: &str, count: u64, property: impl Fn(&mut Bench)) {
    let sim = Sim::start(Config { mode: Mode::Strict, hbm: Some(1 << 30), ..Config::default() }).unwrap();
    let device = Cann::from_table(sim.table()).unwrap().device(0).unwrap();
    let stream = Stream::new(&device).unwrap();
    let mut bench = Bench { stream, device, sim, random: Random::new(0), case: String::new() };
    for seed in 0..count {
        bench.random = Random::new(seed);
        bench.case = format!("{name}, seed {seed}");
        property(&mut bench);
    }
    assert_eq!(bench.sim.report(), [], "findings of the simulator");
}

/// Numbers of a shape in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<Number>,
}

impl Host {
    /// The number at some coordinates.
    pub(crate) fn at(&self, coordinates: &[usize]) -> Number {
        self.values[offset(&self.shape, coordinates)]
    }

    /// The number that coordinates of a shape this one broadcasts to name.
    pub(crate) fn broadcast_at(&self, coordinates: &[usize]) -> Number {
        let lead = coordinates.len() - self.shape.len();
        let own: Vec<usize> =
            coordinates[lead..].iter().zip(&self.shape).map(|(&at, &size)| if size == 1 { 0 } else { at }).collect();
        self.at(&own)
    }
}

/// Where coordinates lie in row-major order.
pub(crate) fn offset(shape: &[usize], coordinates: &[usize]) -> usize {
    coordinates.iter().zip(shape).fold(0, |at, (coordinate, size)| at * size + coordinate)
}

/// All coordinates of a shape in row-major order.
pub(crate) fn coordinates(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &size in shape {
        all = all.iter().flat_map(|lead| (0..size).map(move |at| [&lead[..], &[at]].concat())).collect();
    }
    all
}

/// One step from a tensor to a view.
#[derive(Clone, Debug)]
enum Step {
    Narrow(usize, Range<usize>),
    Transpose,
    Broadcast(Vec<usize>),
}

/// A tensor and the view of it that an operator gets.
pub(crate) struct Laid {
    tensor: Tensor,
    steps: Vec<Step>,
}

impl Laid {
    pub(crate) fn view(&self) -> TensorView<'_> {
        self.steps.iter().fold(self.tensor.view(), |view, step| match step {
            Step::Narrow(axis, range) => view.narrow(*axis, range.clone()).unwrap(),
            Step::Transpose => view.transpose().unwrap(),
            Step::Broadcast(shape) => view.broadcast(shape).unwrap(),
        })
    }

    pub(crate) fn view_mut(&mut self) -> TensorViewMut<'_> {
        self.steps.iter().fold(self.tensor.view_mut(), |view, step| match step {
            Step::Narrow(axis, range) => view.narrow(*axis, range.clone()).unwrap(),
            Step::Transpose => view.transpose().unwrap(),
            Step::Broadcast(_) => panic!("an output is not repeated"),
        })
    }
}

/// Which elements of its storage a view has, in its row-major order.
fn places(desc: &TensorDesc) -> Vec<usize> {
    let shape: Vec<usize> = desc.shape.iter().map(|&size| size as usize).collect();
    let place = |at: &Vec<usize>| {
        desc.offset + at.iter().zip(&*desc.strides).map(|(&at, stride)| at as i64 * stride).sum::<i64>()
    };
    coordinates(&shape).iter().map(|at| place(at) as usize).collect()
}

/// How free the layout of a tensor is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    /// Row-major without gaps; a slice of the first dimension at most.
    Packed,
    /// Sliced and repeated, not transposed.
    Upright,
    /// Any.
    Any,
}

impl Bench {
    /// An input of random values in a random layout.
    pub(crate) fn input(&mut self, dtype: DType, shape: &[usize], values: Values) -> (Host, Laid) {
        self.input_in(Layout::Any, dtype, shape, values)
    }

    pub(crate) fn input_in(&mut self, layout: Layout, dtype: DType, shape: &[usize], values: Values) -> (Host, Laid) {
        // A repeated view has the numbers of a smaller one.
        let own =
            if layout != Layout::Packed && self.random.once(4) { self.random.narrower(shape) } else { shape.to_vec() };
        let count = own.iter().product();
        let small = Host { dtype, shape: own, values: (0..count).map(|_| self.random.number(dtype, values)).collect() };
        let values = coordinates(shape).iter().map(|at| small.broadcast_at(at)).collect();
        let mut laid = self.lay(layout, &small);
        if small.shape != shape {
            laid.steps.push(Step::Broadcast(shape.to_vec()));
        }
        (Host { dtype, shape: shape.to_vec(), values }, laid)
    }

    /// An input of these numbers in a random layout.
    pub(crate) fn given(&mut self, dtype: DType, shape: &[usize], values: Vec<Number>) -> Laid {
        self.lay(Layout::Any, &Host { dtype, shape: shape.to_vec(), values })
    }

    /// An output in a random layout, filled with what no operator here computes.
    pub(crate) fn output(&mut self, dtype: DType, shape: &[usize]) -> Laid {
        self.output_in(Layout::Any, dtype, shape)
    }

    pub(crate) fn output_in(&mut self, layout: Layout, dtype: DType, shape: &[usize]) -> Laid {
        let values = vec![poison(dtype); shape.iter().product()];
        self.lay(layout, &Host { dtype, shape: shape.to_vec(), values })
    }

    fn lay(&mut self, layout: Layout, host: &Host) -> Laid {
        let (mut stored, mut steps) = (host.shape.clone(), Vec::new());
        let rank = stored.len();
        let transposed = layout == Layout::Any && rank > 1 && self.random.once(3);
        if transposed {
            stored.swap(rank - 1, rank - 2);
        }
        if rank > 0 && self.random.once(3) {
            let axis = if layout == Layout::Packed { 0 } else { self.random.below(rank) };
            let (before, behind) = (self.random.below(3), self.random.below(3));
            steps.push(Step::Narrow(axis, before..before + stored[axis]));
            stored[axis] += before + behind;
        }
        if transposed {
            steps.push(Step::Transpose);
        }
        let tensor = Tensor::zeros(&self.device, host.dtype, &stored).unwrap();
        let mut laid = Laid { tensor, steps };
        let mut storage = vec![poison(host.dtype); stored.iter().product()];
        for (place, &value) in places(laid.view().desc()).into_iter().zip(&host.values) {
            storage[place] = value;
        }
        self.write(&mut laid.tensor, &storage);
        laid
    }

    fn write(&self, tensor: &mut Tensor, values: &[Number]) {
        let floats = || values.iter().map(|value| value.single());
        let ints = || values.iter().map(|value| value.int());
        let (dtype, mut view) = (tensor.dtype(), tensor.view_mut());
        match dtype {
            DType::F32 => view.copy_from_host(&self.stream, &floats().collect::<Vec<f32>>()),
            DType::F16 => view.copy_from_host(&self.stream, &floats().map(f16::from_f32).collect::<Vec<_>>()),
            DType::Bf16 => view.copy_from_host(&self.stream, &floats().map(bf16::from_f32).collect::<Vec<_>>()),
            DType::I32 => view.copy_from_host(&self.stream, &ints().map(|v| v as i32).collect::<Vec<_>>()),
            DType::I64 => view.copy_from_host(&self.stream, &ints().collect::<Vec<i64>>()),
            DType::I8 => view.copy_from_host(&self.stream, &ints().map(|v| v as i8).collect::<Vec<_>>()),
            _ => view.copy_from_host(&self.stream, &ints().map(|v| v as u8).collect::<Vec<_>>()),
        }
        .unwrap();
    }

    fn read(&self, tensor: &Tensor) -> Vec<Number> {
        let stream = &self.stream;
        match tensor.dtype() {
            DType::F32 => tensor.to_vec::<f32>(stream).unwrap().into_iter().map(Float).collect(),
            DType::F16 => tensor.to_vec::<f16>(stream).unwrap().into_iter().map(|v| Float(v.to_f32())).collect(),
            DType::Bf16 => tensor.to_vec::<bf16>(stream).unwrap().into_iter().map(|v| Float(v.to_f32())).collect(),
            DType::I32 => tensor.to_vec::<i32>(stream).unwrap().into_iter().map(|v| Int(v.into())).collect(),
            DType::I64 => tensor.to_vec::<i64>(stream).unwrap().into_iter().map(Int).collect(),
            DType::I8 => tensor.to_vec::<i8>(stream).unwrap().into_iter().map(|v| Int(v.into())).collect(),
            _ => tensor.to_vec::<u8>(stream).unwrap().into_iter().map(|v| Int(v.into())).collect(),
        }
    }

    /// What an output holds.
    pub(crate) fn result(&self, laid: &Laid) -> Vec<Number> {
        let storage = self.read(&laid.tensor);
        places(laid.view().desc()).into_iter().map(|place| storage[place]).collect()
    }

    /// Queues an operator, which must be taken.
    pub(crate) fn run(&self, operator: impl FnOnce(&Sequence<'_>) -> Result<()>) {
        let sequence = self.stream.sequence().unwrap();
        operator(&sequence).unwrap_or_else(|error| panic!("{}: {error}", self.case));
    }

    /// Holds an output against what is due, and the memory around it against what was there before.
    pub(crate) fn check(&self, inputs: &[&Host], laid: &Laid, due: &[Due]) {
        self.check_part(inputs, laid, due.iter().copied().map(Some));
    }

    /// The same where some elements are not written.
    pub(crate) fn check_part(&self, inputs: &[&Host], laid: &Laid, due: impl IntoIterator<Item = Option<Due>>) {
        let mut storage = self.read(&laid.tensor);
        let places = places(laid.view().desc());
        let left = poison(laid.tensor.dtype());
        let mut count = 0;
        for (at, due) in due.into_iter().enumerate() {
            let found = std::mem::replace(&mut storage[places[at]], left);
            let due = due.unwrap_or(Due::Exactly(left));
            assert!(
                due.allows(found),
                "{}: element {at} of {:?} is {found:?}, due {due:?}; {:?}\n{inputs:?}",
                self.case,
                laid.view(),
                laid.steps
            );
            count += 1;
        }
        assert_eq!(count, places.len(), "{}", self.case);
        assert!(storage.iter().all(|&value| value.same(left)), "{}: written beside {:?}", self.case, laid.view());
    }
}

/// What memory holds that is not written.
pub(crate) fn poison(dtype: DType) -> Number {
    match dtype {
        DType::Bool => Int(1),
        dtype if dtype.is_float() => Float(-77.0),
        _ => Int(-77),
    }
}
