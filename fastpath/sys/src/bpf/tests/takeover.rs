//! What stays when a daemon ends, what its successor makes of it, and what is refused.

use std::fs;
use std::path::Path;

use atalho_layout::{ClaimKind, LpmKey};
use aya::maps::{Array, Map, MapData};

use super::claims::{LIVE, insert, key, mapped};
use super::frames::{Frame, TCP};
use super::lab::{Lab, SIZES, run_xdp, sh, skipped};
use crate::bpf::link;
use crate::bpf::programs::{Constants, Programs};
use crate::bpf::syscall::{self, Hook};
use crate::bpf::{Adopted, BpfError, Grace, InForce, Sizes, uninstall};
use crate::check;
use crate::ethtool::{self, Channels, Offload};

const NODE: &str = "node-a.example";

fn folder(lab: &Lab) -> std::path::PathBuf {
    lab.bpffs.join("atalho/node-a_example")
}

/// Identifiers of all pinned links, with their names.
fn links(lab: &Lab) -> Vec<(String, u32)> {
    let is_link = |n: &String| {
        ["steer", "funnel", "deliver", "uplink-out", "lo-out"].contains(&n.as_str()) || n.starts_with("pod-")
    };
    let mut names: Vec<_> = lab.pins().into_iter().filter(is_link).collect();
    names.sort();
    names.into_iter().map(|n| (n.clone(), link::look(&folder(lab).join(n)).unwrap().unwrap().id)).collect()
}

#[test]
fn a_successor_takes_over_maps_links_and_secret() {
    if skipped("a_successor_takes_over_maps_links_and_secret") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (mut kernel, adopted) = lab.open();
    assert_eq!(adopted, Adopted::Fresh);
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    kernel.claim(&key("10.96.0.10", 0, 0), ClaimKind::Vip).unwrap();
    kernel.claim(&key("192.0.2.2", TCP, 30080), ClaimKind::NodePort).unwrap();
    kernel.claim_range(&LpmKey { prefix_len: 112, addr: mapped("10.96.0.0") }).unwrap();
    insert(&kernel, "198.51.100.7", "192.0.2.2", TCP, (80, 5000), LIVE);
    let (in_force, secret, links_before) = (kernel.in_force().unwrap(), kernel.secret(), links(&lab));
    assert_eq!(links_before.len(), 7, "{links_before:?}");
    let steer_before = link::look(&folder(&lab).join("steer")).unwrap().unwrap();
    drop(kernel);

    let (mut kernel, adopted) = lab.open();
    assert_eq!(adopted, Adopted::TakenOver);
    assert_eq!(kernel.in_force().unwrap(), in_force);
    assert_eq!(in_force.pods, [(pod.ifindex, pod.record)]);
    assert_eq!(kernel.secret(), secret);
    assert_eq!(links(&lab), links_before, "the same links, in place");
    let steer_after = link::look(&folder(&lab).join("steer")).unwrap().unwrap();
    assert_ne!(steer_after.program, steer_before.program, "under a program of the successor");
    let mac = check::by_name("uplink").unwrap().mac;
    let tracked = Frame::ports("198.51.100.7", "192.0.2.2", TCP, 80, 5000).with_mac(mac).bytes();
    assert_eq!(run_xdp(&kernel, "steer", &tracked), 1, "the predecessor's flow is still claimed");

    kernel.unclaim(&key("10.96.0.10", 0, 0)).unwrap();
    kernel.unclaim(&key("10.96.0.99", 0, 0)).unwrap();
    kernel.unclaim(&key("192.0.2.2", TCP, 30080)).unwrap();
    kernel.unclaim_range(&LpmKey { prefix_len: 112, addr: mapped("10.96.0.0") }).unwrap();
    kernel.detach_pod(pod.ifindex).unwrap();
    assert_eq!(kernel.in_force().unwrap(), InForce::default());
    assert_eq!(links(&lab).len(), 5);
}

#[test]
fn pods_and_uplinks_that_went_away_are_no_obstacle() {
    if skipped("pods_and_uplinks_that_went_away_are_no_obstacle") {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.add_pod(1), lab.add_pod(2));
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(one.ifindex, &one.record).unwrap();
    kernel.attach_pod(two.ifindex, &two.record).unwrap();
    drop(kernel);
    sh("ip link del pod1");
    sh("ip link del uplink");
    sh("ip link add uplink numrxqueues 2 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 2");
    let (kernel, adopted) = lab.open();
    assert_eq!(adopted, Adopted::TakenOver);
    assert_eq!(kernel.in_force().unwrap().pods, [(two.ifindex, two.record)]);
    assert!(!lab.pins().iter().any(|name| name.contains(&format!("-{}-", one.ifindex))));
    let uplink = check::by_name("uplink").unwrap();
    for name in ["steer", "uplink-out"] {
        assert_eq!(link::look(&folder(&lab).join(name)).unwrap().unwrap().ifindex, uplink.ifindex, "{name}");
    }
    assert!(uplink.xdp_program.is_some());
}

