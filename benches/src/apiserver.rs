//! A real kube-apiserver with its etcd, in the far namespace of a lab: the control plane lies behind the uplink, where
//! it is on a real node. Also puts objects there, as any client would.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde::Deserialize;

use crate::lab::command::run;
use crate::lab::plan::{Family, Plan, router_address};

/// Port at which it serves, at the router's address.
pub const PORT: u16 = 6443;
/// Who may do what: `admin` everything, `stranger` nothing, anybody else is not known.
const TOKENS: &str = "admin-token,admin,admin,system:masters\nstranger-token,stranger,stranger\n";
/// A node that may do everything, by a token that can be changed.
const NODE: &str = "node,node,system:masters\n";
/// Name under which the lab's fields are owned.
const FIELD_MANAGER: &str = "atalho-lab";

/// Whose token a kubeconfig carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Admin,
    /// Known, and allowed nothing: 403.
    Stranger,
    /// Not known: 401.
    Nobody,
}

/// etcd and kube-apiserver at work. They end when this is dropped.
pub struct ApiServer {
    server: Option<Child>,
    etcd: Child,
    plan: Plan,
    binaries: PathBuf,
    lab: PathBuf,
}

/// The folder with ready binaries: `KUBEBUILDER_ASSETS`, else the cache that `scripts/apiserver` fills.
pub fn binaries() -> Result<PathBuf> {
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
            cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("atalho/kubernetes-1.37.2")
        }
    };
    for name in ["kube-apiserver", "etcd"] {
        let path = folder.join(name);
        if !path.exists() {
            bail!(
                "{} is missing: run ./scripts/apiserver to build it, or name a folder with ready ones in KUBEBUILDER_ASSETS",
                path.display()
            );
        }
    }
    Ok(folder)
}

