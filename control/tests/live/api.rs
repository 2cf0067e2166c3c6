//! Control against a real kube-apiserver and etcd, in a network namespace of its own: from objects to tables, through
//! refusals, an outage and a re-list. The binaries are those of `KUBEBUILDER_ASSETS`, or the ones that
//! `scripts/apiserver` built into the cache folder.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atalho_control::start::Source;
use atalho_engine::flow::Protocol;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::bench::{Bench, until, until_within};
use crate::namespace::in_namespace;

const ADMIN: &str = "admin-token";
const STRANGER: &str = "stranger-token";
const NOBODY: &str = "no-such-token";

/// Both servers; they end with it.
struct Servers {
    folder: PathBuf,
    binaries: PathBuf,
    etcd: Child,
    api: Option<Child>,
}

impl Servers {
    fn start(folder: &Path) -> Self {
        let binaries = binaries();
        std::fs::write(
            folder.join("tokens.csv"),
            format!("{ADMIN},admin,1,system:masters\n{STRANGER},stranger,2,strangers\n"),
        )
        .unwrap();
        let key = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(folder.join("key"))
            .arg("2048")
            .stderr(Stdio::null())
            .status()
            .expect("running openssl");
        assert!(key.success());
        let etcd = Command::new(binaries.join("etcd"))
            .args(["--unsafe-no-fsync", "--log-level=error"])
            .arg(format!("--data-dir={}", folder.join("etcd").display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut servers = Self { folder: folder.into(), binaries, etcd, api: None };
        servers.start_api(false);
        servers
    }

    /// `streams`: whether it tells of what there is as a stream (KEP-3157).
    fn start_api(&mut self, streams: bool) {
        let of = |name: &str| self.folder.join(name).display().to_string();
        let log = std::fs::File::create(self.folder.join("api.log")).unwrap();
        let api = Command::new(self.binaries.join("kube-apiserver"))
            .args([
                "--etcd-servers=http://127.0.0.1:2379",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--anonymous-auth=false",
                "--disable-admission-plugins=ServiceAccount",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--advertise-address=192.0.2.2",
                "--bind-address=127.0.0.1",
                "--secure-port=6443",
            ])
            .arg(format!("--feature-gates=WatchList={streams}"))
            .arg(format!("--cert-dir={}", of("certificates")))
            .arg(format!("--token-auth-file={}", of("tokens.csv")))
            .arg(format!("--service-account-key-file={}", of("key")))
            .arg(format!("--service-account-signing-key-file={}", of("key")))
            .stderr(log)
            .spawn()
            .unwrap();
        self.api = Some(api);
    }

    fn stop_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            let _ = api.kill();
            let _ = api.wait();
        }
    }

    fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.folder.join(format!("{token}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster: {{server: \
             'https://127.0.0.1:6443', certificate-authority: '{}'}}\nusers:\n- {{name: a, user: {{token: {token}}}}}\n\
             contexts:\n- {{name: a, context: {{cluster: a, user: a}}}}\n",
            self.folder.join("certificates/apiserver.crt").display()
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `body` with an administrator's client, once the server takes objects.
    fn with_client<F: Future<Output = T>, T>(&self, body: impl FnOnce(Client) -> F) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..600 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if !self.folder.join("certificates/apiserver.crt").exists() {
                    continue;
                }
                let Ok(server) = atalho_control::watch::server(Some(&self.kubeconfig(ADMIN))).await else { continue };
                let client = server.client;
                // Its own Service comes last: before it, addresses for others cannot be allocated.
                let services = Api::<Service>::namespaced(client.clone(), "default");
                if services.get("kubernetes").await.is_ok() {
                    return body(client).await;
                }
            }
            let log = std::fs::read_to_string(self.folder.join("api.log")).unwrap_or_default();
            panic!("kube-apiserver is not ready within 60 s: {}", &log[log.len().saturating_sub(2000)..]);
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop_api();
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn binaries() -> PathBuf {
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
            cache.expect("HOME is set").join("atalho/kubernetes-1.37.2")
        }
    };
    assert!(folder.join("kube-apiserver").exists(), "{}: run scripts/apiserver to build it", folder.display());
    folder
}

fn service() -> Service {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "clusterIP": "10.96.0.10",
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    }))
    .unwrap()
}

