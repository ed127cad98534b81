//! A C program compiled against the generated headers, linked against the tree as against CANN, and run. Where there is
//! no C compiler the test is listed as ignored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test functions of a custom harness")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use ascend_sys::{Release, header};
use cann_sim::tree::{Layout, library_beside, make};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let has_cc = Command::new("cc").arg("--version").output().is_ok_and(|output| output.status.success());
    let tests: [(&str, Layout, &[&str]); 2] = [
        ("linked_by_repository", Layout::Split, &["-lacl_rt", "-lnnopbase", "-lopapi_nn"]),
        ("linked_with_single_libraries", Layout::Single, &["-lascendcl", "-lnnopbase", "-lopapi"]),
    ];
    let trials = tests.map(|(name, layout, libraries)| {
        let trial = Trial::test(name, move || {
            run(layout, libraries);
            Ok(())
        });
        if has_cc { trial } else { trial.with_kind("no C compiler here").with_ignored_flag(true) }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn run(layout: Layout, libraries: &[&str]) {
    let library =
        library_beside(&env::current_exe().unwrap()).expect("cargo builds the shared library before its tests");
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), &library, layout, Release::new(9, 1, 0)).unwrap();
    header::write_to(&dir.path().join("include")).unwrap();
    let lib_dir = dir.path().join("lib64");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client.c");
    let program = dir.path().join("client");
    let output = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(&source)
        .arg(format!("-I{}", dir.path().join("include").display()))
        .arg(format!("-L{}", lib_dir.display()))
        .arg("-Wl,--no-as-needed")
        .args(libraries)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // The names the linker kept are those of CANN, not of the file behind the links.
    let bytes = fs::read(&program).unwrap();
    let names = String::from_utf8_lossy(&bytes);
    assert!(libraries.iter().all(|name| names.contains(&format!("lib{}.so", &name[2..]))));

    let output = Command::new(&program).env("LD_LIBRARY_PATH", &lib_dir).env("CANN_SIM_DEVICES", "2").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, "Ascend910_9391, 2 devices, copy equal\n");
}
