//! One connection from admission to reuse of its slots, in both families.

use super::*;

#[test]
fn both_directions_are_found_with_their_own_rewrite() {
    for is_ipv6 in [false, true] {
        let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
        let new = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
        assert_eq!(table.find(&new.original.key), None);
        let inserted = table.insert(0, &epochs, &new, 100).unwrap();
        let request = table.find(&new.original.key).unwrap();
        assert_eq!(request, inserted.flow);
        assert_eq!(request.rewrite, new.original.rewrite);
        assert_eq!((request.next_hop, request.ingress, request.protocol), (3, 11, Protocol::Udp));
        assert!(request.is_dnat && !request.is_snat && request.is_service && !request.is_reply);
        let answer = table.find(&new.reply.key).unwrap();
        assert_eq!((answer.at, answer.rewrite), (inserted.reply, new.reply.rewrite));
        assert!(answer.is_snat && !answer.is_dnat && answer.is_reply);
        assert_eq!((answer.peer, request.peer), (request.at.slot, answer.at.slot));
        // Another protocol on the same tuple is another flow.
        assert_eq!(table.find(&FlowKey { protocol: Protocol::Tcp, ..new.original.key }), None);
        assert_eq!(table.find(&new.original.key.reversed()), None);
        assert_eq!(table.count(), 1);
        assert!(table.check().is_clean());
    }
}

/// Lines that were asked for.
#[derive(Default)]
struct Asked(std::cell::RefCell<Vec<*const u8>>);

impl Processor for &Asked {
    fn prefetch(self, at: *const u8) {
        self.0.borrow_mut().push(at);
    }
}

#[test]
fn a_batched_look_up_names_lines_of_the_table_and_finds_the_same() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    for is_ipv6 in [false, true] {
        let new = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
        table.insert(0, &epochs, &new, 100).unwrap();
        let probe = table.probe(&new.original.key).unwrap();
        let asked = Asked::default();
        table.prefetch_tags(&probe, &asked);
        assert_eq!(asked.0.take().len(), 2, "lines of tags");
        table.prefetch_entry(&probe, &asked);
        assert_eq!(asked.0.take().len(), 1, "entries");
        assert_eq!(table.find_probe(&probe), table.find(&new.original.key));
    }
}

#[test]
fn the_second_insert_learns_which_direction_is_taken_and_by_whom() {
    for is_ipv6 in [false, true] {
        let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
        let new = to_service(is_ipv6, Protocol::Tcp, (1, 4000), 7);
        let first = table.insert(0, &epochs, &new, 100).unwrap();
        let same_reply = NewConnection {
            original: Direction { key: key(is_ipv6, Protocol::Tcp, (1, 4001), (200, 80)), ..new.original },
            ..new
        };
        match table.insert(1, &epochs, &same_reply, 100) {
            Err(InsertError::Exists { is_reply: true, flow }) => assert_eq!(flow.at, first.reply),
            other => panic!("{other:?}"),
        }
        let same_original = NewConnection {
            reply: Direction { key: key(is_ipv6, Protocol::Tcp, (9, 8080), (1, 4000)), ..new.reply },
            ..new
        };
        match table.insert(1, &epochs, &same_original, 100) {
            Err(InsertError::Exists { is_reply: false, flow }) => assert_eq!(flow, first.flow),
            other => panic!("{other:?}"),
        }
        // Nothing of the refused ones stays.
        assert_eq!(table.find(&same_reply.original.key), None);
        assert_eq!(table.find(&same_original.reply.key), None);
        assert_eq!((table.count(), table.check().connections), (1, 1));
        assert!(table.check().is_clean());
    }
}

#[test]
fn impossible_connections_are_refused_by_name() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    let new = to_service(false, Protocol::Udp, (1, 4000), 7);
    let other_family = to_service(true, Protocol::Udp, (1, 4000), 7);
    let mixed = NewConnection { reply: other_family.reply, ..new };
    assert_eq!(table.insert(0, &epochs, &mixed, 1), Err(InsertError::MixedFamilies));
    let mirrored = NewConnection { reply: new.original, ..new };
    assert_eq!(table.insert(0, &epochs, &mirrored, 1), Err(InsertError::SameKey));
    let crossed = FlowKey { dst: other_family.original.key.dst, ..new.original.key };
    assert_eq!(table.find(&crossed), None);
    assert_eq!(table.check(), TableCheck::default());
}

