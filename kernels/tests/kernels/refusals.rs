//! Arguments that do not fit are refused with an error that names the rule.

use crate::common::POISON;
use moe_kernels::KernelError;
use moe_kernels::activation::swiglu;
use moe_kernels::combine::{ExpertBias, Finalize, Held, Rounding, SlotOrder, Unpermute, finalize, unpermute};
use moe_kernels::elementwise::add;
use moe_kernels::gating::{Division, Dropped, Gating, GroupScore, Groups, Score, gating_chosen, gating_top_k, look_up};
use moe_kernels::group_list::GroupListKind;
use moe_kernels::init_routing::Routing;
use moe_kernels::nz::{NzLayout, pack, unpack};
use moe_kernels::view::{NdView, NdViewMut, broadcast_shape};

const DATA: [f32; 16] = [0.0; 16];

fn view(shape: &[usize]) -> NdView<'static, f32> {
    static ZEROS: [f32; 16] = DATA;
    NdView::contiguous(&ZEROS[..shape.iter().product()], shape).unwrap()
}

#[test]
fn views_and_broadcasts() {
    let data = DATA;
    assert!(matches!(NdView::contiguous(&data, &[1; 9]), Err(KernelError::Range { value: 9, max: 8, .. })));
    assert!(matches!(NdView::new(&data, &[2, 2], &[1]), Err(KernelError::Length { .. })));
    assert!(matches!(
        NdView::new(&data, &[2], &[usize::MAX]),
        Err(KernelError::OutOfBounds { .. } | KernelError::TooLarge { .. })
    ));
    assert!(matches!(NdView::new(&data, &[usize::MAX, 3], &[0, 0]), Err(KernelError::TooLarge { .. })));
    assert!(matches!(broadcast_shape(&[2, 3], &[2]), Err(KernelError::Broadcast { .. })));
    assert!(matches!(view(&[2, 3]).broadcast_to(&[3]), Err(KernelError::Broadcast { .. })));
    assert_eq!(broadcast_shape(&[4, 1, 3], &[2, 1]), Ok(vec![4, 2, 3]));
    assert_eq!(broadcast_shape(&[1, 3], &[0, 1]), Ok(vec![0, 3]));
    let mut out = [POISON; 4];
    let mut target = NdViewMut::contiguous(&mut out, &[4]).unwrap();
    assert!(matches!(add(&view(&[2]), &view(&[2]), 1.0, &mut target), Err(KernelError::OutputShape { .. })));
    assert!(matches!(NdViewMut::new(&mut [0f32; 4], &[2, 2], &[1, 1]), Err(KernelError::Overlap { .. })));
}

