//! Full buckets: who has to go, in which order, and who stays.

use super::*;

/// A connection of one protocol in one state, number `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unanswered,
    TimeWait,
    Datagram,
    Established,
}

const SYN: u8 = TcpSegment::SYN;
const ACK: u8 = TcpSegment::ACK;
const FIN: u8 = TcpSegment::FIN;

fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment::Tcp(TcpSegment { seq, ack, window: 1000, payload_len: 0, flags, window_scale: None })
}

/// A connection of this kind at `now_s`, if there is room for it.
fn add(table: &ConnTable, epochs: &Epochs, kind: Kind, n: u32, now_s: u32) -> Option<NewConnection> {
    let client = ((n % 200) as u8, (n / 200) as u16 + 1);
    let is_tcp = matches!(kind, Kind::TimeWait | Kind::Established);
    let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
    let first = if is_tcp { segment(SYN, 10, 0) } else { Segment::Other };
    let new = NewConnection { first, ..to_service(false, protocol, client, 201) };
    let request = match table.insert(0, epochs, &new, now_s) {
        Ok(inserted) => inserted.flow,
        Err(InsertError::TableFull) => return None,
        Err(other) => panic!("{other:?}"),
    };
    let answer = table.find(&new.reply.key).unwrap();
    let steps: &[(bool, Segment)] = match kind {
        Kind::Unanswered => &[],
        Kind::Datagram => &[(true, Segment::Other)],
        Kind::Established => &[(true, segment(SYN | ACK, 90, 11)), (false, segment(ACK, 11, 91))],
        Kind::TimeWait => &[
            (true, segment(SYN | ACK, 90, 11)),
            (false, segment(FIN | ACK, 11, 91)),
            (true, segment(FIN | ACK, 91, 12)),
            (false, segment(ACK, 12, 92)),
        ],
    };
    for (is_reply, segment) in steps {
        let flow = if *is_reply { &answer } else { &request };
        assert_eq!(table.follow(flow, segment, now_s, &Settings::default()), Followed::Belongs);
    }
    Some(new)
}

fn fill(table: &ConnTable, epochs: &Epochs, kinds: &[Kind]) -> Vec<(Kind, NewConnection)> {
    let mut inside = Vec::new();
    for n in 0..20_000 {
        let kind = kinds[n as usize % kinds.len()];
        match add(table, epochs, kind, n, 1000 + n / 50) {
            Some(new) => inside.push((kind, new)),
            None => break,
        }
    }
    inside
}

/// One more connection that wants in: how many tries it took, at most `tries_max`.
fn push(table: &ConnTable, epochs: &Epochs, n: u32, tries_max: u32) -> Option<u32> {
    (1..=tries_max).find(|_| {
        let is_in = add(table, epochs, Kind::Unanswered, n, 2000).is_some();
        let_epochs_pass(epochs);
        is_in
    })
}

#[test]
fn unanswered_connections_go_first_then_those_that_are_over_then_datagrams_and_established_ones_never() {
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let kinds = [Kind::Established, Kind::Datagram, Kind::TimeWait, Kind::Unanswered];
    let mut inside = fill(&table, &epochs, &kinds);
    assert!(2 * inside.len() as u32 > table.geometry().slots() * 8 / 10, "{} connections", inside.len());
    let mut last = 0;
    for n in 30_000..40_000 {
        // Answered at once, so that the newcomers are no victims.
        let Some(new) = add(&table, &epochs, Kind::Established, n, 2000) else {
            last += 1;
            let_epochs_pass(&epochs);
            if last > 3 {
                break;
            }
            continue;
        };
        last = 0;
        inside.push((Kind::Established, new));
        let_epochs_pass(&epochs);
    }
    let alive = |kind| inside.iter().filter(|(k, new)| *k == kind && table.find(&new.original.key).is_some()).count();
    let all = |kind| inside.iter().filter(|(k, _)| *k == kind).count();
    assert_eq!(alive(Kind::Established), all(Kind::Established));
    assert!(alive(Kind::Unanswered) * 10 < all(Kind::Unanswered), "{} left", alive(Kind::Unanswered));
    for kind in Evictable::ALL {
        assert!(table.evicted_as(kind) > 0, "{kind:?}");
    }
    let gone: usize = kinds.into_iter().map(|kind| all(kind) - alive(kind)).sum();
    assert_eq!(table.evicted(), gone as u64);
    assert_eq!(table.count(), (inside.len() - gone) as u64);
    assert!(table.check().is_clean(), "{}", table.check());
}

#[test]
fn while_anything_else_can_go_no_datagram_goes() {
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let inside = fill(&table, &epochs, &[Kind::Datagram, Kind::Unanswered, Kind::Unanswered]);
    for n in 30_000..30_400 {
        push(&table, &epochs, n, 4);
    }
    assert!(table.evicted_as(Evictable::Unanswered) > 300);
    let stays =
        |(kind, new): &(Kind, NewConnection)| *kind != Kind::Datagram || table.find(&new.original.key).is_some();
    assert!(inside.iter().all(stays));
}

#[test]
fn the_idlest_goes_first_and_the_newcomer_stays() {
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let inside = fill(&table, &epochs, &[Kind::Unanswered]);
    let half = inside.len() / 2;
    for n in 30_000..30_100 {
        assert!(push(&table, &epochs, n, 3).is_some());
    }
    let gone =
        |part: &[(Kind, NewConnection)]| part.iter().filter(|(_, new)| table.find(&new.original.key).is_none()).count();
    let (old, young) = (gone(&inside[..half]), gone(&inside[half..]));
    assert!(old > 2 * young, "{old} of the older half, {young} of the younger");
}

#[test]
fn a_table_of_established_connections_takes_no_more() {
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let inside = fill(&table, &epochs, &[Kind::Established]);
    let late = (30_000..30_200).filter(|n| push(&table, &epochs, *n, 1).is_some()).count();
    assert!(late < 190, "some buckets have room still");
    assert!(inside.iter().all(|(_, new)| table.find(&new.original.key).is_some()));
    assert_eq!(table.evicted_as(Evictable::Closing) + table.evicted_as(Evictable::Datagram), 0);
}
