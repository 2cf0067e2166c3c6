//! No stage of a packet's way allocates or frees memory.

use atalho_benches::bench::microbench::{Stage, StageBench};
use atalho_sys::no_alloc::{self, Guarded};

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

#[test]
fn no_stage_allocates() {
    let mut bench = StageBench::new().unwrap();
    // The guard must be able to see.
    no_alloc::arm();
    let broken = std::hint::black_box(Box::new(1u64));
    no_alloc::disarm();
    drop(broken);
    assert_eq!(no_alloc::violations(), 1);
    for stage in Stage::ALL {
        no_alloc::arm();
        let run = bench.run(stage);
        no_alloc::disarm();
        run.unwrap();
        assert_eq!(no_alloc::violations(), 1, "{} broke the promise", stage.name());
    }
}
