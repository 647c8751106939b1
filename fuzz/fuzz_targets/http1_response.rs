//! The target `http1_response` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::http1_response::target(bytes));
