//! What the worked examples of the routing operators have beyond the tests beside this one: experts in a range.

use ascend_moe::op::{InitRouting, RowIndex, TokenCounts};

use crate::operators::{Expanded, IDS, expand};
use crate::rig::Rig;

const SCALE: [f32; 3] = [10.0, 20.0, 30.0];

/// Worked example 4, dropless expansion, each range with each kind of counts.
#[test]
fn expansion_for_ranges_counts_every_way() {
    let rig = Rig::new();
    let run = |range, counts| expand(&rig, &InitRouting { range, counts, ..InitRouting::dropless(4) }, &IDS, None);
    let counts = |range| {
        [TokenCounts::Count, TokenCounts::Cumsum, TokenCounts::KeyValue].map(|counts| run(range, counts).counts)
    };
    assert_eq!(counts((0, 4)), [vec![1, 1, 3, 1], vec![1, 2, 5, 6], vec![0, 1, 1, 1, 2, 3, 3, 1]]);
    assert_eq!(counts((1, 4)), [vec![1, 3, 1], vec![1, 4, 5], vec![1, 1, 2, 3, 3, 1, 0, 0]]);
    let [count, cumsum, pairs] = counts((0, 2));
    assert_eq!((count, cumsum), (vec![1, 1], vec![1, 2]));
    assert_eq!(pairs[..6], [0, 1, 1, 1, 0, 0]);
    let few = run((0, 2), TokenCounts::Count);
    assert_eq!(few.x, [1., 2., 3., 4., -7., -7., -7., -7., -7., -7., -7., -7.]);
}

/// Worked example 4: the row index by row, and the scale that goes along.
#[test]
fn expansion_for_a_range_leaves_the_rest_alone() {
    let rig = Rig::new();
    let scatter = InitRouting { range: (1, 4), row_index: RowIndex::Scatter, ..InitRouting::dropless(4) };
    let Expanded { rows, x, scale, .. } = expand(&rig, &scatter, &IDS, Some(&SCALE));
    assert_eq!(rows, [2, 0, 3, 5, 4, -7]);
    assert_eq!(x, [3., 4., 1., 2., 3., 4., 5., 6., 5., 6., -7., -7.]);
    assert_eq!(scale, [20., 10., 20., 30., 30., -7.]);
}

/// Worked example 4, experts without a token.
#[test]
fn empty_experts() {
    let rig = Rig::new();
    let run = |counts| {
        let params = InitRouting { range: (1, 4), counts, ..InitRouting::dropless(4) };
        expand(&rig, &params, &[3, 3], None).counts
    };
    assert_eq!(run(TokenCounts::Count), [0, 0, 2]);
    assert_eq!(run(TokenCounts::Cumsum), [0, 0, 2]);
    assert_eq!(run(TokenCounts::KeyValue)[..4], [3, 2, 0, 0]);
}
