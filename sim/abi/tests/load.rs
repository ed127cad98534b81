//! The shared library opened by the loader as if it were CANN, in both layouts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::env;
use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use ascend_sys::load::{Loader, SearchEnv};
use ascend_sys::probe::probe;
use ascend_sys::{FunctionId, Implementation, OPERATORS, Release, Table, aclError, aclrtStream};
use cann_sim::tree::{Layout, library_beside, make};

const RELEASE: Release = Release::new(9, 1, 0);

/// The library must outlive the process that maps it, so the directory is not removed before the end of the test.
fn tree(layout: Layout) -> tempfile::TempDir {
    let library =
        library_beside(&env::current_exe().unwrap()).expect("cargo builds the shared library before its tests");
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &library, layout, RELEASE).unwrap();
    dir
}

fn check(table: &Table) {
    assert_eq!(table.origin().implementation, Implementation::SimulatorLibrary);
    assert!(table.origin().identity.as_deref().is_some_and(|identity| identity.contains("cann-sim")));
    assert_eq!(table.origin().release, Some(RELEASE));
    assert!(OPERATORS.iter().all(|operator| table.has_operator(operator.id)));
    assert!(table.missing().all(|id| id.info().library.is_hccl()));
    // A symbol newer than the release is there, and answers as one of a stub library does.
    // SAFETY: nothing is read of the arguments.
    let newer = unsafe { table.aclnnMoeGatingTopKV2(null_mut(), 0, null_mut(), aclrtStream::NULL) };
    assert_eq!(newer.unwrap().0, aclError::COMPILING_STUB_MODE.0);

    let found = probe(table).unwrap();
    assert_eq!(found.soc, "Ascend910_9391");
    assert!(found.device_count > 0);
    assert_eq!(found.release, Some(RELEASE));
    assert_eq!(table.calls(FunctionId::aclInit), 1);
}

#[test]
fn layout_by_repository() {
    let dir = tree(Layout::Split);
    let (table, report) = Loader::at(dir.path()).load();
    check(&table.unwrap_or_else(|error| panic!("{error}\n{report}")));
    // Every name leads to the one copy; the first of a family gives all.
    let given = |id| report.library_of(id).unwrap().path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(given(FunctionId::aclInit), "libacl_rt.so");
    assert_eq!(given(FunctionId::aclCreateTensor), "libnnopbase.so");
    assert_eq!(given(FunctionId::aclnnMm), "libopapi_transformer.so");
}

#[test]
fn layout_of_single_libraries() {
    let dir = tree(Layout::Single);
    let env = SearchEnv { home_path: Some(dir.path().to_owned()), ..SearchEnv::default() };
    let (table, report) = Loader::new(&env).load();
    check(&table.unwrap_or_else(|error| panic!("{error}\n{report}")));
}

/// The findings are told through the library's own function: its state is not that of the crate linked here.
#[test]
fn report_of_findings() {
    let library =
        library_beside(&env::current_exe().unwrap()).expect("cargo builds the shared library before its tests");
    // SAFETY: the simulator's library has no initialisers that ask anything of us.
    let library = unsafe { libloading::Library::new(library) }.unwrap();
    type Report = unsafe extern "C" fn(*mut c_char, usize) -> usize;
    // SAFETY: the signature is that of `cannSimReport`.
    let report = unsafe { library.get::<Report>("cannSimReport") }.unwrap();
    // SAFETY: no buffer.
    let size = unsafe { report(std::ptr::null_mut(), 0) };
    let mut buffer = vec![1; size];
    // SAFETY: the buffer has the size given.
    assert_eq!(unsafe { report(buffer.as_mut_ptr(), buffer.len()) }, size);
    // SAFETY: the text is NUL-terminated.
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(text).unwrap().is_array());

    let mut small = [1; 1];
    // SAFETY: the buffer has the size given.
    assert_eq!(unsafe { report(small.as_mut_ptr(), small.len()) }, size);
    assert_eq!(small, [0]);
}
