//! Operators newer than every release that is played: no table has them, so they are called past it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected ends, and says so")]

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use ascend_sys::{
    Implementation, Origin, Table, aclDataType, aclError, aclFormat, aclTensor, aclnnStatus, aclrtMemMallocPolicy,
    aclrtMemcpyKind, aclrtStream,
};

use crate::config::{Config, Mode};
use crate::report::FindingKind;
use crate::slot::Sim;
use crate::table::functions;

/// A C call.
macro_rules! c {
    ($rig:expr, $name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the arguments are what the C contract asks for.
        unsafe { $rig.table.$name($($argument),*) }.unwrap()
    };
}

/// Chosen experts, weights, scores.
type Routed = (Vec<i32>, Vec<f32>, Vec<f32>);

struct Rig {
    sim: Sim,
    table: Table,
}

impl Rig {
    fn new() -> Self {
        let sim = Sim::start(Config { mode: Mode::Strict, ..Config::default() }).unwrap();
        let origin = Origin {
            implementation: Implementation::SimulatorInProcess,
            identity: None,
            release: None,
            libraries: Vec::new(),
        };
        // SAFETY: the functions are those of this crate; the simulator outlives the table.
        let table = unsafe { Table::new(functions(sim.slot()), origin) };
        let rig = Self { sim, table };
        assert_eq!(c!(rig, aclInit(null())), aclError::SUCCESS);
        assert_eq!(c!(rig, aclrtSetDevice(0)), aclError::SUCCESS);
        rig
    }

    fn memory<T: bytemuck::Pod>(&self, values: &[T]) -> *mut c_void {
        let (mut memory, size) = (null_mut(), size_of_val(values));
        let policy = aclrtMemMallocPolicy::HUGE_FIRST;
        assert_eq!(c!(self, aclrtMalloc(&mut memory, size, policy)), aclError::SUCCESS);
        let copy = aclrtMemcpyKind::DEFAULT;
        assert_eq!(c!(self, aclrtMemcpy(memory, size, values.as_ptr().cast(), size, copy)), aclError::SUCCESS);
        memory
    }

    fn read<T: bytemuck::Pod>(&self, memory: *const c_void, len: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); len];
        let (size, copy) = (size_of_val(&*values), aclrtMemcpyKind::DEFAULT);
        assert_eq!(c!(self, aclrtMemcpy(values.as_mut_ptr().cast(), size, memory, size, copy)), aclError::SUCCESS);
        values
    }

    fn tensor(&self, dtype: aclDataType, shape: &[i64], memory: *mut c_void) -> *const aclTensor {
        let (dims, rank) = (shape.as_ptr(), shape.len() as u64);
        c!(self, aclCreateTensor(dims, rank, dtype, null(), 0, aclFormat::ND, dims, rank, memory))
    }

    /// Routes two tokens of four experts by a table for three token ids; the experts, weights and scores, or the fault.
    fn route(&self, norm_type: i64, ids: [i64; 2], table: [i32; 6]) -> Result<Routed, aclError> {
        let x = [0.0, -1.0, 1.0, 2.0, 0.0, 3f32.ln(), 0.0, 0.0];
        let (y, chosen, scores) = (self.memory(&[0f32; 4]), self.memory(&[0i32; 4]), self.memory(&[0f32; 8]));
        let (float, int) = (aclDataType::FLOAT, aclDataType::INT32);
        let bias = self.memory(&[9f32, 0.0, 0.0, 0.0]);
        let tensors = [
            self.tensor(float, &[2, 4], self.memory(&x)),
            self.tensor(float, &[4], bias),
            self.tensor(aclDataType::INT64, &[2], self.memory(&ids)),
            self.tensor(int, &[3, 2], self.memory(&table)),
            self.tensor(float, &[2, 2], y),
            self.tensor(int, &[2, 2], chosen),
            self.tensor(float, &[2, 4], scores),
        ];
        let [x, bias, ids, table, y_out, chosen_out, scores_out] = tensors;
        let (mut size, mut executor) = (0, null_mut());
        let status = c!(
            self,
            aclnnMoeGatingTopKV2GetWorkspaceSize(
                x,
                bias,
                ids,
                table,
                2,
                1,
                1,
                0,
                0,
                norm_type,
                true,
                2.0,
                1e-20,
                y_out,
                chosen_out,
                scores_out,
                &mut size,
                &mut executor
            )
        );
        assert_eq!(status, aclnnStatus::SUCCESS);
        let workspace = self.memory(&vec![0u8; size as usize]);
        let status = c!(self, aclnnMoeGatingTopKV2(workspace, size, executor, aclrtStream::NULL));
        assert_eq!(status, aclnnStatus::SUCCESS);
        match c!(self, aclrtSynchronizeStream(aclrtStream::NULL)) {
            aclError::SUCCESS => Ok((self.read(chosen, 4), self.read(y, 4), self.read(scores, 8))),
            fault => Err(fault),
        }
    }
}

fn near(found: &[f32], due: &[f32]) {
    assert_eq!(found.len(), due.len());
    for (found, due) in found.iter().zip(due) {
        assert!((found - due).abs() <= due.abs() * 1e-6, "{found} where {due} is due");
    }
}

#[test]
fn experts_from_a_table_of_tokens() {
    let rig = Rig::new();
    // Row 2 of the table for the first token, row 0 for the second; the bias has no say.
    let (chosen, weights, scores) = rig.route(1, [2, 0], [1, 1, 7, 7, 0, 3]).unwrap();
    assert_eq!(chosen, [0, 3, 1, 1]);
    near(&weights, &[0.724_219_4, 1.275_780_6, 1.0, 1.0]);
    near(&scores[4..], &[0.5, 0.75, 0.5, 0.5]);
    let (chosen, weights, scores) = rig.route(2, [2, 0], [1, 2, 7, 7, 0, 3]).unwrap();
    assert_eq!(chosen, [0, 3, 1, 2]);
    near(&weights[2..], &[1.171_572_9, 0.828_427_1]);
    near(&scores[4..], &[0.832_554_6, 1.177_41, 0.832_554_6, 0.832_554_6]);
    assert_eq!(rig.sim.report(), []);
}

#[test]
fn what_the_table_does_not_have_is_found() {
    for (ids, table) in
        [([3, 0], [0; 6]), ([0, -1], [0; 6]), ([0, 1], [0, 1, 2, 4, 0, 0]), ([0, 1], [0, -1, 0, 0, 0, 0])]
    {
        let rig = Rig::new();
        assert_eq!(rig.route(1, ids, table), Err(aclError::RT_AICORE_EXCEPTION), "{ids:?} {table:?}");
        let findings = rig.sim.report();
        assert!(findings.iter().any(|finding| finding.kind == FindingKind::OutOfBounds), "{findings:?}");
    }
}
