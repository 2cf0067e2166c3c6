//! Full buckets: who has to go, and that an answered connection stays.

use super::*;

/// A table of the smallest size, filled to the brim; the connections that went in.
fn fill(table: &ConnTable, epochs: &Epochs, protocol: Protocol) -> Vec<NewConnection> {
    let mut inside = Vec::new();
    for n in 0..20_000u32 {
        let new = to_service(false, protocol, ((n % 200) as u8, (n / 200) as u16 + 1), 201);
        match table.insert(0, epochs, &new, 1000 + n) {
            Ok(_) => inside.push(new),
            Err(InsertError::TableFull { .. }) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    inside
}

#[test]
fn a_full_table_ends_an_old_unanswered_flow_and_the_repetition_finds_room() {
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let mut inside = fill(&table, &epochs, Protocol::Udp);
    assert!(2 * inside.len() as u32 > table.geometry().slots() * 8 / 10, "{} connections", inside.len());
    let late = to_service(false, Protocol::Udp, (9, 60_000), 202);
    let mut tries = 0;
    while let Err(error) = table.insert(0, &epochs, &late, 90_000) {
        assert!(matches!(error, InsertError::TableFull { .. }), "{error:?}");
        let_epochs_pass(&epochs);
        tries += 1;
        // Each direction may need one eviction; the one of fill's refused connection may serve, too.
        assert!(tries <= 2, "no room after {tries} evictions");
    }
    let gone = inside.iter().filter(|new| table.find(&new.original.key).is_none()).count() as u64;
    assert!(gone >= 1);
    assert_eq!(table.evicted(), gone);
    inside.retain(|new| table.find(&new.original.key).is_some());
    assert_eq!(table.count(), inside.len() as u64 + 1);
    assert!(table.check().is_clean(), "{}", table.check());
}

#[test]
fn answered_connections_are_never_evicted() {
    let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
    let mut inside = Vec::new();
    for n in 0..20_000u32 {
        let new = to_service(false, Protocol::Udp, ((n % 200) as u8, (n / 200) as u16 + 1), 201);
        let result = table.insert(0, &epochs, &new, 1000);
        if let Some(answer) = table.find(&new.reply.key) {
            table.touch(&answer, 1000);
        }
        match result {
            Ok(_) => inside.push(new),
            Err(error) => {
                assert_eq!(error, InsertError::TableFull { evicted: false });
                break;
            }
        }
    }
    assert_eq!(table.evicted(), 0);
    assert!(inside.iter().all(|new| table.find(&new.original.key).is_some()));
}
