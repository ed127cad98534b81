//! Judges an answer to a golden file.
//!
//! * The order of experts in a row means nothing: both sides are sorted by expert.
//! * Another choice of experts is right only where scores tie: it is one that a top-k could make if scores within the
//!   file's `tie_tol` counted as equal, of experts and of groups. Weights and output are then recomputed in f64 for the
//!   experts that were chosen.
//! * Values may differ by `atol + rtol * |due|`, both of the file.

use std::collections::BTreeMap;
use std::path::Path;

use ascend_moe::checkpoint::TensorFile;
use ascend_moe::layer::WeightSource;
use ascend_moe::spec::{Choice, GroupSpec, MoeSpec};
use safetensors::Dtype;
use serde::Deserialize;

use crate::golden_example;
use crate::golden_example::answer::Golden as Source;
use crate::reference::Layer;

type Rows = Vec<Vec<f64>>;

/// What a file asks for: expert ids `[T, k]`, their weights in the same order, and the output `[T, H]` unless it is about
/// routing only.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<Vec<i64>>,
    pub(crate) weights: Rows,
    pub(crate) output: Option<Rows>,
}

impl Answer {
    pub(crate) fn read(path: &Path) -> Self {
        Self::of(&TensorFile::open(path).unwrap())
    }

    fn of(file: &TensorFile) -> Self {
        let ids = file.tensor("topk_idx").unwrap();
        assert_eq!((ids.dtype, ids.shape.len()), (Dtype::I32, 2));
        let values = ids.bytes.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes)));
        let ids = values.collect::<Vec<_>>().chunks(ids.shape[1]).map(<[i64]>::to_vec).collect();
        let output = file.tensors().any(|tensor| tensor.name == "output").then(|| rows(file, "output"));
        Self { ids, weights: rows(file, "topk_weight"), output }
    }
}

fn rows(file: &TensorFile, name: &str) -> Rows {
    let tensor = file.values(name).unwrap();
    let width = *tensor.shape.last().unwrap();
    tensor.data.chunks(width).map(|row| row.iter().copied().map(f64::from).collect()).collect()
}

/// What the judge reads of the metadata; the layer itself is read as the example reads it.
#[derive(Debug, Deserialize)]
struct Meta {
    kind: String,
    #[serde(default)]
    tie_tol: f64,
    tolerance: BTreeMap<String, Tolerance>,
    checked: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Tolerance {
    atol: f64,
    rtol: f64,
}

impl Tolerance {
    fn of(self, due: f64) -> f64 {
        self.atol + self.rtol * due.abs()
    }
}

/// A golden file with what is due.
pub(crate) struct Golden {
    meta: Meta,
    spec: MoeSpec,
    due: Answer,
    x: Rows,
    token_ids: Option<Vec<i32>>,
    /// What experts are chosen by, `[T, E]`.
    choice: Rows,
    /// What weights are made of, `[T, E]`.
    scores: Rows,
    layer: Layer,
}

impl Golden {
    pub(crate) fn open(path: &Path) -> Self {
        let file = TensorFile::open(path).unwrap();
        let text = &file.metadata()["golden"];
        let meta: Meta = serde_json::from_str(text).unwrap();
        let due = Answer::of(&file);
        let has = |name: &str| meta.checked.iter().any(|checked| checked == name);
        assert!(has("topk_idx") && has("topk_weight") && has("output") == due.output.is_some(), "{:?}", meta.checked);

        let source = Source::read(&file, &golden_example::meta::Meta::parse(text).unwrap()).unwrap();
        let layer = if due.output.is_some() { Layer::of(&source) } else { Layer::router_of(&source) };
        let x = rows(&file, "hidden_states");
        let scores: Rows = x.iter().map(|x| layer.scores(x)).collect();
        let choice = scores.iter().map(|scores| layer.choice(scores)).collect();
        Self { meta, spec: *source.spec(), due, x, token_ids: source.token_ids, choice, scores, layer }
    }

    /// The answer that the file holds itself.
    pub(crate) fn due(&self) -> &Answer {
        &self.due
    }

    /// Whether scores tie at the edge of a choice.
    pub(crate) fn has_ties(&self) -> bool {
        self.meta.kind.starts_with("ties")
    }

    pub(crate) fn experts(&self) -> usize {
        self.scores[0].len()
    }

    /// What an expert is chosen by.
    pub(crate) fn score(&self, token: usize, expert: i64) -> f64 {
        self.choice[token][usize::try_from(expert).unwrap()]
    }

    /// How far a value may be from the due one. `what` is `topk_weight` or `output`.
    pub(crate) fn tolerance(&self, what: &str, due: f64) -> f64 {
        self.meta.tolerance[what].of(due)
    }

    /// Weights and output of a token for any choice of experts, in f64.
    pub(crate) fn recomputed(&self, token: usize, ids: &[i64]) -> (Vec<f64>, Option<Vec<f64>>) {
        let chosen: Vec<usize> = ids.iter().map(|&id| usize::try_from(id).unwrap()).collect();
        let weights = self.layer.weights(&self.scores[token], &chosen);
        let weighted: Vec<(usize, f64)> = chosen.into_iter().zip(weights.iter().copied()).collect();
        let output = self.due.output.is_some().then(|| self.layer.token(&self.x[token], &weighted));
        (weights, output)
    }

