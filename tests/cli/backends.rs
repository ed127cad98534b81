//! Backends other than the simulator in process: none, CANNs that are broken, and the simulator's library laid out
//! like an installed CANN, which the program finds, opens and reports as what it is.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{copy, data, edit_json};
use crate::tool::{Tool, is_bare_host, simulated_cann, simulated_cann_8_5};

const NAMES: [&str; 3] = ["deepseek-v3", "qwen3-moe", "mixtral"];

/// A run on the simulator's library.
fn library(name: &str) -> Tool {
    Tool::run(&data(name)).option("--backend", "cann").variable("ASCEND_HOME_PATH", simulated_cann())
}

fn recorded(name: &str) -> Tool {
    library(name).option("--input", data(name).join("activations.safetensors"))
}

#[test]
fn no_cann() {
    if !is_bare_host() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let home = empty.path().to_str().unwrap();
    let tool = || Tool::run(&data("mixtral")).option("--backend", "cann");
    let words = ["no CANN library found", "searched: ", "/usr/local/Ascend/cann/lib64", "source its set_env.sh"];
    tool().fails(3, &words);
    tool().variable("ASCEND_HOME_PATH", home).fails(3, &[words[0], &format!("{home}/lib64")]);
    let by_variable = Tool::run(&data("mixtral")).variable("ASCEND_MOE_BACKEND", "cann");
    by_variable.fails(3, &["ASCEND_MOE_BACKEND", words[0]]);
    // Unasked it is the simulator, with a word about it.
    let (report, ran) = Tool::run(&data("mixtral")).variable("ASCEND_HOME_PATH", home).report(0);
    assert_eq!((&report["backend"]["name"], &report["backend"]["simulated"]), (&"simulator".into(), &true.into()));
    assert!(report["backend"]["reason"].as_str().unwrap().contains("no CANN library found"), "{report}");
    assert!(ran.stderr.contains("WARN") && ran.stderr.contains("simulator"), "{}", ran.stderr);
}

#[test]
fn a_cann_that_is_broken_is_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let root = |name: &str, bytes: &[u8]| {
        let root = dir.path().join(name);
        fs::create_dir_all(root.join("lib64")).unwrap();
        fs::write(root.join("lib64/libacl_rt.so"), bytes).unwrap();
        root
    };
    let stub = root("devlib", b"\x7fELF");
    let text = root("text", b"this is not a library");
    let none = dir.path().join("none");
    fs::create_dir_all(none.join("lib64")).unwrap();
    fs::copy(a_library(), none.join("lib64/libacl_rt.so")).unwrap();
    for backend in ["cann", "auto"] {
        // The stub is the last resort: on a host with CANN it is passed over.
        if is_bare_host() {
            let tool = Tool::run(&data("mixtral")).option("--backend", backend);
            let words = ["devlib/lib64/libacl_rt.so is a stub library", "take devlib and stub directories off"];
            tool.variable("ASCEND_HOME_PATH", &stub).fails(3, &words);
        }
        let tool = || Tool::run(&data("mixtral")).option("--backend", backend);
        tool().variable("ASCEND_HOME_PATH", &text).fails(3, &["text/lib64/libacl_rt.so", "not a shared library"]);
        tool().variable("ASCEND_HOME_PATH", &none).fails(3, &["no library has", "aclInit"]);
    }
}

/// A shared library of this machine that is not CANN's.
pub(crate) fn a_library() -> std::path::PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libgcc_s"));
    library.expect("Rust's test programs unwind with libgcc_s").into()
}