#[test]
fn another_layout_is_refused_by_name_and_left_alone() {
    if skipped("another_layout_is_refused_by_name_and_left_alone") {
        return;
    }
    let lab = Lab::new();
    drop(lab.open());
    let before = links(&lab);
    let refusal = |sizes| match lab.try_open(sizes) {
        Err(BpfError::OtherLayout { path, .. }) => path.file_name().unwrap().to_string_lossy().into_owned(),
        other => panic!("{:?}", other.map(|(_, adopted)| adopted)),
    };
    assert_eq!(refusal(Sizes { buckets4: 128, ..SIZES }), "tags4");
    assert_eq!(refusal(Sizes { buckets6: 64, ..SIZES }), "tags6");
    assert_eq!(refusal(Sizes { next_hops: 8, ..SIZES }), "next_hops");

    let config = MapData::from_pin(folder(&lab).join("config")).unwrap();
    let mut config: Array<MapData, u64> = Map::from_map_data(config).unwrap().try_into().unwrap();
    config.set(0, 99, 0).unwrap();
    let text = lab.try_open(SIZES).err().expect("another version").to_string();
    for part in ["config", "version 99", "atalho uninstall"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(links(&lab), before, "nothing was touched");
}

#[test]
fn a_missing_map_of_a_predecessor_is_named() {
    if skipped("a_missing_map_of_a_predecessor_is_named") {
        return;
    }
    let lab = Lab::new();
    drop(lab.open());
    fs::remove_file(folder(&lab).join("fragments")).unwrap();
    let text = lab.try_open(SIZES).err().expect("a map is missing").to_string();
    assert!(text.contains("fragments") && text.contains("atalho uninstall"), "{text}");
}

#[test]
fn a_start_that_was_interrupted_is_made_anew() {
    if skipped("a_start_that_was_interrupted_is_made_anew") {
        return;
    }
    let lab = Lab::new();
    let (mut kernel, _) = lab.open();
    kernel.claim(&key("10.96.0.10", 0, 0), ClaimKind::Vip).unwrap();
    drop(kernel);
    let config = MapData::from_pin(folder(&lab).join("config")).unwrap();
    let mut config: Array<MapData, u64> = Map::from_map_data(config).unwrap().try_into().unwrap();
    config.set(1, 0, 0).unwrap();
    let (kernel, adopted) = lab.open();
    assert_eq!((adopted, kernel.in_force().unwrap()), (Adopted::Fresh, InForce::default()));
    drop(kernel);
    for name in ["config", "next_hops", "tags6"] {
        fs::remove_file(folder(&lab).join(name)).unwrap();
    }
    assert_eq!(lab.open().1, Adopted::Fresh);
}

/// Programs with maps of their own, as another dataplane would have.
fn foreign(lab: &Lab) -> Programs {
    let path = lab.bpffs.join("foreign");
    fs::create_dir(&path).unwrap();
    let constants = Constants { secret: [0; 11], f1: 1, f1_mac: [0; 6], uplink_mac: [0; 6], workers: 1, is_fair: true };
    Programs::load(&path, &SIZES, &constants).unwrap()
}

#[test]
fn another_program_on_the_uplink_is_refused_by_name() {
    if skipped("another_program_on_the_uplink_is_refused_by_name") {
        return;
    }
    let lab = Lab::new();
    let programs = foreign(&lab);
    let uplink = check::by_name("uplink").unwrap().ifindex;
    let cases = [
        (Hook::Xdp, programs.funnel(), "XDP", "funnel"),
        (Hook::TcxIngress, programs.deliver(), "tcx ingress", "deliver"),
        (Hook::TcxEgress, programs.node_egress(), "tcx egress", "node_egress"),
    ];
    for (hook, program, hook_name, program_name) in cases {
        let link = syscall::link_create(program, uplink, hook).unwrap();
        let id = syscall::link_info(std::os::fd::AsFd::as_fd(&link)).unwrap().program;
        let text = lab.try_open(SIZES).err().expect("refused").to_string();
        for part in ["uplink already has", hook_name, program_name, &id.to_string()] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(lab.pins(), Vec::<String>::new(), "nothing was made");
        // Closing is not enough: a child that another test starts may hold the link until it executes.
        syscall::link_detach(std::os::fd::AsFd::as_fd(&link)).unwrap();
    }
    assert_eq!(lab.open().1, Adopted::Fresh);
}

#[test]
fn a_second_daemon_of_the_same_node_is_refused_and_another_node_is_not() {
    if skipped("a_second_daemon_of_the_same_node_is_refused_and_another_node_is_not") {
        return;
    }
    let lab = Lab::new();
    let (kernel, _) = lab.open();
    let text = lab.try_open(SIZES).err().expect("refused").to_string();
    assert!(text.contains("another daemon") && text.contains("node-a_example"), "{text}");
    assert!(matches!(uninstall(&lab.bpffs, NODE), Err(BpfError::Running { .. })));
    assert_eq!(uninstall(&lab.bpffs, "node-b").unwrap(), Vec::<String>::new());
    drop(kernel);
    assert_eq!(lab.open().1, Adopted::TakenOver);
}

#[test]
fn uninstall_leaves_nothing() {
    if skipped("uninstall_leaves_nothing") {
        return;
    }
    let mut lab = Lab::new();
    let pod = lab.add_pod(1);
    let (mut kernel, _) = lab.open();
    kernel.attach_pod(pod.ifindex, &pod.record).unwrap();
    drop(kernel);
    sh("ip link del pod1");
    let removed = uninstall(&lab.bpffs, NODE).unwrap();
    assert_eq!(removed[0], "steer", "claiming ends first: {removed:?}");
    assert_eq!(removed.len(), 16 + 7, "{removed:?}");
    assert_eq!(fs::read_dir(lab.bpffs.join("atalho")).map(Iterator::count).unwrap_or(0), 0);
    for name in ["uplink", "f0"] {
        assert_eq!(check::by_name(name).unwrap().xdp_program, None, "{name}");
    }
    let uplink = check::by_name("uplink").unwrap().ifindex;
    assert_eq!(syscall::tcx_programs(uplink, Hook::TcxEgress).unwrap(), []);
    assert_eq!(uninstall(&lab.bpffs, NODE).unwrap(), Vec::<String>::new(), "twice is fine");
}

#[test]
fn what_cannot_carry_a_dataplane_is_refused_with_the_reason() {
    if skipped("what_cannot_carry_a_dataplane_is_refused_with_the_reason") {
        return;
    }
    let lab = Lab::new();
    let veth = check::by_name("uplink").unwrap();
    assert_eq!(check::native_xdp(veth.ifindex, true), Ok(()));
    assert!(check::interface("uplink").is_ok());
    sh("ip link add br0 type bridge");
    assert!(check::interface("br0").unwrap_err().to_string().contains("is a bridge"));
    sh("ip link set far master br0");
    assert!(check::interface("far").unwrap_err().to_string().contains("belongs to br0"));
    let bridge = check::by_name("br0").unwrap().ifindex;
    assert!(check::native_xdp(bridge, false).unwrap_err().to_string().contains("br0"));
    let programs = foreign(&lab);
    let text =
        link::attach(&lab.bpffs.join("foreign/x"), programs.funnel(), bridge, Hook::Xdp).unwrap_err().to_string();
    assert!(text.contains("br0") && text.contains("cannot run XDP natively"), "{text}");
    assert_eq!(check::bpffs(&lab.bpffs), Ok(()));
    assert!(matches!(uninstall(Path::new("/tmp"), "../x"), Err(BpfError::NodeName { .. })));
}

#[test]
fn offloads_and_channels_of_a_veth_are_set_and_read() {
    if skipped("offloads_and_channels_of_a_veth_are_set_and_read") {
        return;
    }
    let _lab = Lab::new();
    ethtool::prepare_uplink("uplink").unwrap();
    ethtool::prepare_funnel("f1").unwrap();
    for (name, offload) in [("uplink", Offload::VlanRx), ("f1", Offload::TxChecksum), ("f1", Offload::VlanTx)] {
        assert!(!ethtool::get(name, offload).unwrap(), "{name} {offload:?}");
    }
    ethtool::set("f1", Offload::TxChecksum, true).unwrap();
    assert!(ethtool::get("f1", Offload::TxChecksum).unwrap());
    assert_eq!(ethtool::driver("uplink").unwrap(), "veth");
    let channels = ethtool::channels("uplink").unwrap();
    assert_eq!((channels.rx, channels.tx), (2, 2));
    ethtool::set_channels("uplink", &Channels { rx: 1, ..channels }).unwrap();
    assert_eq!(ethtool::channels("uplink").unwrap().rx, 1);
}

#[test]
fn a_grace_period_passes() {
    if skipped("a_grace_period_passes") {
        return;
    }
    let grace = Grace::new().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..3 {
        grace.wait().unwrap();
    }
    let took = start.elapsed();
    assert!(took.as_micros() > 300, "three grace periods in {took:?}: nothing was waited for");
}
