//! Arguments, standard streams, and where the output may go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::support::{copy, data};
use crate::tool::{OUTPUT, Ran, Tool, is_bare_host, names};

#[test]
fn arguments_that_are_none() {
    let ran = Tool::new(&[]).ends(2);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("requires a subcommand"), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("run, convert, plan-router, doctor"), "{}", ran.stderr);
    Tool::new(&["serve"]).fails(2, &["unrecognized subcommand 'serve'"]);
    Tool::new(&["run"]).fails(2, &["--checkpoint <DIR>", "not provided"]);
    Tool::new(&["doctor", "--verbose"]).fails(2, &["unexpected argument '--verbose'"]);
    let run = || Tool::simulate(&data("mixtral"));
    for (arguments, words) in [
        (&["--fast"][..], &["unexpected argument '--fast'"][..]),
        (&["more"], &["unexpected argument 'more'"]),
        (&["--layer"], &["a value is required for '--layer <N>'"]),
        (&["--layer", "-1"], &["-1"]),
        (&["--layer", "all"], &["'all'", "--layer <N>"]),
        (&["--tokens", "-1"], &["-1"]),
        (&["--tokens", "1e3"], &["'1e3'", "--tokens <T>"]),
        (&["--seed", "0.5"], &["'0.5'", "--seed <S>"]),
        (&["--dtype", "int8"], &["'int8'", "--dtype", "f32, bf16, f16"]),
        (&["--tokens", "3", "--tokens", "4"], &["--tokens <T>", "cannot be used multiple times"]),
        (&["--input", "x", "--tokens", "3"], &["--input <FILE>", "--tokens <T>", "cannot be used with"]),
        (&["--input", "x", "--seed", "3"], &["--input <FILE>", "--seed <S>", "cannot be used with"]),
    ] {
        run().arguments(arguments).fails(2, words);
    }
    Tool::run(&data("mixtral")).option("--backend", "gpu").fails(2, &["'gpu'", "auto, cann, sim"]);
}

#[test]
fn a_variable_that_names_no_backend() {
    let tool = Tool::run(&data("mixtral")).variable("ASCEND_MOE_BACKEND", "gpu");
    tool.fails(2, &["\"gpu\"", "ASCEND_MOE_BACKEND", "`auto`, `cann` or `sim`"]);
    // What is said explicitly goes first, and an empty variable says nothing.
    Tool::simulate(&data("mixtral")).variable("ASCEND_MOE_BACKEND", "gpu").ends(0);
    let (report, _) = Tool::run(&data("mixtral")).variable("ASCEND_MOE_BACKEND", "sim").report(0);
    assert_eq!(report["backend"]["name"], "simulator");
    assert!(report["backend"]["reason"].as_str().unwrap().contains("ASCEND_MOE_BACKEND"), "{report}");
    if is_bare_host() {
        Tool::run(&data("mixtral")).variable("ASCEND_MOE_BACKEND", "").ends(0);
    }
}

