//! The target `dev_entries` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::dev_entries::target(bytes));
