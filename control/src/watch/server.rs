//! Which API server, and as whom: from a kubeconfig, the environment's or the pod's that we run in.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch;
use tower::util::{MapRequestLayer, MapResponseLayer};

use super::explain::chain;
use super::heard::Heard;

/// A watch is asked for again after so long, seconds; a minute is also the time between two bookmarks.
pub const WATCH_S: u32 = 60;
/// A server that has said nothing for so long, not even that a watch is over, is gone.
const SILENT_AFTER: Duration = Duration::from_secs(WATCH_S as u64 + 3);

/// An API server, with the address that messages about it name.
pub struct Server {
    config: kube::Config,
    /// Counts the watches that were let stand.
    any_stands: watch::Sender<u64>,
    pub client: Client,
    pub url: String,
}

/// A client from this kubeconfig, or from `$KUBECONFIG`, `~/.kube/config` or the pod that we run in. Connects to nobody
/// yet. The error is for the start's stderr.
pub async fn server(kubeconfig: Option<&Path>) -> Result<Server, String> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| {
                format!("reading the kubeconfig {}: {}; check its path and contents", path.display(), chain(&error))
            })?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|error| {
                format!(
                    "using the kubeconfig {}: {}; check its context, cluster and user",
                    path.display(),
                    chain(&error)
                )
            })?
        }
        None => kube::Config::infer().await.map_err(|error| {
            format!(
                "finding the API server: {}; give --kubeconfig FILE, --manifests DIR, or run in a pod",
                chain(&error)
            )
        })?,
    };
    // Tried again in silence, a server that refuses would not be told of for minutes.
    config.default_retry = false;
    config.read_timeout = Some(SILENT_AFTER);
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config.clone()).map_err(|error| cannot_prepare(&url, &error))?;
    Ok(Server { config, any_stands: watch::Sender::default(), client, url })
}

impl Server {
    /// A client of its own for one resource.
    pub fn client_heard(&self) -> Result<(Client, Heard), String> {
        let heard = Heard::new(self.any_stands.clone());
        let builder =
            ClientBuilder::try_from(self.config.clone()).map_err(|error| cannot_prepare(&self.url, &error))?;
        let (asks, answers) = (heard.clone(), heard.clone());
        let asks = MapRequestLayer::new(move |request| {
            asks.request();
            request
        });
        let answers = MapResponseLayer::new(move |answer| {
            answers.answer(&answer);
            answer
        });
        Ok((builder.with_layer(&answers).with_layer(&asks).build(), heard))
    }
}

fn cannot_prepare(url: &str, error: &kube::Error) -> String {
    format!("preparing a client of the API server {url}: {}", chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let error = server(Some(Path::new("/nowhere/kubeconfig"))).await.err().unwrap();
        assert!(error.contains("/nowhere/kubeconfig"), "{error}");
    }
}