impl ApiServer {
    /// Starts both and returns when the server is ready. `lab` is the binary that puts objects there from inside the namespace.
    pub fn start(binaries: &Path, plan: &Plan, lab: &Path) -> Result<Self> {
        let folder = plan.folder().join("api");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("tokens.csv"), TOKENS)?;
        make_service_account_key(&folder)?;
        let etcd = start_etcd(binaries, plan, &folder)?;
        let mut this = Self { server: None, etcd, plan: plan.clone(), binaries: binaries.into(), lab: lab.into() };
        this.start_server()?;
        Ok(this)
    }

    /// Starts the server itself, also again after [`Self::stop_server`].
    pub fn start_server(&mut self) -> Result<()> {
        let folder = self.folder();
        let address = router_address(Family::V4);
        let mut server = Command::new("nsenter");
        server.arg(format!("--net=/run/netns/{}", self.plan.far())).arg(self.binaries.join("kube-apiserver")).args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--profiling=false",
        ]);
        server.arg(format!("--advertise-address={address}")).arg(format!("--bind-address={address}"));
        server.arg(format!("--secure-port={PORT}"));
        server.arg(format!("--cert-dir={}", folder.join("certificates").display()));
        server.arg(format!("--token-auth-file={}", folder.join("tokens.csv").display()));
        for option in ["service-account-key-file", "service-account-signing-key-file"] {
            server.arg(format!("--{option}={}", folder.join("service-account.key").display()));
        }
        self.server = Some(start(server, &folder.join("kube-apiserver.log"))?);
        self.wait_ready(Duration::from_secs(60))
    }

    /// Ends the server and leaves etcd: what it knew is still there for the next one.
    pub fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            end(&mut server);
        }
    }

    /// Starts the server anew with this token for a node, and no other one for it.
    pub fn set_node_token(&mut self, token: &str) -> Result<()> {
        self.stop_server();
        fs::write(self.folder().join("tokens.csv"), format!("{TOKENS}{token},{NODE}"))?;
        self.start_server()
    }

    /// Lets etcd stand still: it answers nobody, and its connections stay.
    pub fn stop_etcd(&self) -> Result<()> {
        self.signal_etcd("STOP")
    }

    /// Lets it go on.
    pub fn continue_etcd(&self) -> Result<()> {
        self.signal_etcd("CONT")
    }

    /// Copies what etcd has, as it is at this moment: whatever etcd has written so far is in its files.
    pub fn copy_etcd(&self) -> Result<PathBuf> {
        let copy = self.folder().join("etcd.copy");
        self.stop_etcd()?;
        let copied = run("cp", ["-a".as_ref(), self.folder().join("etcd").as_os_str(), copy.as_os_str()]);
        self.continue_etcd()?;
        copied.map(|_| copy)
    }

    /// Ends both and starts them anew with that copy, which is used up.
    pub fn restore_etcd(&mut self, copy: &Path) -> Result<()> {
        self.stop_server();
        end(&mut self.etcd);
        let folder = self.folder();
        fs::remove_dir_all(folder.join("etcd"))?;
        fs::rename(copy, folder.join("etcd"))?;
        self.etcd = start_etcd(&self.binaries, &self.plan, &folder)?;
        self.start_server()
    }

    fn signal_etcd(&self, signal: &str) -> Result<()> {
        // nsenter has become etcd, by exec.
        run("kill", [&format!("-{signal}"), &self.etcd.id().to_string()]).map(drop)
    }

    /// A kubeconfig with everything allowed.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("admin.kubeconfig")
    }

    /// A kubeconfig of somebody.
    pub fn kubeconfig_of(&self, who: Who) -> Result<PathBuf> {
        let (name, token) = match who {
            Who::Admin => ("admin", "admin-token"),
            Who::Stranger => ("stranger", "stranger-token"),
            Who::Nobody => ("nobody", "no-such-token"),
        };
        let folder = self.folder();
        let path = folder.join(format!("{name}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters:\n- name: lab\n  cluster:\n    server: https://{}:{PORT}\n    certificate-authority: {}\n\
             users:\n- name: {name}\n  user: {{token: {token}}}\n\
             contexts:\n- name: lab\n  context: {{cluster: lab, user: {name}}}\n",
            router_address(Family::V4),
            folder.join("certificates/apiserver.crt").display()
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Creates or changes the objects of these files.
    pub fn apply(&self, files: &[PathBuf]) -> Result<()> {
        let output =
            self.in_far(&self.lab).arg("apply").arg("--kubeconfig").arg(self.kubeconfig()).args(files).output()?;
        if !output.status.success() {
            bail!("cannot put objects at the API server: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.plan.folder().join("api")
    }

    fn in_far(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.plan.far())).arg(program);
        command
    }

    /// Ready is when it takes objects: once it has made its own Service, `default/kubernetes`.
    pub fn wait_ready(&mut self, at_most: Duration) -> Result<()> {
        let deadline = Instant::now() + at_most;
        let folder = self.folder();
        loop {
            for (child, name) in [(self.server.as_mut(), "kube-apiserver"), (Some(&mut self.etcd), "etcd")] {
                if let Some(status) = child.map(Child::try_wait).transpose()?.flatten() {
                    bail!(
                        "{name} ended ({status}); see {}:\n{}",
                        folder.join(format!("{name}.log")).display(),
                        tail(&folder.join(format!("{name}.log")))
                    );
                }
            }
            if folder.join("certificates/apiserver.crt").exists() {
                self.kubeconfig_of(Who::Admin)?;
                // No files: only the question whether that Service is there.
                if self.apply(&[]).is_ok() {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                bail!("kube-apiserver is not ready after {at_most:?}:\n{}", tail(&folder.join("kube-apiserver.log")));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop_server();
        end(&mut self.etcd);
    }
}

fn start_etcd(binaries: &Path, plan: &Plan, folder: &Path) -> Result<Child> {
    let mut etcd = Command::new("nsenter");
    etcd.arg(format!("--net=/run/netns/{}", plan.far())).arg(binaries.join("etcd")).args([
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]);
    etcd.arg(format!("--data-dir={}", folder.join("etcd").display()));
    start(etcd, &folder.join("etcd.log"))
}

fn start(mut command: Command, log: &Path) -> Result<Child> {
    let out = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
    command.spawn().with_context(|| format!("cannot start {command:?}"))
}

fn end(child: &mut Child) {
    // Nothing in it outlives the lab, so it need not end tidily; already ended is no error.
    let _ = child.kill();
    let _ = child.wait();
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The key with which the server signs tokens that nobody here uses, and without which it does not start.
fn make_service_account_key(folder: &Path) -> Result<()> {
    let path = folder.join("service-account.key");
    let path = path.to_string_lossy();
    run("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &path]).map(drop)
}

/// Creates or changes the objects of these files at an API server, as `kubectl apply --server-side` does; status included.
pub fn apply(kubeconfig: &Path, files: &[PathBuf]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let kubeconfig =
            Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(10));
        let client = Client::try_from(config)?;
        if files.is_empty() {
            // Before its own Service stands it gives no addresses to others.
            let services = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Service"));
            Api::<DynamicObject>::namespaced_with(client.clone(), "default", &services).get("kubernetes").await?;
        }
        for file in files {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            for document in objects(&text).with_context(|| format!("in {}", file.display()))? {
                put(&client, document).await.with_context(|| format!("in {}", file.display()))?;
            }
        }
        Ok(())
    })
}

/// The objects of a YAML text.
fn objects(text: &str) -> Result<Vec<serde_json::Value>> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    api_version: String,
    kind: String,
}

async fn put(client: &Client, document: serde_json::Value) -> Result<()> {
    let types = TypeMeta::deserialize(&document).context("an object without apiVersion and kind")?;
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    let object: DynamicObject = serde_json::from_value(document.clone())?;
    let name = object.metadata.name.clone().context("an object without a name")?;
    let api: Api<DynamicObject> = match types.kind.as_str() {
        "Node" | "Namespace" | "ServiceCIDR" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), object.metadata.namespace.as_deref().unwrap_or("default"), &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let what = format!("{} {name}", types.kind);
    let mut bare = document.clone();
    if let Some(fields) = bare.as_object_mut() {
        fields.remove("status");
    }
    api.patch(&name, &parameters, &Patch::Apply(&bare)).await.with_context(|| what.clone())?;
    if let Some(status) = document.get("status") {
        // A merge, because a dual-stack node has two addresses of one type, which an apply refuses as a duplicate key.
        let status = serde_json::json!({ "status": status });
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .with_context(|| format!("status of {what}"))?;
    }
    Ok(())
}
