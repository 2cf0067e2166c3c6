//! Plans for machines that are not this one: facts in, lines out.

use atalho_hwconf::facts::{Core, Facts, Interface, Queues, Xdp};
use atalho_hwconf::{Plan, PlanError, Wishes, WorkerCount, plan};

/// `sockets` x `cores` physical cores, numbered as Linux does: all first threads, then all second ones.
fn machine(sockets: u32, cores: u32, threads: u32, numa_node: Option<u32>, queues: u32) -> Facts {
    let physical = sockets * cores;
    let core = |number: u32| Core {
        number,
        numa_node: Some(number % physical / cores),
        package: number % physical / cores,
        siblings: (0..threads).map(|thread| number % physical + thread * physical).collect(),
        allowed: true,
        isolated: false,
    };
    let interface = Interface {
        name: "eth0".to_owned(),
        numa_node,
        queues: Queues { rx: queues, tx: queues, most: Some(queues.max(8)) },
        xdp: Some(Xdp { features: vec!["basic", "redirect"], zero_copy_segments_max: None }),
        ..Interface::default()
    };
    Facts { interface, cores: (0..physical * threads).map(core).collect() }
}

fn fixed(count: u32) -> Wishes {
    Wishes { workers: WorkerCount::Fixed(count) }
}

fn cores(plan: &Plan) -> Vec<u32> {
    plan.lines.iter().map(|line| line.core).collect()
}

/// Whatever the machine: worker and queue count up together, and no core has two workers.
fn check(plan: &Plan) {
    for (at, line) in plan.lines.iter().enumerate() {
        assert_eq!((line.worker, line.queue), (at as u32, at as u32));
        assert!(!line.reason.is_empty());
    }
    let mut unique = cores(plan);
    unique.dedup();
    assert_eq!(unique.len(), plan.lines.len());
}

#[test]
fn one_core_has_one_worker_on_core_0() {
    let plan = plan(&machine(1, 1, 1, None, 2), &Wishes::default()).unwrap();
    check(&plan);
    assert_eq!(cores(&plan), [0]);
    assert_eq!(
        plan.lines[0].reason,
        "eth0 has no NUMA node, so all cores are alike, no other worker on its physical core, core 0, because no other core is left"
    );
    assert!(plan.notes[0].contains("ethtool -L eth0 combined 1"), "{:?}", plan.notes);
}

#[test]
fn two_cores_and_two_queues_have_two_workers() {
    let plan = plan(&machine(1, 2, 1, None, 2), &Wishes::default()).unwrap();
    check(&plan);
    assert_eq!(cores(&plan), [0, 1]);
    assert_eq!(plan.notes, Vec::<String>::new());
}

#[test]
fn one_worker_leaves_core_0_to_the_kernel() {
    let plan = plan(&machine(1, 2, 1, None, 2), &fixed(1)).unwrap();
    assert_eq!(cores(&plan), [1]);
    assert!(plan.lines[0].reason.ends_with("core 0 left to the kernel"), "{}", plan.lines[0].reason);
}

#[test]
fn workers_stay_on_the_node_of_the_interface() {
    let facts = machine(2, 8, 2, Some(1), 4);
    let plan = plan(&facts, &Wishes::default()).unwrap();
    check(&plan);
    assert_eq!(cores(&plan), [8, 9, 10, 11]);
    assert!(plan.lines[0].reason.starts_with("same NUMA node as eth0 (1), no other worker on its physical core"));
}

#[test]
fn a_full_node_spills_to_the_other_before_any_hyperthread() {
    let facts = machine(2, 8, 2, Some(1), 64);
    let plan = plan(&facts, &Wishes::default()).unwrap();
    check(&plan);
    assert_eq!(cores(&plan), (0..16).collect::<Vec<_>>(), "64 queues: one worker per physical core");
    assert!(plan.lines[3].reason.contains("NUMA node 0, because no better core is left on eth0's node 1"));

    let ten = self::plan(&facts, &fixed(10)).unwrap();
    assert_eq!(cores(&ten), [1, 2, 8, 9, 10, 11, 12, 13, 14, 15], "core 0 comes last");
}

#[test]
fn hyperthreads_are_used_only_when_asked_for() {
    let facts = machine(1, 2, 2, None, 4);
    assert_eq!(cores(&plan(&facts, &Wishes::default()).unwrap()), [0, 1]);
    let four = plan(&facts, &fixed(4)).unwrap();
    check(&four);
    assert_eq!(cores(&four), [0, 1, 2, 3]);
    assert!(four.lines[1].reason.contains("hyperthread beside core 3's worker"), "{}", four.lines[1].reason);
}

#[test]
fn the_affinity_mask_is_honoured() {
    let mut facts = machine(1, 4, 1, None, 4);
    for core in &mut facts.cores {
        core.allowed = matches!(core.number, 1 | 3);
    }
    let two = plan(&facts, &Wishes::default()).unwrap();
    assert_eq!(cores(&two), [1, 3]);
    assert_eq!(plan(&facts, &fixed(3)), Err(PlanError::FewerCores { wanted: 3, cores: 2 }));
    for core in &mut facts.cores {
        core.allowed = false;
    }
    assert_eq!(plan(&facts, &Wishes::default()), Err(PlanError::NoCores));
}

#[test]
fn isolated_cores_come_first() {
    let mut facts = machine(2, 4, 1, Some(0), 2);
    facts.cores[6].isolated = true;
    facts.cores[7].isolated = true;
    let plan = plan(&facts, &Wishes::default()).unwrap();
    assert_eq!(cores(&plan), [6, 7]);
    assert!(plan.lines[0].reason.starts_with("isolated by the kernel's command line"));
}

#[test]
fn more_workers_than_queues_are_refused_with_the_remedy() {
    let error = plan(&machine(1, 8, 1, None, 2), &fixed(4)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("4 workers are wanted but eth0 has 2 queue(s)"), "{text}");
    assert!(text.contains("ethtool -L eth0 combined 4"), "{text}");
    let error = plan(&machine(1, 64, 1, None, 2), &fixed(9)).unwrap_err();
    assert!(error.to_string().contains("its driver has 8 at most"));
    assert_eq!(plan(&machine(1, 8, 1, None, 2), &fixed(0)), Err(PlanError::NoWorkers));
}

#[test]
fn a_queue_needs_both_directions() {
    let mut facts = machine(1, 4, 1, None, 4);
    facts.interface.queues.tx = 1;
    let plan = plan(&facts, &Wishes::default()).unwrap();
    assert_eq!(plan.lines.len(), 1);
    assert!(plan.notes[0].contains("receives on 4 queues and 1 have a worker"), "{:?}", plan.notes);
    facts.interface.queues.tx = 0;
    assert_eq!(self::plan(&facts, &Wishes::default()), Err(PlanError::NoQueues { interface: "eth0".to_owned() }));
}

#[test]
fn an_interface_without_native_xdp_is_noted() {
    let mut facts = machine(1, 2, 1, None, 2);
    facts.interface.xdp = Some(Xdp { features: vec!["basic"], zero_copy_segments_max: None });
    assert!(plan(&facts, &Wishes::default()).unwrap().notes[0].contains("native XDP"));
}
