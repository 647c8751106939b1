//! The one crypto provider: aws-lc-rs with our suites and groups. Installed first thing in `main`.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider all our configurations are built with.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Makes our provider the process default, for libraries that ask for it. Idempotent.
pub fn install() {
    // A second call finds the first one's provider installed, which is what is wanted.
    let _already_installed = provider().as_ref().clone().install_default();
}
