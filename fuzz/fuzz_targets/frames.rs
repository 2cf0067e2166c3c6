//! A worker's turns between a kernel of any order: no frame lost, none in two places.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| atalho_fuzz::frames::run(input));
