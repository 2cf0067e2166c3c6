//! The whole node, end to end: the daemon in a lab of network namespaces, driven by ordinary sockets.
//!
//! Each test has a lab of its own. Those that load the machine take turns; those that only start and refuse do not.
//! Without root everything here fails; `ATALHO_SKIP_ROOT_TESTS=1` skips it, and says so.

mod answers;
mod api_server;
mod ask;
mod associations;
mod balancers;
mod books;
mod burden;
mod capture;
mod departures;
mod errors_elsewhere;
mod fairness;
mod fragments;
mod frames;
mod full;
mod idle;
mod jumbo;
mod junk;
mod lab_run;
mod links;
mod objects;
mod offloads;
mod pmtu;
mod pod_frames;
mod refusals;
mod restart;
mod services;
mod shared_addresses;
mod steadiness;
mod stops;
mod streams;
mod support;
mod traffic;
mod two_nodes;
mod uninstall;
mod why;