#[test]
fn the_simulators_library_is_found_and_told_apart() {
    let backends: &[&str] = if is_bare_host() { &["cann", "auto"] } else { &["cann"] };
    for backend in backends {
        let tool = Tool::run(&data("deepseek-v3")).option("--backend", backend);
        let tool = tool.option("--input", data("deepseek-v3").join("activations.safetensors"));
        let (report, ran) = tool.variable("ASCEND_HOME_PATH", simulated_cann()).report(0);
        let told = &report["backend"];
        assert_eq!((&told["name"], &told["simulated"]), (&"simulator_library".into(), &true.into()));
        let reason = told["reason"].as_str().unwrap();
        let path = simulated_cann().join("lib64/libacl_rt.so");
        assert!(reason.contains(path.to_str().unwrap()) && reason.contains("simulator's library"), "{reason}");
        assert!(report["operators"].as_array().unwrap().len() >= 6, "{report}");
        assert_eq!(report["ok"], true);
        assert_eq!(ran.stderr, "");
    }
    let text = recorded("deepseek-v3").ends(0).stdout;
    for words in ["on a simulator of CANN 9.1.0", "no device was used", "simulator_library", "not a device's"] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

/// Opened as CANN, the library gives the bytes that the simulator in process gives; and its strict mode finds nothing.
#[test]
fn the_library_and_the_simulator_in_process_agree() {
    for name in NAMES {
        for dtype in ["f32", "bf16", "f16"] {
            let input = data(name).join("activations.safetensors");
            let here = Tool::simulate(&data(name)).option("--input", input).arguments(&["--dtype", dtype]).ends(0);
            let strict = recorded(name).arguments(&["--dtype", dtype]).variable("CANN_SIM_MODE", "strict").ends(0);
            assert!(fs::read(strict.output()).unwrap() == fs::read(here.output()).unwrap(), "{name} {dtype}");
        }
    }
}

#[test]
fn device_memory_that_runs_out() {
    // Found before anything is loaded: the plan does not fit.
    let small = || library("deepseek-v3").variable("CANN_SIM_HBM", "16M");
    small().fails(3, &["layer 1", "out of memory on device 0", "bytes needed for 16 tokens", " of 16", " free"]);
    let large = library("deepseek-v3").variable("CANN_SIM_HBM", "64M").arguments(&["--tokens", "100000"]);
    large.fails(3, &["out of memory on device 0", "bytes needed for 100000 tokens", " of ", " free"]);
    library("deepseek-v3").variable("CANN_SIM_HBM", "64M").ends(0);
    // Found on the way: somebody else took it.
    let taken = library("deepseek-v3").variable("CANN_SIM_FAULTS", "aclrtMalloc@3=207001;aclrtMalloc@4=207001");
    taken.fails(3, &["layer 1", "out of memory on device 0", "bytes asked for", " of ", " free"]);
}

/// The simulator keeps device memory in the host's.
#[test]
fn host_memory_that_runs_out() {
    if !is_bare_host() {
        return;
    }
    let sim = Tool::simulate(&data("mixtral"));
    let mut limited = std::process::Command::new("sh");
    let command = sim.command();
    limited.args(["-c", "ulimit -v 8000000 && exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    limited.current_dir(sim.folder.path());
    let ran = crate::tool::Ran::new(limited.output().unwrap(), sim.folder);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("the simulator did not start") && ran.stderr.contains("address space"),
        "{}",
        ran.stderr
    );
    assert_eq!(crate::tool::names(ran.folder.path()), [""; 0]);
}

#[test]
fn calls_that_fail_are_named_with_their_code() {
    for (script, words) in [
        ("aclInit@1=500000", &["aclInit", "500000"][..]),
        ("aclrtGetDeviceCount@*=507899", &["no Ascend device", "507899", "npu-smi info"]),
        ("aclrtSetDevice@1=507033", &["aclrtSetDevice", "507033"]),
        ("aclrtCreateStream@1=207005;aclrtCreateStreamWithConfig@1=207005", &["aclrtCreateStream", "207005"]),
        ("aclrtMallocHost@1=207001", &["aclrtMallocHost", "207001"]),
        ("aclnnMmGetWorkspaceSize@*=561003", &["aclnnMmGetWorkspaceSize", "561003", "ops package"]),
        ("aclnnGroupedMatmulV5@2=361001", &["layer 1", "aclnnGroupedMatmulV5", "361001"]),
        ("aclnnMoeFinalizeRoutingV2@2=561000", &["layer 2", "aclnnMoeFinalizeRoutingV2", "561000"]),
        ("aclnnSwiGlu@1=device:507015", &["layer 1", "ACL_ERROR_RT_AICORE_EXCEPTION", "507015", "reset the device"]),
    ] {
        library("deepseek-v3").variable("CANN_SIM_FAULTS", script).fails(3, words);
    }
}

#[test]
fn settings_of_the_library_that_are_not_legal() {
    for (name, value, words) in [
        ("CANN_SIM_SOC", "Ascend310P", &["aclInit", "CANN_SIM_SOC", "Ascend910_9391"][..]),
        ("CANN_SIM_HBM", "1K", &["aclInit", "CANN_SIM_HBM", "1048576"]),
        ("CANN_SIM_FAULTS", "nonsense", &["aclInit", "CANN_SIM_FAULTS", "is no rule"]),
    ] {
        library("mixtral").variable(name, value).fails(3, words);
    }
}

/// What the gating operator of a release does not do, others do; the report says which way was taken.
#[test]
fn routers_that_a_release_has_no_operator_for() {
    let recorded = |name: &str, tool: Tool| tool.option("--input", data(name).join("activations.safetensors"));
    let old = |name: &str| {
        let tool = Tool::run(&data(name)).option("--backend", "cann").variable("CANN_SIM_RELEASE", "8.5.0");
        recorded(name, tool).variable("ASCEND_HOME_PATH", simulated_cann_8_5()).report(0).0
    };
    for (name, router) in [("deepseek-v3", "fused"), ("mixtral", "fused softmax")] {
        let report = old(name);
        assert_eq!(report["backend"]["release"], "8.5.0");
        assert_eq!((&report["ok"], &report["layers"][1]["router"]), (&true.into(), &router.into()), "{name}");
    }

    // The same where the operator is there and its kernel is not.
    let refused = library("deepseek-v3").variable("CANN_SIM_FAULTS", "aclnnMoeGatingTopKGetWorkspaceSize@*=561003");
    let (report, _) = recorded("deepseek-v3", refused).report(0);
    assert_eq!((&report["ok"], &report["layers"][0]["router"]), (&true.into(), &"composed".into()));

    let fault = "aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize@*=561003";
    let tool = Tool::run(&data("mixtral")).option("--backend", "cann").variable("CANN_SIM_RELEASE", "8.5.0");
    let tool = recorded("mixtral", tool).variable("ASCEND_HOME_PATH", simulated_cann_8_5());
    let (report, _) = tool.variable("CANN_SIM_FAULTS", fault).report(0);
    assert_eq!(
        (&report["ok"], &report["layers"][0]["router"]),
        (&true.into(), &"fused choice, gathered weights".into())
    );

    let dir = copy("deepseek-v3");
    edit_json(&dir.path().join("config.json"), |config| config["norm_topk_prob"] = json!(false));
    let (report, _) = Tool::simulate(dir.path()).report(0);
    assert_eq!(report["layers"][0]["router"], "fused choice, gathered weights");
}

/// Input is looked at first: what is wrong with it is said on a host without a backend too.
#[test]
fn input_is_checked_before_a_backend_is_opened() {
    let broken = |tool: Tool| tool.option("--backend", "cann").variable("ASCEND_HOME_PATH", simulated_cann());
    let script = "aclInit@1=500000";
    let tool = broken(Tool::run(Path::new("absent"))).variable("CANN_SIM_FAULTS", script);
    tool.fails(2, &["does not exist"]);
    let tool = broken(Tool::run(&data("mixtral"))).variable("CANN_SIM_FAULTS", script);
    tool.arguments(&["--input", "absent"]).fails(2, &["absent"]);
    let tool = broken(Tool::new(&["run", "--output", "no/out"])).variable("CANN_SIM_FAULTS", script);
    tool.option("--checkpoint", data("mixtral")).fails(2, &["output no/out"]);
}
