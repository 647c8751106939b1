//! The target `proxy_protocol` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::proxy_protocol::target(bytes));
