//! The same input gives the same bytes, and another seed only other draws.

use crate::lab::{Lab, Ran};
use crate::packets::{echo_request, syn, tuple, udp};

const POD_4: &str = "pod:default/pod-4";

/// Everything that has to do with chance: draws of ports, choices among endpoints, answers, other objects half-way.
fn mixed(seed: Option<&str>) -> Ran {
    let mut lab = Lab::new();
    for n in 0..400_u32 {
        let at_s = f64::from(n) * 0.01;
        lab = lab
            .packet(at_s, POD_4, udp(&format!("10.244.1.14:{}", 10_000 + n), "198.51.100.7:53", b"query"))
            .packet(at_s, POD_4, syn(&format!("10.244.1.14:{}", 10_000 + n), "10.96.0.10:80"))
            .packet(at_s, "uplink", udp(&format!("203.0.113.9:{}", 10_000 + n), "192.168.0.2:30053", b"query"))
            .packet(at_s, "uplink", udp(&format!("[fd00:113::9]:{}", 10_000 + n), "[fd00:168::2]:30053", b"query"))
            .packet(at_s, "uplink", syn(&format!("203.0.113.9:{}", 10_000 + n), "10.96.0.60:80"))
            .packet(at_s, POD_4, echo_request("10.244.1.14", "198.51.100.7"));
    }
    let folder = crate::lab::examples().parent().expect("a parent").join("replace");
    let lab = lab.argument(&["--then", &format!("3={}", folder.display()), "--until", "100"]);
    match seed {
        Some(seed) => lab.argument(&["--seed", seed]).run(),
        None => lab.run(),
    }
}

#[test]
fn a_run_repeats_byte_for_byte_and_a_seed_changes_source_ports_alone() {
    let first = mixed(None);
    for again in [mixed(None), mixed(Some("0"))] {
        assert!(first.bytes == again.bytes, "the same run gave other bytes");
    }
    let other = mixed(Some("1"));
    assert_eq!(first.lines, other.lines);
    let mut other_sources = 0;
    for (one, two) in first.out.iter().zip(&other.out) {
        assert_eq!((&one.port, one.time_ns, one.bytes.len()), (&two.port, two.time_ns, two.bytes.len()));
        if one.bytes != two.bytes {
            let ((from_one, to_one), (from_two, to_two)) = (tuple(&one.bytes), tuple(&two.bytes));
            assert_eq!(to_one, to_two);
            assert!(from_one != from_two || one.bytes[23] == 1, "{from_one} {from_two}: an echo has its identifier");
            other_sources += 1;
        }
    }
    assert!(other_sources > 300, "only {other_sources} packets have another source port");
}
