//! Spawning the program, and the simulator's library laid out like an installed CANN.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ascend_sys::Release;
use ascend_sys::probe::HostDevices;
use cann_sim::tree::{self, Layout};
use serde_json::Value;
use tempfile::TempDir;

/// Name of the output file that [`Tool::run`] asks for.
pub(crate) const OUTPUT: &str = "out.safetensors";

/// The program with its arguments, to be spawned in an empty folder.
pub(crate) struct Tool {
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(&'static str, PathBuf)>,
    pub(crate) folder: TempDir,
}

/// What became of it.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) folder: TempDir,
}

impl Tool {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self {
            program: env!("CARGO_BIN_EXE_ascend-moe").into(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            variables: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// `run` with an output file, on a backend that is still to be said.
    pub(crate) fn run(checkpoint: &Path) -> Self {
        Self::new(&["run", "--output", OUTPUT]).option("--checkpoint", checkpoint)
    }

    /// The same on the simulator in process.
    pub(crate) fn simulate(checkpoint: &Path) -> Self {
        Self::run(checkpoint).option("--backend", "sim")
    }

    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    pub(crate) fn option(self, name: &str, value: impl AsRef<Path>) -> Self {
        self.arguments(&[name, value.as_ref().to_str().unwrap()])
    }

    pub(crate) fn variable(mut self, name: &'static str, value: impl AsRef<Path>) -> Self {
        self.variables.push((name, value.as_ref().to_owned()));
        self
    }

    /// The command in this process' environment without what could choose a backend or change the words.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments).current_dir(self.folder.path());
        command
    }

    /// Spawns it and expects this exit code.
    pub(crate) fn ends(self, code: i32) -> Ran {
        let output = self.command().output().unwrap();
        let ran = Ran::new(output, self.folder);
        assert_eq!(ran.code, code, "{:?}\n{}\n{}", self.arguments, ran.stdout, ran.stderr);
        ran
    }

    /// Spawns it with `--json` and gives the report.
    pub(crate) fn report(self, code: i32) -> (Value, Ran) {
        let ran = self.arguments(&["--json"]).ends(code);
        let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
        (report, ran)
    }

    /// Spawns it twice, the second time with `--json`, and expects a failure without a report: the exit code, an error
    /// that has these words, nothing in its folder that was not there, and as JSON the same message.
    pub(crate) fn fails(self, code: i32, words: &[&str]) {
        let before = names(self.folder.path());
        let plain = Ran::new(self.command().output().unwrap(), self.folder);
        let again = Self { folder: plain.folder, ..self };
        let (told, about) = (&plain.stderr, &again.arguments);
        assert_eq!(plain.code, code, "{about:?}\n{}\n{told}", plain.stdout);
        assert!(told.lines().any(|line| line.starts_with("error: ")), "{about:?}\n{told}");
        assert_eq!(plain.stdout, "", "{about:?}");
        for word in words {
            assert!(told.contains(word), "{about:?}: no {word:?} in\n{told}");
        }
        assert_eq!(names(again.folder.path()), before, "{about:?}");

        let about = about.clone();
        let (report, again) = again.report(code);
        assert_eq!(report["schema"], "ascend-moe/error/1", "{about:?}");
        assert_eq!((&report["ok"], &report["error"]["exit_code"]), (&false.into(), &code.into()), "{about:?}");
        let kind = report["error"]["kind"].as_str().unwrap();
        assert!(if code == 3 { kind == "backend" } else { ["usage", "input"].contains(&kind) }, "{about:?}: {kind}");
        let message = report["error"]["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{about:?}: no {word:?} in\n{message}");
        }
        // No part of it is told twice.
        let middle = message.get(message.len() / 3..message.len() / 2);
        if let Some(part) = middle.filter(|part| part.len() > 20) {
            assert_eq!(message.matches(part).count(), 1, "{about:?}\n{message}");
        }
        assert_eq!(names(again.folder.path()), before, "{about:?}");
    }
}

impl Ran {
    pub(crate) fn new(output: Output, folder: TempDir) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(!stderr.contains("panicked"), "{stderr}");
        // A signal has no code.
        Self { code: output.status.code().unwrap_or(-1), stdout, stderr, folder }
    }

    /// The output file.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.path().join(OUTPUT)
    }
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let prefixes = ["ASCEND_", "CANN_SIM_", "RUST_", "RAYON_"];
    ["HOME", "LD_LIBRARY_PATH", "NO_COLOR"].contains(&&*name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Names of the files in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Whether this host has neither CANN nor an Ascend device. Tests of what happens without any end early on another.
pub(crate) fn is_bare_host() -> bool {
    let bare = !HostDevices::detect().any() && !Path::new("/usr/local/Ascend").exists();
    if !bare {
        eprintln!("not tested: this host has CANN or an Ascend device");
    }
    bare
}

/// The root of a CANN whose libraries are the simulator's.
pub(crate) fn simulated_cann() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| make_cann("cli-cann", Release::new(9, 1, 0)))
}

/// The same of CANN 8.5.0; the library must be told so.
pub(crate) fn simulated_cann_8_5() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| make_cann("cli-cann-8.5", Release::new(8, 5, 0)))
}

fn make_cann(name: &str, release: Release) -> PathBuf {
    let library = tree::library_beside(&env::current_exe().unwrap());
    let library = library.expect("cargo builds the shared library of a dev-dependency before the tests");
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    tree::make(&root, &library, Layout::Split, release).unwrap();
    root
}
