//! The generated C headers: stable text, every name of the list, and, where there is a compiler, valid C and C++ with
//! the layouts of the Rust types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test functions of a custom harness")]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};

use ascend_sys::header::{STRUCTS, UMBRELLA, files, prototype, write_to};
use ascend_sys::{CONSTANT_TYPES, FLAGS, FUNCTIONS, FunctionId};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let plain: [(&str, fn()); 3] = [
        ("text_is_stable_and_paths_are_unique", text_is_stable_and_paths_are_unique),
        ("every_name_is_declared_once", every_name_is_declared_once),
        ("prototypes_read_as_c", prototypes_read_as_c),
    ];
    let compiled: [(&str, &str, fn()); 2] = [
        ("compiles_as_c", "cc", || compiles("cc", "c11", "c")),
        ("compiles_as_cpp", "c++", || compiles("c++", "c++17", "c++")),
    ];
    let trial = |(name, test): (&'static str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let compiled = compiled.map(|(name, compiler, test)| {
        let trial = trial((name, test));
        if common::has(compiler) { trial } else { trial.with_kind("no compiler here").with_ignored_flag(true) }
    });
    let trials = plain.map(trial).into_iter().chain(compiled);
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Every header by itself, and the layouts of the structs.
fn compiles(compiler: &str, standard: &str, language: &str) {
    let dir = tempfile::tempdir().unwrap();
    write_to(dir.path()).unwrap();
    let mut source: String = files().iter().map(|file| format!("#include \"{}\"\n", file.path)).collect();
    source += "#ifndef __cplusplus\n#define static_assert _Static_assert\n#endif\n";
    for item in STRUCTS {
        source += &format!("static_assert(sizeof({}) == {}, \"size\");\n", item.name, item.size);
        for field in item.fields {
            let (name, field, offset) = (item.name, field.name, field.offset);
            source += &format!("static_assert(offsetof({name}, {field}) == {offset}, \"offset\");\n");
        }
    }
    for constants in CONSTANT_TYPES {
        source += &format!("static_assert(sizeof({}) == 4, \"size\");\n", constants.c_type);
    }
    source += "int main(void) { return (int)ACL_SUCCESS; }\n";
    let file = dir.path().join("all.c");
    std::fs::write(&file, source).unwrap();
    let output = Command::new(compiler)
        .args(["-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-const-variable", "-x", language])
        .arg(format!("-std={standard}"))
        .arg("-I")
        .arg(dir.path())
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn text_of(path: &str) -> String {
    files().into_iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}")).text
}

fn text_is_stable_and_paths_are_unique() {
    let first = files();
    assert_eq!(first, files());
    let paths: BTreeSet<&str> = first.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths.len(), first.len());
    for path in ["acl/acl.h", "acl/acl_rt.h", "aclnn/acl_meta.h", "aclnnop/aclnn_moe_gating_top_k.h", "hccl/hccl.h"] {
        assert!(paths.contains(path), "{path}");
        assert!(text_of(UMBRELLA).contains(&format!("#include \"{path}\"")), "{path}");
    }
}

fn every_name_is_declared_once() {
    let all: String = files().into_iter().map(|file| file.text).collect();
    for function in FUNCTIONS {
        assert_eq!(all.matches(&format!(" {}(", function.name)).count(), 1, "{}", function.name);
    }
    for constants in CONSTANT_TYPES {
        for member in constants.members {
            assert_eq!(all.matches(&format!(" {} = {}", member.name, member.value)).count(), 1, "{}", member.name);
        }
    }
    for flag in FLAGS {
        assert_eq!(all.matches(&format!("#define {} ", flag.name)).count(), 1, "{}", flag.name);
    }
}

fn prototypes_read_as_c() {
    let c = |id: FunctionId| prototype(id.info());
    assert_eq!(c(FunctionId::aclFinalize), "/* since 8.1 */\naclError aclFinalize(void);");
    assert_eq!(
        c(FunctionId::aclCreateTensorList),
        "/* since 8.1 */\naclTensorList* aclCreateTensorList(const aclTensor* const* value, uint64_t size);"
    );
    assert_eq!(
        c(FunctionId::aclnnCastGetWorkspaceSize),
        "/* since 8.1 */\naclnnStatus aclnnCastGetWorkspaceSize(const aclTensor* self, aclDataType dtype, aclTensor* out, \
         uint64_t* workspaceSize, aclOpExecutor** executor);"
    );
    let format_cast = text_of("aclnnop/aclnn_npu_format_cast.h");
    assert!(format_cast.contains("aclnnNpuFormatCastCalculateSizeAndFormat"));
}
