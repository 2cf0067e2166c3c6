//! A writer cut off at every step of insert and end, and damage that no step explains.

use super::super::family::{CTL, Family, KEY};
use super::super::half::{Claim, Half};
use super::*;
use crate::atomic::Ordering;
use atalho_layout::{Phase, flow4, flow6};

/// How far an insert got before its thread was killed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Cut {
    ClaimedOne,
    ClaimedBoth,
    Filled,
    AnnouncedReply,
    AnnouncedBoth,
    PublishedReply,
}

fn cut_insert<F: Family>(half: &Half<F>, epochs: &Epochs, new: &NewConnection, cut: Cut) {
    let (to_key, back_key) = (F::key(&new.original.key).unwrap(), F::key(&new.reply.key).unwrap());
    let (to_hash, back_hash) = (F::hash(&SECRET, &to_key), F::hash(&SECRET, &back_key));
    let to = half.claim(to_hash, epochs).unwrap();
    if cut == Cut::ClaimedOne {
        return;
    }
    let back = half.claim(back_hash, epochs).unwrap();
    if cut == Cut::ClaimedBoth {
        return;
    }
    let write = |claim: &Claim, key: F::Key, flags: u32, peer: u32| {
        let entry = half.entry(claim.slot);
        for (word, value) in entry[KEY..].iter().zip(key.as_ref()) {
            word.store(*value, Ordering::Relaxed);
        }
        entry[F::KIND].fetch_or(flags, Ordering::Relaxed);
        entry[F::PEER].store(peer, Ordering::Relaxed);
    };
    write(&to, to_key, 0, back.slot);
    write(&back, back_key, atalho_layout::state::KIND_REPLY, to.slot);
    if cut == Cut::Filled {
        return;
    }
    half.announce(&back);
    if cut >= Cut::AnnouncedBoth {
        half.announce(&to);
    }
    if cut == Cut::PublishedReply {
        half.publish(&back);
    }
}

#[test]
fn an_insert_cut_at_any_step_is_repaired_and_the_rest_stays() {
    use Cut::*;
    for is_ipv6 in [false, true] {
        for cut in [ClaimedOne, ClaimedBoth, Filled, AnnouncedReply, AnnouncedBoth, PublishedReply] {
            let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
            let whole = to_service(is_ipv6, Protocol::Tcp, (1, 4000), 7);
            table.insert(0, &epochs, &whole, 100).unwrap();
            let broken = to_service(is_ipv6, Protocol::Tcp, (2, 4000), 7);
            if is_ipv6 {
                cut_insert(&table.v6, &epochs, &broken, cut);
            } else {
                cut_insert(&table.v4, &epochs, &broken, cut);
            }
            assert!(!table.check().is_clean(), "{cut:?}");
            let found = table.repair();
            assert!(!found.is_clean(), "{cut:?}: {found}");
            assert_eq!(table.check(), TableCheck { connections: 1, ..TableCheck::default() }, "{cut:?}");
            assert_eq!((table.repair().is_clean(), table.count()), (true, 1));
            assert!(table.find(&whole.original.key).is_some() && table.find(&whole.reply.key).is_some());
            assert!(table.find(&broken.original.key).is_none() && table.find(&broken.reply.key).is_none());
            table.insert(0, &epochs, &broken, 100).unwrap();
            assert!(table.check().is_clean());
        }
    }
}

#[test]
fn an_end_cut_between_its_two_directions_is_finished() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    let new = to_service(false, Protocol::Tcp, (1, 4000), 7);
    let flow = table.insert(0, &epochs, &new, 100).unwrap().flow;
    assert!(table.v4.bury(flow.at.slot, flow.at.sequence << 8 | Phase::Live as u32, &epochs));
    assert!(table.find(&new.reply.key).is_some());
    let found = table.repair();
    assert_eq!((found.peerless, found.dying, found.connections), (1, 1, 0));
    assert_eq!(table.check(), TableCheck::default());
    assert_eq!((table.find(&new.reply.key), table.count()), (None, 0));
}

#[test]
fn dying_slots_of_the_last_process_are_free_after_repair_whatever_its_epochs_were() {
    let (table, old) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    for _ in 0..100 {
        let_epochs_pass(&old);
    }
    let new = to_service(false, Protocol::Udp, (1, 4000), 7);
    let first = table.insert(0, &old, &new, 100).unwrap();
    assert!(table.end(&old, first.flow.at));
    let fresh = Epochs::new();
    assert_eq!(table.repair().dying, 2);
    assert_eq!(table.insert(0, &fresh, &new, 1).unwrap().flow.at.slot, first.flow.at.slot);
}

