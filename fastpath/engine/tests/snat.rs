//! Two workers that draw source ports at the same time.

mod lab;

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread;

use atalho_engine::conntrack::ConnectionState;
use atalho_engine::conntrack::{ConnTable, TcpState};
use atalho_engine::counters::Counters;
use atalho_engine::pipeline::{Engine, EngineParts, Slot};
use atalho_engine::verdict::{DropReason, Verdict};
use lab::packet::{ACK, Layer4, Packet, SYN, SYN_ACK, verify};
use lab::*;

fn worker(lab: &Lab, number: u8) -> Engine {
    Engine::new(EngineParts {
        worker: number,
        table: lab.table,
        affinity: lab.affinity,
        epochs: lab.epochs.clone(),
        next_hops: lab.hops,
        counters: Arc::new(Counters::default()),
        seed: u64::from(number),
        processor: (),
    })
}

#[test]
fn two_workers_never_give_out_one_port() {
    const FLOWS: u16 = 4000;
    for f in FAMILIES {
        let lab = Lab::with_flows(20_000);
        let (tables, barrier) = (&lab.tables, Barrier::new(2));
        let given = |number: u8| {
            let mut engine = worker(&lab, number);
            let mut ports = Vec::new();
            for n in 0..FLOWS {
                if n % 16 == 0 {
                    barrier.wait();
                }
                let client = (f.client(), 2 * n + u16::from(number));
                let mut frame = Packet::new(client, SYN, (f.far(), 443)).payload(b"").build();
                let mut batch = [Slot::new(&mut frame, CLIENT)];
                engine.process(tables, 1000, &mut batch);
                match batch[0].verdict {
                    Verdict::Forward { .. } => ports.push(verify(&frame).src.1),
                    Verdict::Drop(DropReason::SnatPortsExhausted | DropReason::InsertContention) => {}
                    other => panic!("{other:?}"),
                }
            }
            ports
        };
        let (one, other) = thread::scope(|scope| {
            let other = scope.spawn(|| given(1));
            (given(0), other.join().unwrap())
        });
        let all: HashSet<u16> = one.iter().chain(&other).copied().collect();
        assert_eq!(all.len(), one.len() + other.len(), "a port was given out twice");
        assert!(all.iter().all(|port| tables.settings.snat_ports.contains(*port)));
        // 4,536 ports: a bounded search leaves few.
        assert!(all.len() > 4400, "{} ports used", all.len());
        assert!(!one.is_empty() && !other.is_empty());
    }
}

/// Toward one destination a port comes back only when the connection that had it is gone, its time-wait included.
#[test]
fn a_port_is_used_again_only_after_time_wait() {
    let f = Family::V4;
    let mut lab = Lab::new();
    let ports = atalho_engine::snat::SnatPorts::new(61_000..=61_000, |_| false);
    lab.tables.settings = atalho_engine::tables::Settings { snat_ports: ports, ..Default::default() }.into();
    let (client, far) = ((f.client(), 5000), (f.far(), 443));
    let fin = Layer4::Tcp(17);
    let next = 0x0102_0305;
    let to = |flags| Packet::new(client, flags, far).payload(b"");
    let back = |flags| Packet::new(far, flags, (f.node(), 61_000)).payload(b"");
    lab.forwarded("SYN", CLIENT, &to(SYN), HOP_GATEWAY);
    lab.forwarded("SYN-ACK", UPLINK, &back(SYN_ACK), HOP_CLIENT);
    lab.forwarded("FIN", CLIENT, &to(fin).sequence(next), HOP_GATEWAY);
    lab.forwarded("FIN", UPLINK, &back(fin).sequence(next).acknowledges(next + 1), HOP_CLIENT);
    lab.forwarded("ACK", CLIENT, &to(ACK).sequence(next + 1).acknowledges(next + 1), HOP_GATEWAY);
    let state = |table: &ConnTable| table.connections().next().map(|connection| connection.state);
    assert_eq!(state(&lab.table), Some(ConnectionState::Tcp(TcpState::TimeWait)));
    let another = Packet::new((f.client(), 5001), SYN, far).payload(b"");
    lab.drops("the only port waits", CLIENT, &another.build(), DropReason::SnatPortsExhausted);
    let timeouts = lab.tables.settings.timeouts;
    lab.now_s += 119;
    lab.expire(&timeouts);
    lab.drops("still", CLIENT, &another.build(), DropReason::SnatPortsExhausted);
    lab.now_s += 1;
    lab.expire(&timeouts);
    lab.forwarded("free", CLIENT, &another, HOP_GATEWAY);
}
