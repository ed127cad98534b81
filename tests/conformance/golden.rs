//! Golden files: the example's answers to all of them, and proof that a wrong answer would be found.

use std::path::Path;

use ascend_moe::Device;
use libtest_mimic::Trial;

use crate::compare::{Answer, Golden};
use crate::files::{self, Contents, FORMATS, GOLDEN};
use crate::fillings::Rig;
use crate::golden_example::answer::answer;
use crate::{Case, case, trial};

pub(crate) fn cases() -> Vec<Case> {
    GOLDEN.into_iter().map(|stem| case(format!("golden::{stem}"), move |rig: &Rig| right(&rig.device, stem))).collect()
}

/// Answers a file as the example does.
pub(crate) fn answered(device: &Device, file: &Path) -> anyhow::Result<Answer> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("answer.safetensors");
    answer(device, file, &out)?;
    Ok(Answer::read(&out))
}

/// The answer to a file is right.
pub(crate) fn right(device: &Device, stem: &str) {
    let file = files::golden(stem);
    let found = answered(device, &file).unwrap();
    let golden = Golden::open(&file);
    let tied = golden.judge(&found).unwrap_or_else(|wrong| panic!("{stem}: {wrong}"));
    assert!(tied == 0 || golden.has_ties(), "{stem}: {tied} rows where nothing ties");
}

/// Cases that need no device, or only a simulator.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![trial("golden::all_files_are_named", all_files_are_named)];
    trials.push(trial("golden::planted_mistakes_are_found", planted_mistakes_are_found));
    trials.extend(GOLDEN.map(|stem| trial(format!("judge::{stem}"), move || judge_is_strict(stem))));
    trials
}

fn all_files_are_named() {
    let entries = std::fs::read_dir(files::golden_dir()).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let mut stems: Vec<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    stems.sort();
    let mut named = [&GOLDEN[..], &FORMATS].concat();
    named.sort_unstable();
    assert_eq!(stems, named);
}

/// The judge takes the file's own answer, in any order and with errors inside the tolerance, and refuses all others.
fn judge_is_strict(stem: &str) {
    let golden = Golden::open(&files::golden(stem));
    let due = golden.due();
    assert_eq!(golden.judge(due), Ok(0));

    let changed = |change: &dyn Fn(&mut Answer)| {
        let mut answer = due.clone();
        change(&mut answer);
        answer
    };
    let refused = |what: &str, change: &dyn Fn(&mut Answer)| {
        let verdict = golden.judge(&changed(change));
        assert!(verdict.is_err(), "{stem}: {what} is let through");
    };
    let other_order = changed(&|answer| {
        answer.ids.iter_mut().for_each(|ids| ids.reverse());
        answer.weights.iter_mut().for_each(|weights| weights.reverse());
    });
    assert_eq!(golden.judge(&other_order), Ok(0), "{stem}: the order of experts means nothing");

    // By a part of the tolerance: 0.5 is inside, 1.5 outside, in either direction.
    let by = |value: f64, what: &str, part: f64| value + part * golden.tolerance(what, value);
    let token = due.ids.len() - 1;
    for part in [0.5, -0.5] {
        let near = changed(&|answer| answer.weights[token][0] = by(answer.weights[token][0], "topk_weight", part));
        assert_eq!(golden.judge(&near), Ok(0));
        refused("a weight", &|answer| {
            answer.weights[token][0] = by(answer.weights[token][0], "topk_weight", 3.0 * part)
        });
    }
    refused("a weight that is not a number", &|answer| answer.weights[token][0] = f64::NAN);
    refused("a missing token", &|answer| answer.ids.truncate(token));

    let experts = golden.experts() as i64;
    let absent = (0..experts).filter(|id| !due.ids[token].contains(id));
    // The last choice that is no choice of any top-k.
    let worst = absent.min_by(|a, b| golden.score(token, *a).total_cmp(&golden.score(token, *b)));
    if let Some(worst) = worst.filter(|_| stem != "deepseek_v3_ties_dup") {
        refused("an expert that was not chosen", &|answer| answer.ids[token][0] = worst);
    }
    if due.ids[token].len() > 1 {
        refused("an expert twice", &|answer| answer.ids[token][0] = answer.ids[token][1]);
    }
    for outside in [-1, experts] {
        refused("an expert that is not there", &|answer| answer.ids[token][0] = outside);
    }

    if let Some(output) = &due.output {
        let place = output[token].len() / 2;
        for part in [0.5, -0.5] {
            let moved = |answer: &mut Answer, part: f64| {
                let value = &mut answer.output.as_mut().unwrap()[token][place];
                *value = by(*value, "output", part);
            };
            assert_eq!(golden.judge(&changed(&|answer| moved(answer, part))), Ok(0));
            refused("an output", &|answer| moved(answer, 3.0 * part));
        }
        refused("an output that is not a number", &|answer| answer.output.as_mut().unwrap()[0][place] = f64::NAN);
        refused("no output", &|answer| answer.output = None);
    }
    if golden.has_ties() {
        ties_are_judged(stem, &golden);
    }
}

