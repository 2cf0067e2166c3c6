//! Target `pipeline`: frames of any kind through the engine and the slow path of a small node in memory.

mod layers;
mod node;
mod oracle;
mod script;
mod shape;

pub use script::run;
