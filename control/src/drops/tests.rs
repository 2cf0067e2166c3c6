use super::command::text_of;
use super::*;
use crate::status::tests::collector;

#[test]
fn every_drop_comes_with_its_meaning_and_the_next_step() {
    let drops = of(&collector());
    let of_reason = |reason: &str| drops.drops.iter().filter(|drop| drop.reason == reason).collect::<Vec<_>>();
    let no_route = of_reason("no_route");
    assert_eq!(no_route.iter().map(|d| (d.by, d.packets)).collect::<Vec<_>>(), [(By::Worker, 3), (By::SlowPath, 1)]);
    assert_eq!(of_reason("neighbour_timeout").len(), 1);
    assert!(of_reason("pod_claim").is_empty(), "what is claimed is not dropped");
    assert_eq!(of_reason("pod_policed")[0].by, By::Kernel);
    assert!(drops.drops.iter().all(|drop| drop.packets > 0 && !drop.text.is_empty() && !drop.next_step.is_empty()));
    assert!(drops.drops.is_sorted_by_key(|drop| std::cmp::Reverse(drop.packets)));
    assert_eq!(drops.pods, [PodDrop { pod: "default/loud".into(), reason: "pod_spoof".into(), packets: 5 }]);
    assert!(drops.sockets.is_empty(), "nothing was lost at the sockets: {:?}", drops.sockets);
    let text = text_of(&drops);
    for part in ["no_route, by workers", "ip route get", "of these, by pod", "default/loud: pod_spoof"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn what_the_kernel_lost_at_a_socket_is_told_by_worker_and_port() {
    let counts = XdpCounts { rx_ring_full: 7, ..XdpCounts::default() };
    let told: Vec<SocketDrop> = of_socket(1, "funnel", &counts).collect();
    assert_eq!((told.len(), told[0].reason.as_str(), told[0].packets), (1, "rx_ring_full", 7));
    let drops = Drops { sockets: told, ..Drops::default() };
    let text = text_of(&drops);
    assert!(text.contains("nothing was dropped") && text.contains("rx_ring_full, funnel of worker 1"), "{text}");
}

/// Which kernel counters count drops is told by their texts as well.
#[test]
fn the_kernels_drops_are_those_whose_text_says_so() {
    for counter in KERNEL_COUNTERS {
        assert_eq!(next_step::of_kernel(*counter).is_some(), counter.text().contains("dropped"), "{}", counter.name());
    }
}
