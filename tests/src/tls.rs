//! A certificate for a test's server, which nobody else vouches for.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::CertifiedKey;

/// The file's name.
pub const CERTIFICATE: &str = "certificate.pem";

/// Writes files with a new certificate for `localhost`, and its key.
///
/// # Panics
/// When that does not work.
#[must_use]
pub fn write_certificate(dir: &Path) -> [PathBuf; 2] {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let paths = [CERTIFICATE, "key.pem"].map(|name| dir.join(name));
    fs::write(&paths[0], cert.pem()).expect("the certificate's file");
    fs::write(&paths[1], signing_key.serialize_pem()).expect("the key's file");
    paths
}
