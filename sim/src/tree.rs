//! A directory laid out like an installed CANN in which every library is the simulator's shared library: what a loader,
//! or a program linked against CANN, opens without knowing better.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
/// A tree made here before is replaced, file by file and each at once, so that programs may use it, or make it anew, meanwhile.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where `dir` has libraries of a layout that were not made here, such as those of an
/// installed CANN; otherwise those of the file system.
pub fn make(dir: &Path, library: &Path, layout: Layout, release: Release) -> io::Result<()> {
    let lib_dir = dir.join("lib64");
    fs::create_dir_all(&lib_dir)?;
    let links = Layout::Split.files().iter().map(|file| (lib_dir.join(file), layout.files().contains(file)));
    let links = links.map(|(link, is_due)| Ok((is_ours(&link)?, link, is_due))).collect::<io::Result<Vec<_>>>()?;
    replace(&lib_dir.join(LIBRARY), |fresh| fs::copy(library, fresh).map(drop))?;
    for (is_there, link, is_due) in links {
        let changed = match (is_there, is_due) {
            (false, true) => symlink(LIBRARY, &link),
            (true, false) => fs::remove_file(&link),
            _ => Ok(()),
        };
        // Somebody else may have been faster.
        changed.or_else(|error| if is_ours(&link)? == is_due { Ok(()) } else { Err(error) })?;
    }
    let arch_dir = dir.join(format!("{}-linux", std::env::consts::ARCH));
    let package_dir = dir.join("share/info/runtime");
    let toolkit = format!("package_name=cann-sim\nversion={release}\n");
    for (dir, file, text) in [
        (&arch_dir, "ascend_toolkit_install.info", toolkit),
        (&package_dir, "version.info", format!("Version={release}\n")),
    ] {
        fs::create_dir_all(dir)?;
        replace(&dir.join(file), |fresh| fs::write(fresh, &text))?;
    }
    Ok(())
}

/// Whether a library of a layout is there; an error where it is there and not the simulator's.
fn is_ours(link: &Path) -> io::Result<bool> {
    match fs::read_link(link) {
        Ok(target) if target == Path::new(LIBRARY) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        _ => {
            let reason = format!("{} is not the simulator's", link.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, reason))
        }
    }
}

/// Makes a file that takes the place of another at once: a running program may have that mapped.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let replaced = make(Path::new(&fresh)).and_then(|()| fs::rename(&fresh, path));
    if replaced.is_err() {
        // Best effort: the first failure is the one to tell.
        let _ = fs::remove_file(&fresh);
    }
    replaced
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

    /// Made by several at a time, it is whole for each of them from the end of its own making on.
    #[test]
    fn made_by_several() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("built.so");
        fs::write(&library, "library").unwrap();
        let root = dir.path().join("root");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        make(&root, &library, Layout::Split, RELEASE).unwrap();
                        for file in Layout::Split.files() {
                            assert_eq!(fs::read_to_string(root.join("lib64").join(file)).unwrap(), "library");
                        }
                        let version = fs::read_to_string(root.join("share/info/runtime/version.info")).unwrap();
                        assert_eq!(version, "Version=9.1.0\n");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(root.join("lib64")).unwrap().count(), Layout::Split.files().len() + 1);
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