fn slice(addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> =
        addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect();
    serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "dns", "port": 5353, "protocol": "UDP"},
        ],
        "endpoints": endpoints,
    }))
    .unwrap()
}

async fn put_slice(client: &Client, addresses: &[&str]) {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    slices.patch("web-1", &PatchParams::apply("test").force(), &Patch::Apply(slice(addresses))).await.unwrap();
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn objects_of_a_real_server_become_tables_through_refusal_and_outage() {
    in_namespace(|| {
        let bench = Bench::new();
        let mut servers = Servers::start(bench.folder.path());
        servers.with_client(async |client| {
            let services = Api::<Service>::namespaced(client.clone(), "default");
            let apply = PatchParams::apply("test").force();
            services.patch("web", &apply, &Patch::Apply(service())).await.unwrap();
            put_slice(&client, &["10.244.2.7"]).await;
        });

        // Who is not known, and who may not: said with the resource, and nothing is published.
        for (token, code, word) in [(NOBODY, "401", "credentials"), (STRANGER, "403", "ClusterRole")] {
            let control = bench.start_from(Source::Api { kubeconfig: Some(servers.kubeconfig(token)) }).unwrap();
            // Five watches fail, one after another.
            until("the refusal of every watch", || {
                let status = bench.status();
                let text = status["api"].as_str().unwrap_or_default();
                text.matches(code).count() >= 5 && text.contains("endpointslices.discovery.k8s.io")
            });
            let status = bench.status();
            assert!(status["api"].as_str().is_some_and(|text| text.contains(word)), "{status}");
            assert_eq!(status["state"], "starting");
            assert_eq!(bench.snapshot.load().generation, 0);
            control.shutdown();
        }

        let control = bench.start_from(Source::Api { kubeconfig: Some(servers.kubeconfig(ADMIN)) }).unwrap();
        assert!(control.wait_ready(Duration::from_secs(10)), "{}", bench.status());
        // Listed in pages, by a server that does not stream. Its own Service is there beside ours.
        assert_eq!(bench.status()["services"], 2, "{}", bench.status());
        assert_eq!(bench.endpoints(Protocol::Tcp, 80), addresses(&["10.244.2.7"]));
        assert_eq!(bench.status()["state"], "ready", "{}", bench.status());

        // A patch arrives by watch.
        servers.with_client(async |client| put_slice(&client, &["10.244.2.7", "10.244.2.8"]).await);
        until("the patch", || bench.endpoints(Protocol::Udp, 53) == addresses(&["10.244.2.7", "10.244.2.8"]));

        // The server goes: the tables stay, the state says why. It comes back with other objects: both are taken up.
        servers.stop_api();
        until("the outage", || bench.status()["api"].as_str().is_some_and(|text| text.contains("reached")));
        let status = bench.status();
        assert!(status["state"] == "degraded" && status["failing_since"].is_string(), "{status}");
        assert_eq!(bench.endpoints(Protocol::Tcp, 80).len(), 2);
        bench.connect(Protocol::Udp, 53, 5353);
        bench.connect(Protocol::Tcp, 80, 8080);
        servers.start_api(true);
        servers.with_client(async |client| put_slice(&client, &["10.244.2.9"]).await);
        until_within(Duration::from_secs(60), "the new endpoint", || {
            bench.endpoints(Protocol::Tcp, 80) == addresses(&["10.244.2.9"])
        });
        // Nobody told of the change that ended them.
        bench.work_until(0);
        until_within(Duration::from_secs(60), "well again", || bench.status()["state"] == "ready");

        servers.with_client(async |client| {
            let services = Api::<Service>::namespaced(client, "default");
            services.delete("web", &DeleteParams::default()).await.unwrap();
        });
        until("no Service", || bench.endpoints(Protocol::Tcp, 80).is_empty());
        control.shutdown();

        // Another daemon has the same, as a stream.
        let bench = Bench::new();
        let control = bench.start_from(Source::Api { kubeconfig: Some(servers.kubeconfig(ADMIN)) }).unwrap();
        assert!(control.wait_ready(Duration::from_secs(10)), "{}", bench.status());
        assert_eq!((&bench.status()["services"], &bench.status()["state"]), (&json!(1), &json!("ready")));
        control.shutdown();
    });
}
