//! The target `compile_yaml` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::compile_yaml::target(bytes));
