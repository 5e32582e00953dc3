//! Whom the herald trusts over TLS: the authorities of the machine, or those of a file that the policy names.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// # Errors
/// In words, when there is nobody to trust.
pub(super) fn configuration(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let shown = path.display();
            let text = fs::read(path).map_err(|error| {
                format!("ca_file {shown}: {error}: put the authority's certificate there")
            })?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|it| roots.add(it).map_err(|error| error.to_string()))
                    .map_err(|error| {
                        format!("ca_file {shown}: {error}: expected certificates in PEM")
                    })?;
            }
            if roots.is_empty() {
                return Err(format!(
                    "ca_file {shown}: no certificate is in it: expected certificates in PEM"
                ));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map(ToString::to_string);
                return Err(format!(
                    "this machine trusts no authority ({}): install ca-certificates, or set ca_file",
                    why.unwrap_or_else(|| "no certificates are installed".into())
                ));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
