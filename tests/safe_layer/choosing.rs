//! Choosing the table, in environments given as values.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ascend_moe::backend::{Choice, Environment};
use ascend_moe::{Cann, Error};
use ascend_sys::Implementation;
use ascend_sys::Release;
use ascend_sys::load::{LoadError, SearchEnv};
use ascend_sys::probe::HostDevices;
use cann_sim::tree::{self, Layout};

/// No CANN anywhere and no device.
fn bare() -> Environment {
    Environment::default()
}

/// A root whose ACL library is no library.
fn broken_root() -> (tempfile::TempDir, SearchEnv) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("lib64")).unwrap();
    fs::write(root.path().join("lib64/libacl_rt.so"), "not a library").unwrap();
    let search = SearchEnv { home_path: Some(root.path().to_owned()), ..SearchEnv::default() };
    (root, search)
}

fn with_device() -> HostDevices {
    HostDevices { evidence: vec![PathBuf::from("/dev/davinci0")] }
}

#[test]
#[cfg(feature = "sim")]
fn nothing_there_gives_the_simulator_and_one_line_in_the_log() {
    let lines = logged(|| {
        let cann = Cann::open_in(None, &bare()).unwrap();
        assert_eq!(cann.implementation(), Implementation::SimulatorInProcess);
        assert!(cann.reason().contains("no CANN"), "{}", cann.reason());
        assert!(cann.search().is_some());
        cann.device(0).unwrap().synchronize().unwrap();
    });
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{lines:?}");
    assert!(warnings[0].contains("simulator") && warnings[0].contains("no CANN library"), "{}", warnings[0]);
}

#[test]
#[cfg(feature = "sim")]
fn the_simulator_can_be_asked_for() {
    let asked = Environment { backend: Some("sim".into()), host: with_device(), ..bare() };
    let by_variable = Cann::open_in(None, &asked).unwrap();
    assert!(by_variable.is_simulated() && by_variable.reason().contains("ASCEND_MOE_BACKEND"));
    let explicit = Cann::open_in(Choice::Sim, &Environment { host: with_device(), ..bare() }).unwrap();
    assert!(explicit.is_simulated() && explicit.reason().contains("explicit"), "{}", explicit.reason());
}

#[test]
#[cfg(not(feature = "sim"))]
fn a_build_without_a_simulator_says_so() {
    for choice in [Choice::Sim, Choice::Auto] {
        match Cann::open_in(choice, &bare()) {
            Err(error @ Error::NoSimulator { .. }) => assert!(error.to_string().contains("feature `sim`"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_device_without_cann_is_an_error() {
    match Cann::open_in(None, &Environment { host: with_device(), ..bare() }) {
        Err(error @ Error::DeviceWithoutCann { .. }) => {
            let text = error.to_string();
            assert!(text.contains("/dev/davinci0") && text.contains("install CANN"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn cann_asked_for_and_absent_is_an_error() {
    let by_variable = Environment { backend: Some("cann".into()), ..bare() };
    for (choice, environment) in [(Some(Choice::Cann), bare()), (None, by_variable)] {
        match Cann::open_in(choice, &environment) {
            Err(Error::CannUnusable { source: LoadError::NoLibrary { .. }, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cann_that_fails_is_an_error_with_and_without_a_device() {
    for host in [HostDevices::default(), with_device()] {
        let (_root, search) = broken_root();
        match Cann::open_in(None, &Environment { search, host, ..bare() }) {
            Err(error @ Error::CannUnusable { source: LoadError::WrongFile { .. }, .. }) => {
                assert!(error.to_string().contains("libacl_rt.so"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_simulators_library_is_not_taken_for_cann_where_there_is_a_device() {
    let program = std::env::current_exe().unwrap();
    let library = tree::library_beside(&program).expect("cargo builds the simulator's shared library");
    let root = tempfile::tempdir().unwrap();
    tree::make(root.path(), &library, Layout::Split, Release::new(9, 1, 0)).unwrap();
    let search = SearchEnv { home_path: Some(root.path().to_owned()), ..SearchEnv::default() };
    let environment = Environment { search, ..bare() };
    let cann = Cann::open_in(None, &environment).unwrap();
    assert_eq!(cann.implementation(), Implementation::SimulatorLibrary);
    assert!(cann.is_simulated() && !cann.libraries().is_empty() && cann.search().is_some());
    assert!(cann.reason().contains("simulator's library"), "{}", cann.reason());

    let on_a_device = Environment { host: with_device(), ..environment };
    match Cann::open_in(None, &on_a_device) {
        Err(error @ Error::SimulatorOnAscendHost { .. }) => {
            let text = error.to_string();
            assert!(text.contains("/dev/davinci0") && text.contains("libacl_rt.so"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(Cann::open_in(Choice::Cann, &on_a_device).unwrap().is_simulated(), "who asks for it gets it");
}

#[test]
fn a_choice_in_code_goes_before_the_variable() {
    let asked = Environment { backend: Some("sim".into()), ..bare() };
    assert!(matches!(Cann::open_in(Choice::Cann, &asked), Err(Error::CannUnusable { .. })));
    let nonsense = Environment { backend: Some("gpu".into()), ..bare() };
    match Cann::open_in(None, &nonsense) {
        Err(error @ Error::UnknownBackend { .. }) => {
            let text = error.to_string();
            assert!(text.contains("gpu") && text.contains("ASCEND_MOE_BACKEND") && text.contains("`auto`"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(Cann::open_in(Choice::Cann, &nonsense), Err(Error::CannUnusable { .. })));
}

#[test]
fn choices_have_names() {
    for choice in [Choice::Auto, Choice::Cann, Choice::Sim] {
        assert_eq!(choice.to_string().parse::<Choice>().unwrap(), choice);
    }
    assert!(matches!("CANN".parse::<Choice>(), Err(Error::UnknownBackend { .. })));
    assert_eq!(Choice::default(), Choice::Auto);
}

/// The lines logged by `run` on this thread.
#[cfg(feature = "sim")]
fn logged(run: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}
