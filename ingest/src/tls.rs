//! HTTPS: a rustls acceptor from the configured certificate and key. TLS 1.2 and 1.3, HTTP/1.1.

#[cfg(feature = "tls")]
mod with {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use shared::config::TlsFiles;
    use tokio::net::TcpStream;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream;

    use crate::error::SetupError;

    /// Makes encrypted connections of accepted ones.
    pub(crate) struct Tls(TlsAcceptor);

    impl Tls {
        /// Reads certificate and key.
        pub(crate) fn load(files: &TlsFiles) -> Result<Self, SetupError> {
            let certificate =
                || CertificateDer::pem_file_iter(&files.certificate)?.collect::<Result<Vec<_>, _>>();
            let wrong = |key: &str, path: &std::path::Path, what: String| {
                Err(SetupError::new(format!("ingest.tls.{key}"), format!("{}: {what}", path.display())))
            };
            let chain = match certificate() {
                Ok(chain) if chain.is_empty() => {
                    return wrong(
                        "certificate",
                        &files.certificate,
                        "holds no certificate in PEM".to_owned(),
                    );
                }
                Ok(chain) => chain,
                Err(error) => return wrong("certificate", &files.certificate, error.to_string()),
            };
            let key = match PrivateKeyDer::from_pem_file(&files.key) {
                Ok(key) => key,
                Err(error) => return wrong("key", &files.key, error.to_string()),
            };
            let config =
                ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
            match config {
                Ok(mut config) => {
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                    Ok(Self(TlsAcceptor::from(Arc::new(config))))
                }
                Err(error) => wrong("key", &files.key, format!("does not go with the certificate: {error}")),
            }
        }

        pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
            self.0.accept(stream).await
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use shared::config::TlsFiles;
    use tokio::net::TcpStream;

    use crate::error::SetupError;

    /// There is none in this build.
    pub(crate) enum Tls {}

    impl Tls {
        pub(crate) fn load(_: &TlsFiles) -> Result<Self, SetupError> {
            Err(SetupError::new(
                "ingest.tls",
                "this build has no TLS (Cargo feature `tls`); remove the table",
            ))
        }

        pub(crate) async fn accept(&self, _: TcpStream) -> std::io::Result<TcpStream> {
            match *self {}
        }
    }
}

#[cfg(feature = "tls")]
pub(crate) use with::Tls;
#[cfg(not(feature = "tls"))]
pub(crate) use without::Tls;
