//! The loader on trees of small C libraries. Where there is no C compiler the tests are listed as ignored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test functions of a custom harness")]

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use ascend_sys::load::{LoadError, LoadReport, Loader, Outcome, RootOutcome, SearchEnv};
use ascend_sys::probe::probe;
use ascend_sys::{FunctionId, FunctionInfo, Implementation, Library, Need, OperatorId, Release, Table};
use common::{OPERATORS, Tree, exports, has, names, outcome};
use libtest_mimic::{Arguments, Trial};

/// Set for the child process of `bare_names`.
const CHILD: &str = "ASCEND_SYS_TEST_CHILD";

fn main() -> ExitCode {
    if env::var_os(CHILD).is_some() {
        return load_by_bare_name();
    }
    let cc = has("cc");
    let tests: &[(&str, fn())] = &[
        ("by_repository", by_repository),
        ("single_libraries", single_libraries),
        ("single_library_is_left_alone", single_library_is_left_alone),
        ("older_operator_split", older_operator_split),
        ("other_operator_libraries", other_operator_libraries),
        ("symbol_in_the_second_library", symbol_in_the_second_library),
        ("required_symbol_missing", required_symbol_missing),
        ("refused_file_explains_missing_symbols", refused_file_explains_missing_symbols),
        ("optional_symbol_missing", optional_symbol_missing),
        ("no_operator_library", no_operator_library),
        ("half_an_operator", half_an_operator),
        ("operator_across_two_files", operator_across_two_files),
        ("undefined_dependency", undefined_dependency),
        ("missing_dependency", missing_dependency),
        ("custom_package_only_where_named", custom_package_only_where_named),
        ("custom_package_without_the_operator", custom_package_without_the_operator),
        ("later_root_is_not_mixed_in", later_root_is_not_mixed_in),
        ("arch_directory", arch_directory),
        ("hccl", hccl),
        ("simulator_identity", simulator_identity),
        ("stub_by_code", stub_by_code),
        ("bare_names", bare_names),
    ];
    let trials = tests
        .iter()
        .map(|&(name, test)| {
            let trial = Trial::test(name, move || {
                test();
                Ok(())
            });
            if cc { trial } else { trial.with_kind("no C compiler here").with_ignored_flag(true) }
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn load(tree: &Tree) -> (Table, LoadReport) {
    let (table, report) = Loader::at(tree.root()).load();
    (table.unwrap_or_else(|error| panic!("{error}\n{report}")), report)
}

fn load_error(tree: &Tree) -> (LoadError, LoadReport) {
    let (table, report) = Loader::at(tree.root()).load();
    (table.map(drop).unwrap_err(), report)
}

fn from(report: &LoadReport, id: FunctionId) -> PathBuf {
    report.library_of(id).map(|library| library.path.clone()).unwrap_or_else(|| panic!("no library gave {id:?}"))
}

fn by_repository() {
    let tree = Tree::by_repository();
    let version_file = tree.release("9.1.0");
    let (table, report) = load(&tree);
    assert_eq!(report.roots[0].outcome, RootOutcome::Used);
    assert_eq!(report.release, Some((Release::new(9, 1, 0), version_file)));
    assert_eq!(table.origin().release, Some(Release::new(9, 1, 0)));
    assert_eq!(table.origin().implementation, Implementation::Cann);
    assert_eq!(table.origin().libraries, report.libraries);
    assert_eq!(from(&report, FunctionId::aclInit), tree.lib("libacl_rt.so"));
    assert_eq!(from(&report, FunctionId::aclCreateTensor), tree.lib("libnnopbase.so"));
    for operator in ascend_sys::OPERATORS {
        assert!(table.has_operator(operator.id));
        assert_eq!(from(&report, operator.phase1), from(&report, operator.phase2));
    }
    assert_eq!(from(&report, FunctionId::aclnnMoeGatingTopK), tree.lib("libopapi_transformer.so"));
    assert!(report.missing.iter().all(|id| id.info().library.is_hccl()));
    assert_eq!(table.missing().collect::<Vec<_>>(), report.missing);
    let text = report.to_string();
    assert!(text.contains("libnnopbase.so: opened") && text.contains("release: 9.1.0"), "{text}");
}

/// The files of 8.1: one library for ACL, one for the operators.
fn single_libraries() {
    let tree = Tree::new();
    tree.family("libascendcl.so", &[Library::Acl]);
    tree.family("libnnopbase.so", &[Library::Base]);
    tree.family("libopapi.so", &OPERATORS);
    let (table, report) = load(&tree);
    assert!(ascend_sys::OPERATORS.iter().all(|operator| table.has_operator(operator.id)));
    assert_eq!(from(&report, FunctionId::aclnnMm), tree.lib("libopapi.so"));
    assert_eq!(table.origin().release, None);
}

fn single_library_is_left_alone() {
    let tree = Tree::by_repository();
    // An operator that only the single library has stays missing: the two sets must not meet.
    let without_mm = exports(|f| f.library == Library::OpsNn && !f.name.starts_with("aclnnMm"));
    tree.compile("libopapi_nn.so", &without_mm);
    tree.family("libopapi.so", &OPERATORS);
    let (table, report) = load(&tree);
    assert!(!table.has_operator(OperatorId::Mm));
    let Outcome::Unused(reason) = outcome(&report, &tree.lib("libopapi.so")) else { panic!("{report}") };
    assert!(reason.contains("must not be mixed"));
}

fn older_operator_split() {
    let tree = Tree::new();
    tree.family("libascendcl.so", &[Library::Acl]);
    tree.family("libnnopbase.so", &[Library::Base]);
    tree.family("libopapi.so", &[Library::OpsNn]);
    tree.family("libaclnn_math.so", &[Library::OpsMath]);
    let (table, report) = load(&tree);
    assert_eq!(from(&report, FunctionId::aclnnAdd), tree.lib("libaclnn_math.so"));
    assert!(!table.has_operator(OperatorId::MoeGatingTopK));
}

/// Operators move between repositories: each library of the directory is asked, the legacy one last.
fn other_operator_libraries() {
    let tree = Tree::by_repository();
    fs::remove_file(tree.lib("libopapi_math.so")).unwrap();
    tree.family("libopapi_legacy.so", &[Library::OpsMath]);
    tree.compile("libopapi_new.so", &names(["aclnnAddGetWorkspaceSize", "aclnnAdd"]));
    let (_, report) = load(&tree);
    assert_eq!(from(&report, FunctionId::aclnnAdd), tree.lib("libopapi_new.so"));
    assert_eq!(from(&report, FunctionId::aclnnMul), tree.lib("libopapi_legacy.so"));
}

fn symbol_in_the_second_library() {
    let tree = Tree::by_repository();
    tree.compile("libacl_rt.so", &exports(|f| f.library == Library::Acl && f.name != "aclrtGetMemInfo"));
    tree.family("libascendcl.so", &[Library::Acl]);
    let (table, report) = load(&tree);
    assert!(table.functions().aclrtGetMemInfo.is_some());
    assert_eq!(from(&report, FunctionId::aclInit), tree.lib("libacl_rt.so"));
    assert_eq!(from(&report, FunctionId::aclrtGetMemInfo), tree.lib("libascendcl.so"));
}

fn required_symbol_missing() {
    let tree = Tree::by_repository();
    let lacks = |f: &FunctionInfo| f.name == "aclrtMalloc" || f.name == "aclrtFree";
    tree.compile("libacl_rt.so", &exports(|f| f.library == Library::Acl && !lacks(f)));
    let (error, report) = load_error(&tree);
    let expected = LoadError::MissingSymbol {
        names: vec!["aclrtMalloc", "aclrtFree"],
        searched: vec![tree.lib("libacl_rt.so"), tree.lib("libascendcl.so")],
    };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("aclrtMalloc, aclrtFree"), "{error}");
    assert_eq!(outcome(&report, &tree.lib("libacl_rt.so")), &Outcome::Opened);
    assert_eq!(outcome(&report, &tree.lib("libascendcl.so")), &Outcome::Absent);
}

fn refused_file_explains_missing_symbols() {
    let tree = Tree::by_repository();
    tree.write("lib64/libnnopbase.so", "not a library");
    let (error, _) = load_error(&tree);
    assert!(matches!(&error, LoadError::WrongFile { path, .. } if *path == tree.lib("libnnopbase.so")), "{error:?}");
}

fn optional_symbol_missing() {
    let tree = Tree::by_repository();
    tree.compile("libacl_rt.so", &exports(|f| f.library == Library::Acl && f.need == Need::Must));
    let (table, report) = load(&tree);
    let id = FunctionId::aclFinalizeReference;
    assert!(!table.functions().has(id) && report.missing.contains(&id));
    assert!(report.to_string().contains("aclFinalizeReference (since 8.5.0)"));
    // SAFETY: the table does not have the function, so nothing is called.
    let error = unsafe { table.aclFinalizeReference(core::ptr::null_mut()) }.unwrap_err();
    assert_eq!(error.0, id);
}

fn no_operator_library() {
    let tree = Tree::new();
    tree.family("libacl_rt.so", &[Library::Acl]);
    tree.family("libnnopbase.so", &[Library::Base]);
    let (error, _) = load_error(&tree);
    assert_eq!(error, LoadError::NoOperators { searched: vec![tree.lib("libopapi.so")] });
}

fn half_an_operator() {
    let tree = Tree::by_repository();
    tree.compile("libopapi_nn.so", &exports(|f| f.library == Library::OpsNn && f.name != "aclnnMm"));
    tree.compile("libopapi_cv.so", &names(["aclnnMm"]));
    let (table, _) = load(&tree);
    assert!(!table.functions().has(FunctionId::aclnnMm) && !table.functions().has(FunctionId::aclnnMmGetWorkspaceSize));
    assert!(table.has_operator(OperatorId::Matmul));
}

/// A library sees the symbols of those it links; phases that meet only that way come from two makers.
fn operator_across_two_files() {
    let tree = Tree::by_repository();
    tree.compile("libopapi_nn.so", &exports(|f| f.library == Library::OpsNn && !f.name.starts_with("aclnnMm")));
    let other = tree.compile_with(&tree.root().join("other/libother.so"), &names(["aclnnMm"]), &[]);
    let link = ["-Wl,--no-as-needed", other.to_str().unwrap()];
    tree.compile_with(&tree.lib("libopapi_cv.so"), &names(["aclnnMmGetWorkspaceSize"]), &link);
    let (table, _) = load(&tree);
    assert!(!table.has_operator(OperatorId::Mm));
}

/// `RTLD_LAZY` leaves undefined functions alone; an undefined object is refused, and so is the library.
fn undefined_dependency() {
    let tree = Tree::by_repository();
    tree.compile("libacl_rt.so", "extern int rtNoSuchObject; int *user(void) { return &rtNoSuchObject; }\n");
    let (error, _) = load_error(&tree);
    let LoadError::Open { path, dlerror, hint } = error else { panic!("{error:?}") };
    assert_eq!(path, tree.lib("libacl_rt.so"));
    assert!(dlerror.contains("rtNoSuchObject"), "{dlerror}");
    assert!(hint.contains("mixed"), "{hint}");
}

/// What a host without the driver's directory on LD_LIBRARY_PATH shows.
fn missing_dependency() {
    let tree = Tree::by_repository();
    let hal = tree.compile_with(
        &tree.root().join("driver/libascend_hal.so"),
        &names(["halInit"]),
        &["-Wl,-soname,libascend_hal.so"],
    );
    let all = exports(|f| f.library == Library::Acl);
    tree.compile_with(&tree.lib("libacl_rt.so"), &all, &["-Wl,--no-as-needed", hal.to_str().unwrap()]);
    fs::remove_file(hal).unwrap();
    let (error, _) = load_error(&tree);
    let text = error.to_string();
    assert!(matches!(error, LoadError::Open { .. }));
    assert!(text.contains("libascend_hal.so") && text.contains("set_env.sh"), "{text}");
}

fn custom_package_only_where_named() {
    let tree = Tree::by_repository();
    let custom = tree.root().join("vendors/acme/op_api/lib/libcust_opapi.so");
    tree.compile_with(&custom, &exports(|f| f.library == Library::OpsTransformer), &[]);
    let (table, report) = Loader::at(tree.root()).custom_package(&custom, &[OperatorId::MoeGatingTopK]).load();
    table.unwrap();
    assert_eq!(from(&report, FunctionId::aclnnMoeGatingTopK), custom);
    assert_eq!(from(&report, FunctionId::aclnnMoeGatingTopKGetWorkspaceSize), custom);
    assert_eq!(from(&report, FunctionId::aclnnMoeInitRoutingV3), tree.lib("libopapi_transformer.so"));
    assert_eq!(report.library_of(FunctionId::aclnnMoeGatingTopK).unwrap().functions.len(), 2);

    let (_, unasked) = load(&tree);
    assert!(unasked.candidates.iter().all(|candidate| candidate.path != custom));
}

fn custom_package_without_the_operator() {
    let tree = Tree::by_repository();
    let custom = tree.compile_with(&tree.root().join("libcust_opapi.so"), &names(["aclnnOther"]), &[]);
    let (table, _) = Loader::at(tree.root()).custom_package(&custom, &[OperatorId::Mm]).load();
    let names = vec!["aclnnMmGetWorkspaceSize", "aclnnMm"];
    assert_eq!(table.map(drop).unwrap_err(), LoadError::MissingSymbol { names, searched: vec![custom] });
}

fn later_root_is_not_mixed_in() {
    let first = Tree::new();
    first.family("libacl_rt.so", &[Library::Acl]);
    let second = Tree::by_repository();
    let env = SearchEnv {
        home_path: Some(first.root().to_owned()),
        known_roots: vec![second.root().to_owned()],
        ..SearchEnv::default()
    };
    let (table, report) = Loader::new(&env).load();
    assert!(matches!(table, Err(LoadError::MissingSymbol { .. })), "{table:?}");
    assert_eq!(report.roots[1].outcome, RootOutcome::NotReached);
    assert!(report.candidates.iter().all(|candidate| !candidate.path.starts_with(second.root())));
}

fn arch_directory() {
    let tree = Tree::by_repository();
    let arch = tree.root().join(format!("{}-linux", env::consts::ARCH));
    fs::create_dir(&arch).unwrap();
    fs::rename(tree.root().join("lib64"), arch.join("lib64")).unwrap();
    let (_, report) = load(&tree);
    assert_eq!(from(&report, FunctionId::aclInit), arch.join("lib64/libacl_rt.so"));
}

/// Communicator functions come from hcomm where it has them, from hccl elsewhere; a bad file is no failure.
fn hccl() {
    let tree = Tree::by_repository();
    tree.family("libhccl.so", &[Library::Hccl, Library::HcclComm]);
    tree.compile("libhcomm.so", &names(["HcclGetRootInfo"]));
    let (table, report) = load(&tree);
    assert_eq!(table.missing().count(), 0);
    assert_eq!(from(&report, FunctionId::HcclGetRootInfo), tree.lib("libhcomm.so"));
    assert_eq!(from(&report, FunctionId::HcclCommDestroy), tree.lib("libhccl.so"));
    assert_eq!(from(&report, FunctionId::HcclAllReduce), tree.lib("libhccl.so"));
    let place = |file: &str| report.libraries.iter().position(|library| library.path == tree.lib(file)).unwrap();
    assert!(place("libhccl.so") < place("libhcomm.so"));

    let broken = Tree::by_repository();
    broken.write("lib64/libhccl.so", "text");
    let (table, report) = load(&broken);
    assert!(table.functions().HcclAllReduce.is_none());
    assert!(matches!(outcome(&report, &broken.lib("libhccl.so")), Outcome::Refused(LoadError::WrongFile { .. })));
}

fn simulator_identity() {
    let tree = Tree::by_repository();
    let identity = "const char *cannSimIdentity(void) { return \"a simulator\"; }\n";
    tree.compile("libacl_rt.so", &(exports(|f| f.library == Library::Acl) + identity));
    let (table, _) = load(&tree);
    assert_eq!(table.origin().implementation, Implementation::SimulatorLibrary);
    assert_eq!(table.origin().identity.as_deref(), Some("a simulator"));
}

/// A stub that lies elsewhere than in a stub directory shows itself when it is called.
fn stub_by_code() {
    let tree = Tree::by_repository();
    let others = exports(|f| f.library == Library::Acl && f.name != "aclInit");
    tree.compile("libacl_rt.so", &(others + "int aclInit(const char *path) { return 100039; }\n"));
    let (table, _) = load(&tree);
    assert_eq!(probe(&table).unwrap_err(), LoadError::StubLibrary { path: tree.lib("libacl_rt.so") });
}

/// The dynamic linker reads LD_LIBRARY_PATH when a process starts, so this one starts another.
fn bare_names() {
    let run = |lib_dir: &Path| {
        let output =
            Command::new(env::current_exe().unwrap()).env(CHILD, "1").env("LD_LIBRARY_PATH", lib_dir).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let tree = Tree::by_repository();
    tree.release("9.0.0");
    let found = run(&tree.root().join("lib64"));
    assert!(found.contains(&format!("{} (dynamic linker): used", tree.root().display())), "{found}");
    assert!(found.contains(&format!("{}: opened", tree.lib("libopapi_math.so").display())), "{found}");
    assert!(found.contains("release: 9.0.0") && found.ends_with("loaded\n"), "{found}");

    let stub = tree.root().join("devlib");
    fs::rename(tree.root().join("lib64"), &stub).unwrap();
    let found = run(&stub);
    let expected = LoadError::StubLibrary { path: stub.join("libacl_rt.so") };
    assert!(found.ends_with(&format!("{expected}\n")), "{found}");
}

fn load_by_bare_name() -> ExitCode {
    let env = SearchEnv { bare_names: true, ..SearchEnv::default() };
    let (table, report) = Loader::new(&env).load();
    print!("{report}");
    match table {
        Ok(_) => println!("loaded"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}
