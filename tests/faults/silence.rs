//! The API server falls silent and its connections stay, as when its machine is gone: nobody tells.

use std::time::Instant;

use crate::node::Node;
use crate::proxy::Fault;
use crate::support::skipped;

#[test]
fn a_server_that_falls_silent_is_told_of_after_a_minute() {
    if skipped("a_server_that_falls_silent_is_told_of_after_a_minute") {
        return;
    }
    let mut node = Node::start("at-f-silent");
    let (before, since) = (node.status(), Instant::now());
    node.set(Fault::Silent);
    node.change();
    node.fails(&before, &["services", "timed out"]);
    println!("silence was noticed after {:.1} s", since.elapsed().as_secs_f64());
    node.set(Fault::None);
    node.recovers();
    node.end();
}