#[test]
fn a_connection_ends_once_and_as_a_whole_from_either_side() {
    for (is_ipv6, from_reply) in [(false, false), (false, true), (true, false), (true, true)] {
        let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
        let new = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
        let inserted = table.insert(0, &epochs, &new, 100).unwrap();
        let (at, other) =
            if from_reply { (inserted.reply, inserted.flow.at) } else { (inserted.flow.at, inserted.reply) };
        assert!(table.end(&epochs, at));
        assert!(!table.end(&epochs, at) && !table.end(&epochs, other));
        assert_eq!((table.find(&new.original.key), table.find(&new.reply.key)), (None, None));
        assert_eq!(table.state(&inserted.flow), None);
        assert_eq!((table.count(), table.check().dying), (0, 2));
        assert!(table.check().is_clean() && epochs.waits());
        // A reference from before does not touch the connection that comes next.
        let again = table.insert(0, &epochs, &new, 100).unwrap();
        assert!(!table.end(&epochs, at));
        assert_eq!(table.find(&new.original.key), Some(again.flow));
    }
}

#[test]
fn a_slot_is_reused_only_after_its_epoch_whatever_a_late_packet_writes() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    let new = to_service(false, Protocol::Udp, (1, 4000), 7);
    let first = table.insert(0, &epochs, &new, 100).unwrap();
    assert!(table.end(&epochs, first.flow.at));
    // A worker in the middle of its batch still holds the flow; its store must not look like an old epoch.
    pass(&table, &first.flow, 0);
    let second = table.insert(0, &epochs, &new, 100).unwrap();
    assert_ne!(second.flow.at.slot, first.flow.at.slot);
    assert!(table.end(&epochs, second.flow.at));
    let_epochs_pass(&epochs);
    let third = table.insert(0, &epochs, &new, 100).unwrap();
    assert_eq!(third.flow.at.slot, first.flow.at.slot, "the first free slot again");
    assert_ne!(third.flow.at.sequence, first.flow.at.sequence);
    assert!(table.check().is_clean());
}

#[test]
fn idle_connections_expire_by_state_and_by_both_directions() {
    for is_ipv6 in [false, true] {
        let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
        let timeouts = Timeouts::default();
        let walk = |now_s| {
            let mut scans: Vec<_> = (0..3).map(|worker| ExpiryScan::new(worker, 3)).collect();
            scans.iter_mut().map(|scan| table.expire(scan, u32::MAX, now_s, &timeouts, &epochs).ended).sum::<u32>()
        };
        let one_way = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
        let answered = to_service(is_ipv6, Protocol::Udp, (2, 4000), 7);
        table.insert(0, &epochs, &one_way, 1000).unwrap();
        table.insert(1, &epochs, &answered, 1000).unwrap();
        let reply = table.find(&answered.reply.key).unwrap();
        pass(&table, &reply, 1020);
        assert_eq!(table.state(&reply), Some(ConnectionState::Answered));

        assert_eq!(walk(999), 0, "a clock that lags behind the ticks expires nothing");
        assert_eq!(walk(1029), 0);
        assert_eq!(walk(1030), 1);
        assert_eq!(table.find(&one_way.original.key), None);
        assert_eq!(walk(1139), 0, "the answer at 1020 keeps both directions");
        assert_eq!(walk(1140), 1);
        assert_eq!(table.count(), 0);
        assert!(table.check().is_clean());
    }
}

