//! What `check` and `explain` share: documents read once and compiled as the running proxy would, without serving.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use proxy::upstream::Clusters;
use resource::{FileSource, LoadError};

use crate::{
    cli::DecisionSettings,
    compile::{CompileSettings, Input, compile, wants},
    keyring::Keyring,
    plan::Plan,
    publish::Publisher,
    report::Report,
    route::Table,
};

/// A compile of files, with the keyring it was made with.
pub(super) struct Offline {
    pub(super) plan: Plan,
    pub(super) report: Report,
    keyring: Keyring,
}

impl Offline {
    /// Reads and compiles.
    pub(super) fn load(paths: &[PathBuf], decision: &DecisionSettings) -> Result<Self, LoadError> {
        let settings = CompileSettings::from(decision);
        let set = FileSource::load(paths, &settings.namespace)?.set();
        // Nobody is asked for an SVID: that one would be delivered is taken for granted, as compile does in `run`.
        let spiffe = decision.spiffe.as_ref().map(|socket| identity::Source::new(socket.source_ref()));
        let mut keyring = decision.keyring(spiffe);
        keyring.update(&wants(&set.documents, &settings), &set.documents, SystemTime::now());
        let input =
            Input { documents: &set.documents, errors: &set.errors, keys: &keyring, settings: &settings };
        let (plan, report) = compile(&input);
        Ok(Self { plan, report, keyring })
    }

    /// The table that would be published.
    pub(super) fn table(self) -> Arc<Table> {
        Publisher::new(Clusters::new(None)).table(self.plan, &self.keyring).0
    }
}
