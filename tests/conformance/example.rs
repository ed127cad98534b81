//! The golden example as a program: its answers, what it says of files that it cannot answer, and its exit codes.
//!
//! The program is this test program itself, which hands over to the example's `main` where [`RUN`] is set: so it is there
//! and up to date however the tests are built.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::compare::{Answer, Golden};
use crate::files::{self, Contents};
use crate::fillings::shared_tree;
use crate::trial;

/// Variable of the environment that makes this program the example.
pub(crate) const RUN: &str = "ASCEND_MOE_CONFORMANCE_RUNS_THE_EXAMPLE";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("in_process::example::answers_a_folder", || answers_a_folder("sim", None)),
        trial("library::example::answers_a_folder", || answers_a_folder("cann", Some(&shared_tree()))),
        trial("in_process::example::names_what_it_cannot_answer", names_what_it_cannot_answer),
        trial("in_process::example::without_files_or_backend", without_files_or_backend),
    ]
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the example, with CANN installed at `cann` or nowhere.
fn run(input: &Path, output: &Path, backend: &str, cann: Option<&Path>) -> Ran {
    let mut command = Command::new(env::current_exe().unwrap());
    for name in ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "ASCEND_MOE_BACKEND"] {
        command.env_remove(name);
    }
    if let Some(cann) = cann {
        command.env("ASCEND_HOME_PATH", cann);
    }
    let ran = command.env(RUN, "1").arg(input).arg(output).args(["--backend", backend]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: ran.status.code(), out: text(ran.stdout), err: text(ran.stderr) }
}

/// The answers in a folder, by the names of their files.
fn answers(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn assert_right(stem: &str, answer: &Path) {
    Golden::open(&files::golden(stem)).judge(&Answer::read(answer)).unwrap();
}

fn answers_a_folder(backend: &str, cann: Option<&Path>) {
    const STEMS: [&str; 4] = ["deepseek_v3_decode1", "mixtral_bf16", "qwen3_moe_ties_zero", "route_deepseek_v2_e160"];
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("not/there/yet"));
    fs::create_dir(&input).unwrap();
    for stem in STEMS {
        fs::copy(files::golden(stem), input.join(format!("{stem}.safetensors"))).unwrap();
    }
    // Neither is a question.
    fs::write(input.join("old.out.safetensors"), "an answer").unwrap();
    fs::write(input.join("README.md"), "text").unwrap();

    let ran = run(&input, &output, backend, cann);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert_eq!(answers(&output), STEMS.map(|stem| format!("{stem}.out.safetensors")));
    for stem in STEMS {
        assert!(ran.out.contains(&format!("answered  {stem}\n")), "{}", ran.out);
        assert_right(stem, &output.join(format!("{stem}.out.safetensors")));
    }
    assert!(ran.out.ends_with("4 answered, 0 not\n"), "{}", ran.out);
}

/// Each broken file is named with what is wrong with it, and the others are answered all the same.
fn names_what_it_cannot_answer() {
    let original = files::golden("deepseek_v3_base");
    let read = || Contents::read(&original);
    let cut = |path: &Path| {
        let bytes = fs::read(&original).unwrap();
        fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).unwrap();
    let at = |stem: &str| input.join(format!("{stem}.safetensors"));

    fs::copy(&original, at("a_right_one")).unwrap();
    read().edit_golden(|golden| golden["surprise"] = 1.into()).write(&at("key"));
    read().edit_golden(|golden| golden["routing"]["jitter"] = 0.1.into()).write(&at("routing_key"));
    read().edit_golden(|golden| golden["expert"]["dropout"] = 0.1.into()).write(&at("expert_key"));
    read().edit_golden(|golden| golden["shared"]["dropout"] = 0.1.into()).write(&at("shared_key"));
    read().edit_golden(|golden| golden["routing"]["score"] = "tanh".into()).write(&at("score"));
    read().edit_golden(|golden| golden["routing"]["group_fill"] = "1".into()).write(&at("group_fill"));
    read().edit_golden(|golden| golden["kind"] = "moe_int3".into()).write(&at("kind"));
    read().edit_golden(|golden| golden["dtype"] = "f64".into()).write(&at("dtype"));
    read().rename("router_logits", "router_logit_bias").write(&at("tensor"));
    read().rename("shared.up_proj", "gmm1_out_too").write(&at("other_tensor"));
    read().rename("hidden_states", "routed_output_2").write(&at("no_input"));
    cut(&at("truncated"));
    fs::write(at("empty"), "").unwrap();
    fs::copy(&original, at("z_right_one")).unwrap();

    let ran = run(&input, &output, "sim", None);
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    let broken = [
        ("key", "surprise"),
        ("routing_key", "jitter"),
        ("expert_key", "dropout"),
        ("shared_key", "dropout"),
        ("score", "tanh"),
        ("group_fill", "group_fill"),
        ("kind", "moe_int3"),
        ("dtype", "f64"),
        ("tensor", "the bias on the router's logits"),
        ("other_tensor", "gmm1_out_too"),
        ("no_input", "routed_output_2"),
        ("truncated", "truncated.safetensors"),
        ("empty", "empty.safetensors"),
    ];
    for (stem, reason) in broken {
        let line = ran.out.lines().find(|line| line.starts_with(&format!("no answer {stem}: ")));
        let line = line.unwrap_or_else(|| panic!("{stem} is not named:\n{}", ran.out));
        assert!(line["no answer ".len() + stem.len()..].contains(reason), "{line}");
    }
    assert_eq!(answers(&output), ["a_right_one.out.safetensors", "z_right_one.out.safetensors"]);
    for stem in ["a_right_one", "z_right_one"] {
        assert_right("deepseek_v3_base", &output.join(format!("{stem}.out.safetensors")));
    }
    assert!(ran.out.ends_with(&format!("2 answered, {} not\n", broken.len())), "{}", ran.out);
}

fn without_files_or_backend() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    let ran = run(&input, &output, "sim", None);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains(input.to_str().unwrap()), "a folder that is not there: {}", ran.err);

    fs::create_dir(&input).unwrap();
    let ran = run(&input, &output, "sim", None);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("no safetensors files"), "{}", ran.err);

    fs::copy(files::golden("mixtral_bf16"), input.join("mixtral_bf16.safetensors")).unwrap();
    let ran = run(&input, &output, "gpu", None);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("gpu") && ran.err.contains("sim"), "{}", ran.err);
}