#[test]
fn an_expiry_walk_keeps_to_its_budget_and_covers_every_slot_once_a_round() {
    let (table, epochs) = (ConnTable::in_memory(5000, &SECRET), Epochs::new());
    for port in 0..500 {
        table.insert(0, &epochs, &to_service(port % 2 == 0, Protocol::Udp, (1, port), 7), 0).unwrap();
    }
    let slots = 2 * table.geometry().slots();
    let (mut ended, mut scanned) = (0, 0);
    for worker in 0..4 {
        let mut scan = ExpiryScan::new(worker, 4);
        while scan.rounds() == 0 {
            let step = table.expire(&mut scan, 64, 1000, &Timeouts::default(), &epochs);
            assert!(step.scanned <= 64);
            (ended, scanned) = (ended + step.ended, scanned + step.scanned);
        }
    }
    assert_eq!((ended, table.count()), (500, 0));
    assert!((slots..slots + 4 * 64).contains(&scanned), "{scanned} of {slots}");
}

#[test]
fn connections_are_listed_whole_with_state_and_ages() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    for is_ipv6 in [false, true] {
        let new = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
        table.insert(0, &epochs, &new, 50).unwrap();
        pass(&table, &table.find(&new.reply.key).unwrap(), 70);
    }
    let listed: Vec<_> = table.connections().collect();
    assert_eq!(listed.len(), 2);
    for (connection, is_ipv6) in listed.iter().zip([false, true]) {
        let new = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
        assert_eq!((connection.original, connection.reply), (new.original, new.reply));
        assert_eq!((connection.state, connection.is_service), (ConnectionState::Answered, true));
        assert_eq!((connection.original_seen_s, connection.reply_seen_s), (50, 70));
        assert!(table.end(&epochs, connection.at));
    }
    assert_eq!(table.connections().count(), 0);
}

#[test]
fn tcp_runs_through_its_states_and_a_fresh_syn_replaces_a_finished_connection() {
    const SYN: u8 = TcpSegment::SYN;
    const ACK: u8 = TcpSegment::ACK;
    const FIN: u8 = TcpSegment::FIN;
    let (table, epochs, settings) = (ConnTable::in_memory(1000, &SECRET), Epochs::new(), Settings::default());
    let segment = |flags, seq, ack| {
        Segment::Tcp(TcpSegment { seq, ack, window: 1000, payload_len: 0, flags, window_scale: None })
    };
    let new = NewConnection { first: segment(SYN, 10, 0), ..to_service(false, Protocol::Tcp, (1, 4000), 7) };
    let request = table.insert(0, &epochs, &new, 5).unwrap().flow;
    let answer = table.find(&new.reply.key).unwrap();
    let is = |state| Some(ConnectionState::Tcp(state));
    assert_eq!(table.state(&request), is(TcpState::SynSent));
    let steps = [
        (&answer, segment(SYN | ACK, 90, 11), TcpState::SynRecv),
        (&request, segment(ACK, 11, 91), TcpState::Established),
        (&request, segment(FIN | ACK, 11, 91), TcpState::FinWait),
        (&answer, segment(FIN | ACK, 91, 12), TcpState::LastAck),
        (&request, segment(ACK, 12, 92), TcpState::TimeWait),
    ];
    let fresh_syn = segment(SYN, 5000, 0);
    for (flow, segment, expected) in steps {
        assert_eq!(table.follow(flow, &segment, 6, &settings), Followed::Belongs, "{segment:?}");
        let is_over = table.follow(&request, &fresh_syn, 6, &settings) == Followed::Over;
        assert_eq!(is_over, expected == TcpState::TimeWait, "after {segment:?}");
        assert_eq!(table.state(flow), is(expected), "{segment:?}");
    }
    assert!(table.end(&epochs, request.at));
    let again = NewConnection { first: fresh_syn, ..new };
    let request = table.insert(0, &epochs, &again, 7).unwrap().flow;
    assert_eq!(table.state(&request), is(TcpState::SynSent), "nothing of the old connection shows through");
}

#[test]
fn what_has_been_idle_for_too_long_is_over_before_expiry_comes_by() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    let new = to_service(false, Protocol::Udp, (1, 4000), 7);
    let flow = table.insert(0, &epochs, &new, 100).unwrap().flow;
    assert_eq!(pass(&table, &flow, 129), Followed::Belongs);
    assert_eq!(pass(&table, &flow, 129 + 30), Followed::Over);
    assert_eq!(table.connections().next().unwrap().original_seen_s, 129, "and is not revived");
}
