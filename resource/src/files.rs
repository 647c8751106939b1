//! Manifests in files and folders: read, watched, last good state kept.
