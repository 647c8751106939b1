//! Sources against real sockets and files: the error table and the W rules of spiffe.md 1.3, the dev authority, PEM files.

#[cfg(test)]
mod dev_authority;
#[cfg(test)]
mod error_table;
#[cfg(test)]
mod file_source;
#[cfg(test)]
mod material;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod secret;
#[cfg(test)]
mod w_rules;
