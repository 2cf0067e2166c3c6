//! A pod whose stack has much to do for every packet. The worker's own core runs that stack (`ip netns` hides the file that
//! would spread it), so the worker slows down, however fast the machine is.

use atalho_benches::lab::command::run_with_input;
use atalho_benches::lab::paths::Place;
use atalho_benches::lab::session::Session;

/// Gives the stack of pod `number` so many rules to walk for every packet, instead of those that it had.
pub fn burden(session: &Session, number: usize, rules: usize) {
    let rule = "ip saddr 192.0.2.1 drop\n";
    let text = format!(
        "table inet burden\ndelete table inet burden\ntable inet burden {{\n\
         chain walked {{ type filter hook prerouting priority raw; policy accept;\n{}}}\n}}\n",
        rule.repeat(rules)
    );
    let net = format!("--net=/run/netns/{}", session.namespace(Place::Pod(number)));
    run_with_input("nsenter", [net.as_str(), "nft", "-f", "-"], &text).unwrap();
}
