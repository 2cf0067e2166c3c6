//! A client of the API server, one connection a request: what the tests change there, and what the proxy passes on.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atalho_benches::apiserver::PORT;
use atalho_benches::lab::plan::{Family, Plan, router_address};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::node::inside;

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Who may do everything.
const ADMIN: &str = "admin-token";
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Https {
    config: Arc<ClientConfig>,
    namespace: String,
    address: SocketAddr,
}

impl Https {
    /// Of the lab's server, which has made its certificate.
    pub fn new(plan: &Plan) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = plan.folder().join("api/certificates/apiserver.crt");
        for certificate in CertificateDer::pem_file_iter(&authority).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = (router_address(Family::V4), PORT).into();
        Self { config: Arc::new(config), namespace: plan.far(), address }
    }

    /// A connection; whoever calls is in the server's namespace.
    pub fn connect(&self) -> std::io::Result<Stream> {
        let tcp = TcpStream::connect(self.address)?;
        let name = self.address.ip().into();
        let session = ClientConnection::new(self.config.clone(), name).map_err(std::io::Error::other)?;
        Ok(StreamOwned::new(session, tcp))
    }

    /// Asks as the administrator; the answer's object. Whatever is not well is the test's failure.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, body) =
            self.try_ask(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{method} {path}: {error} in {body}"))
    }

    pub fn try_ask(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, String)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {ADMIN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let this = self.clone();
        inside(&self.namespace, move || {
            let mut stream = this.connect()?;
            stream.sock.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
                _ => {}
            }
            let answer = String::from_utf8_lossy(&answer);
            let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(ErrorKind::InvalidData)?;
            Ok((status, body.to_owned()))
        })
    }
}

/// A kubeconfig for the server at this port of the lab's router, with this user.
pub fn kubeconfig(path: &Path, port: u16, authority: &Path, user: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters:\n- name: lab\n  cluster:\n    server: https://{}:{port}\n    certificate-authority: {}\n\
         users:\n- name: node\n  user: {{{user}}}\ncontexts:\n- name: lab\n  context: {{cluster: lab, user: node}}\n",
        router_address(Family::V4),
        authority.display(),
    );
    std::fs::write(path, text).unwrap();
}
