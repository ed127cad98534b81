//! A directory laid out like an installed CANN in which every library is the simulator's shared library: what a loader,
//! or a program linked against CANN, opens without knowing better.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ascend_sys::Release;

/// File name of the simulator's shared library, as built and in the tree.
pub const LIBRARY: &str = "libcann_sim_abi.so";

/// Which files an installation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Releases from 8.5 on: `libacl_rt.so` beside the older `libascendcl.so`, one operator library per repository
    /// beside the older single one.
    Split,
    /// 8.1: `libascendcl.so`, `libnnopbase.so`, `libopapi.so`.
    Single,
}

impl Layout {
    /// Names of the libraries.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Split => &[
                "libacl_rt.so",
                "libascendcl.so",
                "libnnopbase.so",
                "libopapi.so",
                "libopapi_math.so",
                "libopapi_nn.so",
                "libopapi_transformer.so",
            ],
            Self::Single => &["libascendcl.so", "libnnopbase.so", "libopapi.so"],
        }
    }
}

/// Makes the tree in `dir`: a copy of `library`, links to it under the names of the layout, and the version files of the
/// release. The library must be told the same release in `CANN_SIM_RELEASE` when it runs.
///
/// A tree made here before is replaced.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where `dir` has libraries of a layout that were not made here, such as those of an
/// installed CANN; otherwise those of the file system.
pub fn make(dir: &Path, library: &Path, layout: Layout, release: Release) -> io::Result<()> {
    let lib_dir = dir.join("lib64");
    fs::create_dir_all(&lib_dir)?;
    for file in Layout::Split.files() {
        let link = lib_dir.join(file);
        match fs::read_link(&link) {
            Ok(target) if target == Path::new(LIBRARY) => fs::remove_file(&link)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => {
                let reason = format!("{} is not the simulator's", link.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
            }
        }
    }
    // A running program may have the old copy mapped, so it is replaced as a whole.
    let copy = lib_dir.join(LIBRARY);
    let fresh = lib_dir.join(format!("{LIBRARY}.new"));
    fs::copy(library, &fresh)?;
    fs::rename(&fresh, &copy)?;
    for file in layout.files() {
        symlink(LIBRARY, lib_dir.join(file))?;
    }
    let arch_dir = dir.join(format!("{}-linux", std::env::consts::ARCH));
    let package_dir = dir.join("share/info/runtime");
    fs::create_dir_all(&arch_dir)?;
    fs::create_dir_all(&package_dir)?;
    fs::write(arch_dir.join("ascend_toolkit_install.info"), format!("package_name=cann-sim\nversion={release}\n"))?;
    fs::write(package_dir.join("version.info"), format!("Version={release}\n"))
}

/// The shared library in the directory of a program that cargo built, or above it: a package that has `cann-sim-abi`
/// among its dev-dependencies finds it beside its test programs.
pub fn library_beside(program: &Path) -> Option<PathBuf> {
    program.ancestors().skip(1).take(2).map(|dir| dir.join(LIBRARY)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: Release = Release::new(9, 1, 0);

    #[test]
    fn layouts() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("built.so");
        fs::write(&library, "library").unwrap();
        let root = dir.path().join("root");
        let names = || {
            let mut names: Vec<String> = fs::read_dir(root.join("lib64"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != LIBRARY)
                .collect();
            names.sort();
            names
        };
        for layout in [Layout::Split, Layout::Single] {
            make(&root, &library, layout, RELEASE).unwrap();
            assert_eq!(names(), layout.files());
            for file in layout.files() {
                assert_eq!(fs::read_to_string(root.join("lib64").join(file)).unwrap(), "library");
            }
        }
        let info = root.join(format!("{}-linux/ascend_toolkit_install.info", std::env::consts::ARCH));
        assert!(fs::read_to_string(info).unwrap().contains("\nversion=9.1.0\n"));
        assert_eq!(fs::read_to_string(root.join("share/info/runtime/version.info")).unwrap(), "Version=9.1.0\n");
    }

    /// The libraries of an installed CANN are never replaced.
    #[test]
    fn foreign_libraries_stay() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("built.so");
        fs::write(&library, "library").unwrap();
        let installed = dir.path().join("lib64/libopapi_nn.so");
        fs::create_dir(dir.path().join("lib64")).unwrap();
        fs::write(&installed, "CANN").unwrap();
        let error = make(dir.path(), &library, Layout::Single, RELEASE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(installed).unwrap(), "CANN");
        assert!(!dir.path().join("lib64").join(LIBRARY).exists());
    }

    #[test]
    fn library_beside_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let deps = dir.path().join("deps");
        fs::create_dir(&deps).unwrap();
        assert_eq!(library_beside(&deps.join("test-1")), None);
        fs::write(dir.path().join(LIBRARY), "").unwrap();
        assert_eq!(library_beside(&deps.join("test-1")), Some(dir.path().join(LIBRARY)));
        fs::write(deps.join(LIBRARY), "").unwrap();
        assert_eq!(library_beside(&deps.join("test-1")), Some(deps.join(LIBRARY)));
    }
}
