//! The target `spiffe_id` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::spiffe_id::target(bytes));
