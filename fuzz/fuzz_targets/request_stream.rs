//! `fastlb_fuzz::request_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fastlb_fuzz::request_stream(input));
