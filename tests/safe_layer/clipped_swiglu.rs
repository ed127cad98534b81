//! SwiGLU with limits, on worked numbers.

use ascend_moe::DType;
use ascend_moe::op::{self, ClippedSwiglu};

use crate::operators::{near, read, tensor, zeros};
use crate::rig::Rig;

/// Worked example, with gate and up in halves and interleaved.
#[test]
fn halves_and_interleaved() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let halves = ClippedSwiglu { alpha: 1.0, limit: 10.0, bias: 0.0, interleaved: false };
    let interleaved = ClippedSwiglu { alpha: 1.702, limit: 7.0, bias: 1.0, interleaved: true };
    let cases = [
        (halves, [0.0f32, 1.0, -1.0, 12.0, 3.0, 2.0, 4.0, -20.0], [0.0, 1.462_117_2, -1.075_765_6, -99.995_46]),
        (interleaved, [0.0, 3.0, 1.0, 2.0, -1.0, 4.0, 12.0, -20.0], [0.0, 2.537_387_4, -0.771_021_2, -41.999_718]),
    ];
    for (params, x, due) in cases {
        // The second row is beyond the groups, and not written.
        let x = tensor(&rig, &x.repeat(2), &[2, 8]);
        let groups = tensor(&rig, &[0i64, 1], &[2]);
        for (groups, rows) in [(None, 2), (Some(groups.view()), 1)] {
            let mut out = zeros(&rig, DType::F32, &[2, 4]);
            op::clipped_swiglu(&sequence, &x.view(), groups.as_ref(), -1, &params, &mut out.view_mut()).unwrap();
            let values = read::<f32>(&rig, &out);
            let (written, rest) = values.split_at(4 * rows);
            written.chunks(4).for_each(|row| near(row, &due));
            assert!(rest.iter().all(|value| *value == 0.0));
        }
    }
}
