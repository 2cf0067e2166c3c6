//! Whatever comes in whatever order: compiling step by step gives what compiling everything anew gives, and the
//! differences told are the differences there are. A hundred thousand short sequences and some long ones, drawn anew each time.

mod arrival;
mod steps;

use std::collections::HashMap;

use proptest::prelude::*;
use steps::Step;

use super::*;

/// All that can be compared of a compilation.
fn shown(compiled: &Compiled) -> impl PartialEq + std::fmt::Debug + use<> {
    let tables = &compiled.tables;
    let vips: BTreeMap<VipKey, Arc<Vip>> = tables.services.iter().map(|(key, vip)| (*key, vip.clone())).collect();
    let addresses: Vec<bool> = vips.keys().map(|key| tables.services.has_address(key.address)).collect();
    (
        (vips, addresses, tables.services.len(), tables.node.clone(), tables.cluster.clone(), tables.ports.clone()),
        (tables.local_pods.clone(), tables.other_nodes.clone()),
        (compiled.state.part.routes.clone(), compiled.state.part.neighbours.clone()),
        (compiled.claims.clone(), compiled.ranges.clone(), compiled.pod_ports.clone(), compiled.next_hops.clone()),
        (compiled.wanted_neighbours.clone(), compiled.refusals.clone(), compiled.no_local_endpoints()),
    )
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Takes the steps and compares wherever one says so, and at the end.
fn step_by_step(config: &str, numbers: &[u64]) -> Result<(), TestCaseError> {
    let mut world = World::new(config);
    let mut claims = BTreeMap::new();
    let mut vips: BTreeSet<VipKey> = BTreeSet::new();
    let steps: Vec<Step> = numbers.iter().map(|number| Step::drawn(*number)).collect();
    for step in steps.iter().chain([&Step::Compile]) {
        step.take(&mut world);
        if !matches!(step, Step::Compile) {
            continue;
        }
        world.compile();
        let compiled = world.compiled.as_ref().unwrap();
        let anew = compile(&world.model, &world.facts, &world.config, None, &mut world.indexes.clone());
        prop_assert_eq!(shown(compiled), shown(&anew), "after {:?}", steps);

        for key in &compiled.delta.claims_removed {
            prop_assert!(claims.remove(key).is_some());
        }
        claims.extend(compiled.delta.claims_added.iter().copied());
        prop_assert_eq!(&claims, &compiled.claims);
        for key in &compiled.delta.vips_removed {
            prop_assert!(vips.remove(key));
        }
        vips.extend(&compiled.delta.vips_changed);
        let now: BTreeSet<VipKey> = compiled.tables.services.iter().map(|(key, _)| *key).collect();
        prop_assert_eq!(&vips, &now);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(60_000))]

    #[test]
    fn step_by_step_is_as_good_as_anew(numbers in proptest::collection::vec(any::<u64>(), 1..9)) {
        // A draw needs no table of choice: what takes longest to compile says nothing of what has to be.
        step_by_step("[service]\nscheduler = 'random'\n", &numbers)?;
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn so_it_is_after_many_steps(numbers in proptest::collection::vec(any::<u64>(), 1..40)) {
        step_by_step("", &numbers)?;
    }
}

proptest! {
    #![proptest_config(config(30_000))]

    #[test]
    fn in_whatever_order_kinds_arrive_the_same_tables_come_out(numbers in proptest::collection::vec(any::<u64>(), 1..14)) {
        arrival::check(&numbers, arrival::ALL)?;
    }
}

proptest! {
    #![proptest_config(config(15_000))]

    #[test]
    fn addresses_that_went_from_hand_to_hand_unheard_are_where_they_are_now(numbers in proptest::collection::vec(any::<u64>(), 1..24)) {
        arrival::check(&numbers, arrival::SERVICES)?;
    }
}
