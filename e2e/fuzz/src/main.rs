//! libFuzzer with the target that `CRISP_FUZZ_TARGET` names. One program for all of them: the linker's work
//! is most of a build.

#![no_main]

use std::sync::LazyLock;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: LazyLock<crisp_fuzz::Target> = LazyLock::new(|| {
        let name = std::env::var("CRISP_FUZZ_TARGET").unwrap_or_default();
        crisp_fuzz::target(&name).unwrap_or_else(|| panic!("CRISP_FUZZ_TARGET={name:?} is no target"))
    });
    TARGET(bytes);
});