#[test]
fn help_says_what_scripts_need() {
    for arguments in [&["--help"][..], &["run", "--help"], &["plan-router", "--help"], &["doctor", "--help"]] {
        let ran = Tool::new(arguments).ends(0);
        assert_eq!(ran.stderr, "");
        for word in ["1  a comparison failed", "ascend-moe/error/1", "ASCEND_MOE_BACKEND"] {
            assert!(ran.stdout.contains(word), "{arguments:?}: no {word:?} in\n{}", ran.stdout);
        }
    }
    let version = Tool::new(&["--version"]).ends(0).stdout;
    assert_eq!(version, concat!("ascend-moe ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn layers_that_cannot_be_run() {
    let run = || Tool::simulate(&data("deepseek-v3"));
    run().arguments(&["--layer", "0"]).fails(2, &["layer 0 is not a mixture of experts", "legal is 1-2"]);
    run().arguments(&["--layer", "1", "--layer", "3"]).fails(2, &["layer 3 is not a mixture of experts"]);
    run().arguments(&["--layer", "18446744073709551615"]).fails(2, &["layer 18446744073709551615 is not"]);
    run().arguments(&["--layer", "18446744073709551616"]).fails(2, &["--layer <N>"]);
    run().arguments(&["--layer", "2", "--layer", "2"]).fails(2, &["layer 2", "twice"]);
}

#[test]
fn more_tokens_than_random_input_may_have() {
    for tokens in ["16777217", "18446744073709551615"] {
        let tool = Tool::simulate(&data("mixtral")).arguments(&["--tokens", tokens]);
        tool.fails(2, &[tokens, "legal is up to 16777216 tokens", "1073741824 values"]);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let checkpoint = copy("mixtral");
    let run = || Tool::new(&["run", "--backend", "sim"]).option("--checkpoint", checkpoint.path());
    for (output, word) in [
        ("", "a value is required"),
        ("..", "not the name of a file"),
        ("/", "not the name of a file"),
        ("absent/out", "absent: No such file"),
        ("/dev/null", "not a regular file"),
        ("/dev/null/out", "/dev/null is not a folder"),
        ("/proc/out", "cannot be written"),
    ] {
        run().arguments(&["--output", output]).fails(2, &["output", word]);
    }
    run().arguments(&["--output", &"x".repeat(300)]).fails(2, &["cannot be written", "name too long"]);
    let tool = run().arguments(&["--output", "folder"]);
    fs::create_dir(tool.folder.path().join("folder")).unwrap();
    tool.fails(2, &["output folder", "not a regular file"]);
    let tool = run().arguments(&["--output", "link"]);
    symlink("elsewhere", tool.folder.path().join("link")).unwrap();
    tool.fails(2, &["output link", "not a regular file"]);
}

#[test]
fn outputs_that_would_destroy_an_input() {
    let checkpoint = copy("mixtral");
    let before = names(checkpoint.path());
    for name in ["model.safetensors", "new.safetensors"] {
        let tool = Tool::new(&["run", "--backend", "sim"]).option("--checkpoint", checkpoint.path());
        tool.option("--output", checkpoint.path().join(name)).fails(2, &[name, "folder of the checkpoint"]);
    }
    assert_eq!(names(checkpoint.path()), before);
    let tool = Tool::simulate(&data("mixtral")).arguments(&["--input", "./out.safetensors"]);
    fs::copy(data("mixtral").join("activations.safetensors"), tool.folder.path().join(OUTPUT)).unwrap();
    tool.fails(2, &[OUTPUT, "is the input file"]);
}

#[test]
fn an_output_is_replaced_by_a_run_that_succeeds_and_by_no_other() {
    let tool = Tool::simulate(&data("mixtral"));
    fs::write(tool.folder.path().join(OUTPUT), "old").unwrap();
    let ran = tool.ends(0);
    assert!(fs::read(ran.output()).unwrap().len() > 3);
    assert_eq!(names(ran.folder.path()), [OUTPUT]);

    let tool = Tool::simulate(&data("mixtral")).arguments(&["--layer", "7"]);
    fs::write(tool.folder.path().join(OUTPUT), "old").unwrap();
    let ran = tool.ends(2);
    assert_eq!(fs::read(ran.output()).unwrap(), b"old");
}

/// As in `ascend-moe run ... | head -1`.
#[test]
fn a_reader_that_has_gone_away() {
    let gone = || {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for arguments in [&[][..], &["--json"]] {
        let tool = Tool::simulate(&data("mixtral")).arguments(arguments);
        let ran = Ran::new(tool.command().stdout(gone()).output().unwrap(), tool.folder);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
    }
    for (arguments, code) in [(&["doctor", "--backend", "sim"][..], 0), (&["--help"], 0), (&["run"], 2)] {
        let tool = Tool::new(arguments);
        let output = tool.command().stdout(gone()).stderr(gone()).output().unwrap();
        assert_eq!(Ran::new(output, tool.folder).code, code, "{arguments:?}");
    }
    // Also where something is logged.
    let tool = Tool::simulate(&data("mixtral")).variable("RUST_LOG", "trace");
    let output = tool.command().stderr(gone()).output().unwrap();
    assert_eq!(Ran::new(output, tool.folder).code, 0);
}

#[test]
fn a_standard_output_that_is_full() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let tool = Tool::simulate(&data("mixtral"));
    let ran = Ran::new(tool.command().stdout(full).output().unwrap(), tool.folder);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("standard output"), "{}", ran.stderr);
}

/// Neither progress nor colours where nobody looks, and logs only where they are asked for.
#[test]
fn standard_error_is_quiet() {
    assert_eq!(Tool::simulate(&data("mixtral")).ends(0).stderr, "");
    let logged = Tool::simulate(&data("mixtral")).variable("RUST_LOG", "debug").ends(0).stderr;
    assert!(logged.contains("DEBUG") && !logged.contains('\u{1b}'), "{logged}");
    let (_, ran) = Tool::simulate(&data("mixtral")).variable("RUST_LOG", "debug").report(0);
    assert!(ran.stderr.contains("DEBUG"), "{}", ran.stderr);
}
