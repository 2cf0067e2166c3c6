//! The lab's objects: those in `examples/`, and more pods where more are wanted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::plan::{Family, PODS_IN_EXAMPLES, Plan, pod_address};

/// The file that is replaced half-way.
pub const MOVING: &str = "moving.yaml";

/// The folder `examples/` of the source tree.
pub fn examples() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    built_from.canonicalize().unwrap_or(built_from)
}

/// Fills the lab's manifest folder and returns it.
pub fn write(plan: &Plan) -> Result<PathBuf> {
    let folder = plan.manifests();
    fs::create_dir_all(&folder)?;
    for file in files(&examples().join("cluster"))? {
        let name = file.file_name().context("a file without a name")?;
        fs::copy(&file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    if plan.pods > PODS_IN_EXAMPLES {
        fs::write(folder.join("more-pods.yaml"), more_pods(plan.pods))?;
    }
    Ok(folder)
}

/// Every YAML file of a folder, by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("no *.yaml in {}", folder.display());
    }
    files.sort();
    Ok(files)
}

/// The objects after the change: the endpoint replaced.
pub fn replacement() -> PathBuf {
    examples().join("replace").join(MOVING)
}

/// Puts a file in the place of another as editors do: written beside it, then renamed, so that no reader sees half of it.
pub fn replace_file(manifests: &Path, name: &str, with: &Path) -> Result<()> {
    let text = fs::read(with).with_context(|| format!("cannot read {}", with.display()))?;
    let beside = manifests.join(format!(".{name}.new"));
    fs::write(&beside, text)?;
    fs::rename(&beside, manifests.join(name))
        .with_context(|| format!("cannot replace {name} in {}", manifests.display()))
}

/// Pods beyond those of the examples.
fn more_pods(pods: usize) -> String {
    let mut text = String::new();
    for number in PODS_IN_EXAMPLES + 1..=pods {
        let [v4, v6] = Family::BOTH.map(|family| pod_address(number, family));
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{number}\n  namespace: default\n  labels: {{app: more}}\n\
             spec:\n  nodeName: node-a\n  containers:\n  - {{name: main, image: none}}\n\
             status:\n  phase: Running\n  podIP: {v4}\n  podIPs:\n  - ip: {v4}\n  - ip: \"{v6}\"\n"
        );
    }
    text
}
