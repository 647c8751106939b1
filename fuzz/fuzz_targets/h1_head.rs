//! The target `h1_head` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::h1_head::target(bytes));
