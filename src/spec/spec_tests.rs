//! Specs built in code: what they hold, and every way to get one wrong.

use super::*;

#[test]
fn specs_built_from_code() {
    let experts = ExpertSpec::new(8, 64, 32);
    let plain = RouterSpec::new(Score::Softmax, 2);
    let refused = |router, experts, shared| MoeSpec::new(router, experts, shared).unwrap_err();
    assert!(MoeSpec::new(plain, experts, None).is_ok());
    assert_eq!(
        refused(plain, ExpertSpec::new(0, 64, 32), None),
        SpecError::OutOfRange { field: "experts.num", value: "0".into(), min: 1, max: MAX_EXPERTS }
    );
    assert_eq!(
        refused(plain, ExpertSpec::new(8, 64, usize::MAX), None),
        SpecError::OutOfRange { field: "experts.intermediate", value: usize::MAX.to_string(), min: 1, max: MAX_WIDTH }
    );
    assert_eq!(
        refused(plain, experts, Some(SharedSpec::new(0))),
        SpecError::OutOfRange { field: "shared.intermediate", value: "0".into(), min: 1, max: MAX_WIDTH }
    );
    let by_maximum = RouterSpec { choice: Choice::Groups(GroupSpec::new(8, 2, GroupScore::Max)), ..plain };
    assert!(MoeSpec::new(by_maximum, experts, None).is_ok());
    for value in [f64::INFINITY, 0.0, -1.0] {
        assert_eq!(
            refused(RouterSpec { scale: value, ..plain }, experts, None),
            SpecError::NotPositive { field: "scale", value }
        );
    }
    assert!(matches!(
        refused(RouterSpec { scale: f64::NAN, ..plain }, experts, None),
        SpecError::NotPositive { field: "scale", .. }
    ));
    let eps = RouterSpec { norm: Normalise::Sum { eps: -1e-20 }, ..plain };
    assert_eq!(refused(eps, experts, None), SpecError::Epsilon { value: -1e-20 });
}

#[test]
fn routers_built_from_code_that_are_impossible() {
    let experts = ExpertSpec::new(12, 64, 32);
    let refused = |change: &dyn Fn(&mut RouterSpec, &mut ExpertSpec)| {
        let (mut router, mut experts) = (RouterSpec::new(Score::Sigmoid, 4), experts);
        change(&mut router, &mut experts);
        MoeSpec::new(router, experts, None).unwrap_err()
    };
    for min in [-1e-9, f64::NEG_INFINITY, f64::INFINITY] {
        let floor = refused(&|router, _| router.norm = Normalise::SumFloor { min });
        assert_eq!(floor, SpecError::Floor { value: min });
        assert!(floor.to_string().contains("0 or above"), "{floor}");
    }
    for eps in [f64::NAN, f64::INFINITY, -0.5] {
        assert!(matches!(refused(&|router, _| router.norm = Normalise::Sum { eps }), SpecError::Epsilon { .. }));
    }
    let nan = refused(&|router, _| router.norm = Normalise::SumFloor { min: f64::NAN });
    assert!(matches!(nan, SpecError::Floor { value } if value.is_nan()));
    assert!(matches!(
        refused(&|router, _| router.output_scale = f64::NAN),
        SpecError::NotPositive { field: "output_scale", .. }
    ));
    // Groups of unequal size, and more experts than groups allow.
    for n_group in [5, 7, 8] {
        let each = refused(&|router, _| router.choice = Choice::EachGroup { n_group });
        assert_eq!(each, SpecError::UnevenGroups { experts: 12, n_group });
        let best = GroupSpec::new(n_group, 1, GroupScore::Max);
        let best = refused(&|router, _| router.choice = Choice::Groups(best));
        assert_eq!(best, SpecError::UnevenGroups { experts: 12, n_group });
    }
    for n_group in [0, 13] {
        let each = refused(&|router, _| router.choice = Choice::EachGroup { n_group });
        assert_eq!(each, SpecError::OutOfRange { field: "n_group", value: n_group.to_string(), min: 1, max: 12 });
    }
    for (top_k, n_group) in [(4, 3), (5, 2), (10, 4)] {
        let each = refused(&|router, _| (router.top_k, router.choice) = (top_k, Choice::EachGroup { n_group }));
        assert_eq!(each, SpecError::TopKPerGroup { top_k, n_group, per_group: 12 / n_group });
    }
    let kept = GroupSpec::new(6, 1, GroupScore::Max);
    assert_eq!(
        refused(&|router, _| router.choice = Choice::Groups(kept)),
        SpecError::TopKInGroups { top_k: 4, topk_group: 1, per_group: 2 }
    );
    let table = |vocab| move |router: &mut RouterSpec, _: &mut ExpertSpec| router.choice = Choice::Table { vocab };
    assert!(matches!(refused(&table(0)), SpecError::OutOfRange { field: "vocab_size", .. }));
    assert_eq!(
        refused(&|router, _| (router.choice, router.choice_bias) = (Choice::Table { vocab: 9 }, true)),
        SpecError::BiasedTable
    );
    // Experts without weights count among those that the router chooses from.
    assert_eq!(refused(&|router, _| router.top_k = 13), SpecError::TopK { top_k: 13, experts: 12 });
    assert_eq!(
        refused(&|router, experts| (router.top_k, experts.zero, experts.copy) = (16, 2, 1)),
        SpecError::TopK { top_k: 16, experts: 15 }
    );
    // Those that every token gets do not, and one is left to choose.
    assert_eq!(refused(&|router, _| router.always = 9), SpecError::TopK { top_k: 4, experts: 3 });
    for always in [12, usize::MAX] {
        let value = always.to_string();
        let due = SpecError::OutOfRange { field: "always", value, min: 0, max: 11 };
        assert_eq!(refused(&|router, _| router.always = always), due);
    }
    let beside = |change: &dyn Fn(&mut RouterSpec, &mut ExpertSpec)| {
        let error = refused(&|router, experts| {
            router.always = 2;
            change(router, experts);
        });
        assert!(matches!(error, SpecError::AlwaysBeside { .. }), "{error}");
    };
    beside(&|_, experts| experts.zero = 1);
    beside(&|_, experts| experts.copy = 1);
    beside(&|_, experts| experts.constant = 1);
    beside(&|router, _| router.choice = Choice::Table { vocab: 9 });
    beside(&|router, _| router.choice = Choice::EachGroup { n_group: 2 });
    beside(&|router, _| router.choice = Choice::Groups(GroupSpec::new(2, 1, GroupScore::Max)));
    beside(&|router, _| router.weigh = Weigh::SparseMixer { jitter: 0.1 });
    assert_eq!(refused(&|_, experts| (experts.copy, experts.latent) = (1, Some(8))), SpecError::LatentCopies);
    let clamp = |limit| Activation::SWIGLU.clamped(limit, ClampAt::Before);
    for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = refused(&|_, experts| experts.activation = clamp(limit));
        assert!(matches!(error, SpecError::NotPositive { field: "limit", .. }), "{error}");
    }
    assert!(matches!(refused(&|_, experts| experts.activation = clamp(1.0).ungated()), SpecError::NoGate { .. }));
}

