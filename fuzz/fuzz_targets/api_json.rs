//! What an API server's watches send.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| atalho_fuzz::objects::api_json(input));
