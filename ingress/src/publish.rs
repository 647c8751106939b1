//! Publishing: from a plan to a table, with clusters and TLS profiles carried over by key so that pools live on.
