//! The target `hygiene` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::hygiene::target(bytes));
