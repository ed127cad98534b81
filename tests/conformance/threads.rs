//! Several threads on one device: each with a stream of its own, and all on one.

use std::thread;

use ascend_moe::layer::{LayerOutput, MoeLayer, RoutedOutput, Router};
use ascend_moe::{Cann, Device, Stream, Tensor};

use crate::checkpoints::{Bits, load};
use crate::files::{self, CHECKPOINTS, DTYPES, Recorded};
use crate::fillings::Rig;
use crate::{Case, case};

const THREADS: usize = 4;
const PASSES: usize = 5;

const fn send_and_sync<T: Send + Sync>() {}
const _: () = {
    send_and_sync::<MoeLayer>();
    send_and_sync::<Router>();
    send_and_sync::<LayerOutput>();
    send_and_sync::<RoutedOutput>();
    send_and_sync::<Stream>();
    send_and_sync::<Tensor>();
    send_and_sync::<Device>();
    send_and_sync::<Cann>();
};

pub(crate) fn cases() -> Vec<Case> {
    let streams: [(&str, bool); 2] = [("a_stream_each", false), ("one_stream", true)];
    streams
        .into_iter()
        .map(|(name, one)| case(format!("threads::{name}"), move |rig: &Rig| threads(rig, one)))
        .collect()
}

/// Each thread runs every layer on a number of tokens of its own, and gets what one thread alone gets.
pub(crate) fn threads(rig: &Rig, one_stream: bool) {
    let mut layers: Vec<(MoeLayer, Recorded)> = Vec::new();
    for name in CHECKPOINTS {
        let checkpoint = files::checkpoint(name);
        let index = checkpoint.moe_layers()[0];
        for (dtype, _) in DTYPES {
            layers.push((load(rig, &checkpoint, index, dtype), Recorded::of(&checkpoint, index)));
        }
    }
    let pass = |stream: &Stream, thread: usize| -> Vec<Bits> {
        let tokens = 7 + 20 * thread;
        let forward =
            |(layer, recorded): &(MoeLayer, Recorded)| Bits::recorded(stream, layer, &recorded.repeated(tokens));
        layers.iter().map(forward).collect()
    };
    let alone: Vec<Vec<Bits>> = (0..THREADS).map(|thread| pass(&rig.stream, thread)).collect();
    let pass = &pass;
    thread::scope(|scope| {
        for (thread, alone) in alone.iter().enumerate() {
            scope.spawn(move || {
                let stream = if one_stream { rig.stream.clone() } else { Stream::new(&rig.device).unwrap() };
                for _ in 0..PASSES {
                    assert_eq!(pass(&stream, thread), *alone, "thread {thread}");
                }
            });
        }
    });
}
