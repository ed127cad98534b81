//! Records facts about the build for `ascend-moe doctor`. Probes nothing.

use std::env;

fn main() {
    for (name, from) in [("ASCEND_MOE_BUILD_TARGET", "TARGET"), ("ASCEND_MOE_BUILD_PROFILE", "PROFILE")] {
        println!("cargo:rustc-env={name}={}", env::var(from).unwrap_or_default());
    }
    println!("cargo:rerun-if-changed=build.rs");
}
