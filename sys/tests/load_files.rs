//! What the loader says of places and files that are no CANN. Needs no compiler.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::path::PathBuf;

use ascend_sys::Release;
use ascend_sys::load::{LoadError, Loader, Outcome, RootOutcome, SearchEnv};
use common::{Tree, elf_header, machines, outcome};

fn error(loader: &Loader) -> LoadError {
    let (table, report) = loader.load();
    assert!(report.libraries.is_empty() && !report.to_string().is_empty());
    table.map(drop).unwrap_err()
}

#[test]
fn no_library() {
    let tree = Tree::new();
    let env = SearchEnv {
        home_path: Some(tree.root().join("a")),
        toolkit_home: Some(tree.root().join("a")),
        opp_path: Some(tree.root().join("b/opp")),
        home: Some(tree.root().join("home")),
        known_roots: vec![tree.root().join("known")],
        bare_names: false,
    };
    let (table, report) = Loader::new(&env).load();
    let Err(LoadError::NoLibrary { searched }) = table else { panic!("{table:?}") };
    let roots: Vec<PathBuf> = ["a", "b", "known", "home/Ascend/cann", "home/Ascend/ascend-toolkit/latest"]
        .iter()
        .map(|root| tree.root().join(root))
        .collect();
    assert_eq!(report.roots.iter().map(|root| root.root.path.clone()).collect::<Vec<_>>(), roots);
    assert!(report.roots.iter().all(|root| root.outcome == RootOutcome::NoLibrary));
    assert!(roots.iter().all(|root| searched.contains(&root.join("lib64"))));
    let text = LoadError::NoLibrary { searched }.to_string();
    assert!(text.contains("ASCEND_HOME_PATH") && text.contains("known/lib64"), "{text}");
}

#[test]
fn no_place_at_all() {
    assert_eq!(error(&Loader::new(&SearchEnv::default())), LoadError::NoLibrary { searched: Vec::new() });
}

/// The search of a process without CANN ends in "absent" for the bare names too, not in a refusal.
#[test]
fn bare_names_unknown_to_the_linker() {
    let env = SearchEnv { bare_names: true, ..SearchEnv::default() };
    let (table, report) = Loader::new(&env).load();
    let searched = vec![PathBuf::from("libacl_rt.so"), PathBuf::from("libascendcl.so")];
    for name in &searched {
        assert_eq!(outcome(&report, name), &Outcome::Absent);
    }
    assert_eq!(table.map(drop), Err(LoadError::NoLibrary { searched }));
}

#[test]
fn wrong_files() {
    let (machine, _) = machines();
    let mut big_endian = elf_header(2, 3, machine);
    big_endian[5] = 2;
    let cases: [(&[u8], &str); 6] = [
        (b"INPUT(libascendcl.so.1)\nGROUP(-lc)\n", "not an ELF file"),
        (b"", "too short"),
        (&elf_header(2, 3, machine)[..15], "too short"),
        (&elf_header(2, 2, machine), "an ELF program"),
        (&elf_header(2, 1, machine), "an ELF object file"),
        (&big_endian, "a big-endian ELF file"),
    ];
    for (bytes, what) in cases {
        let tree = Tree::new();
        let file = tree.write("lib64/libacl_rt.so", bytes);
        let (table, report) = Loader::at(tree.root()).load();
        let error = table.map(drop).unwrap_err();
        assert_eq!(outcome(&report, &file), &Outcome::Refused(error.clone()));
        let LoadError::WrongFile { path, found } = error else { panic!("{error:?}") };
        assert_eq!(path, file);
        assert!(found.contains(what), "{found}");
    }
}

#[test]
fn link_to_nothing() {
    let tree = Tree::new();
    std::os::unix::fs::symlink("gone.so", tree.lib("libascendcl.so")).unwrap();
    let LoadError::WrongFile { path, found } = error(&Loader::at(tree.root())) else { panic!() };
    assert_eq!((path, found.as_str()), (tree.lib("libascendcl.so"), "a link to a file that is not there"));
}

/// The header is right and nothing else: the dynamic linker's own words are kept.
#[test]
fn truncated_library() {
    let tree = Tree::new();
    let file = tree.write("lib64/libacl_rt.so", elf_header(2, 3, machines().0));
    let LoadError::Open { path, dlerror, .. } = error(&Loader::at(tree.root())) else { panic!() };
    assert_eq!(path, file);
    assert!(!dlerror.is_empty());
}

#[test]
fn wrong_class() {
    let tree = Tree::new();
    let path = tree.write("lib64/libacl_rt.so", elf_header(1, 3, 3));
    let error = error(&Loader::at(tree.root()));
    assert_eq!(error, LoadError::WrongElfClass { path, found: 1 });
    assert!(error.to_string().contains("class 32 bits (expected: 64 bits)"), "{error}");
}

#[test]
fn wrong_machine() {
    let (_, other) = machines();
    let tree = Tree::new();
    let file = tree.write("lib64/libacl_rt.so", elf_header(2, 3, other));
    let LoadError::WrongMachine { path, found, expected } = error(&Loader::at(tree.root())) else { panic!() };
    assert_eq!(path, file);
    let mut names = [found.as_str(), expected];
    names.sort_unstable();
    assert_eq!(names, ["aarch64", "x86-64"]);
}

#[test]
fn stub_directories() {
    for dir in ["devlib/lib64", "stub/lib64"] {
        let tree = Tree::new();
        let path = tree.write(&format!("{dir}/libacl_rt.so"), elf_header(2, 3, machines().0));
        let root = path.parent().unwrap().parent().unwrap();
        let (table, report) = Loader::at(root).load();
        assert_eq!(report.roots[0].outcome, RootOutcome::Stub);
        let error = table.map(drop).unwrap_err();
        assert!(error.to_string().contains("LD_LIBRARY_PATH"), "{error}");
        assert_eq!(error, LoadError::StubLibrary { path });
    }
}

/// A link does not hide a stub.
#[test]
fn linked_stub() {
    let tree = Tree::new();
    let stub = tree.write("devlib/libacl_rt.so", elf_header(2, 3, machines().0));
    std::os::unix::fs::symlink(stub, tree.lib("libacl_rt.so")).unwrap();
    assert_eq!(error(&Loader::at(tree.root())), LoadError::StubLibrary { path: tree.lib("libacl_rt.so") });
}

#[test]
fn release_too_old() {
    for (file, text) in [
        (format!("{}-linux/ascend_toolkit_install.info", std::env::consts::ARCH), "version=8.1.RC1\n"),
        ("share/info/runtime/version.info".to_owned(), "Version=8.3.RC2\n"),
    ] {
        let tree = Tree::new();
        tree.write("lib64/libascendcl.so", elf_header(2, 3, machines().0));
        let version_file = tree.write(&file, text);
        let LoadError::ReleaseTooOld { found, minimum, path } = error(&Loader::at(tree.root())) else { panic!() };
        assert!(found < minimum && minimum == Release::new(8, 5, 0));
        assert_eq!(path, version_file);
    }
}

#[test]
fn roots_keep_their_order_and_come_once() {
    let env = SearchEnv {
        home_path: Some("/a".into()),
        toolkit_home: Some("/a".into()),
        opp_path: Some("/c/opp".into()),
        home: None,
        known_roots: vec!["/c".into(), "/d".into()],
        bare_names: true,
    };
    let roots: Vec<_> = env.roots().into_iter().map(|root| (root.path, root.source)).collect();
    assert_eq!(
        roots,
        [("/a".into(), "ASCEND_HOME_PATH"), ("/c".into(), "ASCEND_OPP_PATH"), ("/d".into(), "install root"),]
    );
}
