//! The target `compile_documents` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::compile_documents::target(bytes));
