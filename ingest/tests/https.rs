//! HTTPS with a certificate and key from the configuration.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with tests that need more of it")]
mod stand;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stand::{Client, Options, Request, Stand};

const PUSH: &str = r#"{"repository":{"full_name":"octo/cat"}}"#;

#[test]
fn https_works_with_the_configured_certificate() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let stand =
        Stand::with(Options { tls: Some(pem), ingest: "read_timeout = \"500ms\"\n", ..Options::default() });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, Client::new(stand.webhooks).stream);
    stream.write_all(&Request::github("d-1", PUSH).bytes()).unwrap();
    let mut buffer = Vec::new();
    assert_eq!(stand::read_answer(&mut stream, &mut buffer).unwrap().status, 200);
    assert_eq!(stand.log().len(), 1);
    // Plain HTTP on that port, and a client that does not begin its handshake.
    assert!(stand.connect().stream.write_all(&Request::github("d-2", PUSH).bytes()).is_ok());
    let mut silent = stand.connect();
    let since = Instant::now();
    let _ = silent.stream.read(&mut [0; 64]);
    assert!(since.elapsed() < Duration::from_secs(5));
    assert_eq!(stand.log().len(), 1);
}
