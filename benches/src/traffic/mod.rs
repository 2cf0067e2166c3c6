//! The traffic generator: ordinary sockets, every request numbered, every byte checked.
//!
//! One agent process per network namespace serves and asks; the driver (the lab or a test) tells it what to do in JSON
//! lines on its standard input and reads results from its standard output. A lost answer, a late one and a wrong byte
//! are all counted; nothing is retried, because a retry would hide what is being looked for.

pub mod agent;
pub mod client;
pub mod driver;
pub mod flood;
pub mod junk;
pub mod message;
pub mod pattern;
pub mod raw;
pub mod server;
pub mod spread;
