//! Random events against a naive model: a list of connections with the times of their last packets.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    Insert { who: usize },
    Find { who: usize },
    Packet { who: usize, is_reply: bool },
    End { who: usize, from_reply: bool },
    Wait { seconds: u32 },
    Walk,
    Epoch,
}

/// The connections that events are about: few, so that they meet; some share a reply tuple.
fn connection(who: usize) -> NewConnection {
    let (is_ipv6, n) = (who % 2 == 1, who / 2);
    let protocol = if n % 3 == 0 { Protocol::Icmp } else { Protocol::Udp };
    let mut new = to_service(is_ipv6, protocol, (n as u8, 1000), 7);
    if n >= 8 {
        new.reply.key = connection(who - 16).reply.key;
        new.original.key.protocol = new.reply.key.protocol;
    }
    new
}

const CONNECTIONS: usize = 24;

fn event() -> impl Strategy<Value = Event> {
    let who = 0..CONNECTIONS;
    prop_oneof![
        6 => who.clone().prop_map(|who| Event::Insert { who }),
        2 => who.clone().prop_map(|who| Event::Find { who }),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, is_reply)| Event::Packet { who, is_reply }),
        2 => (who, any::<bool>()).prop_map(|(who, from_reply)| Event::End { who, from_reply }),
        2 => (0u32..50).prop_map(|seconds| Event::Wait { seconds }),
        1 => Just(Event::Walk),
        1 => Just(Event::Epoch),
    ]
}

/// The model's connection.
struct Known {
    who: usize,
    last_s: u32,
    is_answered: bool,
}

struct Model(Vec<Known>);

impl Model {
    fn holder(&self, key: &FlowKey) -> Option<&Known> {
        self.0.iter().find(|known| [connection(known.who).original.key, connection(known.who).reply.key].contains(key))
    }

    fn expire(&mut self, now_s: u32) {
        self.0.retain(|known| {
            let is_udp = connection(known.who).original.key.protocol == Protocol::Udp;
            now_s - known.last_s < if is_udp && known.is_answered { 120 } else { 30 }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_a_list_would(events in prop::collection::vec(event(), 1..250)) {
        let (table, epochs) = (ConnTable::in_memory(100, &SECRET), Epochs::new());
        let mut model = Model(Vec::new());
        let mut now_s = 1000;
        for event in events {
            match event {
                Event::Insert { who } => {
                    let new = connection(who);
                    let expected = match (model.holder(&new.reply.key), model.holder(&new.original.key)) {
                        (Some(_), _) => Some(true),
                        (None, Some(_)) => Some(false),
                        (None, None) => None,
                    };
                    let was = match table.insert(0, &epochs, &new, now_s) {
                        Ok(inserted) => {
                            prop_assert_eq!(table.find(&new.original.key), Some(inserted.flow));
                            None
                        }
                        Err(InsertError::Exists { is_reply, .. }) => Some(is_reply),
                        Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
                    };
                    prop_assert_eq!(was, expected);
                    if was.is_none() {
                        model.0.push(Known { who, last_s: now_s, is_answered: false });
                    }
                }
                Event::Find { who } => {
                    let new = connection(who);
                    for direction in [new.original, new.reply] {
                        let found = table.find(&direction.key);
                        prop_assert_eq!(found.is_some(), model.holder(&direction.key).is_some());
                    }
                }
                Event::Packet { who, is_reply } => {
                    let new = connection(who);
                    if let Some(known) = model.0.iter_mut().find(|known| known.who == who) {
                        let direction = if is_reply { new.reply } else { new.original };
                        let flow = table.find(&direction.key).unwrap();
                        prop_assert_eq!((flow.rewrite, flow.is_reply), (direction.rewrite, is_reply));
                        if pass(&table, &flow, now_s) == Followed::Belongs {
                            known.last_s = now_s;
                            known.is_answered |= is_reply;
                        }
                    }
                }
                Event::End { who, from_reply } => {
                    let new = connection(who);
                    let key = if from_reply { new.reply.key } else { new.original.key };
                    let flow = table.find(&key);
                    if let Some(flow) = flow {
                        prop_assert!(table.end(&epochs, flow.at));
                        let who = model.holder(&key).unwrap().who;
                        model.0.retain(|known| known.who != who);
                    }
                }
                Event::Wait { seconds } => now_s += seconds,
                Event::Walk => {
                    for worker in 0..2 {
                        table.expire(&mut ExpiryScan::new(worker, 2), u32::MAX, now_s, &Timeouts::default(), &epochs);
                    }
                    model.expire(now_s);
                }
                Event::Epoch => let_epochs_pass(&epochs),
            }
            prop_assert_eq!(table.count(), model.0.len() as u64);
        }
        let check = table.check();
        prop_assert!(check.is_clean(), "{}", check);
        let mut listed: Vec<_> = table.connections().map(|connection| format!("{:?}", connection.original.key)).collect();
        let mut expected: Vec<_> = model.0.iter().map(|known| format!("{:?}", connection(known.who).original.key)).collect();
        listed.sort();
        expected.sort();
        prop_assert_eq!(listed, expected);
    }
}
