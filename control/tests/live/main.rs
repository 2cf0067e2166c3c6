//! Control against the real kernel and a real API server, each test in a network namespace of its own.

mod api;
mod bench;
mod files;
mod namespace;
mod node;
mod objects;
mod reconcile;