    /// Gives the number of rows on the other side of a tie, or everything that is wrong.
    pub(crate) fn judge(&self, answer: &Answer) -> Result<usize, String> {
        let Answer { ids, weights, output } = &self.due;
        let sizes = |rows: &Rows| rows.iter().map(Vec::len).collect::<Vec<_>>();
        let id_sizes = |rows: &[Vec<i64>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
        if id_sizes(&answer.ids) != id_sizes(ids)
            || sizes(&answer.weights) != sizes(weights)
            || answer.output.as_ref().map(sizes) != output.as_ref().map(sizes)
        {
            return Err("a tensor is missing or has another shape".to_owned());
        }
        let mut wrong = Vec::new();
        let mut tied = 0;
        for token in 0..ids.len() {
            let mine = by_expert(&answer.ids[token], &answer.weights[token]);
            let mut due = by_expert(&ids[token], &weights[token]);
            let mut due_output = output.as_ref().map(|output| output[token].clone());
            let chosen: Vec<i64> = mine.iter().map(|(id, _)| *id).collect();
            if mine.iter().map(|(id, _)| id).ne(due.iter().map(|(id, _)| id)) {
                if !self.is_valid(token, &chosen) {
                    wrong.push(format!("token {token}: experts {chosen:?}, due {:?}", ids[token]));
                    continue;
                }
                tied += 1;
                let (weights, output) = self.recomputed(token, &chosen);
                due = by_expert(&chosen, &weights);
                due_output = output;
            }
            let mine = mine.iter().map(|(_, weight)| *weight);
            self.compare("topk_weight", token, mine, due.iter().map(|(_, weight)| *weight), &mut wrong);
            if let (Some(output), Some(due)) = (&answer.output, due_output) {
                self.compare("output", token, output[token].iter().copied(), due, &mut wrong);
            }
        }
        if wrong.is_empty() { Ok(tied) } else { Err(wrong.join("\n")) }
    }

    fn compare(
        &self,
        what: &str,
        token: usize,
        found: impl IntoIterator<Item = f64>,
        due: impl IntoIterator<Item = f64>,
        wrong: &mut Vec<String>,
    ) {
        for (place, (found, due)) in found.into_iter().zip(due).enumerate() {
            let within = (found - due).abs() <= self.tolerance(what, due);
            // Not a number is never within.
            if !within {
                wrong.push(format!("token {token}, {what} {place}: {found}, due {due}"));
            }
        }
    }

    /// Whether a top-k could have chosen these experts, with scores that tie in any order.
    fn is_valid(&self, token: usize, chosen: &[i64]) -> bool {
        let choice = &self.choice[token];
        let chosen: Option<Vec<usize>> =
            chosen.iter().map(|&id| usize::try_from(id).ok().filter(|&id| id < choice.len())).collect();
        let Some(chosen) = chosen else { return false };
        if let Choice::Table { .. } = self.spec.router().choice {
            let id = self.token_ids.as_ref().map(|ids| i64::from(ids[token]));
            let mut due = self.layer.chosen(choice, id);
            due.sort_unstable();
            return due == chosen;
        }
        let distinct = chosen.iter().enumerate().all(|(place, id)| !chosen[..place].contains(id));
        distinct && self.limited(choice).iter().any(|choice| self.is_best(choice, &chosen))
    }

    /// The scores of one token with dropped groups filled, once for each set of groups that could be kept.
    fn limited(&self, choice: &[f64]) -> Rows {
        let Choice::Groups(GroupSpec { n_group: groups, topk_group: kept, score, fill, .. }) =
            self.spec.router().choice
        else {
            return vec![choice.to_vec()];
        };
        let group_scores = Layer::group_scores(choice, groups, score);
        let last_kept = descending(&group_scores)[kept - 1];
        let bits = |is_in: &dyn Fn(f64) -> bool| {
            group_scores.iter().enumerate().filter(|(_, score)| is_in(**score)).fold(0u32, |set, (g, _)| set | 1 << g)
        };
        let must = bits(&|score| score > last_kept + self.meta.tie_tol);
        let may = must | bits(&|score| (score - last_kept).abs() <= self.meta.tie_tol);
        let is_possible = |set: &u32| set.count_ones() as usize == kept && set & must == must && set & !may == 0;
        let filled = |set: u32| Layer::filled(choice, groups, fill, |group| set >> group & 1 == 1);
        (0..1u32 << groups).filter(is_possible).map(filled).collect()
    }

    fn is_best(&self, choice: &[f64], chosen: &[usize]) -> bool {
        let mine = descending(&chosen.iter().map(|&expert| choice[expert]).collect::<Vec<_>>());
        let best = descending(choice);
        mine.len() == self.spec.router().top_k
            && mine.iter().zip(best).all(|(mine, best)| mine.is_finite() && (mine - best).abs() <= self.meta.tie_tol)
    }
}

fn by_expert(ids: &[i64], weights: &[f64]) -> Vec<(i64, f64)> {
    let mut pairs: Vec<(i64, f64)> = ids.iter().copied().zip(weights.iter().copied()).collect();
    pairs.sort_by_key(|(id, _)| *id);
    pairs
}

fn descending(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}