#[test]
fn caps_and_norms_that_are_none() {
    let new = |change: &dyn Fn(&mut ExpertSpec)| {
        let mut experts = ExpertSpec::new(8, 16, 16);
        change(&mut experts);
        MoeSpec::new(RouterSpec::new(Score::Softmax, 2), experts, None)
    };
    let caps = |gate, up| Activation::new(ActivationFn::Softcapped { gate, up });
    assert!(new(&|experts| experts.activation = caps(4.0, 25.0)).is_ok());
    for activation in [caps(0.0, 1.0), caps(1.0, f64::NAN)] {
        let error = new(&|experts| experts.activation = activation);
        assert!(matches!(error, Err(SpecError::NotPositive { .. })), "{error:?}");
    }
    let error = new(&|experts| experts.activation = caps(1.0, 1.0).ungated());
    assert!(matches!(error, Err(SpecError::NoGate { .. })), "{error:?}");
    assert_eq!(new(&|experts| experts.latent_norm = Some(1e-5)), Err(SpecError::NoLatent));
    assert!(new(&|experts| (experts.latent, experts.latent_norm) = (Some(8), Some(1e-5))).is_ok());
    for eps in [-1.0, f64::INFINITY] {
        let error = new(&|experts| experts.row_norm = Some(eps));
        assert!(matches!(error, Err(SpecError::Epsilon { .. })), "{error:?}");
    }
    let mut router = RouterSpec::new(Score::Softmax, 2);
    router.logit_scale = 0.0;
    let error = MoeSpec::new(router, ExpertSpec::new(8, 16, 16), None);
    assert!(matches!(error, Err(SpecError::NotPositive { field: "logit_scale", .. })), "{error:?}");
}

#[test]
fn experts_without_weights_beside_latent_projections() {
    for (copy, constant) in [(1, 0), (0, 1)] {
        let experts = ExpertSpec { copy, constant, latent: Some(8), ..ExpertSpec::new(8, 16, 16) };
        let error = MoeSpec::new(RouterSpec::new(Score::Softmax, 2), experts, None);
        assert!(matches!(error, Err(SpecError::LatentCopies)), "{error:?}");
    }
    let experts = ExpertSpec { output_norm: Some(f64::NAN), ..ExpertSpec::new(8, 16, 16) };
    let error = MoeSpec::new(RouterSpec::new(Score::Softmax, 2), experts, None);
    assert!(matches!(error, Err(SpecError::Epsilon { .. })), "{error:?}");
}
