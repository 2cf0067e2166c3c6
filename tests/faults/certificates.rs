//! Certificates of the proxy, by an authority of the test's own: a good one, and one for each way in which a clock is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atalho_benches::lab::command::run;
use atalho_benches::lab::plan::{Family, router_address};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    Now,
    Past,
    Future,
}

impl Dates {
    const ALL: [Self; 3] = [Self::Now, Self::Past, Self::Future];

    /// As openssl-ca(1) reads them.
    fn limits(self) -> [&'static str; 2] {
        match self {
            Self::Now => ["20200101000000Z", "20490101000000Z"],
            Self::Past => ["20200101000000Z", "20200102000000Z"],
            Self::Future => ["20480101000000Z", "20490101000000Z"],
        }
    }
}

/// What the proxy shows, in the order of [`Dates`].
pub struct Certificates {
    configs: [Arc<ServerConfig>; 3],
    authority: PathBuf,
}

impl Certificates {
    pub fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("new")).unwrap();
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let openssl = |words: &[&str]| {
            run("openssl", words.iter().copied()).unwrap_or_else(|error| panic!("openssl {words:?}: {error:#}"));
        };
        let authority = ["req", "-x509", "-days", "9000", "-subj", "/CN=proxy's authority"];
        openssl(&[&authority[..], &key, &["-keyout", &at("ca.key"), "-out", &at("ca.crt")]].concat());
        let request = ["req", "-new", "-subj", "/CN=proxy"];
        openssl(&[&request[..], &key, &["-keyout", &at("key"), "-out", &at("csr")]].concat());
        fs::write(folder.join("index"), "").unwrap();
        let config = format!(
            "[ca]\ndefault_ca = a\n[a]\ndatabase = {}\nnew_certs_dir = {}\ncertificate = {}\nprivate_key = {}\nrand_serial = yes\n\
             default_md = sha256\nunique_subject = no\npolicy = p\nx509_extensions = x\n[p]\ncommonName = supplied\n\
             [x]\nsubjectAltName = IP:{}\nbasicConstraints = CA:FALSE\n",
            at("index"),
            at("new"),
            at("ca.crt"),
            at("ca.key"),
            router_address(Family::V4)
        );
        fs::write(folder.join("config"), config).unwrap();
        let configs = Dates::ALL.map(|dates| {
            let [from, to] = dates.limits();
            let (config, csr, out) = (at("config"), at("csr"), at("crt"));
            openssl(&[
                "ca",
                "-batch",
                "-notext",
                "-config",
                &config,
                "-in",
                &csr,
                "-out",
                &out,
                "-startdate",
                from,
                "-enddate",
                to,
            ]);
            let chain = CertificateDer::pem_file_iter(folder.join("crt")).unwrap().map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_file(folder.join("key")).unwrap();
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
            Arc::new(config)
        });
        Self { configs, authority: folder.join("ca.crt") }
    }

    pub fn of(&self, dates: Dates) -> Arc<ServerConfig> {
        self.configs[dates as usize].clone()
    }

    /// The file by which clients know the proxy.
    pub fn authority(&self) -> &Path {
        &self.authority
    }
}
