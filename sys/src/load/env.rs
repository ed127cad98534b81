//! Where CANN may be: roots from variables of the environment, known install roots, and the dynamic linker's own search.
//!
//! CANN's set_env.sh exports the variables; `/usr/local/Ascend/cann` is the install root since 8.5 and
//! `ascend-toolkit/latest` the one before (CANN runtime 9.1.0, README and set_env.sh). The same below `$HOME` is where
//! an installation without root privileges goes.

use std::env;
use std::path::PathBuf;

/// What the search looks at, as a value, so that a test touches no environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchEnv {
    /// `$ASCEND_HOME_PATH`.
    pub home_path: Option<PathBuf>,
    /// `$ASCEND_TOOLKIT_HOME`.
    pub toolkit_home: Option<PathBuf>,
    /// `$ASCEND_OPP_PATH`, whose parent is a root.
    pub opp_path: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// Install roots tried after the variables.
    pub known_roots: Vec<PathBuf>,
    /// Whether the dynamic linker is asked for the bare names at the end (`LD_LIBRARY_PATH`, its cache).
    pub bare_names: bool,
}

/// A directory that may be the root of a CANN installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The directory.
    pub path: PathBuf,
    /// What named it.
    pub source: &'static str,
}

impl SearchEnv {
    /// The environment of this process. Empty variables count as unset.
    pub fn from_process() -> Self {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            home_path: variable("ASCEND_HOME_PATH"),
            toolkit_home: variable("ASCEND_TOOLKIT_HOME"),
            opp_path: variable("ASCEND_OPP_PATH"),
            home: variable("HOME"),
            known_roots: vec!["/usr/local/Ascend/cann".into(), "/usr/local/Ascend/ascend-toolkit/latest".into()],
            bare_names: true,
        }
    }

    /// The roots in the order in which they are searched, each once.
    pub fn roots(&self) -> Vec<Root> {
        let opp_parent = self.opp_path.as_ref().and_then(|path| path.parent()).map(PathBuf::from);
        let under_home = |tail: &str| self.home.as_ref().map(|home| home.join(tail));
        let mut candidates = vec![
            (self.home_path.clone(), "ASCEND_HOME_PATH"),
            (self.toolkit_home.clone(), "ASCEND_TOOLKIT_HOME"),
            (opp_parent, "ASCEND_OPP_PATH"),
        ];
        candidates.extend(self.known_roots.iter().map(|path| (Some(path.clone()), "install root")));
        candidates.push((under_home("Ascend/cann"), "HOME"));
        candidates.push((under_home("Ascend/ascend-toolkit/latest"), "HOME"));

        let mut roots: Vec<Root> = Vec::new();
        for (path, source) in candidates {
            if let Some(path) = path
                && roots.iter().all(|root| root.path != path)
            {
                roots.push(Root { path, source });
            }
        }
        roots
    }
}
