//! What the table of choice of a Service's endpoints takes to build (Maglev). `cargo bench -p atalho-benches --bench choice`.

use std::net::Ipv4Addr;

use atalho_engine::service::{Backends, Endpoint};
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = [2, 10, 25, 50, 100, 600])]
fn table_of(bencher: Bencher<'_, '_>, endpoints: u32) {
    // Each time others, for what a branch predictor learns of one table helps with no other.
    let mut first = 0x0af4_0000;
    let next = || {
        first += endpoints;
        (first..first + endpoints).map(endpoint).collect::<Vec<_>>()
    };
    bencher.with_inputs(next).bench_local_values(Backends::maglev);
}

fn endpoint(address: u32) -> Endpoint {
    Endpoint { address: Ipv4Addr::from(address).into(), port: 8080, weight: 1, node: None, local: false }
}
