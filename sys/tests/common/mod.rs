//! What the tests of the loader share: CANN trees made of crafted files or of small C libraries.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ascend_sys::load::LoadReport;
use ascend_sys::{FUNCTIONS, FunctionInfo, Library};

/// A directory laid out like a CANN root, removed at the end.
pub struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("lib64")).expect("lib64");
        Self { dir }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Where a library of this name lies.
    pub fn lib(&self, file: &str) -> PathBuf {
        self.root().join("lib64").join(file)
    }

    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, bytes).expect("the file");
        path
    }

    /// The version file of a release from 8.5 on.
    pub fn release(&self, version: &str) -> PathBuf {
        self.write(
            &format!("{}-linux/ascend_toolkit_install.info", std::env::consts::ARCH),
            format!("package_name=Ascend-cann-toolkit\nversion={version}\n"),
        )
    }

    /// Compiles C text into `lib64/<file>`.
    pub fn compile(&self, file: &str, source: &str) -> PathBuf {
        self.compile_with(&self.lib(file), source, &[])
    }

    pub fn compile_with(&self, library: &Path, source: &str, arguments: &[&str]) -> PathBuf {
        fs::create_dir_all(library.parent().expect("a parent")).expect("directories");
        let text = library.with_extension("c");
        fs::write(&text, source).expect("the source");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .arg(library)
            .arg(&text)
            .args(arguments)
            .output()
            .expect("cc");
        assert!(output.status.success(), "cc failed: {}", String::from_utf8_lossy(&output.stderr));
        library.to_owned()
    }

    /// A library that has every function of the families, each doing nothing.
    pub fn family(&self, file: &str, families: &[Library]) -> PathBuf {
        self.compile(file, &exports(|function| families.contains(&function.library)))
    }

    /// The layout of releases from 8.5 on, without HCCL.
    pub fn by_repository() -> Self {
        let tree = Self::new();
        tree.family("libacl_rt.so", &[Library::Acl]);
        tree.family("libnnopbase.so", &[Library::Base]);
        tree.family("libopapi_transformer.so", &[Library::OpsTransformer]);
        tree.family("libopapi_nn.so", &[Library::OpsNn]);
        tree.family("libopapi_math.so", &[Library::OpsMath]);
        tree
    }
}

pub const OPERATORS: [Library; 3] = [Library::OpsMath, Library::OpsNn, Library::OpsTransformer];

/// Whether this host has this compiler.
pub fn has(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// C text that defines the functions kept, all empty: only their names matter here.
pub fn exports(keep: impl Fn(&FunctionInfo) -> bool) -> String {
    names(FUNCTIONS.iter().filter(|function| keep(function)).map(|function| function.name))
}

pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("void {name}(void) {{}}\n")).collect()
}

/// The first bytes of an ELF file.
pub fn elf_header(class: u8, kind: u16, machine: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    bytes[16..18].copy_from_slice(&kind.to_le_bytes());
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

/// ELF number of this machine, and of the other machine that CANN runs on.
pub fn machines() -> (u16, u16) {
    if cfg!(target_arch = "aarch64") { (183, 62) } else { (62, 183) }
}

/// What the report says of a file.
pub fn outcome<'a>(report: &'a LoadReport, path: &Path) -> &'a ascend_sys::load::Outcome {
    &report.candidates.iter().find(|candidate| candidate.path == path).expect("the file is in the report").outcome
}
