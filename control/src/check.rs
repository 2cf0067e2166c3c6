//! `atalho check`: says what of configuration and manifests would be refused, without touching anything.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compile::{NextHopIndexes, compile, offline_facts};
use crate::config::Config;
use crate::manifests::Manifests;
use crate::model::Model;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    pub manifests: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub node: Option<String>,
    pub json: bool,
}

/// Writes every refusal to `out`. Returns the exit code: 0 if there is none, 1 if the rest would work, 2 if nothing would.
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
        let loaded = Manifests::new(folder).reload().map_err(|error| error.to_string())?;
        model.set_unparsed(loaded.refusals);
        for change in loaded.changes {
            model.apply(change);
        }
    }
    let facts = Arc::new(offline_facts(&model, &config));
    let compiled = compile(&model, &facts, &config, None, &mut NextHopIndexes::new(u32::MAX));
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
        });
        writeln!(out, "{report}")
    } else {
        refusals.iter().try_for_each(|refusal| writeln!(out, "refused: {refusal}")).and_then(|()| {
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
    Ok(u8::from(!refusals.is_empty()))
}
