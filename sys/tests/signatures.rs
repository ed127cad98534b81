//! The list of functions against the table of signatures read from CANN's headers, in both directions.
//!
//! `data/signatures.tsv` has one line per function: name, group, return type, parameters (type and name, separated by
//! `, `; `void` for none), first release with this signature, header it was read from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::collections::BTreeMap;

use ascend_sys::{FUNCTIONS, FunctionInfo, Library, OPERATORS, c_param, c_type};

/// One function of the table.
#[derive(Debug, PartialEq, Eq)]
struct Signature {
    returns: String,
    /// Type and name.
    params: Vec<(String, String)>,
    since: String,
    group: String,
}

fn table() -> BTreeMap<&'static str, Signature> {
    let lines = include_str!("data/signatures.tsv").lines();
    let mut rows = BTreeMap::new();
    for line in lines.skip(1) {
        let [name, group, returns, params, since, _source] =
            line.split('\t').collect::<Vec<_>>().try_into().expect("six columns");
        let params = match params {
            "void" => Vec::new(),
            list => list.split(", ").map(parameter).collect(),
        };
        let row = Signature { returns: returns.to_owned(), params, since: since.to_owned(), group: group.to_owned() };
        assert!(rows.insert(name, row).is_none(), "{name} twice in the table");
    }
    rows
}

/// `const aclTensor* x` as type and name. Some headers call the executor `opExecutor`.
fn parameter(text: &str) -> (String, String) {
    let (ty, name) = text.rsplit_once(' ').expect("a type and a name");
    let name = if name == "opExecutor" { "executor" } else { name };
    (ty.to_owned(), name.to_owned())
}

fn listed(function: &FunctionInfo) -> Signature {
    Signature {
        returns: c_type(function.returns),
        params: function.params.iter().map(|(name, ty)| (c_type(ty), c_param(name).to_owned())).collect(),
        since: function.since.to_owned(),
        group: match function.library {
            Library::Acl => "acl",
            Library::Base => "aclnn_base",
            Library::Hccl | Library::HcclComm => "hccl",
            Library::OpsMath | Library::OpsNn | Library::OpsTransformer => "aclnn",
        }
        .to_owned(),
    }
}

/// Names, parameter types in order with every `const`, parameter names, return types and first releases.
#[test]
fn list_and_table_agree() {
    let table = table();
    let mut listed_names = Vec::new();
    for function in FUNCTIONS {
        let row = table.get(function.name).unwrap_or_else(|| panic!("{} is not in the table", function.name));
        assert_eq!(&listed(function), row, "{}", function.name);
        listed_names.push(function.name);
    }
    listed_names.sort_unstable();
    assert_eq!(listed_names, table.into_keys().collect::<Vec<_>>());
}

#[test]
fn operators_have_their_two_phases() {
    for operator in OPERATORS {
        let (phase1, phase2) = (operator.phase1.info(), operator.phase2.info());
        assert_eq!(phase1.name, format!("aclnn{}GetWorkspaceSize", operator.name));
        assert_eq!(phase2.name, format!("aclnn{}", operator.name));
        assert_eq!((phase1.library, phase1.since), (phase2.library, phase2.since));
        assert_eq!(phase1.params[..operator.params.len()], *operator.params);
        let tail = &phase1.params[operator.params.len()..];
        assert_eq!(tail, [("workspaceSize", "*mut u64"), ("executor", "*mut *mut aclOpExecutor")]);
    }
}
