//! Which of CANN's names our files export: the shared library all it should and no more, every other file none. A
//! library of ours that exported one by accident would take the place of a host engine's real CANN.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use ascend_sys::FUNCTIONS;
use cann_sim::tree::{LIBRARY, library_beside};
use object::{Object, ObjectSymbol};

fn library() -> PathBuf {
    library_beside(&env::current_exe().unwrap()).expect("cargo builds the shared library before its tests")
}

/// Names that a file defines for others.
fn exported(path: &Path) -> BTreeSet<String> {
    let bytes = fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let symbols = file.dynamic_symbols().filter(|symbol| symbol.is_definition() && !symbol.is_undefined());
    symbols.map(|symbol| symbol.name().unwrap().to_owned()).collect()
}

/// Whether a name belongs to CANN: `aclInit`, `aclnnMm`, `HcclAllReduce`.
fn is_vendors(name: &str) -> bool {
    name.starts_with("acl") || name.starts_with("Hccl")
}

#[test]
fn the_library_exports_the_list_without_hccl() {
    let expected: BTreeSet<String> = FUNCTIONS
        .iter()
        .filter(|function| !function.library.is_hccl())
        .map(|function| function.name.to_owned())
        .collect();
    let all = exported(&library());
    let vendors: BTreeSet<String> = all.iter().filter(|name| is_vendors(name)).cloned().collect();
    let missing: Vec<&String> = expected.difference(&vendors).collect();
    let surplus: Vec<&String> = vendors.difference(&expected).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:?}, surplus: {surplus:?}");
    let own: Vec<&String> = all.iter().filter(|name| !is_vendors(name) && !name.starts_with("rust_")).collect();
    assert_eq!(own, ["cannSimIdentity", "cannSimReport"]);
}

/// Every library and program that cargo built beside this test.
#[test]
fn no_other_file_exports_a_name_of_cann() {
    let program = env::current_exe().unwrap();
    let mut checked = 0;
    for entry in fs::read_dir(program.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_file_of_interest = path == program || name.ends_with(".so");
        // Cargo keeps further copies of the library under names with a hash.
        if !is_file_of_interest || name.starts_with(LIBRARY.trim_end_matches(".so")) {
            continue;
        }
        let foreign: Vec<String> = exported(&path).into_iter().filter(|name| is_vendors(name)).collect();
        assert!(foreign.is_empty(), "{} exports {foreign:?}", path.display());
        checked += 1;
    }
    assert!(checked > 0);
}
