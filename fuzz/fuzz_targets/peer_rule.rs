//! The target `peer_rule` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::peer_rule::target(bytes));
