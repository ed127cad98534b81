//! The simulator's shared library laid out as CANN is installed: what the loader makes of it.

use ascend_moe::backend::Environment;
use ascend_moe::op::{self, GroupListKind, GroupedMatmul, Groups};
use ascend_moe::{Cann, Choice, DType, Error, Implementation, Tensor};
use ascend_sys::load::Loader;
use ascend_sys::probe::HostDevices;
use cann_sim::tree::Layout;
use libtest_mimic::Trial;

use crate::fillings::{RELEASE, Rig, findings, installed_at, new_tree, shared_tree};
use crate::golden::right;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("library::layouts::split", || layout(Layout::Split, "libacl_rt.so")),
        trial("library::layouts::single", || layout(Layout::Single, "libascendcl.so")),
        trial("library::choosing::auto_takes_it", auto_takes_it),
        trial("library::choosing::never_unasked_on_an_ascend_host", never_unasked_on_an_ascend_host),
        trial("library::strict", strict),
    ]
}

/// A layer gives right answers through the files of a layout, and nothing hides who answers.
fn layout(layout: Layout, first: &str) {
    let tree = new_tree(layout);
    let (table, report) = Loader::at(tree.path()).load();
    let table = table.unwrap_or_else(|error| panic!("{error}\n{report}"));
    let origin = table.origin();
    assert_eq!((origin.implementation, origin.release), (Implementation::SimulatorLibrary, Some(RELEASE)));
    let identity = origin.identity.as_deref().unwrap();
    assert!(identity.starts_with("cann-sim") && identity.contains("9.1.0"), "{identity}");

    let rig = Rig::in_tree(tree.path());
    assert!(rig.cann.is_simulated());
    assert_eq!(rig.cann.release(), RELEASE);
    let libraries: Vec<&str> =
        rig.cann.libraries().iter().map(|library| library.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(libraries[0], first);
    assert!(libraries.iter().all(|name| layout.files().contains(name)), "{libraries:?}");
    assert!(rig.cann.reason().contains("the simulator's library"), "{}", rig.cann.reason());
    right(&rig.device, "deepseek_v3_base");
    right(&rig.device, "mixtral_bf16");
    rig.close();
}

/// On a host without a device the library is found as CANN would be.
fn auto_takes_it() {
    let cann = Cann::open_in(Choice::Auto, &installed_at(&shared_tree())).unwrap();
    assert_eq!(cann.implementation(), Implementation::SimulatorLibrary);
    right(&cann.device(0).unwrap(), "qwen3_moe_norm");
}

/// On a host with a device it is taken only by an explicit choice.
fn never_unasked_on_an_ascend_host() {
    let host = HostDevices { evidence: vec!["/dev/davinci0".into()] };
    let environment = Environment { host, ..installed_at(&shared_tree()) };
    match Cann::open_in(Choice::Auto, &environment) {
        Err(error @ Error::SimulatorOnAscendHost { .. }) => {
            let text = error.to_string();
            assert!(text.contains("/dev/davinci0") && text.contains("libacl_rt.so"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(Cann::open_in(Choice::Cann, &environment).unwrap().is_simulated());
}

/// The library runs as strict as the simulator in process: a group list that does not fit is a fault of the device, and
/// is among its findings.
fn strict() {
    let tree = new_tree(Layout::Single);
    let rig = Rig::in_tree(tree.path());
    let library = rig.cann.libraries()[0].path.clone();
    assert_eq!(findings(&library), "[]");
    let x = Tensor::from_slice(&rig.device, &[1f32; 6], &[3, 2]).unwrap();
    let weight = Tensor::from_slice(&rig.device, &[1f32; 8], &[2, 2, 2]).unwrap();
    let counts = Tensor::from_slice(&rig.device, &[2i64, 2], &[2]).unwrap();
    let mut out = Tensor::zeros(&rig.device, DType::F32, &[3, 2]).unwrap();
    let list = counts.view();
    let inputs = GroupedMatmul {
        x: &[x.view()],
        weight: &[weight.view()],
        bias: &[],
        groups: Groups::Rows { list: &list, kind: GroupListKind::Count },
    };
    op::grouped_matmul(&rig.stream.sequence().unwrap(), &inputs, &mut [out.view_mut()]).unwrap();
    assert_eq!(rig.stream.synchronize().unwrap_err().code(), Some(507_015));
    assert!(findings(&library).contains("GroupList"), "{}", findings(&library));
}
