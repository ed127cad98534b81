//! Which release a CANN root holds, told from its version files.
//!
//! Files: `<root>/<arch>-linux/ascend_toolkit_install.info` with a line `version=`, and
//! `<root>/share/info/runtime/version.info` with a line `Version=` (the file `aclsysGetVersionStr` reads).

use std::fs;
use std::path::{Path, PathBuf};

use crate::info::Release;

/// Name of the directory of this machine inside a root, for example `aarch64-linux`.
pub(super) const ARCH_DIR: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };

/// The release of the root and the file that tells it.
pub(super) fn of_root(root: &Path) -> Option<(Release, PathBuf)> {
    [root.join(ARCH_DIR).join("ascend_toolkit_install.info"), root.join("share/info/runtime/version.info")]
        .into_iter()
        .find_map(|path| Some((version_in(&fs::read_to_string(&path).ok()?)?, path)))
}

fn version_in(text: &str) -> Option<Release> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("version"))
        .and_then(|(_, value)| Release::parse(value.trim().trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines() {
        let text = "package_name=Ascend-cann-toolkit\nversion=9.1.0\ninnerversion=V100\narch=aarch64\n";
        assert_eq!(version_in(text), Some(Release::new(9, 1, 0)));
        assert_eq!(version_in("Version=8.1.RC1\n"), Some(Release::new(8, 1, 0)));
        assert_eq!(version_in("Version = \"8.5.0-beta.1\"\n"), Some(Release::new(8, 5, 0)));
        assert_eq!(version_in("innerversion=V100\n"), None);
        assert_eq!(version_in(""), None);
    }
}
