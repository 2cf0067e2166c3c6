//! Frames through engine and slow path: no panic, no wrong checksum, even books.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| atalho_fuzz::packets::run(input));
