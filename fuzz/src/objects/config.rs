//! A configuration file, and the example cluster compiled with it.

use std::path::Path;

use atalho_control::config::Config;
use atalho_control::manifests;
use atalho_control::model::{Change, Source};

use super::cluster::Cluster;

/// Services of every type, endpoints and pods here and elsewhere, both families.
const CLUSTER: &str = concat!(
    include_str!("../../../examples/cluster/nodes.yaml"),
    "\n---\n",
    include_str!("../../../examples/cluster/pods.yaml"),
    "\n---\n",
    include_str!("../../../examples/cluster/gate.yaml"),
);

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let path = Path::new("atalho.toml");
    let config = match Config::parse(path, text) {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused for nothing");
            let lines = text.split('\n').count();
            for problem in &errors.0 {
                assert!(
                    (1..=lines).contains(&problem.line) && !problem.message.is_empty(),
                    "{lines} lines: {problem:?}"
                );
            }
            return;
        }
    };
    let settings = config.settings();
    assert!(settings.snat_ports.count() > 0 && !settings.snat_ports.contains(0), "{:?}", settings.snat_ports);
    let mut cluster = Cluster::new(config);
    let documents = manifests::parse(Path::new("file.yaml"), CLUSTER);
    assert!(documents.refusals.is_empty(), "{:?}", documents.refusals);
    let put = |(object, line)| Change::Put(object, Source::File { path: "file.yaml".into(), line });
    cluster.apply(documents.objects.into_iter().map(put));
    cluster.compile(Some(CLUSTER.split('\n').count()));
}
