//! Traffic generator, lab and benchmarks.