#[test]
fn a_view_of_an_inherited_table_counts_what_lives_in_it() {
    let geometry = Geometry::for_max_flows(1000);
    let memory = TableMemory::in_memory(geometry);
    let again = TableMemory { ..memory };
    let (table, epochs) = (ConnTable::new(memory, geometry, &SECRET), Epochs::new());
    for port in 0..50 {
        table.insert(port as u8, &epochs, &to_service(port % 2 == 0, Protocol::Udp, (1, port), 7), 1).unwrap();
    }
    assert_eq!(ConnTable::new(again, geometry, &SECRET).count(), 50);
}

#[test]
fn damage_is_named_and_removed() {
    for is_ipv6 in [false, true] {
        let entry_of = |table: &ConnTable, slot: u32| if is_ipv6 { table.v6.entry(slot) } else { table.v4.entry(slot) };
        let (kind, peer) = if is_ipv6 { (flow6::KIND, flow6::PEER) } else { (flow4::KIND, flow4::PEER) };
        let damaged = |damage: &dyn Fn(&ConnTable, FlowRef)| {
            let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
            let new = to_service(is_ipv6, Protocol::Udp, (1, 4000), 7);
            let flow = table.insert(0, &epochs, &new, 100).unwrap().flow;
            damage(&table, flow.at);
            let found = table.repair();
            assert!(!found.is_clean());
            assert!(table.check().is_clean(), "{found} -> {}", table.check());
            (found, table.count())
        };
        let (found, left) = damaged(&|table, at| entry_of(table, at.slot)[KEY].store(77, Ordering::Relaxed));
        assert_eq!((found.misplaced + found.lost_tags, left), (1, 0), "{found}");
        let (found, left) = damaged(&|table, at| entry_of(table, at.slot)[kind].store(3, Ordering::Relaxed));
        assert_eq!((found.misplaced, left), (1, 0));
        let (found, left) = damaged(&|table, at| entry_of(table, at.slot)[peer].store(u32::MAX, Ordering::Relaxed));
        assert_eq!((found.peerless, left), (2, 0));
        let (found, left) = damaged(&|table, at| {
            if is_ipv6 { table.v6.clear_tag(at.slot) } else { table.v4.clear_tag(at.slot) }
        });
        assert_eq!((found.lost_tags, left), (1, 1), "an entry whose tag is lost gets it back");
        let (found, left) = damaged(&|table, at| {
            entry_of(table, at.slot)[CTL].store(Phase::Free as u32, Ordering::Relaxed);
        });
        assert_eq!((found.stray_tags, found.peerless, left), (1, 1, 0));
    }
}

#[test]
fn the_second_of_two_entries_with_one_key_goes() {
    let (table, epochs) = (ConnTable::in_memory(1000, &SECRET), Epochs::new());
    let new = to_service(false, Protocol::Udp, (1, 4000), 7);
    let other = to_service(false, Protocol::Udp, (1, 4001), 7);
    table.insert(0, &epochs, &new, 100).unwrap();
    let twin = table.insert(0, &epochs, &other, 100).unwrap();
    // Make the other connection's request a copy of the first one's, in a bucket where it belongs.
    let words = <family::V4 as Family>::key(&new.original.key).unwrap();
    let hash = <family::V4 as Family>::hash(&SECRET, &words);
    let claim = table.v4.claim(hash, &epochs).unwrap();
    let (from, to) = (table.v4.entry(twin.flow.at.slot), table.v4.entry(claim.slot));
    for (to, from) in to.iter().zip(from).skip(1) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    for (word, value) in to[KEY..].iter().zip(words) {
        word.store(value, Ordering::Relaxed);
    }
    table.v4.announce(&claim);
    table.v4.publish(&claim);
    table.v4.entry(twin.reply.slot)[flow4::PEER].store(claim.slot, Ordering::Relaxed);
    table.v4.bury(twin.flow.at.slot, twin.flow.at.sequence << 8 | Phase::Live as u32, &epochs);
    assert_eq!(table.check().duplicates, 1);
    let found = table.repair();
    assert_eq!(found.duplicates, 1, "{found}");
    assert_eq!(table.check().connections, 1);
    assert!(table.check().is_clean());
}
