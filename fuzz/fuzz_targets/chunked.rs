//! `fastlb_fuzz::chunked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fastlb_fuzz::chunked(input));
