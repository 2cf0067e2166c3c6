//! Random bytes and damaged packets: nothing panics, the books stay even, and what leaves is right.

mod lab;

use lab::packet::{ACK, Layer4, Packet, SYN};
use lab::*;
use proptest::prelude::*;

fn some_packet() -> impl Strategy<Value = Vec<u8>> {
    let layer4 = prop_oneof![
        Just(SYN),
        Just(ACK),
        Just(Layer4::Udp),
        any::<u16>().prop_map(Layer4::EchoRequest),
        any::<u16>().prop_map(Layer4::EchoReply),
        (0..16u8).prop_map(Layer4::Sctp),
    ];
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    (family, 0..12usize, 0..12usize, layer4, 0..100u16, 0..100usize, any::<bool>()).prop_map(
        |(f, src, dst, layer4, port, payload, is_error)| {
            let all = [
                f.web(),
                f.client(),
                f.node(),
                f.far(),
                f.remote_pod(),
                f.vip_local(),
                f.vip_remote(),
                f.vip_empty(),
                f.vip_elsewhere(),
                f.vip_unallocated(),
                f.stranger(),
                f.gateway(),
            ];
            let ports = [80, 53, 8080, NODE_PORT_WEB, NODE_PORT_REMOTE, port];
            let dst_port = ports[usize::from(port) % ports.len()];
            let packet = Packet::new((all[src], port), layer4, (all[dst], dst_port)).payload(&vec![1; payload]);
            if is_error { packet.unreachable(all[dst]) } else { packet.build() }
        },
    )
}

fn some_port() -> impl Strategy<Value = u32> {
    prop_oneof![Just(UPLINK), Just(FUNNEL), Just(WEB), Just(CLIENT), 0..5u32]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..Default::default() })]

    /// [`Lab::send`] asserts even books, unchanged frames where nothing is forwarded, and right checksums where it is.
    #[test]
    fn valid_packets_leave_valid(packets in prop::collection::vec((some_packet(), some_port()), 1..60)) {
        let mut lab = Lab::new();
        for (frame, port) in packets {
            lab.send(port, &frame);
        }
    }

    #[test]
    fn damaged_packets_do_no_harm(
        packets in prop::collection::vec(
            (some_packet(), some_port(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<prop::sample::Index>(), any::<bool>()),
            1..60,
        )
    ) {
        let mut lab = Lab::new();
        for (mut frame, port, damages, cut, is_cut) in packets {
            for (at, byte) in damages {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if is_cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            lab.send_unverified(port, &frame);
        }
    }

    #[test]
    fn random_bytes_do_no_harm(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..30), port in some_port()) {
        let mut lab = Lab::new();
        for frame in frames {
            lab.send_unverified(port, &frame);
            // The same behind headers that let it in further.
            for ether_type in [[0x08, 0x00], [0x86, 0xdd]] {
                lab.send_unverified(port, &[&[2; 12], &ether_type[..], &frame].concat());
            }
        }
    }
}
