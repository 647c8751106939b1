//! The target `http1_request` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::http1_request::target(bytes));
