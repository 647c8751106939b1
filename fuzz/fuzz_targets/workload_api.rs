//! The target `workload_api` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::workload_api::target(bytes));
