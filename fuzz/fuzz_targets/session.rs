//! `fastlb::http1::simulation::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fastlb::http1::simulation::session(input));
