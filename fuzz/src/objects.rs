//! Targets `manifests`, `config` and `api_json`: text of any kind on its way to the tables that workers read. What cannot
//! be used is refused with its place and a next step; what can be, compiles, step by step as well as anew.

mod api;
mod cluster;
mod config;
mod manifests;

pub use api::run as api_json;
pub use config::run as config;
pub use manifests::run as manifests;
