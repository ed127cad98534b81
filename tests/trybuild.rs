//! What must not compile: each file of `tests/ui` breaks one promise of the safe layer.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
