//! What each stage costs a batch of packets whose memory is all in the caches, and what it allocates: nothing, as a test
//! holds it to. `cargo bench -p atalho-benches --bench stages`.

use atalho_benches::bench::microbench::{Stage, StageBench};
use atalho_engine::pipeline::BATCH;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = Stage::ALL.map(Stage::name))]
fn batch(bencher: Bencher<'_, '_>, name: &str) {
    let stage = Stage::ALL.into_iter().find(|stage| stage.name() == name).expect("a stage of the list");
    let mut bench = StageBench::new().expect("a batch of established flows");
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| bench.run(stage).expect("packets that come out right"));
}