/// Another expert of the same score is right, with the weights and the output that belong to it and no others.
fn ties_are_judged(stem: &str, golden: &Golden) {
    let due = golden.due();
    let mut others = 0;
    for token in 0..due.ids.len() {
        for place in 0..due.ids[token].len() {
            for other in (0..golden.experts() as i64).filter(|id| !due.ids[token].contains(id)) {
                let mut answer = due.clone();
                answer.ids[token][place] = other;
                let (weights, output) = golden.recomputed(token, &answer.ids[token]);
                answer.weights[token] = weights;
                if let (Some(all), Some(output)) = (&mut answer.output, output) {
                    all[token] = output;
                }
                if golden.judge(&answer) == Ok(1) {
                    others += 1;
                    answer.weights[token][place] *= 1.001;
                    assert!(golden.judge(&answer).is_err(), "{stem}: token {token}, a wrong weight at a tie");
                    answer.weights[token][place] /= 1.001;
                    answer.output.as_mut().unwrap()[token][0] += 1.0;
                    assert!(golden.judge(&answer).is_err(), "{stem}: token {token}, a wrong output at a tie");
                }
            }
        }
    }
    assert!(others > 0, "{stem} has ties, and no other choice is let through");
}

/// A layer with a mistake in it gives an answer that is refused.
fn planted_mistakes_are_found() {
    type Mistake = (&'static str, fn(Contents) -> Contents);
    let mistakes: [Mistake; 8] = [
        ("gate and up swapped", |file| {
            file.edit("experts.gate_up_proj", |bytes| {
                // Of each of 16 experts, 32 gate rows and 32 up rows of 64 values.
                for expert in bytes.chunks_exact_mut(64 * 64 * 4) {
                    expert.rotate_left(32 * 64 * 4);
                }
            })
        }),
        ("two experts swapped", |file| file.edit("experts.down_proj", |bytes| bytes.rotate_left(64 * 32 * 4))),
        ("no bias on the choice", |file| file.edit("e_score_correction_bias", |bytes| bytes.fill(0))),
        ("no shared expert", |file| file.edit("shared.down_proj", |bytes| bytes.fill(0))),
        ("another scale", |file| file.edit_golden(|golden| golden["routing"]["scale"] = 2.501.into())),
        ("another epsilon", |file| file.edit_golden(|golden| golden["routing"]["norm_eps"] = 1e-3.into())),
        ("another score of groups", |file| file.edit_golden(|golden| golden["routing"]["group_score"] = "max".into())),
        ("more groups kept", |file| file.edit_golden(|golden| golden["routing"]["topk_group"] = 3.into())),
    ];
    let rig = Rig::simulated(|_| {});
    let original = files::golden("deepseek_v3_base");
    let golden = Golden::open(&original);
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.safetensors");
    Contents::read(&original).write(&copy);
    assert_eq!(golden.judge(&answered(&rig.device, &copy).unwrap()), Ok(0), "a copy without a mistake");
    for (what, plant) in mistakes {
        plant(Contents::read(&original)).write(&copy);
        let found = answered(&rig.device, &copy).unwrap();
        assert!(golden.judge(&found).is_err(), "{what}: not found");
    }
    rig.close();
}
