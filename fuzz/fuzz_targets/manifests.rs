//! Manifests as people write them: refused by file and line, or compiled.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| atalho_fuzz::objects::manifests(input));
