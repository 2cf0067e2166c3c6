//! The daemon's token is refused from one moment on; the new one in its file is taken up by itself.

use std::fs;
use std::time::Duration;

use atalho_benches::lab::daemon::{Objects, write_config};

use crate::https::kubeconfig;
use crate::support::{skipped, with_server};

#[test]
fn a_token_that_expires_is_renewed_from_its_file() {
    if skipped("a_token_that_expires_is_renewed_from_its_file") {
        return;
    }
    let (mut session, mut server) = with_server("at-f-token");
    let folder = session.plan().folder().join("api");
    let (token, path) = (folder.join("token"), folder.join("node.kubeconfig"));
    fs::write(&token, "node-token").unwrap();
    server.set_node_token("node-token").unwrap();
    let authority = folder.join("certificates/apiserver.crt");
    kubeconfig(&path, atalho_benches::apiserver::PORT, &authority, &format!("tokenFile: {}", token.display()));
    let config = write_config(session.plan(), None, "").unwrap();
    session.start_daemon(&config, &Objects::ApiServer { kubeconfig: path }).unwrap();
    let daemon = session.daemon_mut().unwrap();
    let ready = daemon.wait_for(Duration::from_secs(60), "to be ready", |status| status.state == "ready").unwrap();

    // From now on the server knows the next one alone.
    server.set_node_token("next-token").unwrap();
    let refused = daemon.wait_for(Duration::from_secs(60), "to be refused", |status| {
        status.api.as_ref().is_some_and(|said| said.to_string().contains("401"))
    });
    let refused = refused.unwrap();
    assert_eq!((refused.services, refused.endpoints), (ready.services, ready.endpoints), "{refused:?}");
    assert!(refused.failing_since.is_some(), "{refused:?}");
    fs::write(&token, "next-token").unwrap();
    daemon.wait_for(Duration::from_secs(150), "to take up the new token", |status| status.state == "ready").unwrap();
}
