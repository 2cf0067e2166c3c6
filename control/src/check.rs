//! `atalho check`: says what of configuration and manifests would be refused, and what of the machine's settings is wrong,
//! without touching anything.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::compile::{NextHopIndexes, compile, offline_facts};
use crate::config::Config;
use crate::facts::PortFacts;
use crate::manifests::Manifests;
use crate::model::Model;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    pub manifests: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub node: Option<String>,
    /// What is wrong with the machine's settings, each with what to do about it.
    pub machine: Vec<String>,
    pub json: bool,
}

/// Writes everything that is wrong to `out`. Returns the exit code: 0 if nothing is, 1 if the rest would work, 2 if nothing would.
pub fn run(options: &CheckOptions, out: &mut dyn Write) -> u8 {
    match try_run(options, out) {
        Ok(code) => code,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "atalho check: {problem}");
            2
        }
    }
}

fn try_run(options: &CheckOptions, out: &mut dyn Write) -> Result<u8, String> {
    let mut config = Config::load(options.config.as_deref()).map_err(|errors| errors.to_string())?;
    if let Some(node) = &options.node {
        config.node.name.clone_from(node);
    }
    let mut model = Model::new(&config);
    if let Some(folder) = &options.manifests {
        let loaded = Manifests::new(folder).reload(Instant::now()).map_err(|error| error.to_string())?;
        model.set_unparsed(loaded.refusals);
        for change in loaded.changes {
            model.apply(change);
        }
    }
    let mut facts = offline_facts(&model, &config);
    // What is asked for by number, may be this machine's already.
    if config.conntrack.snat_ports.is_some() {
        facts.ports = PortFacts::read();
    }
    let compiled = compile(&model, &Arc::new(facts), &config, None, &mut NextHopIndexes::new(u32::MAX));
    let mut refusals = model.refusals();
    refusals.extend(compiled.refusals.iter().cloned());

    let vips = compiled.tables.services.len();
    let written = if options.json {
        let report = serde_json::json!({
            "node": config.node.name,
            "services": model.service_count(),
            "endpoints": model.endpoint_count(),
            "pods": compiled.pod_ports.len(),
            "vips": vips,
            "refusals": refusals,
            "machine": options.machine,
        });
        writeln!(out, "{report}")
    } else {
        let machine = options.machine.iter().try_for_each(|wrong| writeln!(out, "wrong: {wrong}"));
        machine.and_then(|()| refusals.iter().try_for_each(|refusal| writeln!(out, "refused: {refusal}"))).and_then(|()| {
            let (services, endpoints, pods) = (model.service_count(), model.endpoint_count(), compiled.pod_ports.len());
            writeln!(
                out,
                "node {}: {services} Services with {endpoints} endpoints, {vips} VIPs, {pods} pods here; {} refused",
                config.node.name,
                refusals.len()
            )
        })
    };
    written.map_err(|cause| format!("writing the report: {cause}"))?;
    Ok(u8::from(!refusals.is_empty() || !options.machine.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(objects: &str, config: &str, json: bool) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let (manifests, file) = (folder.path().join("objects"), folder.path().join("atalho.toml"));
        std::fs::create_dir(&manifests).unwrap();
        std::fs::write(manifests.join("all.yaml"), objects).unwrap();
        std::fs::write(&file, config).unwrap();
        let options = CheckOptions {
            manifests: Some(manifests),
            config: Some(file),
            node: Some("node-a".into()),
            machine: Vec::new(),
            json,
        };
        let mut out = Vec::new();
        let code = run(&options, &mut out);
        (code, String::from_utf8(out).unwrap().replace(&folder.path().display().to_string(), ""))
    }

    const WEB: &str =
        "kind: Service\napiVersion: v1\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";

    #[test]
    fn what_is_fine_is_counted() {
        assert_eq!(
            checked(WEB, "", false),
            (0, "node node-a: 1 Services with 0 endpoints, 1 VIPs, 0 pods here; 0 refused\n".into())
        );
    }

    #[test]
    fn every_refusal_is_told_and_makes_the_exit_code_1() {
        let bad = WEB.replace("web", "bad").replace("10.96.0.1", "10.96.0.300");
        let (code, text) = checked(&format!("{WEB}---\n{bad}"), "", false);
        let refusal = "refused: /objects/all.yaml:6: Service default/bad: spec.clusterIP has \"10.96.0.300\", which is not an IP address; write an IPv4 or IPv6 address\n";
        assert_eq!(
            (code, text),
            (1, format!("{refusal}node node-a: 1 Services with 0 endpoints, 1 VIPs, 0 pods here; 1 refused\n"))
        );
        let (_, json) = checked(&format!("{WEB}---\n{bad}"), "", true);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["services"], &json["refusals"][0]["source"]), (&1.into(), &"/objects/all.yaml:6".into()));
    }

    #[test]
    fn a_bad_configuration_breaks_it() {
        assert_eq!(checked(WEB, "[nod]\n", false), (2, String::new()));
    }
}
