//! `doctor`: works everywhere, says which backend is usable and why, or what is missing and what helps.

use std::fs;

use serde_json::Value;

use crate::backends::a_library;
use crate::tool::{Tool, is_bare_host, simulated_cann};

fn doctor() -> Tool {
    Tool::new(&["doctor"])
}

/// The report, whose keys are always the same.
fn report(tool: Tool, code: i32) -> Value {
    let (report, ran) = tool.report(code);
    let mut keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = "advice backend devices libraries missing_symbols reason schema searched versions";
    assert_eq!(keys.join(" "), expected);
    let mut versions: Vec<&str> = report["versions"].as_object().unwrap().keys().map(String::as_str).collect();
    versions.sort_unstable();
    assert_eq!(versions.join(" "), "acl ascend_moe build_profile build_target cann identity runtime");
    assert_eq!(report["schema"], "ascend-moe/doctor/1");
    assert_eq!(report["versions"]["ascend_moe"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["backend"].is_null(), code != 0, "{report}");
    assert!(!ran.stderr.contains("error"), "{}", ran.stderr);
    report
}

fn texts<'r>(report: &'r Value, list: &str, key: &str) -> Vec<&'r str> {
    let texts = |entry: &'r Value| if key.is_empty() { entry.as_str() } else { entry[key].as_str() };
    report[list].as_array().unwrap().iter().map(|entry| texts(entry).unwrap()).collect()
}

fn has(texts: &[&str], word: &str) -> bool {
    texts.iter().any(|text| text.contains(word))
}

#[test]
fn the_simulator_in_process() {
    let report = report(doctor().arguments(&["--backend", "sim"]), 0);
    assert_eq!((&report["backend"], &report["versions"]["cann"]), (&"simulator".into(), &"9.1.0".into()));
    assert!(report["versions"]["identity"].as_str().unwrap().starts_with("cann-sim"), "{report}");
    let devices = report["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[1], serde_json::json!({"id": 1, "soc": "Ascend910_9391", "simulated": true}));
    assert_eq!(texts(&report, "missing_symbols", ""), [""; 0]);
    assert!(has(&texts(&report, "advice", ""), "run on an Ascend host"), "{report}");

    let ran = doctor().arguments(&["--backend", "sim"]).ends(0);
    for words in ["backend   simulator\n", "reason    ", "device    0 Ascend910_9391, simulated", "advice    "] {
        assert!(ran.stdout.contains(words), "no {words:?} in\n{}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
}

#[test]
fn nothing_but_an_empty_root() {
    if !is_bare_host() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let empty_root = || doctor().variable("ASCEND_HOME_PATH", empty.path());
    let unasked = report(empty_root(), 0);
    assert_eq!(unasked["backend"], "simulator");
    let asked = report(empty_root().arguments(&["--backend", "cann"]), 3);
    for report in [&unasked, &asked] {
        let searched = texts(report, "searched", "path");
        assert!(has(&searched, &format!("{} (ASCEND_HOME_PATH)", empty.path().display())), "{searched:?}");
        assert!(has(&searched, "libacl_rt.so") && has(&searched, "/usr/local/Ascend/cann"), "{searched:?}");
        assert!(has(&texts(report, "searched", "outcome"), "no ACL library"), "{report}");
        assert!(report["reason"].as_str().unwrap().contains("no CANN library"), "{report}");
    }
    assert_eq!(asked["devices"], serde_json::json!([]));
    let advice = texts(&asked, "advice", "");
    assert!(has(&advice, "install CANN 8.5.0 or later") && has(&advice, "--backend sim"), "{advice:?}");

    let ran = empty_root().variable("ASCEND_MOE_BACKEND", "cann").ends(3);
    for words in ["backend   none usable", "no CANN library found", "searched  ", "advice    on an Ascend host"] {
        assert!(ran.stdout.contains(words), "no {words:?} in\n{}", ran.stdout);
    }
}

#[test]
fn libraries_that_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lib = |root: &str| {
        fs::create_dir_all(dir.path().join(root).join("lib64")).unwrap();
        dir.path().join(root).join("lib64/libacl_rt.so")
    };
    fs::write(lib("text"), "this is not a library").unwrap();
    let text = report(doctor().variable("ASCEND_HOME_PATH", dir.path().join("text")), 3);
    assert!(text["reason"].as_str().unwrap().contains("not a shared library"), "{text}");
    assert!(has(&texts(&text, "searched", "outcome"), "refused: "), "{text}");

    fs::copy(a_library(), lib("other")).unwrap();
    let other = report(doctor().variable("ASCEND_HOME_PATH", dir.path().join("other")), 3);
    let missing = texts(&other, "missing_symbols", "");
    assert!(missing.contains(&"aclInit") && missing.contains(&"aclrtMalloc"), "{missing:?}");
    assert!(has(&texts(&other, "libraries", "path"), "other/lib64/libacl_rt.so"), "{other}");

    if is_bare_host() {
        fs::write(lib("stub"), "\x7fELF").unwrap();
        let stub = report(doctor().variable("ASCEND_HOME_PATH", dir.path().join("stub")), 3);
        assert!(stub["reason"].as_str().unwrap().contains("is a stub library"), "{stub}");
        assert!(has(&texts(&stub, "searched", "outcome"), "stub libraries, refused"), "{stub}");
    }
}

#[test]
fn the_simulators_library() {
    let library = || doctor().arguments(&["--backend", "cann"]).variable("ASCEND_HOME_PATH", simulated_cann());
    let found = report(library(), 0);
    assert_eq!(found["backend"], "simulator_library");
    assert!(found["versions"]["identity"].as_str().unwrap().contains("playing CANN 9.1.0"), "{found}");
    let libraries = found["libraries"].as_array().unwrap();
    let functions: u64 = libraries.iter().map(|library| library["functions"].as_u64().unwrap()).sum();
    assert!(functions > 100, "{found}");
    assert!(has(&texts(&found, "libraries", "path"), "lib64/libacl_rt.so"), "{found}");
    assert!(has(&texts(&found, "searched", "outcome"), "used"), "{found}");
    assert!(found["devices"].as_array().unwrap().iter().all(|device| device["simulated"] == true), "{found}");

    let other = report(library().variable("CANN_SIM_SOC", "Ascend910B4").variable("CANN_SIM_DEVICES", "1"), 0);
    assert_eq!(other["devices"], serde_json::json!([{"id": 0, "soc": "Ascend910B4", "simulated": true}]));

    for (script, words) in
        [("aclInit@1=500000", "aclInit failed"), ("aclrtGetDeviceCount@*=507899", "no Ascend device")]
    {
        let failed = report(library().variable("CANN_SIM_FAULTS", script), 3);
        assert!(failed["reason"].as_str().unwrap().contains(words), "{failed}");
        assert_eq!((&failed["versions"]["cann"], &failed["devices"]), (&"9.1.0".into(), &serde_json::json!([])));
        assert!(failed["libraries"].as_array().unwrap().len() > 1, "{failed}");
    }
}

#[test]
fn a_variable_that_names_no_backend() {
    let report = report(doctor().variable("ASCEND_MOE_BACKEND", "gpu"), 3);
    assert!(report["reason"].as_str().unwrap().contains("\"gpu\" (ASCEND_MOE_BACKEND)"), "{report}");
    assert_eq!(texts(&report, "advice", ""), ["unset ASCEND_MOE_BACKEND, or set it to auto, cann or sim"]);
}