#[test]
fn packing() {
    let mut out = [POISON; 4];
    assert!(matches!(NzLayout::new(2, 2, 8), Err(KernelError::Range { .. })));
    assert!(matches!(NzLayout::new(2, 2, 3), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(pack(&view(&[4]), &mut out), Err(KernelError::Range { .. })));
    assert!(matches!(pack(&view(&[2, 2]), &mut out), Err(KernelError::Length { expected: 128, actual: 4, .. })));
    assert!(matches!(unpack(&DATA, &[2, 2], &mut out), Err(KernelError::Length { expected: 128, actual: 16, .. })));
}

#[test]
fn activation() {
    let (data, mut out) = (DATA, [POISON; 4]);
    assert!(matches!(swiglu(&data[..3], &[3], 0, &mut out[..1]), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(swiglu(&data[..2], &[2], 1, &mut out[..1]), Err(KernelError::Range { .. })));
    assert!(matches!(swiglu(&data[..1], &[], 0, &mut out[..1]), Err(KernelError::Range { .. })));
    assert!(matches!(swiglu(&data[..2], &[2], 0, &mut out[..2]), Err(KernelError::Length { .. })));
}

#[test]
fn gating() {
    let renormalise = Some(Division::ByQuotient);
    let gating = Gating { top_k: 3, score: Score::Sigmoid, groups: None, renormalise, eps: 0.0, scale: 1.0 };
    let run = |gating: &Gating, experts: usize| {
        gating_top_k(gating, &DATA, experts, None, &mut [0f32; 12], &mut [0; 12], None)
    };
    let groups = |count, keep, score| Some(Groups { count, keep, score, dropped: Dropped::Removed });
    assert_eq!(run(&gating, 4), Ok(()));
    assert!(run(&gating, 0).is_err() && run(&gating, 2).is_err() && run(&gating, 5).is_err());
    assert!(run(&Gating { top_k: 0, ..gating }, 4).is_err());
    assert!(run(&Gating { groups: groups(2, 1, GroupScore::Max), ..gating }, 4).is_err());
    assert!(run(&Gating { groups: groups(3, 1, GroupScore::Max), ..gating }, 4).is_err());
    assert!(run(&Gating { groups: groups(2, 3, GroupScore::Max), ..gating }, 4).is_err());
    assert!(run(&Gating { groups: groups(0, 0, GroupScore::Max), ..gating }, 4).is_err());
    assert!(run(&Gating { groups: groups(4, 4, GroupScore::TopSum(2)), ..gating }, 4).is_err());
    assert!(run(&Gating { groups: groups(2, 2, GroupScore::TopSum(0)), ..gating }, 4).is_err());

    let given = |chosen: &[i32]| gating_chosen(&gating, &DATA, 4, chosen, &mut [0f32; 12], &mut [0; 12], None);
    assert_eq!(given(&[3; 12]), Ok(()));
    assert!(matches!(given(&[3; 11]), Err(KernelError::Length { .. })));
    for expert in [-1, 4] {
        let chosen: Vec<i32> = (0..12).map(|slot| if slot == 7 { expert } else { 0 }).collect();
        assert_eq!(given(&chosen), Err(KernelError::ExpertId { slot: 7, expert, experts: 4 }));
    }
    let found = |ids: &[i64], chosen: usize| look_up(ids, &[0, 1, 2, 3], 2, &mut vec![0; chosen]);
    assert_eq!(found(&[1, 0], 4), Ok(()));
    let row = |slot, row, rows| Err(KernelError::RowIndex { slot, row, rows, minus_one: false });
    assert_eq!(found(&[2], 2), row(0, 2, 2));
    assert_eq!(found(&[0, -1], 4), row(1, -1, 2));
    assert!(matches!(found(&[1], 1), Err(KernelError::Length { .. })));
    assert!(matches!(look_up(&[0], &[0; 3], 2, &mut [0; 2]), Err(KernelError::NotMultiple { .. })));
    assert_eq!(look_up(&[0], &[], 2, &mut [0; 2]), row(0, 0, 0));
}

#[test]
fn routing() {
    let routing = Routing::new(&[0, 1, 1], 0..2).unwrap();
    #[allow(clippy::reversed_empty_ranges)] // the wrong range is the point
    let backward = 2..1;
    assert!(Routing::new(&[0], backward).is_err());
    assert!(routing.gather_index(&mut [0; 2]).is_err() && routing.scatter_index(&mut [0; 4]).is_err());
    assert!(routing.write_counts(GroupListKind::Count, &mut [0; 3]).is_err());
    assert!(routing.write_counts(GroupListKind::KeyValue, &mut [0; 3]).is_err());
    assert!(routing.write_counts(GroupListKind::KeyValue, &mut [0; 2]).is_err());
    assert!(routing.expand(&[0; 3], 1, 2, None, &mut [0; 3]).is_err(), "3 slots are not tokens of 2");
    assert!(routing.expand(&[0; 3], 1, 0, None, &mut [0; 3]).is_err());
    assert!(routing.expand(&[0; 2], 1, 1, None, &mut [0; 3]).is_err());
    assert!(routing.expand(&[0; 3], 1, 1, None, &mut [0; 2]).is_err());
    assert!(routing.expand_drop_pad(&[0; 3], 1, 1, 2, &mut [0; 3]).is_err());
    assert!(routing.drop_pad_index(usize::MAX, &mut [0; 3]).is_err());
}

#[test]
fn combining() {
    let (mut one, mut out) = ([0f32], [POISON; 4]);
    let unpermuted = |indices: &[i32], top_k, probs: Option<&[f32]>, out: &mut [f32]| {
        unpermute(
            &Unpermute { permuted: &DATA, hidden: 4, sorted_indices: indices, probs, top_k, held: Held::First },
            out,
        )
    };
    assert!(unpermuted(&[0], 1, None, &mut one).is_err(), "1 is not a row of 4");
    assert!(unpermuted(&[0, 1], 2, None, &mut out).is_err(), "no probs, one slot");
    assert!(matches!(
        unpermuted(&[-2], 1, None, &mut out),
        Err(KernelError::RowIndex { slot: 0, row: -2, rows: 4, .. })
    ));
    assert!(unpermuted(&[0], 1, Some(&[1.0, 2.0]), &mut out).is_err());
    assert_eq!(unpermuted(&[4], 1, None, &mut out), Ok(()));
    // Of rows 2 to 7 only four are there; others are not asked for.
    let held = |indices: &[i32], held, out: &mut [f32]| {
        let operands =
            Unpermute { permuted: &DATA, hidden: 4, sorted_indices: indices, probs: None::<&[f32]>, top_k: 2, held };
        unpermute(&operands, out)
    };
    let range = Held::Range { start: 2, end: 8 };
    assert_eq!(held(&[1, 5], range, &mut out), Ok(()));
    assert_eq!(held(&[-1, 8], range, &mut out), Ok(()));
    assert!(matches!(held(&[1, 6], range, &mut out), Err(KernelError::RowIndex { slot: 1, row: 4, rows: 4, .. })));
    assert_eq!(held(&[-1, 3], Held::All, &mut out), Ok(()));
    assert!(matches!(held(&[0, 4], Held::All, &mut out), Err(KernelError::RowIndex { minus_one: true, .. })));

    let fits = Finalize {
        expanded: &DATA,
        hidden: 4,
        row_index: &[3],
        top_k: 1,
        order: SlotOrder::RowMajor,
        drop_pad: false,
        x1: None,
        x2: None,
        bias: None,
        scales: None::<&[f32]>,
        rounding: Rounding::Once,
    };
    let run = |operands: &Finalize<'_, f32, f32>| {
        let mut out = [POISON; 4];
        let result = finalize(operands, &mut out);
        assert!(result.is_ok() || out == [POISON; 4], "a refused call writes nothing");
        result
    };
    assert_eq!(run(&fits), Ok(()));
    let row =
        |row, minus_one| -> Result<(), KernelError> { Err(KernelError::RowIndex { slot: 0, row, rows: 4, minus_one }) };
    assert_eq!(run(&Finalize { row_index: &[4], ..fits }), row(4, false));
    assert_eq!(run(&Finalize { row_index: &[-1], ..fits }), row(-1, false));
    assert_eq!(run(&Finalize { row_index: &[-1], drop_pad: true, ..fits }), Ok(()));
    assert_eq!(run(&Finalize { row_index: &[-2], drop_pad: true, ..fits }), row(-2, true));
    assert!(row(-2, true).unwrap_err().to_string().ends_with("legal are 0..4 and -1"));
    assert!(run(&Finalize { top_k: 2, ..fits }).is_err() && run(&Finalize { top_k: 0, ..fits }).is_err());
    assert!(run(&Finalize { hidden: 0, ..fits }).is_err() && run(&Finalize { hidden: 3, ..fits }).is_err());
    assert!(run(&Finalize { x1: Some(&DATA), ..fits }).is_err());
    assert!(run(&Finalize { scales: Some(&DATA), ..fits }).is_err());
    let bias = |expert_ids| Some(ExpertBias { bias: &DATA[..8], expert_ids });
    assert_eq!(run(&Finalize { bias: bias(&[1]), ..fits }), Ok(()));
    let expert = |expert| Err(KernelError::ExpertId { slot: 0, expert, experts: 2 });
    assert_eq!(run(&Finalize { bias: bias(&[2]), ..fits }), expert(2));
    assert_eq!(run(&Finalize { bias: bias(&[-1]), ..fits }), expert(-1));
}
