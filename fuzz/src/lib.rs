//! What the fuzz targets do; the files in `fuzz_targets` only name them.
//!
//! An input is a script: what happens to a node, in order. So a mutation changes one event of a story, and the stories
//! get long. Nothing here is random and no clock is read where the target does not say so: an input is a test case.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod frames;
#[path = "../../fastpath/engine/tests/lab/mod.rs"]
pub mod lab;
pub mod memory;
pub mod objects;
pub mod packets;
