//! Configuration files: refused by line, or the example cluster compiled with them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| atalho_fuzz::objects::config(input));
